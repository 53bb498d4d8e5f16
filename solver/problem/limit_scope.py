"""One limit against the size of an instance: indices resolved, values checked, rows written down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.errors import Violation, ViolationKind
from solver.problem.limit_rows import NO_ROW
from solver.problem.numbers import LARGEST, is_number, real_array

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from solver.problem.limits import Limit

__all__ = ["LimitScope", "RowPiece"]


@dataclass(frozen=True, slots=True, eq=False)
class RowPiece:
    """Rows that touch the same agents and no pair twice."""

    names: tuple[str, ...]
    bounds: tuple[float, ...]
    agents: NDArray[np.int64]
    row: NDArray[np.int32]  # (k | 1, m | 1), counted from the piece's first row, NO_ROW for pairs outside
    coefficient: NDArray[np.float64]  # (k | 1, m | 1)
    violation_price: float = np.inf  # per unit beyond the bound, inf where it must hold


class LimitScope:
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

    def upper(self, coefficient: NDArray[np.float64], bound: float, suffix: str = "") -> RowPiece:
        """Return ``Σ coefficient <= bound`` over the pairs the limit concerns."""
        row = np.where(self.models, 0, NO_ROW).astype(np.int32)[None, :]
        if self.models.all():
            row = row[:, :1]
        return RowPiece((self.name + suffix,), (float(bound),), self.agents, row, coefficient)

    def whole(self, coefficient: NDArray[np.float64], bound: float, suffix: str = "") -> RowPiece:
        """Return ``Σ coefficient <= bound`` over all pairs."""
        return RowPiece(
            (self.name + suffix,),
            (float(bound),),
            np.arange(self.n),
            np.zeros((1, 1), np.int32),
            coefficient,
        )
