"""What a process knows of the time of a Redis server, whose clock may be set while it runs."""

from __future__ import annotations

from typing import NamedTuple

_START_ALLOWANCE_S = 1.0
"""Seconds that the server may take to begin with a request, beyond the time-out."""


class _Answer(NamedTuple):
    """The server's time in its last answer; when it was asked for and came is by this machine's clock."""

    server_s: float
    not_metered_s: float
    """How much of it was made up for what callers knew; the rest moves on by the server's clock alone."""
    asked_s: float
    came_s: float
    unheard_s: float
    """How much others may know beyond it: what passed before it, where the server could not tell how much that was."""


class _Setting(NamedTuple):
    """What time it was when the server's clock was found to have been set."""

    server_s: float
    reading_s: float
    """By the server's clock."""
    read_s: float
    """By this machine's clock."""


class ServerTime:
    """The server's time by its last answer, and the bounds of it that each message carries.

    Parameters
    ----------
    timeout_s : float
        How long an answer is waited for.
    """

    def __init__(self, timeout_s: float) -> None:
        self._most_s = timeout_s + _START_ALLOWANCE_S
        self._answer: _Answer | None = None
        self._setting: _Setting | None = None

    def at(self, now_s: float) -> float | None:
        """Return the server's time at a reading of this machine's clock; None before the first answer."""
        answer = self._answer
        return None if answer is None else answer.server_s + now_s - answer.came_s

    def bounds(self, sent_s: float) -> tuple[str, str]:
        """Return the two arguments of the script that say what time it can be, for a message that is sent now."""
        setting, answer = self._setting, self._answer  # once: another thread may hear an answer meanwhile
        if setting is not None:
            at_most_s = sent_s - setting.read_s + self._most_s
            return repr(setting.server_s), f"set{setting.reading_s!r} {at_most_s!r}"
        if answer is None:
            return "", ""
        earliest = repr(answer.server_s + sent_s - answer.came_s)
        if answer.not_metered_s or answer.unheard_s:
            earliest += f" {answer.not_metered_s!r} {answer.unheard_s!r}"
        return earliest, repr(answer.server_s - answer.not_metered_s + sent_s - answer.asked_s + self._most_s)

    def heard(self, time: str, asked_s: float, came_s: float) -> None:
        """Take the time in an answer: seconds, and after a space how many of them are not metered, if any."""
        server_s, _, not_metered_s = time.partition(" ")
        before, setting = self._answer, self._setting
        unheard_s = 0.0 if before is None or setting is None else asked_s - before.came_s
        self._answer = _Answer(float(server_s), float(not_metered_s or 0.0), asked_s, came_s, unheard_s)
        self._setting = None

    def clock_set(self, reading_s: float, now_s: float) -> None:
        """Take that the server's clock read so much, more than this process had said it can: it has been set."""
        server_s = self.at(now_s)
        if server_s is not None:
            self._setting = _Setting(server_s, reading_s, now_s)
