"""One limit against the size of an instance: indices resolved, values checked, rows written down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from solver.errors import Violation, ViolationKind, wrong_type
from solver.problem.instance import UNASSIGNED
from solver.problem.limit_rows import NO_ROW
from solver.problem.numbers import LARGEST, is_number, is_plain, readable, real_array

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True, eq=False)
class RowPiece:
    """Rows that touch the same agents and no pair twice, all with the same bound."""

    name: str
    bound: float
    agents: NDArray[np.int64]
    row: NDArray[np.int32]  # (k | 1, m | 1), counted from the piece's first row, NO_ROW for pairs outside
    coefficient: NDArray[np.float64]  # (k | 1, m | 1)
    models: NDArray[np.int64] | None = None  # one row for each of them; None: one row in all
    violation_price: float = np.inf  # per unit beyond the bound, inf where it must hold

    @property
    def count(self) -> int:
        """Number of rows."""
        return 1 if self.models is None else len(self.models)


class _Named(Protocol):
    """What every limit has."""

    @property
    def name(self) -> str: ...
    @property
    def agents(self) -> ArrayLike | None: ...
    @property
    def models(self) -> ArrayLike | None: ...


class LimitScope:
    """One limit against the size of the instance: resolves indices, checks values, collects violations."""

    def __init__(self, limit: _Named, position: int, n: int, m: int, all_agents: NDArray[np.int64]) -> None:
        self.n, self.m = n, m
        self.all_agents = all_agents  # the indices of all agents, shared by all limits
        self.name = str(limit.name).encode(errors="backslashreplace").decode()
        self.path = f"limits[{position}] ({self.name})"
        self.problems: list[Violation] = []
        if not isinstance(limit.name, str):
            self.fail(wrong_type("name", "expected text", limit.name))
        elif self.name != limit.name:
            self.fail(Violation("name", "expected text, half a surrogate pair is none", limit.name))
        self.agents = all_agents if limit.agents is None else self._members("agents", limit.agents, n)
        if limit.models is None:
            self.models = np.ones(m, bool)
        else:
            self.models = np.zeros(m, bool)
            self.models[self._members("models", limit.models, m)] = True

    def fail(self, found: Violation) -> None:
        """Note a violation."""
        self.problems.append(found.within(self.path))

    def _members(self, what: str, given: ArrayLike, count: int) -> NDArray[np.int64]:
        array = readable(given)
        array = np.zeros((0, 0)) if array is None else array
        kinds = "b" if array.shape == (count,) and array.dtype == np.bool_ else "iu"
        if array.ndim != 1 or (array.size and array.dtype.kind not in kinds):
            found = f"{array.dtype} of shape {array.shape}" if is_plain(given) else "masked entries"
            rule = f"expected indices or a mask of {count}"
            self.fail(Violation(what, rule, array.dtype, shown=found, kind=ViolationKind.TYPE))
            return np.zeros(0, np.int64)
        if array.dtype == np.bool_:
            array = np.flatnonzero(array)
        array = array.astype(np.int64, copy=False)
        if not len(array):
            self.fail(Violation(what, "expected at least one", shown="none"))
            return array
        if array.min() < 0 or array.max() >= count:
            unknown = array[(array < 0) | (array >= count)]
            self.fail(Violation(what, f"expected indices from 0 to {count - 1}", unknown[0]))
            return np.zeros(0, np.int64)
        ascending = bool((array[1:] > array[:-1]).all())
        return array if ascending else np.unique(array)

    def pairs(
        self, what: str, values: ArrayLike, *, signed: bool = False, all_agents: bool = False
    ) -> NDArray[np.float64]:
        """Return values of the limit's agents, or of all agents, broadcastable to (agents, m)."""
        array = real_array(f"{self.path}.{what}", values, self.problems)
        if array is None:
            return np.zeros((1, 1))
        array = array.astype(np.float64, copy=False)
        if not self._fits(array.shape):
            rule = f"expected numbers that broadcast to ({self.n}, {self.m})"
            self.fail(Violation(what, rule, shown=f"shape {array.shape}", kind=ViolationKind.TYPE))
            return np.zeros((1, 1))
        least, largest = float(array.min()), float(array.max())
        size = max(-least, largest)
        if not size <= LARGEST:  # NaN is neither
            unfit = array.ravel()[~np.isfinite(array.ravel())][:1]
            if len(unfit):
                self.fail(Violation(what, "expected finite numbers", unfit))
            else:
                self.fail(Violation(what, f"expected at most {LARGEST:g} in size", shown=f"{size:g}"))
            return np.zeros((1, 1))
        if not signed and least < 0:
            self.fail(Violation(what, "expected >= 0", least, shown=f"{least:g}"))
        table = array.reshape((1, 1)) if array.ndim == 0 else np.atleast_2d(array)
        if all_agents or table.shape[0] == 1 or self.agents is self.all_agents:
            return table
        return table[self.agents]

    def _fits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of some shape broadcasts to (n, m)."""
        whole = (self.n, self.m)
        return len(shape) <= 2 and all(
            given in (1, size) for given, size in zip(shape[::-1], whole[::-1], strict=False)
        )

    def not_negative(self, what: str, value: float) -> None:
        """Check a right-hand side."""
        if not (is_number(value) and 0 <= float(value) <= LARGEST):
            self.fail(Violation(what, "expected a finite number >= 0", value))

    def range(
        self, low: float | None, high: float | None, *, least: float = 0.0, most: float = np.inf
    ) -> tuple[float | None, float | None]:
        """Return a lower and an upper limit as floats, checked against each other; None for one that is not given."""
        if low is None and high is None:
            self.fail(Violation("at_most", "expected at_most or at_least", shown="neither"))
        for what, value in (("at_least", low), ("at_most", high)):
            if value is not None and not (
                is_number(value) and abs(float(value)) <= LARGEST and least <= float(value) <= most
            ):
                self.fail(Violation(what, f"expected a finite number from {least:g} to {most:g}", value))
        if self.problems:
            return None, None
        low, high = (None if value is None else float(value) for value in (low, high))
        if low is not None and high is not None and low > high:
            self.fail(Violation("at_least", f"expected at most at_most ({high:g})", low, shown=f"{low:g}"))
        return low, high

    def moves(self, previous: ArrayLike) -> NDArray[np.float64]:
        """Return 1 where a pair differs from the previous assignment, of the limit's agents."""
        before = readable(previous)
        before = np.zeros(0) if before is None else before
        shaped = before.shape == (self.n,) and before.dtype.kind in "iu"
        if not shaped or before.min() < UNASSIGNED or before.max() >= self.m:
            rule = f"expected {self.n} model indices below {self.m} or {UNASSIGNED}"
            found = f"{before.dtype} of shape {before.shape}" if is_plain(previous) else "masked entries"
            if shaped:
                found = str(before[(before < UNASSIGNED) | (before >= self.m)][0])
            self.fail(Violation("previous", rule, shown=found, kind=ViolationKind.TYPE))
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
        return RowPiece(self.name + suffix, float(bound), self.agents, row, coefficient)

    def whole(self, coefficient: NDArray[np.float64], bound: float, suffix: str = "") -> RowPiece:
        """Return ``Σ coefficient <= bound`` over all pairs."""
        everywhere = np.zeros((1, 1), np.int32)
        return RowPiece(self.name + suffix, float(bound), self.all_agents, everywhere, coefficient)
