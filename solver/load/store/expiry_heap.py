"""When the leases of a store expire, earliest first."""

from __future__ import annotations

import heapq
from typing import Generic, Protocol, TypeVar


class Expiring(Protocol):
    """A lease that ends by itself."""

    expires_s: float

    @property
    def lease_id(self) -> str:
        """Its id."""


ExpiringT = TypeVar("ExpiringT", bound=Expiring)

_SPARE_DEADLINES = 1024
"""Outdated entries of the expiry heap that are tolerated before it is rebuilt."""


class ExpiryQueue(Generic[ExpiringT]):
    """A heap of expiry times over the leases of a table; entries that a renewal has outdated are skipped.

    Entries hold ids alone, so that a lease is freed as soon as it has ended.

    Parameters
    ----------
    held : dict of str to Expiring
        The live leases, which their table changes.

    Attributes
    ----------
    entries : list of (float, str)
        The heap; where its first time is over, an entry is due, outdated or not.
    """

    def __init__(self, held: dict[str, ExpiringT]) -> None:
        self._held = held
        self.entries: list[tuple[float, str]] = []

    def add(self, held: ExpiringT) -> None:
        """Note when a lease expires. Amortised O(log leases): outdated notes go once they outweigh the live ones."""
        heapq.heappush(self.entries, (held.expires_s, held.lease_id))
        if len(self.entries) > 2 * len(self._held) + _SPARE_DEADLINES:
            self.entries[:] = [(held.expires_s, lease_id) for lease_id, held in self._held.items()]
            heapq.heapify(self.entries)

    def is_due(self, now: float) -> bool:
        """Return whether an entry, outdated or not, is due."""
        return bool(self.entries) and self.entries[0][0] <= now

    def pop_due(self, now: float) -> ExpiringT | None:
        """Remove the first entry that is due; return its lease, None where the entry is outdated."""
        expires_s, lease_id = heapq.heappop(self.entries)
        held = self._held.get(lease_id)
        return held if held is not None and held.expires_s == expires_s else None

    def next_s(self) -> float | None:
        """Return when the next lease expires, None while there is none."""
        entries = self.entries
        while entries:
            expires_s, lease_id = entries[0]
            held = self._held.get(lease_id)
            if held is not None and held.expires_s == expires_s:
                return expires_s
            heapq.heappop(entries)
        return None
