"""ModelPool: what a balancer knows about a fleet, laid out so that one more agent costs a few array operations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.errors import SpecError, Violation
from solver.problem.fleet_scorer import FleetScorer
from solver.problem.rules import repeated_ids

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from solver.load.snapshot import LoadSnapshot
    from solver.problem.spec import Model, Objective


class ModelPool:
    """The models to choose from, their scorer, and their places in a snapshot of the load.

    Parameters
    ----------
    models : sequence of Model
        At least one, with unique ids; the column order of everything derived.
    objective : Objective, optional
        What is maximised.
    task_types : mapping of str to tuple of str, optional
        Required capabilities of the user's own task types.
    measured_latency : bool
        Whether latencies are predicted, so that models need not state theirs.

    Raises
    ------
    SpecError
        If there is no model, an id repeats, or a model does not state a fact that the objective weighs.
    """

    def __init__(
        self,
        models: Sequence[Model],
        *,
        objective: Objective | None = None,
        task_types: Mapping[str, tuple[str, ...]] | None = None,
        measured_latency: bool = False,
    ) -> None:
        if not models:
            raise SpecError(Violation("models", "expected at least one", shown="none"))
        self.models = tuple(models)
        self.ids = tuple(model.id for model in self.models)
        if repeated := list(repeated_ids("models", self.ids)):
            raise SpecError(*repeated)
        self.scorer = FleetScorer(
            self.models, objective, task_types=task_types, measured_latency=measured_latency
        )
        self._positions: tuple[tuple[str, ...], NDArray[np.intp] | slice] = ((), slice(None))
        self._slots: tuple[NDArray[np.int64] | None, NDArray[np.float64], NDArray[np.float64]]
        self._slots = (None, np.empty(0), np.empty(0))

    def __len__(self) -> int:
        return len(self.ids)

    def knows(self, snapshot: LoadSnapshot) -> bool:
        """Return whether a snapshot has the same models as the last one that this pool was placed in."""
        return bool(snapshot.models) and self._positions[0] is snapshot.models

    def positions(self, snapshot: LoadSnapshot) -> NDArray[np.intp] | slice:
        """Return an index of this pool's models into a snapshot's arrays: all of them, or (m,) positions."""
        known, where = self._positions
        if known is not snapshot.models:
            where = slice(None) if snapshot.models == self.ids else snapshot.positions(list(self.ids))
            self._positions = (snapshot.models, where)
        return where

    def slots(self, snapshot: LoadSnapshot) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the slots of each model, (m,) float64, and the same to divide by: at least 1."""
        source, slots, divisor = self._slots
        if source is not snapshot.max_concurrent:
            source = snapshot.max_concurrent
            slots = source[self.positions(snapshot)].astype(np.float64)
            divisor = np.maximum(slots, 1.0)
            self._slots = (source, slots, divisor)
        return slots, divisor
