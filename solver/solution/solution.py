"""Solution: a verified answer as arrays."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.base import StopReason
from solver.engines.certificate import relative_gap
from solver.errors import UnsolvedError
from solver.problem.instance import UNASSIGNED
from solver.problem.network import UnitFlow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["UNASSIGNED", "Solution", "Status", "StopReason"]


class Status(enum.StrEnum):
    """What is known about an answer; never optimistic."""

    OPTIMAL = "optimal"
    """Feasible, and proven that nothing better exists."""
    FEASIBLE = "feasible"
    """Feasible and verified; the gap says how far a better one could be."""
    INFEASIBLE = "infeasible"
    """Proven that no assignment satisfies every constraint."""
    UNKNOWN = "unknown"
    """Nothing found in time, nothing proven. Only possible where every agent must be served."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Solution:
    """An answer, verified against its instance.

    Attributes
    ----------
    status : Status
        What is known.
    choice : (n,) int64, or (n, k) where ``copies`` were asked for
        Model of each agent, UNASSIGNED (-1) for none. With copies, the models of each agent, highest score
        first, padded with UNASSIGNED; with counts, the models that serve most of each row's agents.
    objective : float
        Total score, minus penalties where a finite ``unassigned_penalty`` was given; ``-inf`` when there is
        no assignment. With ``sense="minimize"`` total cost, plus penalties; ``inf`` when there is none.
    bound : float
        Proven limit that no assignment exceeds (in serve-first mode: none that serves as many).
    prices : (m,) or (m, r) float64
        Shadow price of each capacity, >= 0: what one more unit of it adds to the total score.
    slot_changes : (m,) float64 or None
        By how much exactly one more slot of each model changes the objective: the price, with ``minimize`` its
        negative, except where serving comes first and the slot serves one agent more at a loss. None where no price
        is exact: with a demand, limits or openings, and for answers that are not optimal.
    serves_more : (m,) bool or None
        Whether that slot serves one agent more; None likewise.
    floor_prices : (m,) float64
        What raising each model's floor by one unit changes the total by, <= 0; zeros without floors.
    load : (m,) or (m, r) float64
        Units used.
    multipliers : (m, r) float64
        The multipliers that prove the bound. Equal to the prices, except in serve-first mode with too little
        capacity, where they carry the value of service as well.
    engine : str
        The engine whose answer this is.
    elapsed_ms : float
        Wall clock from call to return, milliseconds.
    notes : tuple of str
        What the portfolio did: engines run, engines skipped and why.
    bound_is_claimed : bool
        True when the bound is an engine's word rather than recomputed from the multipliers.
    limit_prices : (g,) float64
        Shadow price of each limit row, >= 0: what raising its bound by one adds to the total score.
    limit_multipliers : (g,) float64
        As ``multipliers``, of the limit rows.
    limit_load : (g,) float64
        Left-hand sides of the limit rows.
    row_names : sequence of str
        Names of the limit rows, in the order of the last three; ``limit_names`` has them as a tuple.
    progress : tuple of (float, float, float)
        The improvement curve: milliseconds since the call, objective and bound at every improvement.
    unit_flow : UnitFlow or None
        Units of every row that each model serves, where rows ask for several; see ``flow``.
    left : (n,) int64 or None
        Units of each row that no model serves, where rows ask for several.
    stopped_by : StopReason
        Why the call ended: proven, at the deadline, at an engine's own limit of time where no deadline was given, and
        so on.
    sense : {"maximize", "minimize"}
        What was asked for: with ``minimize``, objective and bound are costs, and no assignment costs less than the
        bound. Prices say in either sense by how much one more unit betters the total.
    """

    status: Status
    choice: NDArray[np.int64]
    objective: float
    bound: float
    prices: NDArray[np.float64]
    load: NDArray[np.float64]
    multipliers: NDArray[np.float64]
    engine: str
    elapsed_ms: float
    notes: tuple[str, ...] = ()
    stopped_by: StopReason = StopReason.EXHAUSTED
    bound_is_claimed: bool = False
    row_names: Sequence[str] = field(default=(), repr=False)
    limit_prices: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    limit_multipliers: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    limit_load: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    progress: tuple[tuple[float, float, float], ...] = ()
    floor_prices: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    slot_changes: NDArray[np.float64] | None = None
    serves_more: NDArray[np.bool_] | None = None
    unit_flow: UnitFlow | None = None
    left: NDArray[np.int64] | None = None
    sense: str = "maximize"

    @cached_property
    def flow(self) -> NDArray[np.int64]:
        """(n, m) int64, units of each row that each model serves."""
        flow = UnitFlow.of_choice(self.choice) if self.unit_flow is None else self.unit_flow
        return flow.dense(len(self.choice), len(self.load))

    @cached_property
    def limit_names(self) -> tuple[str, ...]:
        """Names of the limit rows, in the order of their prices, multipliers and loads."""
        return tuple(self.row_names)

    @property
    def gap(self) -> float:
        """Relative distance from objective to bound, >= 0; ``inf`` without a bound or an assignment."""
        if math.isinf(self.objective):
            return math.inf
        sign = -1.0 if self.sense == "minimize" else 1.0
        return relative_gap(sign * self.objective, sign * self.bound)

    @property
    def unassigned(self) -> NDArray[np.intp]:
        """Indices of the agents that no model serves, or not as often as they ask for, ascending."""
        return np.flatnonzero(self.choice == UNASSIGNED if self.left is None else self.left > 0)

    def raise_for_status(self) -> Solution:
        """Return self, or raise when there is no assignment to use.

        Raises
        ------
        UnsolvedError
            If the status is INFEASIBLE or UNKNOWN.
        """
        if self.status in (Status.INFEASIBLE, Status.UNKNOWN):
            raise UnsolvedError(
                f"no assignment: {self.status.value}; {'; '.join(self.notes) or 'no details'}"
            )
        return self
