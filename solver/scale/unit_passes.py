"""What a worker does where rows take units of several models, or so many rows are alike that classes of them matter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.scale.slot_passes import SlotPasses
from solver.scale.unit_rows import OpenRows, RowClasses, open_rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from solver.scale.first_pass import Sample, Valuation
    from solver.scale.pieces import Block
    from solver.scale.sample_plan import SamplePlan


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UnitBox:
    """A box of prices, and the rows that it is about.

    Parameters
    ----------
    key : int
        Different for every box of a job.
    low, high : (m,) float64
        Its sides.
    sample : int
        Size of the sample, 0 for all rows.
    plan : SamplePlan or None
        What the sample is.
    valuation : Valuation
        What staying unassigned is worth.
    closed : (m,) bool
        Models without slots.
    resolution : float
        Unit in which values are compared.
    """

    key: int
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    sample: int
    plan: SamplePlan | None
    valuation: Valuation
    closed: NDArray[np.bool_]
    resolution: float

    def classes(self, blocks: Iterable[Block | Sample]) -> RowClasses:
        """Return what the box leaves open of some blocks, which are one after another from the first row of a piece."""
        rows, parts, at = [], [], 0
        for block in blocks:
            row, found, _ = open_rows(block, self.valuation, self.closed, self.low, self.high)
            rows.append(row + at)
            parts.append(found)
            at += len(block.score)
        if not parts:
            nothing = np.zeros(0, np.int64)
            settled = np.zeros(len(self.low) + 1, np.int64)
            none = OpenRows(
                first=np.zeros(1, np.int64), model=nothing, value=np.zeros(0), width=nothing, depth=nothing,
                settled=settled,
            )  # fmt: skip
            return RowClasses.of(nothing, none, self.resolution)
        return RowClasses.of(np.concatenate(rows), OpenRows.joined(parts), self.resolution)


class UnitPasses(SlotPasses):
    """The passes of a :class:`~solver.scale.shard.Shard` over rows that take units."""

    def __init__(self) -> None:
        super().__init__()
        self._open: tuple[int, list[RowClasses]] | None = None

    def count_units(self, box: UnitBox) -> list[int]:
        """Keep the classes of a box; return how many arcs those of each piece have."""
        return [len(part.classes.model) for part in self._classes(box)]

    def gather_units(self, box: UnitBox) -> list[OpenRows]:
        """Return the classes of a box, piece by piece."""
        return [part.classes for part in self._classes(box)]

    def forget_units(self) -> None:
        """Let go of the classes: all is written."""
        self._open = None

    def _classes(self, box: UnitBox) -> list[RowClasses]:
        if self._open is None or self._open[0] != box.key:
            self._open = None  # two boxes at a time would take twice the memory
            self._open = box.key, [self._classes_of(k, box) for k in range(len(self._pieces))]
        return self._open[1]

    def _classes_of(self, place: int, box: UnitBox) -> RowClasses:
        """Return the classes of a piece, or of its part of a sample."""
        if self._open is not None and self._open[0] == box.key:
            return self._open[1][place]
        if not box.sample:
            return box.classes(self._blocks(self._pieces[place]))
        assert box.plan is not None
        sample = self._sample(box.plan, box.sample)[place]
        return box.classes([] if sample is None else [sample])
