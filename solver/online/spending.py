"""A budget: what is spent or promised in its present period, exact to a billionth of a dollar."""

from __future__ import annotations

import math

from solver.load.store.base import nano_usd


class Spending:
    """Money over a horizon, or anew in each period. Not thread-safe: its owner holds a lock.

    Parameters
    ----------
    budget_usd : float
        US dollars.
    period_s : float or None
        Seconds until it starts anew; None: spent once.
    start_s : float
        When the first period starts.
    """

    def __init__(self, budget_usd: float, period_s: float | None, start_s: float) -> None:
        self._budget, self._spent = nano_usd(budget_usd), 0
        self._period_s, self._start_s = period_s, start_s

    @property
    def spent_usd(self) -> float:
        """US dollars spent or promised in this period."""
        return self._spent / 1e9

    def _roll(self, now_s: float) -> None:
        if self._period_s is not None and now_s >= self._start_s + self._period_s:
            self._start_s += self._period_s * math.floor((now_s - self._start_s) / self._period_s)
            self._spent = 0

    def left_usd(self, now_s: float) -> float:
        """Return US dollars left, never below 0."""
        self._roll(now_s)
        return max(self._budget - self._spent, 0) / 1e9

    def left_s(self, now_s: float) -> float:
        """Return seconds until the budget starts anew, infinite for one that is spent once."""
        self._roll(now_s)
        return math.inf if self._period_s is None else self._start_s + self._period_s - now_s

    def spend(self, cost_usd: float, now_s: float) -> bool:
        """Promise an expected cost; False when it does not fit."""
        self._roll(now_s)
        cost = nano_usd(cost_usd)
        if self._spent + cost > self._budget:
            return False
        self._spent += cost
        return True

    def give_back(self, cost_usd: float) -> None:
        """Take a promise back."""
        self.correct(-cost_usd)

    def correct(self, difference_usd: float) -> None:
        """Add what a request cost beyond its expectation, or less."""
        self._spent = max(self._spent + nano_usd(difference_usd), 0)
