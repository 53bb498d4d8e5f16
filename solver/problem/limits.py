"""Limits across models: budgets, quotas, shares, averages, commitments, and agents tied to each other.

Every limit is a frozen value with a name that turns up again in prices, violations and reasons. Agents and
models are given by index or by Boolean mask; None means all of them. :func:`compile_limits` turns a list of
limits into the rows an engine sees, see :class:`~solver.problem.limit_rows.LimitRows`.

Unassigned agents use nothing of a limit: a budget is spent, and an average is taken, over those served.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import SpecError, Violation, ViolationKind
from solver.problem.limit_rows import NO_ROW, Layer, LimitRows
from solver.problem.numbers import LARGEST, is_number, real_array

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Apart",
    "Average",
    "Budget",
    "Changes",
    "Commitment",
    "Limit",
    "Quota",
    "Share",
    "StayPut",
    "Together",
    "compile_limits",
]


_CROSSED_PAIRS = 5_000_000  # agents · models up to which layers are packed pair by pair


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """Rows that touch the same agents and no pair twice."""

    names: tuple[str, ...]
    bounds: tuple[float, ...]
    agents: NDArray[np.int64]
    row: NDArray[np.int32]  # (k | 1, m | 1), counted from the piece's first row, NO_ROW for pairs outside
    coefficient: NDArray[np.float64]  # (k | 1, m | 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Limit(ABC):
    """A named coupling across models.

    Parameters
    ----------
    name : str
        Appears in prices, violations and reasons.
    agents, models : sequence of int, or bool mask, optional
        Whom it concerns; None for all.
    """

    name: str
    agents: ArrayLike | None = None
    models: ArrayLike | None = None

    @abstractmethod
    def pieces(self, scope: _Scope) -> list[_Piece]:
        """Return the rows of this limit."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Budget(Limit):
    """Spend at most ``amount``.

    Parameters
    ----------
    amount : float
        Upper limit, in the unit of ``cost``, such as US dollars.
    cost : (n, m), (n, 1), (m,) or scalar array_like
        What serving agent i by model j costs, >= 0.
    """

    amount: float
    cost: ArrayLike

    def pieces(self, scope: _Scope) -> list[_Piece]:
        """Return the rows of this limit."""
        cost = scope.pairs("cost", self.cost)
        scope.not_negative("amount", self.amount)
        if scope.problems:
            return []
        return [scope.upper(cost, self.amount)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Quota(Limit):
    """Bound what some agents take from some models.

    Parameters
    ----------
    at_most, at_least : float, optional
        Upper and lower limit; at least one of them.
    use : (n, m), (n, 1), (m,) or scalar array_like, optional
        What a pair takes, >= 0; None counts agents.
    """

    at_most: float | None = None
    at_least: float | None = None
    use: ArrayLike | None = None

    def pieces(self, scope: _Scope) -> list[_Piece]:
        """Return the rows of this limit."""
        use = scope.pairs("use", 1.0 if self.use is None else self.use)
        scope.range(self.at_least, self.at_most)
        if scope.problems:
            return []
        pieces = []
        if self.at_most is not None:
            pieces.append(scope.upper(use, self.at_most))
        if self.at_least is not None:
            pieces.append(scope.upper(-use, -self.at_least, " (at least)"))
        return pieces


@dataclass(frozen=True, kw_only=True, eq=False)
class Commitment(Limit):
    """Send at least ``at_least`` to some models, as promised to their provider.

    Parameters
    ----------
    at_least : float
        Lower limit.
    use : (n, m), (n, 1), (m,) or scalar array_like, optional
        What a pair counts for, >= 0; None counts agents.
    """

    at_least: float
    use: ArrayLike | None = None

    def pieces(self, scope: _Scope) -> list[_Piece]:
        """Return the rows of this limit."""
        use = scope.pairs("use", 1.0 if self.use is None else self.use)
        scope.not_negative("at_least", self.at_least)
        if scope.problems:
            return []
        return [scope.upper(-use, -self.at_least)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Share(Limit):
    """Bound the share that some agents on some models have in everything that is served.

    Parameters
    ----------
    at_most, at_least : float, optional
        Fractions between 0 and 1; at least one of them.
    use : (n, m), (n, 1), (m,) or scalar array_like, optional
        What a pair counts for, >= 0; None counts agents.
    """

    at_most: float | None = None
    at_least: float | None = None
    use: ArrayLike | None = None

    def pieces(self, scope: _Scope) -> list[_Piece]:
        """Return the rows of this limit."""
        # Everybody's use counts in the whole, not only that of the agents concerned.
        use = np.broadcast_to(
            scope.pairs("use", 1.0 if self.use is None else self.use, everyone=True), (scope.n, scope.m)
        )
        scope.range(self.at_least, self.at_most, most=1.0)
        if scope.problems:
            return []
        inside = scope.inside()
        pieces = []
        if self.at_most is not None:
            pieces.append(scope.whole(use * (inside - self.at_most), 0.0))
        if self.at_least is not None:
            pieces.append(scope.whole(use * (self.at_least - inside), 0.0, " (at least)"))
        return pieces


@dataclass(frozen=True, kw_only=True, eq=False)
class Average(Limit):
    """Bound the mean of some value over the agents served: minimum quality, maximum cost or latency.

    Parameters
    ----------
    value : (n, m), (n, 1), (m,) or scalar array_like
        What is averaged.
    at_most, at_least : float, optional
        Upper and lower limit of the mean, in the unit of ``value``; at least one of them.
    """

    value: ArrayLike
    at_most: float | None = None
    at_least: float | None = None

    def pieces(self, scope: _Scope) -> list[_Piece]:
        """Return the rows of this limit."""
        value = scope.pairs("value", self.value, signed=True)
        scope.range(self.at_least, self.at_most, least=-np.inf)
        if scope.problems:
            return []
        pieces = []
        if self.at_most is not None:
            pieces.append(scope.upper(value - self.at_most, 0.0))
        if self.at_least is not None:
            pieces.append(scope.upper(self.at_least - value, 0.0, " (at least)"))
        return pieces


@dataclass(frozen=True, kw_only=True, eq=False)
class Together(Limit):
    """Agents that must share a model: all on the same one, or all unassigned."""

    def pieces(self, scope: _Scope) -> list[_Piece]:
        """Return the rows of this limit."""
        if self.models is not None:
            scope.fail(Violation("models", "expected None, agents that move together may use any model"))
        if len(scope.agents) < 2:
            scope.fail(Violation("agents", "expected at least two", len(scope.agents)))
        return []


@dataclass(frozen=True, kw_only=True, eq=False)
class Apart(Limit):
    """Agents that must not share a model.

    Parameters
    ----------
    at_most : int
        How many of them one model may serve.
    """

    at_most: int = 1

    def pieces(self, scope: _Scope) -> list[_Piece]:
        """Return the rows of this limit."""
        scope.not_negative("at_most", self.at_most)
        if scope.problems:
            return []
        where = np.flatnonzero(scope.models)
        row = np.full((1, scope.m), NO_ROW, np.int32)
        row[0, where] = np.arange(len(where))
        names = tuple(f"{self.name} (model {j})" for j in where)
        bounds = (float(self.at_most),) * len(where)
        return [_Piece(names, bounds, scope.agents, row, np.ones((1, 1)))]


@dataclass(frozen=True, kw_only=True, eq=False)
class Changes(Limit):
    """Move at most ``at_most`` agents away from where a previous assignment had them.

    Parameters
    ----------
    previous : (n,) array_like of int
        Model of each agent before, -1 for none; those may go anywhere.
    at_most : float
        Number of moves.
    """

    previous: ArrayLike
    at_most: float

    def pieces(self, scope: _Scope) -> list[_Piece]:
        """Return the rows of this limit."""
        scope.not_negative("at_most", self.at_most)
        if scope.problems:
            return []
        return [scope.upper(scope.moves(self.previous), self.at_most)]


@dataclass(frozen=True, kw_only=True, eq=False)
class StayPut(Limit):
    """Charge a cost for every agent that leaves the model a previous assignment gave it.

    Not a row: it is taken off the scores.

    Parameters
    ----------
    previous : (n,) array_like of int
        Model of each agent before, -1 for none; those go anywhere free of charge.
    cost : (n, 1) array_like or float
        Cost of a move, in score, >= 0.
    """

    previous: ArrayLike
    cost: ArrayLike = field(default=0.0)

    def pieces(self, scope: _Scope) -> list[_Piece]:
        """Return the rows of this limit."""
        scope.moves(self.previous)
        scope.pairs("cost", self.cost)
        return []

    def charge(self, scope: _Scope) -> NDArray[np.float64]:
        """Return the (n, m) score to take off."""
        whole = np.zeros((scope.n, scope.m))
        moved = scope.moves(self.previous) * scope.pairs("cost", self.cost)
        whole[scope.agents] = np.where(scope.models, moved, 0.0)
        return whole


class _Scope:
    """One limit against the size of the instance: resolves indices, checks values, collects violations."""

    def __init__(self, limit: Limit, position: int, n: int, m: int) -> None:
        self.n, self.m, self.name = n, m, limit.name
        self.path = f"limits[{position}] ({limit.name})"
        self.problems: list[Violation] = []
        if not isinstance(limit.name, str):
            self.name = str(limit.name)
            self.fail(Violation("name", "expected text", limit.name, kind=ViolationKind.TYPE))
        self.agents = self._members("agents", limit.agents, n)
        chosen = np.zeros(m, bool)
        chosen[self._members("models", limit.models, m)] = True
        self.models = chosen

    def fail(self, found: Violation) -> None:
        """Note a violation."""
        self.problems.append(found.within(self.path))

    def _members(self, what: str, given: ArrayLike | None, count: int) -> NDArray[np.int64]:
        if given is None:
            return np.arange(count)
        try:
            array = np.asarray(given)
        except ValueError:
            array = np.zeros((0, 0))
        if array.dtype == np.bool_ and array.shape == (count,):
            array = np.flatnonzero(array)
        elif array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            self.fail(
                Violation(
                    what,
                    f"expected indices or a mask of {count}",
                    array.dtype,
                    shown=f"{array.dtype} of shape {array.shape}",
                    kind=ViolationKind.TYPE,
                )
            )
            return np.zeros(0, np.int64)
        array = array.astype(np.int64)
        unknown = array[(array < 0) | (array >= count)]
        if len(unknown):
            self.fail(Violation(what, f"expected indices from 0 to {count - 1}", unknown[0]))
            return np.zeros(0, np.int64)
        if not len(array):
            self.fail(Violation(what, "expected at least one", shown="none"))
        return np.unique(array)

    def pairs(
        self, what: str, values: ArrayLike, *, signed: bool = False, everyone: bool = False
    ) -> NDArray[np.float64]:
        """Return values of the limit's agents, or of everyone, broadcastable to (agents, m)."""
        array = real_array(f"{self.path}.{what}", values, self.problems)
        if array is None:
            return np.zeros((1, 1))
        array = array.astype(np.float64, copy=False)
        try:
            fits = np.broadcast_shapes(array.shape, (self.n, self.m)) == (self.n, self.m)
        except ValueError:
            fits = False
        if not fits:
            rule = f"expected numbers that broadcast to ({self.n}, {self.m})"
            self.fail(Violation(what, rule, shown=f"shape {array.shape}", kind=ViolationKind.TYPE))
            return np.zeros((1, 1))
        if (np.abs(array[np.isfinite(array)]) > LARGEST).any():
            self.fail(
                Violation(what, f"expected at most {LARGEST:g} in size", shown=f"{np.abs(array).max():g}")
            )
            return np.zeros((1, 1))
        if array.ndim > 2 or not np.isfinite(array).all():
            self.fail(
                Violation(what, "expected finite numbers", array.ravel()[~np.isfinite(array.ravel())][:1])
            )
            return np.zeros((1, 1))
        if not signed and (array < 0).any():
            self.fail(Violation(what, "expected >= 0", array.min(), shown=f"{array.min():g}"))
        table = array.reshape((1, 1)) if array.ndim == 0 else np.atleast_2d(array)
        return table if everyone or table.shape[0] == 1 else table[self.agents]

    def not_negative(self, what: str, value: float) -> None:
        """Check a right-hand side."""
        if not (is_number(value) and 0 <= value <= LARGEST):
            self.fail(Violation(what, "expected a finite number >= 0", value))

    def range(
        self, low: float | None, high: float | None, *, least: float = 0.0, most: float = np.inf
    ) -> None:
        """Check a lower and an upper limit against each other."""
        if low is None and high is None:
            self.fail(Violation("at_most", "expected at_most or at_least", shown="neither"))
        for what, value in (("at_least", low), ("at_most", high)):
            if value is not None and not (
                is_number(value) and abs(value) <= LARGEST and least <= value <= most
            ):
                self.fail(Violation(what, f"expected a finite number from {least:g} to {most:g}", value))
        if self.problems:
            return
        if low is not None and high is not None and low > high:
            self.fail(Violation("at_least", f"expected at most at_most ({high:g})", low, shown=f"{low:g}"))

    def moves(self, previous: ArrayLike) -> NDArray[np.float64]:
        """Return 1 where a pair differs from the previous assignment, of the limit's agents."""
        try:
            before = np.asarray(previous)
        except ValueError:
            before = np.zeros(0)
        if before.shape != (self.n,) or before.dtype.kind not in "iu" or (before >= self.m).any():
            self.fail(
                Violation(
                    "previous",
                    f"expected {self.n} model indices below {self.m} or -1",
                    shown=f"shape {before.shape}",
                    kind=ViolationKind.TYPE,
                )
            )
            return np.zeros((1, self.m))
        own = before[self.agents, None]
        moved: NDArray[np.float64] = ((own >= 0) & (own != np.arange(self.m))).astype(np.float64)
        return moved

    def inside(self) -> NDArray[np.float64]:
        """Return 1 for every (n, m) pair the limit concerns."""
        whole = np.zeros((self.n, self.m))
        whole[self.agents] = self.models
        return whole

    def upper(self, coefficient: NDArray[np.float64], bound: float, suffix: str = "") -> _Piece:
        """Return ``Σ coefficient <= bound`` over the pairs the limit concerns."""
        row = np.where(self.models, 0, NO_ROW).astype(np.int32)[None, :]
        if self.models.all():
            row = row[:, :1]
        return _Piece((self.name + suffix,), (float(bound),), self.agents, row, coefficient)

    def whole(self, coefficient: NDArray[np.float64], bound: float, suffix: str = "") -> _Piece:
        """Return ``Σ coefficient <= bound`` over all pairs."""
        return _Piece(
            (self.name + suffix,),
            (float(bound),),
            np.arange(self.n),
            np.zeros((1, 1), np.int32),
            coefficient,
        )


def compile_limits(
    limits: Sequence[Limit], n: int, m: int
) -> tuple[LimitRows | None, NDArray[np.float64] | None]:
    """Compile limits for an instance of n agents and m models.

    Returns
    -------
    rows : LimitRows or None
        None when no limit needs rows or ties agents together.
    charge : (n, m) float64 or None
        What stay-put costs take off the scores.

    Raises
    ------
    SpecError
        Listing every rule broken by every limit.
    """
    problems: list[Violation] = []
    pieces: list[_Piece] = []
    charge: NDArray[np.float64] | None = None
    together: list[tuple[str, NDArray[np.int64]]] = []
    for position, limit in enumerate(limits):
        if not isinstance(limit, Limit):
            problems.append(
                Violation(
                    f"limits[{position}]",
                    "expected a Limit",
                    shown=f"{type(limit).__name__}",
                    kind=ViolationKind.TYPE,
                )
            )
            continue
        scope = _Scope(limit, position, n, m)
        made = [] if scope.problems else limit.pieces(scope)
        problems += scope.problems
        if scope.problems:
            continue
        pieces += made
        if isinstance(limit, StayPut):
            extra = limit.charge(scope)
            charge = extra if charge is None else charge + extra
        elif isinstance(limit, Together):
            together.append((limit.name, scope.agents))
    taken = np.zeros(n, bool)
    for name, group in together:
        if taken[group].any():
            problems.append(
                Violation(
                    f"limits ({name}).agents", "expected agents of no other group", group[taken[group]][0]
                )
            )
        taken[group] = True
    if problems:
        raise SpecError(*problems)
    if not pieces and not together:
        return None, charge
    return (
        LimitRows(
            names=tuple(name for piece in pieces for name in piece.names),
            bound=np.array([b for piece in pieces for b in piece.bounds], dtype=np.float64),
            layers=_layers(pieces, n, m),
            together=tuple(group for _, group in together),
            together_names=tuple(name for name, _ in together),
        ),
        charge,
    )


def _layers(pieces: list[_Piece], n: int, m: int) -> tuple[Layer, ...]:
    """Pack pieces that share no pair into common layers, first fit.

    A piece goes where its agents or its models are free: a floor on each of forty models is one layer.
    """
    packed: list[tuple[NDArray[np.bool_], list[tuple[int, _Piece]]]] = []
    crossed: list[NDArray[np.bool_] | None] = []  # pairs used, of layers where agents have several pieces
    first = 0
    for piece in pieces:
        at = next((k for k, (used, _) in enumerate(packed) if not used[piece.agents].any()), None)
        if at is None and piece.row.shape[1] == m and n * m <= _CROSSED_PAIRS:
            at = next((k for k in range(len(packed)) if _fits(piece, packed[k], crossed, k, (n, m))), None)
        if at is None:
            packed.append((np.zeros(n, bool), []))
            crossed.append(None)
            at = len(packed) - 1
        used, content = packed[at]
        used[piece.agents] = True
        pairs = crossed[at]
        if pairs is not None:
            _note(pairs, piece)
        content.append((first, piece))
        first += len(piece.names)
    return tuple(
        _layer(content, n, m) if pairs is None else _crossed_layer(content, n, m)
        for (_, content), pairs in zip(packed, crossed, strict=True)
    )


def _fits(
    piece: _Piece,
    layer: tuple[NDArray[np.bool_], list[tuple[int, _Piece]]],
    crossed: list[NDArray[np.bool_] | None],
    at: int,
    shape: tuple[int, int],
) -> bool:
    """Return whether a piece shares no pair with a layer, whose pairs are noted from then on."""
    pairs = crossed[at]
    if pairs is None:
        pairs = np.zeros(shape, bool)
        for _, other in layer[1]:
            _note(pairs, other)
    where, touched = _pairs(piece, shape[1])
    if (pairs[where] & touched).any():
        return False
    crossed[at] = pairs
    return True


def _pairs(piece: _Piece, m: int) -> tuple[Any, NDArray[np.bool_]]:
    """Return an index of a piece's agents and the models it touches at all, and which of these pairs it touches."""
    touched = np.broadcast_to(piece.row != NO_ROW, (len(piece.row), m))
    models = np.flatnonzero(touched.any(axis=0))
    return (piece.agents[:, None], models), touched[:, models]


def _note(pairs: NDArray[np.bool_], piece: _Piece) -> None:
    where, touched = _pairs(piece, pairs.shape[1])
    pairs[where] |= touched


def _crossed_layer(content: list[tuple[int, _Piece]], n: int, m: int) -> Layer:
    """Return pieces that share agents but no pair as one layer."""
    row = np.full((n, m), NO_ROW, np.int32)
    coefficient = np.zeros((n, m))
    for first, piece in content:
        where, touched = _pairs(piece, m)
        models = where[1]
        weights = piece.coefficient if piece.coefficient.shape[1] == 1 else piece.coefficient[:, models]
        rows = piece.row if piece.row.shape[1] == 1 else piece.row[:, models]
        row[where] = np.where(touched, rows + first, row[where])
        coefficient[where] = np.where(touched, weights, coefficient[where])
    return Layer(row=row, coefficient=coefficient)


def _layer(content: list[tuple[int, _Piece]], n: int, m: int) -> Layer:
    """Return pieces of disjoint agents as one layer, as broadcast views where they allow it."""
    width: dict[str, int] = {
        "row": max(piece.row.shape[1] for _, piece in content),
        "coefficient": max(piece.coefficient.shape[1] for _, piece in content),
    }
    everyone = len(content) == 1 and len(content[0][1].agents) == n
    tables: dict[str, NDArray[Any]] = {}
    for what, dtype, nothing in (("row", np.int32, NO_ROW), ("coefficient", np.float64, 0.0)):
        if everyone:
            only = getattr(content[0][1], what)
            shift = np.where(only == NO_ROW, 0, content[0][0]) if what == "row" else 0
            tables[what] = (only + shift).astype(dtype)
            continue
        table = np.full((n, width[what]), nothing, dtype)
        for first, piece in content:
            values = getattr(piece, what)
            shift = np.where(values == NO_ROW, 0, first) if what == "row" else 0
            table[piece.agents] = values + shift
        tables[what] = table
    return Layer(
        row=np.broadcast_to(tables["row"], (n, m)),
        coefficient=np.broadcast_to(tables["coefficient"], (n, m)),
    )
