"""The scenario of a replay: everything that does not depend on the policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from solver.simulate.quality import Quality
    from solver.simulate.schedule import Disruption
    from solver.simulate.servers import Fleet
    from solver.simulate.traffic import Traffic


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """Everything in a replay that does not depend on the policy: the same for all policies that are compared.

    Parameters
    ----------
    traffic, fleet, quality
        Requests, servers, and the worth of answers.
    uniform_draws : (n, 2) float64
        Uniform on [0, 1): a request fails, or is answered 429, where this is below the model's rate of that.
    seed : int
        Of whatever a policy draws.
    schedule : tuple of Disruption
        What goes wrong.
    retries : int
        How often a request that a server turned away is offered to the policy again, at once.
    """

    traffic: Traffic
    fleet: Fleet
    quality: Quality
    uniform_draws: NDArray[np.float64]
    seed: int
    schedule: tuple[Disruption, ...] = ()
    retries: int = 0
