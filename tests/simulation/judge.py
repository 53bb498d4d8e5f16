"""Counts what really runs and what was really used, from what clients know; the store's counts are not read."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from solver.load.store.base import Limits, nano_usd
from solver.load.store.usage_limits import RESOURCES, Calendar

if TYPE_CHECKING:
    from collections.abc import Callable

    from solver.load.lease import Ask
    from tests.simulation.scenario import Scenario
    from tests.simulation.world import World

CLOCKS_DIFFER = 0.97
CLOCKS_DRIFT_S = 1.2
"""Part of a sliding window that is judged where its time is vouched for by clocks that differ by up to a hundredth, and
how much less that is in seconds: what they drift apart by while a client is silent."""


@dataclass
class Work:
    """What one client believes to hold: it works on it until then, in true time."""

    model: str
    slots: int
    until_s: float


@dataclass(frozen=True)
class Verdict:
    """What the independent count has found wrong; empty when nothing."""

    seed: int
    store: str
    wrong: tuple[str, ...]
    grants: int
    lost_memory: bool


@dataclass
class Usage:
    """What one lease was charged with, at least: amounts of requests, tokens and billionths of a dollar."""

    subjects: tuple[str, ...]
    at_s: float
    day: int
    amounts: list[int]
    owner: str
    forgotten: bool = field(default=False)


def usage_limits(limits: Limits) -> list[tuple[int, float | Calendar, int]]:
    """Return (resource, seconds or calendar, most) of each limit on usage, without the budget that is only counted."""
    found: list[tuple[int, float | Calendar, int]] = []
    if limits.requests is not None:
        found.append((0, 60.0, limits.requests))
    for limit in limits.further:
        kind = RESOURCES.index(limit.resource)
        found.append((kind, limit.window, nano_usd(limit.amount) if kind == 2 else int(limit.amount)))
    return found


class Judge:
    """Counts what really runs, and what was really spent.

    Parameters
    ----------
    world : World
        Whose time is true.
    scenario : Scenario
        The limits.
    day : callable
        Returns the number of the calendar day, by the clock that the store goes by.
    window_part : float
        Part of each sliding window that is judged.
    """

    def __init__(
        self, world: World, scenario: Scenario, day: Callable[[], int], *, window_part: float = 1.0
    ) -> None:
        self.world, self.scenario = world, scenario
        self._day, self._window_part = day, window_part
        self._chains = {model: scenario.chain(model) for model in scenario.models}
        self._meters = {f"m:{model}": usage_limits(each) for model, each in scenario.models.items()}
        self._meters |= {f"p:{pool}": usage_limits(each) for pool, each in scenario.pools.items()}
        self.working: dict[str, Work] = {}
        self._used: dict[str, Usage] = {}
        self._silent: set[str] = set()
        self._memory_lost = False
        self.grants = 0
        self.wrong: list[str] = []
        self.least_spent = 0
        self.most_spent = 0

    # -- slots

    def begins(self, lease_id: str, work: Work) -> None:
        """Count work that begins, on its model and in each of its pools."""
        self.grants += 1
        self.working[lease_id] = work
        self._check(work.model, (work.model,), self.scenario.models[work.model].max_concurrent)
        for pool in self._chains[work.model]:
            users = tuple(model for model, chain in self._chains.items() if pool in chain)
            self._check(f"pool {pool}", users, self.scenario.pools[pool].max_concurrent)

    def _check(self, name: str, models: tuple[str, ...], cap: int) -> None:
        now = self.world.now_s
        running = sum(
            each.slots for each in self.working.values() if each.model in models and each.until_s > now
        )
        if running > cap:
            self.wrong.append(f"at {now:.3f} s {running} run on {cap} slots of {name}")

    def ends(self, lease_id: str) -> None:
        """Count no more work under a lease."""
        self.working.pop(lease_id, None)

    # -- usage

    def granted(self, ask: Ask, owner: str) -> None:
        """Count what a lease, running or queued, is charged with, and check every limit on usage."""
        if self.scenario.is_plain:
            return
        demand = ask.demand
        subjects = (f"m:{ask.model}", *(f"p:{pool}" for pool in self._chains[ask.model]))
        amounts = [demand.requests, demand.tokens, nano_usd(demand.cost_usd)]
        self._used[ask.lease_id] = Usage(subjects, self.world.now_s, self._day(), amounts, owner)
        for subject in subjects:
            for kind, window, most in self._meters[subject]:
                used = sum(
                    each.amounts[kind]
                    for each in self._used.values()
                    if subject in each.subjects and self._counts(each, window)
                )
                if used > most and amounts[kind]:
                    self.wrong.append(
                        f"at {self.world.now_s:.3f} s {used} of {most} {RESOURCES[kind]} used of {subject} "
                        f"in {window}"
                    )

    def _counts(self, usage: Usage, window: float | Calendar) -> bool:
        if usage.forgotten:
            return False
        if isinstance(window, Calendar):  # of a week that begins at the midnight of the schedule, or a day
            return usage.day == self._day()
        drift_s = CLOCKS_DRIFT_S if self._window_part < 1.0 else 0.0
        return usage.at_s > self.world.now_s - window * self._window_part + drift_s

    def settled(self, lease_id: str, tokens: int, cost_nano_usd: int) -> None:
        """Count no more than was really used, at the time of the grant."""
        usage = self._used.get(lease_id)
        if usage is not None:
            usage.amounts[1:] = [min(usage.amounts[1], tokens), min(usage.amounts[2], cost_nano_usd)]

    def moved(self, lease_id: str) -> None:
        """Count nothing of a lease that was taken back."""
        self._used.pop(lease_id, None)

    def crashed(self, owner: str) -> None:
        """Count no usage any more that only this process could have told a server without its memory."""
        self._silent.add(owner)
        if self._memory_lost:
            self.memory_lost()

    def memory_lost(self) -> None:
        """Count only usage that somebody can tell."""
        self._memory_lost = True
        for usage in self._used.values():
            usage.forgotten |= usage.owner in self._silent

    def time_leaps(self) -> None:
        """Count no usage from before: windows end by the server's clock, where nobody vouches for another time."""
        for usage in self._used.values():
            usage.forgotten = True

    def spent(self, least: int, most: int) -> None:
        """Count money."""
        self.least_spent += least
        self.most_spent += most


def day_of(unix_s: float) -> int:
    """Return the number of a day of UTC; NaN is nobody's."""
    return math.floor(unix_s / 86400.0)
