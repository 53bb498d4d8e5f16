"""Disruptions of servers over time: outages, failures, status 429, other speeds, other capacities."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from solver.errors import SpecError, Violation
from solver.problem.values import unknown_name

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Disruption:
    """One model behaves differently for a while.

    Parameters
    ----------
    model : str
        Which one.
    from_s, until_s : float
        Seconds since the first arrival; until the end when ``until_s`` is infinite.
    outage : bool
        Running and waiting requests fail at once, new ones are refused with status 503.
    failure_rate : float, optional
        Share of the requests started in this time that end without a usable answer, 0 to 1.
    reject_rate : float, optional
        Share of the offered requests that are turned away with status 429, 0 to 1.
    slower : float, optional
        Service takes so many times as long, > 0.
    slots : int, optional
        Requests served at once, >= 0. What is running goes on.
    announced : bool
        Whether policies are told of changed slots.

    Raises
    ------
    SpecError
        Naming each value out of range.
    """

    model: str
    from_s: float
    until_s: float = math.inf
    outage: bool = False
    failure_rate: float | None = None
    reject_rate: float | None = None
    slower: float | None = None
    slots: int | None = None
    announced: bool = True

    def __post_init__(self) -> None:
        problems = []
        if not 0 <= self.from_s < math.inf:
            problems.append(Violation("from_s", "expected a time >= 0", self.from_s))
        if not self.until_s > self.from_s:
            problems.append(Violation("until_s", f"expected a time after {self.from_s:g}", self.until_s))
        for name in ("failure_rate", "reject_rate"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                problems.append(Violation(name, "expected between 0 and 1", value))
        if self.slower is not None and not 0 < self.slower < math.inf:
            problems.append(Violation("slower", "expected a number > 0", self.slower))
        if self.slots is not None and not self.slots >= 0:
            problems.append(Violation("slots", "expected a whole number >= 0", self.slots))
        changes = (self.failure_rate, self.reject_rate, self.slower, self.slots)
        if not self.outage and all(change is None for change in changes):
            rule = "expected one of outage, failure_rate, reject_rate, slower, slots"
            problems.append(Violation("disruption", rule, shown="none"))
        if problems:
            raise SpecError(*problems)


def check_schedule(schedule: Sequence[Disruption], model_ids: Sequence[str]) -> None:
    """Raise one error that names every model the fleet does not have.

    Raises
    ------
    SpecError
        Also with a suggestion.
    """
    problems = [
        unknown_name(
            f"schedule[{k}].model",
            f"expected a model of the fleet: {', '.join(model_ids)}",
            each.model,
            model_ids,
        )
        for k, each in enumerate(schedule)
        if each.model not in model_ids
    ]
    if problems:
        raise SpecError(*problems)
