"""The request for a batch in files."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from solver.errors import SpecError, Violation
from solver.scale.coupling import BatchBudget, BatchResource, Couplings, coupling_rules

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from solver.scale.pieces import ScoreColumns

_MAX_STREAMED_MODELS = 5_000
"""Models at most: prices of samples take memory for the square of their number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeBatch:
    """A batch in Parquet files, one slot an agent, or some units where columns say so.

    Parameters
    ----------
    files : sequence of str
        Files, folders, or patterns such as ``batch/*.parquet``; paths or URLs such as ``s3://bucket/batch``.
    columns : ScoreColumns
        What the files' columns hold.
    capacity : sequence of int
        Slots of each model of ``columns.models``.
    unassigned_penalty : float, optional
        What leaving an agent out costs, where no column says so. None: serve as many as possible first.
    load_cost : sequence of sequence of float
        What a slot costs in equal tiers of each model's slots; empty for nothing. See :func:`solver.assign`.
    min_load : sequence of int
        Agents that each model has to serve; empty for none.
    resources : sequence of BatchResource
        What agents take of models besides slots.
    budgets : sequence of BatchBudget
        What the whole batch may spend. With resources or budgets a capacity may be ``inf``, and plans are proven to a
        gap.
    """

    files: Sequence[str]
    columns: ScoreColumns
    capacity: Sequence[float]
    unassigned_penalty: float | None = None
    load_cost: Sequence[Sequence[float]] = field(default=())
    min_load: Sequence[int] = field(default=())
    resources: Sequence[BatchResource] = ()
    budgets: Sequence[BatchBudget] = ()

    def checked(self) -> LargeBatch:
        """Return the batch if its numbers can be.

        Raises
        ------
        SpecError
            One line per rule that is broken.
        """
        m = len(self.columns.models)
        lines = []
        if not 0 < m <= _MAX_STREAMED_MODELS:
            lines.append(Violation("models", f"expected 1 to {_MAX_STREAMED_MODELS:,} models", m))
        if len(self.capacity) != m:
            lines.append(
                Violation("capacity", f"expected one number for each of {m} models", len(self.capacity))
            )
        lines += [
            Violation(f"capacity[{j}]", "expected a whole number of slots >= 0", slots)
            for j, slots in enumerate(self.capacity)
            if not ((0 <= slots <= 2**53 and slots == int(slots)) or (slots == np.inf and self.is_coupled))
        ]
        lines += coupling_rules(m, self.resources, self.budgets)
        if self.is_coupled:
            in_memory, nowhere = "; solver.assign takes both, in memory", "; drop one of the two"
            given = {
                "load_cost": (len(self.load_cost) > 0, nowhere),
                "min_load": (any(self.min_load), in_memory),
                "copies": (self.columns.copies is not None, nowhere),
                "count": (self.columns.count is not None, "; give each of the agents a row"),
            }
            rule = "expected none beside resources or budgets in a batch in files"
            lines += [Violation(name, rule + advice) for name, (wanted, advice) in given.items() if wanted]
        if self.unassigned_penalty is not None and not self.unassigned_penalty >= 0:
            lines.append(Violation("unassigned_penalty", "expected >= 0", self.unassigned_penalty))
        if len(self.min_load) not in (0, m):
            lines.append(
                Violation("min_load", f"expected one number for each of {m} models", len(self.min_load))
            )
        lines += [
            Violation(f"min_load[{j}]", f"expected a whole number from 0 to its {slots:g} slots", least)
            for j, (least, slots) in enumerate(zip(self.min_load, self.capacity, strict=False))
            if not (0 <= least <= slots and least == int(least))
        ]
        if self.columns.sense not in ("maximize", "minimize"):
            lines.append(Violation("sense", "expected maximize or minimize", self.columns.sense))
        if len(set(self.columns.models)) < m:
            lines.append(Violation("models", "expected different ids", list(self.columns.models)))
        if lines:
            raise SpecError(*lines)
        return self

    @property
    def is_coupled(self) -> bool:
        """Whether there is more than slots."""
        return bool(self.resources or self.budgets)

    @property
    def couplings(self) -> Couplings:
        """All rows of constraints."""
        return Couplings.of(self.columns.models, self.slots, self.resources, self.budgets)

    @property
    def reading(self) -> ScoreColumns:
        """What is read of the files: the columns with those of amounts."""
        return replace(self.columns, amounts=self.couplings.columns) if self.is_coupled else self.columns

    @property
    def slots(self) -> NDArray[np.float64]:
        """(m,) float64, slots of each model."""
        return np.asarray(self.capacity, np.float64)

    @property
    def tiers(self) -> NDArray[np.float64] | None:
        """(m, t) float64, costs of the tiers, or None."""
        return np.asarray(self.load_cost, np.float64) if len(self.load_cost) else None

    @property
    def floors(self) -> NDArray[np.int64] | None:
        """(m,) int64, agents that each model has to serve, or None."""
        return np.asarray(self.min_load, np.int64) if any(self.min_load) else None

    @property
    def serve_first(self) -> bool:
        """Whether serving more agents comes before any score."""
        return self.unassigned_penalty is None and self.columns.penalty is None
