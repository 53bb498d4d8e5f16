"""A threshold that has to be exceeded for some time, and ends at a lower level."""

from __future__ import annotations

import math


class Hysteresis:
    """Tracks a value against a threshold. Not thread-safe: its owner holds a lock."""

    __slots__ = ("active", "ended_s", "since_s")

    def __init__(self) -> None:
        self.active = False
        self.since_s: float | None = None
        """Since when the figure has been at or above the threshold without a break."""
        self.ended_s = -math.inf

    def advance(
        self,
        value: float,
        now_s: float,
        *,
        threshold: float,
        clears_below: float,
        hold_s: float,
        rest_s: float = 0.0,
    ) -> bool:
        """Take in a reading; return whether this became active, or ended, by it.

        Parameters
        ----------
        value : float
            The figure.
        now_s : float
            When it was read, seconds.
        threshold, clears_below : float
            It becomes active at or above the first, and ends below the second, which is no higher.
        hold_s : float
            Seconds for which the figure has to be at or above the threshold first.
        rest_s : float
            Seconds after an end in which it does not become active again.
        """
        if value < threshold:
            self.since_s = None
        elif self.since_s is None:
            self.since_s = now_s
        if self.active:
            ends = value < clears_below
            if ends:
                self.active, self.ended_s = False, now_s
            return ends
        held = self.since_s is not None and now_s - self.since_s >= hold_s
        self.active = held and now_s - self.ended_s >= rest_s
        return self.active
