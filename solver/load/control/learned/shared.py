"""Combines the measurements of several routers in front of one backend into the sums of a single router."""

from __future__ import annotations

from typing import TYPE_CHECKING

from solver.load.control.learned import gauges as g

if TYPE_CHECKING:
    from collections.abc import Mapping

    from solver.load.control.learned.gauges import Sums

_INTEGRALS = ((g.IN_FLIGHT_S, -3), (g.WAITING_S, -2), (g.TOKENS_S, -1))
"""Sums that grow while nothing is heard, and the counts at which they do."""


class SharedTotals:
    """Adds up the sums of other routers, so that no router's start, restart or end looks like work.

    Of each router only what has come since it was first heard counts. What it had in flight when it reported is
    taken to have been in flight since, so that a router without events need not report anything.
    """

    def __init__(self) -> None:
        self._total: Sums = [0.0] * g.N_SUMS
        self._last: dict[str, Sums] = {}

    def add(self, reports: Mapping[str, tuple[Sums, float]]) -> Sums:
        """Return the totals, and what is in flight now, waiting, and in tokens.

        Parameters
        ----------
        reports : mapping of str to (Sums, float)
            Of each router that is there: its :meth:`~solver.load.control.learned.learner.LearnedCapacity.sums`,
            and how many seconds ago it reported them.
        """
        self._last = {name: sums for name, sums in self._last.items() if name in reports}
        now_there = [0.0, 0.0, 0.0]
        for name, (sums, age_s) in reports.items():
            current = list(sums)
            for place, count in _INTEGRALS:
                current[place] += sums[count] * age_s
            before = self._last.get(name)
            restarted = before is None or any(
                sums[k] < before[k] for k in (g.FIRST, g.PROMPT_TOKENS, g.ENDED, g.OUTPUT_TOKENS)
            )
            if before is not None and not restarted:
                for k in range(g.N_SUMS):
                    self._total[k] += current[k] - before[k]
            self._last[name] = current
            for k in range(3):
                now_there[k] += sums[g.N_SUMS + k]
        return [*self._total, *now_there]
