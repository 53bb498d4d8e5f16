"""The protocol of engines, the claims they return, and the registry of engines by name."""

from __future__ import annotations

import enum
import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.engines.certificate.responses import BestResponse
    from solver.problem.instance import Instance
    from solver.problem.network import UnitFlow


class StopReason(enum.StrEnum):
    """Why a call ended."""

    PROVEN = "proven"
    """The answer is proven optimal."""
    INFEASIBLE = "infeasible"
    """Proven that no assignment satisfies every constraint."""
    GAP_TOLERANCE = "gap tolerance"
    """The gap is as small as the engine tries to make it on an instance of this size."""
    DEADLINE = "deadline"
    """The time given was used up, or too little of it was left for another attempt."""
    ENGINE_LIMIT = "engine limit"
    """No deadline was given and the engine stopped at a limit of its own; a deadline replaces it."""
    EXHAUSTED = "exhausted"
    """The engine had nothing more to try: a heuristic ended, or its arithmetic is too coarse for a proof."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """An engine's answer. The certificate recomputes it before anything else uses it.

    Parameters
    ----------
    choice : (n,) int64
        Model of each agent, or UNASSIGNED.
    prices : (m, r) float64 or None
        Lagrange multipliers of the capacities, from which a bound can be recomputed: >= 0, or a capacity's less
        that of the floor where models have floors.
    limit_prices : (g,) float64 or None
        Lagrange multipliers of the limit rows, >= 0; None for zeros.
    score_prices, score_limit_prices : (m, r) and (g,) float64, or None
        Multipliers in score alone, where agents are left out in serve-first mode and the others include the value
        of service: the change of the score by one more unit. For the report; they prove nothing.
    bound : float or None
        A bound on the instance's objective that the engine asserts and that cannot be recomputed from prices.
    infeasible : bool
        The engine proved that no feasible assignment exists; ``choice`` is then all UNASSIGNED.
    serves_most : bool
        In serve-first mode: the engine asserts that no plan serves more agents, or more of a higher priority.
    stopped_by : StopReason or None
        Why the engine stopped looking; None where it had nothing more to try.
    progress : tuple of (float, float, float)
        Milliseconds since the deadline was started, objective and bound, at every improvement.
    flow : UnitFlow or None
        Units served, where rows ask for more than one; ``choice`` then names one model of each row.
    response : BestResponse or None
        Every agent's best model at the prices, where finding them was part of the search: the certificate is spared
        that pass.
    """

    choice: NDArray[np.int64]
    prices: NDArray[np.float64] | None = None
    limit_prices: NDArray[np.float64] | None = None
    score_prices: NDArray[np.float64] | None = None
    score_limit_prices: NDArray[np.float64] | None = None
    bound: float | None = None
    infeasible: bool = False
    serves_most: bool = False
    stopped_by: StopReason | None = None
    progress: tuple[tuple[float, float, float], ...] = ()
    flow: UnitFlow | None = None
    response: BestResponse | None = None


class Engine(Protocol):
    """Arrays in, arrays out. An engine keeps no state between calls and may be shared by threads."""

    name: str

    def unsupported_reason(self, instance: Instance, *, remaining_s: float) -> str | None:
        """Return why this engine cannot handle the instance in the time left, or None when it can."""
        ...

    def solve(
        self,
        instance: Instance,
        *,
        deadline: Deadline,
        hint: Claim | None = None,
        seed: int = 0,
        threads: int = 1,
    ) -> Claim | None:
        """Return the best claim found before the deadline, or None when there is none.

        Parameters
        ----------
        instance : Instance
            Must be supported, see :meth:`unsupported_reason`.
        deadline : Deadline
            Never to be overrun knowingly.
        hint : Claim, optional
            A feasible claim, or prices, to start from.
        seed : int
            Same instance, seed and ``threads=1``: same claim.
        threads : int
            Most threads to use.
        """
        ...


ENGINES: dict[str, str] = {
    "greedy": "solver.engines.greedy:GreedyEngine",
    "lsap": "solver.engines.lsap:LsapEngine",
    "transport": "solver.engines.transport:TransportEngine",
    "flow": "solver.engines.flow.engine:FlowEngine",
    "enumeration": "solver.engines.enumeration:EnumerationEngine",
    "cpsat": "solver.engines.cpsat.engine:CpSatEngine",
    "lagrangian": "solver.engines.lagrangian:LagrangianEngine",
    "price": "solver.engines.price.engine:PriceEngine",
}
"""Where each engine lives; nothing is imported before it is asked for."""


_LOADING_S = {"lsap": 0.45, "flow": 0.12, "price": 0.25, "lagrangian": 0.05, "cpsat": 0.02}
"""Processor seconds that the first import of an engine takes, most of them for scipy and OR-Tools."""


def loading_seconds(name: str) -> float:
    """Return about how long loading an engine takes, 0 once its module has been imported."""
    loaded = ENGINES[name].partition(":")[0] in sys.modules
    return 0.0 if loaded else _LOADING_S.get(name, 0.0)


@cache
def load_engine(name: str) -> Engine:
    """Return the engine called ``name``, importing its module on first use."""
    module, _, attribute = ENGINES[name].partition(":")
    return cast("Engine", getattr(import_module(module), attribute)())
