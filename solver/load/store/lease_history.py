"""The history of a model's leased slots."""

from __future__ import annotations

import math
from collections import deque

_REMEMBERED_CHANGES = 4096
"""Changes of what is leased that a measured model remembers."""


class LeaseHistory:
    """How many slots were leased when, so that an old measurement can be understood."""

    def __init__(self) -> None:
        self.until_s = -math.inf
        """Time until which changes are noted: later, the model is no longer measured."""
        self._times: deque[float] = deque(maxlen=_REMEMBERED_CHANGES)
        self._leased: deque[int] = deque(maxlen=_REMEMBERED_CHANGES)

    def note(self, now_s: float, leased: int) -> None:
        """Note how many are leased from now on."""
        self._times.append(now_s)
        self._leased.append(leased)

    def at(self, moment_s: float, default: int) -> int:
        """Return how many were leased at a moment, or what is given where that is not known. O(changes)."""
        for at_s, leased in zip(reversed(self._times), reversed(self._leased), strict=True):
            if at_s <= moment_s:
                return leased
        return default
