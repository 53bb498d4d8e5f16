"""Which agents and models a limit concerns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from solver.problem.agents import AgentTable
    from solver.problem.limit_specs import LimitSpec
    from solver.problem.models import Model


def concerned_agents(agents: AgentTable, limit: LimitSpec) -> NDArray[np.int64]:
    """Return the ascending rows of the agents a limit concerns; its names must be known."""
    chosen = np.ones(len(agents), bool)
    if limit.agents is not None:
        chosen[:] = False
        chosen[[agents.positions[name] for name in limit.agents]] = True
    if limit.tenants is not None:
        wanted = np.array([name is not None and name in limit.tenants for name in agents.tenants])
        chosen &= wanted[agents.tenant]
    return np.flatnonzero(chosen)


def concerned_models(models: Sequence[Model], limit: LimitSpec) -> NDArray[np.bool_]:
    """Return the (m,) mask of the models a limit concerns."""
    return np.array(
        [
            (limit.models is None or model.id in limit.models)
            and (limit.providers is None or model.provider in limit.providers)
            and (limit.regions is None or model.region in limit.regions)
            for model in models
        ],
        bool,
    )
