"""What the service remembers of decisions: leases that are held, and the log that explanations are made from."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from solver.load.lease import Lease
    from solver.online.decision import Decision
    from solver.problem.spec import Agent

__all__ = ["DecisionLog", "Held", "HeldLeases"]


@dataclass(slots=True, eq=False)
class Held:
    """A lease that was given out.

    Parameters
    ----------
    lease : Lease
        The capacity.
    agent_id : str or None
        For whom.
    decision : Decision or None
        Of the router, where it was one.
    expires_s : float
        Reading of the tracker's clock, seconds.
    """

    lease: Lease
    agent_id: str | None
    decision: Decision | None
    expires_s: float


class HeldLeases:
    """Leases by id, forgotten once they have expired. For one thread."""

    def __init__(self) -> None:
        self._held: dict[str, Held] = {}
        self._order: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._held)

    def add(self, held: Held) -> None:
        """Remember a lease."""
        self._held[held.lease.lease_id] = held
        heapq.heappush(self._order, (held.expires_s, held.lease.lease_id))

    def get(self, lease_id: str) -> Held | None:
        """Return what is known of a lease."""
        return self._held.get(lease_id)

    def pop(self, lease_id: str) -> Held | None:
        """Forget a lease and return what was known."""
        return self._held.pop(lease_id, None)

    def renew(self, held: Held, expires_s: float) -> None:
        """Note that a lease lives longer, or less long."""
        held.expires_s = expires_s
        heapq.heappush(self._order, (expires_s, held.lease.lease_id))

    def expired(self, now_s: float) -> list[Held]:
        """Forget and return the leases whose time is over. Amortised O(log n) each."""
        gone = []
        while self._order and self._order[0][0] <= now_s:
            _, lease_id = heapq.heappop(self._order)
            held = self._held.get(lease_id)
            if held is not None and held.expires_s <= now_s:
                gone.append(self._held.pop(lease_id))
        return gone


class DecisionLog:
    """The latest decisions, by id. For one thread.

    Parameters
    ----------
    most : int
        Decisions kept; the oldest are dropped.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: OrderedDict[str, tuple[dict[str, Any], Agent | None]] = OrderedDict()
        self.count = 0

    def add(self, entry: dict[str, Any], agent: Agent | None) -> None:
        """Add a decision under its ``decision_id``."""
        self._entries[entry["decision_id"]] = (entry, agent)
        self.count += 1
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)

    def get(self, decision_id: str) -> tuple[dict[str, Any], Agent | None] | None:
        """Return a decision, and the agent where it was described."""
        return self._entries.get(decision_id)

    def latest(self, most: int) -> list[dict[str, Any]]:
        """Return the newest decisions, newest first."""
        found: list[dict[str, Any]] = []
        for key in reversed(self._entries):
            if len(found) >= most:
                break
            found.append(self._entries[key][0])
        return found
