"""Time as an argument: clocks that tests can turn by hand, and one deadline per call."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Protocol

from solver.errors import SpecError, Violation


class Clock(Protocol):
    """Anything that tells monotonic seconds."""

    def now(self) -> float:
        """Return seconds since an arbitrary origin; never goes backwards."""
        ...


class MonotonicClock:
    """The machine's monotonic clock."""

    if TYPE_CHECKING:

        def now(self) -> float:
            """Return ``time.perf_counter()``."""
    else:
        now = staticmethod(time.perf_counter)  # no frame of Python's own: every operation on leases reads it


class WallClock:
    """The machine's calendar clock, for what ends at midnight; it may be set back."""

    def now(self) -> float:
        """Return Unix time in seconds, ``time.time()``."""
        return time.time()  # noqa: TID251 # this is the clock


@dataclass
class ManualClock:
    """A clock that moves only when told to, for tests and replays.

    Parameters
    ----------
    seconds : float
        The time it starts at.
    """

    seconds: float = 0.0

    def now(self) -> float:
        """Return the current reading in seconds."""
        return self.seconds

    def advance(self, seconds: float) -> None:
        """Move forward by ``seconds``."""
        if not seconds >= 0:
            raise SpecError(Violation("seconds", "expected >= 0", seconds))
        self.seconds += seconds


_MONOTONIC = MonotonicClock()


@dataclass(frozen=True, slots=True)
class Deadline:
    """An absolute point in time, made once when a call is entered.

    Parameters
    ----------
    started_s, ends_s : float
        Readings of ``clock``; ``ends_s`` is ``inf`` when there is no limit.
    clock : Clock
        What both were read from.
    """

    started_s: float
    ends_s: float = math.inf
    clock: Clock = field(default=_MONOTONIC)

    @classmethod
    def after(cls, budget_ms: float | None, *, clock: Clock | None = None) -> Deadline:
        """Start a budget now.

        Parameters
        ----------
        budget_ms : float or None
            Milliseconds of wall clock from now; None for no limit.
        clock : Clock, optional
            Defaults to the machine's monotonic clock.

        Raises
        ------
        SpecError
            If the budget is not a positive number.
        """
        clock = clock or _MONOTONIC
        now = clock.now()
        if budget_ms is None:
            return cls(now, math.inf, clock)
        if isinstance(budget_ms, bool) or not isinstance(budget_ms, Real) or not budget_ms > 0:
            raise SpecError(Violation("deadline_ms", "expected a number > 0", budget_ms))
        try:
            seconds = float(budget_ms) / 1000.0
        except TypeError:  # durations of numpy count as numbers
            raise SpecError(Violation("deadline_ms", "expected a number > 0", budget_ms)) from None
        except OverflowError:
            rule = "expected a number > 0 that fits 64 bits"
            raise SpecError(Violation("deadline_ms", rule, shown="a larger one")) from None
        return cls(now, now + seconds, clock)

    @property
    def limited(self) -> bool:
        """Whether there is a limit at all."""
        return self.ends_s < math.inf

    def remaining_s(self) -> float:
        """Return seconds left, ``inf`` without a limit, negative once it has passed."""
        return self.ends_s - self.clock.now()

    def elapsed_ms(self) -> float:
        """Return milliseconds since the start."""
        return (self.clock.now() - self.started_s) * 1000.0

    def expired(self) -> bool:
        """Return whether nothing is left."""
        return self.remaining_s() <= 0
