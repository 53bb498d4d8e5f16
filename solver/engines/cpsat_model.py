"""Assignment models for CP-SAT: integer scaling whose loss is known, and one builder for all who need it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Outcome", "PairModel", "Scaled", "is_loaded", "scale_to_integers"]

_EXACT_SCALES = (1.0, 10.0, 100.0, 1000.0, 1e4, 1e5, 1e6)
_LARGEST = float(
    2**46
)  # of a scaled sum: CP-SAT refuses what may overflow 63 bits, and slows down well before


def is_loaded() -> bool:
    """Return whether the library has been imported, which alone takes longer than a short deadline."""
    return "ortools.sat.python.cp_model" in sys.modules


@dataclass(frozen=True, slots=True)
class Scaled:
    """Numbers as integers.

    Parameters
    ----------
    values : int64 array
        ``original × scale``, rounded.
    scale : float
        What they were multiplied by.
    exact : bool
        Whether no rounding happened.
    """

    values: NDArray[np.int64]
    scale: float
    exact: bool


def scale_to_integers(
    values: NDArray[np.float64], *, terms: int, up: bool = False, extra: float = 0.0
) -> Scaled:
    """Return values as integers, exactly if a power of ten makes them whole.

    Parameters
    ----------
    values : float64 array
        Finite numbers.
    terms : int
        How many of them may be added up.
    up : bool
        Round up where rounding is needed (for demands, so that no capacity is ever exceeded); else to nearest.
    extra : float
        Another magnitude that must fit, such as the right-hand side.
    """
    largest = max(float(np.abs(values).max(initial=0.0)) * max(terms, 1), abs(extra), 1e-300)
    for scale in _EXACT_SCALES:
        if largest * scale > _LARGEST:
            break
        scaled = values * scale
        whole = np.rint(scaled)
        if np.abs(scaled - whole).max(initial=0.0) <= 1e-9 * max(1.0, float(np.abs(whole).max(initial=0.0))):
            return Scaled(whole.astype(np.int64), scale, exact=True)
    scale = 2.0 ** np.floor(np.log2(_LARGEST / largest))
    scaled = values * scale
    # A hair below the next integer is float64 noise of an exact product, not another unit.
    rounded = np.ceil(scaled - 1e-9 * np.abs(scaled)) if up else np.rint(scaled)
    return Scaled(rounded.astype(np.int64), scale, exact=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What CP-SAT said.

    Parameters
    ----------
    picked : (p,) bool or None
        Pairs chosen; None when it found nothing.
    complete : bool
        It searched everything: ``picked`` is optimal for the model as scaled, or there is nothing.
    bound : float
        Lower bound on the loss of the model as scaled, in units of the loss.
    """

    picked: NDArray[np.bool_] | None
    complete: bool
    bound: float


class PairModel:
    """One Boolean per (agent, column) pair, exactly one per agent, minimise the loss.

    Parameters
    ----------
    agent : (p,) int64
        Agent of each pair, ascending.
    loss : (p,) float64
        Loss of each pair.
    """

    def __init__(self, agent: NDArray[np.int64], loss: NDArray[np.float64]) -> None:
        from ortools.sat.python import cp_model

        self._cp = cp_model
        self.model: Any = cp_model.CpModel()
        self.exact = True
        self.pairs = [self.model.new_bool_var("") for _ in range(len(agent))]
        starts = np.flatnonzero(np.diff(agent, prepend=-1))
        for first, last in zip(starts.tolist(), [*starts[1:].tolist(), len(agent)], strict=True):
            self.model.add_exactly_one(self.pairs[first:last])
        agents = len(starts)
        scaled = scale_to_integers(loss, terms=max(agents, 1))
        self.loss_scale, self.exact_loss = scaled.scale, scaled.exact
        self._objective = self._sum(np.arange(len(agent)), scaled.values)
        self.model.minimize(self._objective)

    def _sum(self, where: NDArray[np.intp], weights: NDArray[np.int64]) -> Any:
        pairs = self.pairs
        return self._cp.LinearExpr.weighted_sum([pairs[i] for i in where.tolist()], weights.tolist())

    def at_most(self, where: NDArray[np.intp], weights: NDArray[np.float64], bound: float) -> None:
        """Require that the weights of the chosen pairs among ``where`` add up to at most ``bound``."""
        if not len(where):
            if bound < 0:
                self.model.add_bool_or([])
            return
        if weights[weights > 0].sum() <= bound and bound >= 0:
            return
        scaled = scale_to_integers(weights, terms=len(where), up=True, extra=bound)
        self.exact &= scaled.exact
        limit = int(np.floor(bound * scaled.scale * (1 + 1e-12) + 1e-9))
        self.model.add(self._sum(where, scaled.values) <= limit)

    def loss_at_most(self, loss: float) -> None:
        """Ask only for assignments that lose no more."""
        self.model.add(self._objective <= int(np.floor(loss * self.loss_scale + 1e-6)))

    def hint(self, picked: NDArray[np.bool_]) -> None:
        """Suggest an assignment."""
        for pair, chosen in zip(self.pairs, picked.tolist(), strict=True):
            self.model.add_hint(pair, chosen)

    def solve(self, *, limit_s: float, seed: int, threads: int = 1, quick: bool = True) -> Outcome:
        """Run CP-SAT for at most ``limit_s`` seconds; ``quick`` skips presolve steps that small models do not repay."""
        solver = self._cp.CpSolver()
        parameters = solver.parameters
        parameters.max_time_in_seconds = max(limit_s, 0.001)
        parameters.num_workers = threads
        parameters.random_seed = seed % 2**31
        parameters.linearization_level = 2
        if quick:
            parameters.symmetry_level = 0
            parameters.cp_model_probing_level = 0
        status = solver.solve(self.model)
        found = status in (self._cp.OPTIMAL, self._cp.FEASIBLE)
        return Outcome(
            picked=np.array([solver.boolean_value(v) for v in self.pairs], dtype=bool) if found else None,
            complete=status in (self._cp.OPTIMAL, self._cp.INFEASIBLE),
            bound=solver.best_objective_bound / self.loss_scale if found else -np.inf,
        )
