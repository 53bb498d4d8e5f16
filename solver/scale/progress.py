"""What a long job tells on its way: the stage, how much of the files a pass has read, and how long it takes still."""

from __future__ import annotations

from typing import TYPE_CHECKING

from solver.clock import MonotonicClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from solver.clock import Clock


class Progress:
    """Turns stages and rows that passes have read into lines of text.

    Parameters
    ----------
    report : callable
        Takes a line.
    agents : int
        Rows of a whole pass.
    size : int
        Bytes of the files.
    every_s : float
        Seconds between two lines of a pass, at least.
    clock : Clock, optional
        Tells the time.
    """

    def __init__(
        self,
        report: Callable[[str], None],
        agents: int,
        size: int,
        *,
        every_s: float = 0.5,
        clock: Clock | None = None,
    ) -> None:
        self._report, self._agents, self._size, self._every_s = report, agents, size, every_s
        self._clock: Clock = clock or MonotonicClock()
        self._stage = ""
        self._began = self._said = self._clock.now()

    def stage(self, text: str) -> None:
        """Begin a stage."""
        self._stage = text
        self._report(text)

    def begin(self) -> None:
        """Begin a pass."""
        self._began = self._said = self._clock.now()

    def read(self, rows: int) -> None:
        """Take note of the rows that the pass has read so far."""
        now = self._clock.now()
        if now - self._said < self._every_s or not 0 < rows <= self._agents:
            return
        self._said = now
        share = rows / self._agents
        left = (now - self._began) * (1 - share) / share
        self._report(f"{self._stage}: {share:.0%} of {_size(self._size)} read, about {_duration(left)} left")


def _size(count: float) -> str:
    """Return a number of bytes in three digits."""
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while count >= 1000 and len(units) > 1:
        count /= 1000
        del units[0]
    return f"{count:.3g} {units[0]}"


def _duration(seconds: float) -> str:
    """Return a duration, rounded."""
    if seconds < 90:
        return f"{max(1.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
