"""The service's record of decisions: leases, assignments, and the log that explanations are made from."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from solver.interfaces.http.audit_trail import now_text

if TYPE_CHECKING:
    from solver.load.lease import Lease
    from solver.online.decision import Decision
    from solver.problem.spec import Agent


@dataclass(slots=True, eq=False)
class Held:
    """A lease that was given out.

    Parameters
    ----------
    lease : Lease
        The capacity.
    agent_id : str or None
        The agent it serves.
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


@dataclass(slots=True, eq=False)
class Placed:
    """An assignment that ``auto-assign-all`` made, or an operator.

    Parameters
    ----------
    agent_id : str
        The agent.
    model_id : str or None
        The model that serves the agent; None: no model.
    score : float
        Of the pair.
    reason : str
        In words.
    lease : Lease or None
        The capacity held.
    at : str
        When it was made, ISO 8601.
    overridden_by : str or None
        The operator who made it by hand.
    """

    agent_id: str
    model_id: str | None
    score: float
    reason: str
    lease: Lease | None = None
    at: str = field(default_factory=now_text)
    overridden_by: str | None = None
    lease_id: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.lease is not None:
            self.lease_id = self.lease.lease_id  # as the client knows it, wherever the lease is moved

    def to_dict(self) -> dict[str, Any]:
        """Return the assignment as clients get it; a lease that was moved says where it is now."""
        return {
            "agent_id": self.agent_id,
            "model_id": self.model_id if self.lease is None else self.lease.model,
            "score": self.score,
            "reason": self.reason,
            "lease_id": self.lease_id,
            "at": self.at,
            "overridden_by": self.overridden_by,
        }


class Assignments:
    """Assignments whose leases are held, by agent, in the order they were made. For one thread."""

    def __init__(self) -> None:
        self._placed: dict[str, Placed] = {}

    def __len__(self) -> int:
        return len(self._placed)

    def add(self, placed: Placed) -> None:
        """Note an assignment in place of the agent's last."""
        self._placed.pop(placed.agent_id, None)
        self._placed[placed.agent_id] = placed

    def get(self, agent_id: str) -> Placed | None:
        """Return the assignment of an agent."""
        return self._placed.get(agent_id)

    def ended(self, agent_id: str | None, lease: Lease) -> None:
        """Forget an assignment whose lease was released or has expired."""
        placed = None if agent_id is None else self._placed.get(agent_id)
        if placed is not None and placed.lease is lease:
            del self._placed[placed.agent_id]

    def to_list(self) -> list[dict[str, Any]]:
        """Return all assignments as clients get them."""
        return [placed.to_dict() for placed in self._placed.values()]


class RecentDecisions:
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
