"""The models worth trying for one agent, best first, or why there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from solver.online.decision import RouteRefusalReason

if TYPE_CHECKING:
    from solver.online.live import LiveLoad
    from solver.online.pricing import Pricing
    from solver.online.window import AgentRow

__all__ = ["Choice", "rank_models"]

_TRIES = 3  # the best model and, where a reservation is lost to another client, two more


class Choice(NamedTuple):
    """A model worth trying, with the figures it was chosen on."""

    column: int
    net: float
    runner_up: int
    margin: float


def rank_models(
    row: AgentRow, pricing: Pricing, load: LiveLoad, left_usd: float | None
) -> tuple[list[Choice], RouteRefusalReason]:
    """Return up to three models in order of net value, and why there is none or no further one. O(m)."""
    net = pricing.net(row, load)
    if load.metered:
        load.forbid_metered(net, row.tokens, row.cost_usd)
    poor = False
    if left_usd is not None and row.cost_usd is not None:
        dear = row.cost_usd > left_usd
        poor = bool((dear & np.isfinite(net)).any())
        net[dear] = -np.inf
    column = int(net.argmax())
    best = float(net[column])
    if best == -np.inf:
        return [], _why_none(row, pricing, poor=poor)
    nobody = pricing.nobody(row)
    choices: list[Choice] = []
    for _ in range(_TRIES):
        if not pricing.worth_it(row, column, best):
            return choices, RouteRefusalReason.FULL if choices else RouteRefusalReason.NOT_WORTH_ITS_PRICE
        net[column] = -np.inf
        following = int(net.argmax())
        second = float(net[following])
        if second == -np.inf:
            choices.append(Choice(column, best, -1, best - nobody if nobody > -np.inf else np.inf))
            break
        choices.append(Choice(column, best, following, best - max(second, nobody)))
        column, best = following, second
    return choices, RouteRefusalReason.FULL


def _why_none(row: AgentRow, pricing: Pricing, *, poor: bool) -> RouteRefusalReason:
    if not np.isfinite(row.scores).any():
        return RouteRefusalReason.NO_ELIGIBLE_MODEL
    if poor:
        return RouteRefusalReason.BUDGET
    if pricing.out_of_slots(row):
        return RouteRefusalReason.SLOTS_USED_UP
    return RouteRefusalReason.FULL
