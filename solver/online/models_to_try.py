"""The models worth trying for one agent, best first, or why there is none."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.online.refusal import RouteRefusalReason

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.online.live_load import LiveLoad
    from solver.online.pricing_protocol import Pricing
    from solver.online.window import AgentRow

_FULL = RouteRefusalReason.FULL  # looked up once: every decision begins with it

_RESERVATION_ATTEMPTS = 3
"""Models tried: the best one and, where a reservation is lost to another client, two more."""


class ModelsToTry:
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
    level : (m,) float64, optional
        Prices at the present load, where they are known already.

    Attributes
    ----------
    row : AgentRow
        The agent.
    refusal : RouteRefusalReason
        Why there is no model, or no further one.
    kept : (m,) float64 or None
        Net values, ``-inf`` where there is no room.
    tentative : bool
        Whether a refusal is followed by another attempt.
    to_ask : list of (int, float) or None
        Full models with their scores that are to be asked why; None before the first refusal.
    """

    __slots__ = (
        "_best",
        "_column",
        "_net",
        "_placed",
        "_pricing",
        "_refusal_value",
        "_tries",
        "kept",
        "refusal",
        "row",
        "tentative",
        "to_ask",
    )

    def __init__(
        self,
        row: AgentRow,
        pricing: Pricing[Any],
        load: LiveLoad,
        left_usd: float | None,
        *,
        keep: bool = False,
        level: NDArray[np.float64] | None = None,
    ) -> None:
        net = pricing.net(row, pricing.level(load) if level is None else level)
        if load.remote and load.may_have_opened(row.scores, net):
            net = row.scores.copy()  # what the store says is worth more than an old reading
        if load.metered:
            load.forbid_metered(net, row.tokens, row.cost_usd)
        over_budget = False
        if left_usd is not None and row.cost_usd is not None:
            exceeds_budget = row.cost_usd > left_usd
            over_budget = bool((exceeds_budget & np.isfinite(net)).any())
            net[exceeds_budget] = -inf
        self.kept = net.copy() if keep else None
        self.row, self._pricing, self._net = row, pricing, net
        self._placed = -1
        self.tentative = False
        self.to_ask: list[tuple[int, float]] | None = None
        self._tries = _RESERVATION_ATTEMPTS
        self.refusal = _FULL
        self._refusal_value = pricing.refusal_value(row)
        self._column = column = int(net.argmax())
        self._best = net.item(column)
        if self._best == -inf:
            self._tries = 0
            self.refusal = _why_none(row, pricing, over_budget=over_budget)

    def begin_with(self, column: int) -> bool:
        """Put a jointly placed model first, -1 for none; False where it is full by now."""
        if column < 0 or self._net.item(column) == -inf:
            return False
        self._placed = column
        return True

    def only(self, column: int) -> bool:
        """Try a jointly placed model and no other; False where it is full by now, or there is none."""
        self._tries, self.tentative = 0, True
        return self.begin_with(column)

    def following(self) -> tuple[int, float] | None:
        """Return the next model to try and its net value; None when none is left that is worth it."""
        column = self._placed
        if column >= 0:
            self._placed = -1
            net = self._net.item(column)
            self._net[column] = -inf
            self._column = -1
            return column, net
        if not self._tries:
            return None
        column, best = self._column, self._best
        if column < 0:
            column = int(self._net.argmax())
            best = self._net.item(column)
        if best == -inf:
            return None
        if not self._pricing.worth_it(self.row, column, best):
            if self._tries == _RESERVATION_ATTEMPTS:
                self.refusal = RouteRefusalReason.NOT_WORTH_ITS_PRICE
            self._tries = 0
            return None
        self._tries -= 1
        self._net[column] = -inf
        self._column = -1
        return column, best

    def runner_up(self) -> tuple[int, float]:
        """Return the best model that was not tried, -1 for none, and its net value or that of refusing."""
        column = int(self._net.argmax())
        second = self._net.item(column)
        if second == -inf:
            return -1, self._refusal_value
        return column, max(second, self._refusal_value)


def _why_none(row: AgentRow, pricing: Pricing[Any], *, over_budget: bool) -> RouteRefusalReason:
    if not np.isfinite(row.scores).any():
        return RouteRefusalReason.NO_ELIGIBLE_MODEL
    if over_budget:
        return RouteRefusalReason.BUDGET
    if pricing.out_of_slots(row):
        return RouteRefusalReason.SLOTS_USED_UP
    return _FULL
