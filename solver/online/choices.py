"""The models worth trying for one agent, best first, or why there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from solver.online.decision import RouteRefusalReason

if TYPE_CHECKING:
    from solver.online.live import LiveLoad
    from solver.online.pricing import Pricing
    from solver.online.window import AgentRow

__all__ = ["Candidates", "Choice"]

_RESERVATION_ATTEMPTS = 3
"""Models tried: the best one and, where a reservation is lost to another client, two more."""


class Choice(NamedTuple):
    """A model worth trying, with the figures it was chosen on."""

    column: int
    net: float
    runner_up: int
    margin: float


class Candidates:
    """The models worth trying for one agent, best first, found one at a time. O(m) to make, O(m) for each.

    Parameters
    ----------
    row : AgentRow
        The agent.
    pricing : Pricing
        Present prices.
    load : LiveLoad
        Present load.
    left_usd : float or None
        What is left of a budget.
    keep : bool
        Whether net values are kept as they were, for a log.

    Attributes
    ----------
    refusal : RouteRefusalReason
        Why there is no model, or no further one.
    kept : (m,) float64 or None
        Net values, ``-inf`` where there is no room.
    tentative : bool
        Whether a refusal is followed by another attempt.
    """

    __slots__ = (
        "_best",
        "_column",
        "_net",
        "_planned",
        "_pricing",
        "_row",
        "_tries",
        "kept",
        "refusal",
        "tentative",
    )

    def __init__(
        self,
        row: AgentRow,
        pricing: Pricing[Any],
        load: LiveLoad,
        left_usd: float | None,
        *,
        keep: bool = False,
    ) -> None:
        net = pricing.net(row, pricing.level(load))
        if load.metered:
            load.forbid_metered(net, row.tokens, row.cost_usd)
        poor = False
        if left_usd is not None and row.cost_usd is not None:
            dear = row.cost_usd > left_usd
            poor = bool((dear & np.isfinite(net)).any())
            net[dear] = -np.inf
        self.kept = net.copy() if keep else None
        self._row, self._pricing, self._net = row, pricing, net
        self._planned: Choice | None = None
        self.tentative = False
        self._tries = _RESERVATION_ATTEMPTS
        self._column = int(net.argmax())
        self._best = net.item(self._column)
        self.refusal = RouteRefusalReason.FULL
        if self._best == -np.inf:
            self._tries = 0
            self.refusal = _why_none(row, pricing, poor=poor)

    def begin_with(self, column: int) -> bool:
        """Put a jointly placed model first, -1 for none; False where it is full by now."""
        net = -np.inf if column < 0 else self._net.item(column)
        if net == -np.inf:
            return False
        self._planned = Choice(column, net, -1, 0.0)
        self._net[column] = -np.inf
        self._column = int(self._net.argmax())
        self._best = self._net.item(self._column)
        return True

    def only(self, column: int) -> bool:
        """Try a jointly placed model and no other; False where it is full by now, or there is none."""
        self._tries, self.tentative = 0, True
        return self.begin_with(column)

    def following(self) -> Choice | None:
        """Return the next model to try, None when none is left that is worth it."""
        if self._planned is not None:
            planned, self._planned = self._planned, None
            return planned
        column, best, net = self._column, self._best, self._net
        if not self._tries or best == -np.inf:
            return None
        if not self._pricing.worth_it(self._row, column, best):
            if self._tries == _RESERVATION_ATTEMPTS:
                self.refusal = RouteRefusalReason.NOT_WORTH_ITS_PRICE
            self._tries = 0
            return None
        self._tries -= 1
        net[column] = -np.inf
        self._column = runner_up = int(net.argmax())
        self._best = second = net.item(runner_up)
        nobody = self._pricing.nobody(self._row)
        if second == -np.inf:
            return Choice(column, best, -1, best - nobody if nobody > -np.inf else np.inf)
        return Choice(column, best, runner_up, best - max(second, nobody))


def _why_none(row: AgentRow, pricing: Pricing[Any], *, poor: bool) -> RouteRefusalReason:
    if not np.isfinite(row.scores).any():
        return RouteRefusalReason.NO_ELIGIBLE_MODEL
    if poor:
        return RouteRefusalReason.BUDGET
    if pricing.out_of_slots(row):
        return RouteRefusalReason.SLOTS_USED_UP
    return RouteRefusalReason.FULL
