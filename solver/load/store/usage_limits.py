"""Limits on usage besides a minute's: of a second, a day, or a day, week or month of the calendar."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal
from zoneinfo import ZoneInfo

from solver.clock import MonotonicClock, WallClock
from solver.errors import SpecError, Violation
from solver.load.checks import money_problems, positive_problems, whole_problems

if TYPE_CHECKING:
    from collections.abc import Callable

    from solver.clock import Clock

CALENDAR_PERIODS = ("day", "week", "month")
RESOURCES = ("requests", "tokens", "cost_usd")
"""The amounts whose usage is counted; stores number them in this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calendar:
    """Days, weeks (from Monday) or months of a time zone.

    Parameters
    ----------
    period : {"day", "week", "month"}
        Which.
    time_zone : str
        Name in the IANA database, such as ``Europe/Berlin``.
    """

    period: str
    time_zone: str

    def around(self, wall_s: float) -> tuple[float, float]:
        """Return the begin and the end of the period that holds a moment, Unix seconds."""
        zone = ZoneInfo(self.time_zone)
        moment = datetime.fromtimestamp(wall_s, zone)
        first = datetime(moment.year, moment.month, moment.day, tzinfo=zone)
        if self.period == "week":
            first -= timedelta(days=first.weekday())  # of the wall clock: daylight saving does not matter
            last = first + timedelta(days=7)
        elif self.period == "month":
            first = first.replace(day=1)
            last = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
        else:
            last = first + timedelta(days=1)
        return first.timestamp(), last.timestamp()


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageLimit:
    """One limit on what a model may use in a period; a model may have several of each resource.

    Parameters
    ----------
    resource : {"requests", "tokens", "cost_usd"}
        What is counted.
    amount : float
        Most of it in any such period; whole for requests and tokens, US dollars for ``cost_usd``.
    period : float or {"day", "week", "month"}
        Seconds, in a sliding window: 1 for a second, 86400 for any 24 hours. A name means the calendar's: all
        comes back at midnight, on Monday, or on the first.
    time_zone : str
        Of the calendar, a name in the IANA database.

    Raises
    ------
    SpecError
        If a value is out of range.
    """

    resource: Literal["requests", "tokens", "cost_usd"]
    amount: float
    period: float | Literal["day", "week", "month"]
    time_zone: str = "UTC"

    def __post_init__(self) -> None:
        problems: list[Violation] = []
        if self.resource not in RESOURCES:
            problems.append(
                Violation("limit.resource", "expected requests, tokens or cost_usd", self.resource)
            )
        check = money_problems if self.resource == "cost_usd" else whole_problems
        problems += check("limit.amount", self.amount)
        if isinstance(self.period, str):
            if self.period not in CALENDAR_PERIODS:
                problems.append(
                    Violation("limit.period", "expected seconds, or day, week or month", self.period)
                )
        else:
            problems += positive_problems("limit.period", self.period)
        try:
            ZoneInfo(self.time_zone)
        except (ValueError, OSError, TypeError, KeyError):
            problems.append(
                Violation("limit.time_zone", "expected a name in the IANA database", self.time_zone)
            )
        if problems:
            raise SpecError(*problems)

    @property
    def window(self) -> float | Calendar:
        """Seconds of the sliding window, or the calendar's periods."""
        if isinstance(self.period, str):
            return Calendar(period=self.period, time_zone=self.time_zone)
        return float(self.period)


def wall_time(clock: Clock) -> Callable[[], float]:
    """Return a clock of Unix time: the machine's, or a clock of the caller's own, read as Unix seconds."""
    return WallClock().now if isinstance(clock, MonotonicClock) else clock.now
