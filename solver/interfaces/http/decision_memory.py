"""The service's record of decisions: leases, assignments, and the log that explanations are made from."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from solver.interfaces.http.audit_trail import now_text
from solver.interfaces.http.json_codec import JsonText
from solver.load.store.expiry_heap import ExpiryQueue

if TYPE_CHECKING:
    from solver.load.lease import Lease
    from solver.online.decision import Decision


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

    @property
    def lease_id(self) -> str:
        """The id of the lease."""
        return self.lease.lease_id


class HeldLeases:
    """Leases by id, forgotten once they have expired. For one thread."""

    def __init__(self) -> None:
        self._held: dict[str, Held] = {}
        self._expiry = ExpiryQueue(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def add(self, held: Held) -> None:
        """Remember a lease."""
        self._held[held.lease_id] = held
        self._expiry.add(held)

    def get(self, lease_id: str) -> Held | None:
        """Return what is known of a lease."""
        return self._held.get(lease_id)

    def pop(self, lease_id: str) -> Held | None:
        """Forget a lease and return what was known."""
        return self._held.pop(lease_id, None)

    def renew(self, held: Held, expires_s: float) -> None:
        """Note that a lease lives longer, or less long."""
        held.expires_s = expires_s
        if held.lease_id in self._held:
            self._expiry.add(held)

    def expired(self, now_s: float) -> list[Held]:
        """Forget and return the leases whose time is over. Amortised O(log n) each."""
        gone = []
        while self._expiry.is_due(now_s):
            held = self._expiry.pop_due(now_s)
            if held is not None:
                gone.append(self._held.pop(held.lease_id))
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

    They are kept as text, which garbage collections do not walk through: as objects, ten thousand of them cost
    20 ms every few seconds.

    Parameters
    ----------
    most : int
        Decisions kept; the oldest are dropped.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: OrderedDict[str, tuple[bytes, bytes | None]] = OrderedDict()
        self.count = 0

    def add(self, decision_id: str, decision: bytes, request: bytes | None) -> None:
        """Add a decision as JSON, and the request that asked for it."""
        self._entries[decision_id] = (decision, request)
        self.count += 1
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)

    def get(self, decision_id: str) -> tuple[JsonText, bytes | None] | None:
        """Return a decision, and the request where it is known."""
        found = self._entries.get(decision_id)
        return None if found is None else (JsonText(found[0]), found[1])

    def latest(self, most: int) -> list[JsonText]:
        """Return the newest decisions, newest first."""
        return [JsonText(self._entries[key][0]) for key in islice(reversed(self._entries), most)]
