"""Leases: what was asked for, what was granted or refused, and how a lease ends."""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from solver.errors import SpecError
from solver.load.checks import LARGEST_USD, LARGEST_WHOLE, money_problems, whole_problems
from solver.load.refusal import Refusal, RefusalReason

if TYPE_CHECKING:
    from types import TracebackType

__all__ = [
    "ONE_SLOT",
    "Ask",
    "Demand",
    "Lease",
    "LeaseState",
    "QueuePlace",
    "Refusal",
    "RefusalReason",
    "ReleaseOutcome",
    "slots_up_to",
]


class LeaseState(enum.StrEnum):
    """Where a lease stands."""

    RUNNING = "running"
    """It holds its slots."""
    QUEUED = "queued"
    """It holds a queue place; it becomes running by itself, in the order of the queue's rules."""
    GONE = "gone"
    """Released, expired, or never granted: it holds nothing."""


class ReleaseOutcome(enum.StrEnum):
    """What a release found."""

    RELEASED = "released"
    """The lease was live; its slots are free again."""
    EXPIRED = "expired"
    """The lease had outlived its time to live; its slots had come back already, its usage is settled now."""
    UNKNOWN = "unknown"
    """No such lease: released before, expired long ago, or never granted. Nothing changed."""
    DEFERRED = "deferred"
    """The store could not be reached; the release is kept and sent on recovery."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one agent takes of a model.

    Parameters
    ----------
    slots : int
        Concurrent slots, at least 1.
    requests : int
        Requests counted against the requests per minute.
    tokens : int
        Estimated tokens, counted against the tokens per minute.
    cost_usd : float
        Estimated cost in US dollars, counted against the budget; resolved to a billionth of a dollar.
    input_tokens : int or None
        Prompt tokens alone, where known: a learned capacity separates prefill from decoding by them, and lengths of
        answers are learned from what is settled beyond them. Default: ``tokens``.
    task_type : str or None
        What the work is: lengths of answers are learned for each kind of task.
    guessed_tokens : int
        Part of ``tokens`` that stands for an answer of unknown length; given back when the lease is released
        without saying what was used.

    Raises
    ------
    SpecError
        Naming each amount that is not a finite number in range.
    """

    slots: int = 1
    requests: int = 1
    tokens: int = 0
    cost_usd: float = 0.0
    input_tokens: int | None = None
    task_type: str | None = None
    guessed_tokens: int = 0

    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens as far as they are known."""
        return self.tokens if self.input_tokens is None else self.input_tokens

    def __post_init__(self) -> None:
        kinds = (type(self.slots), type(self.requests), type(self.tokens), type(self.cost_usd))
        if (
            kinds == (int, int, int, float)
            and 0 < self.slots <= LARGEST_WHOLE
            and 0 <= self.requests <= LARGEST_WHOLE
            and 0 <= self.tokens <= LARGEST_WHOLE
            and 0.0 <= self.cost_usd <= LARGEST_USD
            and (self.input_tokens is None or (type(self.input_tokens) is int and self.input_tokens >= 0))
        ):
            return  # the usual case, in a microsecond
        problems = whole_problems("demand.slots", self.slots, low=1)
        problems += whole_problems("demand.requests", self.requests)
        problems += whole_problems("demand.tokens", self.tokens)
        problems += money_problems("demand.cost_usd", self.cost_usd)
        if self.input_tokens is not None:
            problems += whole_problems("demand.input_tokens", self.input_tokens)
        if problems:
            raise SpecError(*problems)
        for name in ("slots", "requests", "tokens"):  # numbers of numpy do not travel to other processes
            object.__setattr__(self, name, int(getattr(self, name)))
        object.__setattr__(self, "cost_usd", float(self.cost_usd))
        if self.input_tokens is not None:
            object.__setattr__(self, "input_tokens", int(self.input_tokens))


ONE_SLOT = Demand()
"""One slot, one request, nothing metered."""


class Ask(NamedTuple):
    """One line of a plan to be reserved.

    Parameters
    ----------
    model : str
        Which model.
    demand : Demand
        What to take of it.
    ttl_s : float
        Seconds until the lease expires unless renewed.
    queue : bool
        Whether a queue place will do when every slot is taken.
    lease_id : str
        Chosen by the caller of the store; a repeated id is answered with the lease it already has.
    fill_to : float
        Share of the slots that may be taken once this is granted, in (0, 1]. Requests of low priority that
        stay below 1 leave the rest to others; the store checks it in the same atomic step.
    priority : float
        In the queue, higher runs first among those of the same tenant.
    tenant : str or None
        On whose account: in the queue, tenants share fairly.
    """

    model: str
    demand: Demand = ONE_SLOT
    ttl_s: float = 30.0
    queue: bool = False
    lease_id: str = ""
    fill_to: float = 1.0
    priority: float = 1.0
    tenant: str | None = None


def slots_up_to(fill_to: float, max_concurrent: int) -> int:
    """Return how many slots a share of them is, rounded down: 0.5 of 5 is 2."""
    return max_concurrent if fill_to >= 1.0 else int(fill_to * max_concurrent + 1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePlace:
    """Where a lease waits.

    Parameters
    ----------
    position : int
        1 for the one that starts next, if it fits.
    expected_start_s : float or None
        Seconds until it starts, estimated: at the pace at which leases ran lately, and if no request
        of a higher priority comes. None before the first request has ended.
    """

    position: int
    expected_start_s: float | None


class Leaseholder(Protocol):
    """What a lease needs of the tracker that granted it."""

    def renew(self, lease: Lease | str, *, ttl_s: float | None = None) -> LeaseState:
        """Extend a lease."""
        ...

    def release(
        self,
        lease: Lease | str,
        *,
        tokens: int | None = None,
        cost_usd: float | None = None,
        output_tokens: int | None = None,
    ) -> ReleaseOutcome:
        """End a lease."""
        ...

    def first_token(self, lease: Lease) -> None:
        """Note the first token of an answer."""
        ...

    async def release_async(
        self, lease: Lease | str, *, tokens: int | None = None, cost_usd: float | None = None
    ) -> ReleaseOutcome:
        """End a lease without blocking the event loop."""
        ...

    def lease_state(self, lease: Lease | str) -> LeaseState:
        """Return whether a lease runs, waits, or is gone."""
        ...

    def keep(self, lease: Lease) -> LeaseState:
        """Renew a lease for as long as its object is held."""
        ...

    def place_of(self, lease: Lease) -> QueuePlace | None:
        """Return where in the queue a lease waits."""
        ...


class Lease:
    """Capacity held for one agent, from a tracker. It remembers what it took.

    Use it as a context manager, plain or asynchronous: inside the block it is renewed by itself, however
    long the work takes, and it is released on the way out. Elsewhere it expires ``ttl_s`` after the last
    renewal, whatever happens to its holder; :meth:`keep_alive` has it renewed there, too. A process that is forked
    within the block leaves it as it is.

    Attributes
    ----------
    lease_id : str
        Names the lease across processes.
    model : str
        The model whose capacity is held.
    demand : Demand
        What was taken.
    ttl_s : float
        Seconds to live from the grant, or from the last renewal, as that said.
    granted : LeaseState
        What it was granted as: running, or queued. See :meth:`state` for now.
    kept : bool
        Whether it is renewed by itself.
    priority, tenant : float, str or None
        With which it may wait in a queue.
    """

    __slots__ = (
        "__weakref__",
        "_entered_by",
        "_holder",
        "_since_s",
        "demand",
        "granted",
        "kept",
        "lease_id",
        "model",
        "priority",
        "tenant",
        "ttl_s",
    )

    def __init__(
        self,
        holder: Leaseholder,
        lease_id: str,
        model: str,
        demand: Demand,
        ttl_s: float,
        granted: LeaseState,
    ) -> None:
        self._holder = holder
        self._entered_by = 0
        self.lease_id = lease_id
        self.model = model
        self.demand = demand
        self.ttl_s = ttl_s
        self.granted = granted
        self.kept = False
        self._since_s: float | None = None  # when it began to run, where its tracker measures that
        self.priority = 1.0
        self.tenant: str | None = None

    def state(self) -> LeaseState:
        """Return where the lease stands now."""
        return self._holder.lease_state(self)

    def renew(self, *, ttl_s: float | None = None) -> LeaseState:
        """Let it live ``ttl_s`` (default: as granted or renewed last) from now; GONE when it was too late."""
        return self._holder.renew(self, ttl_s=ttl_s)

    def place(self) -> QueuePlace | None:
        """Return where it waits in the queue and when it is expected to start; None when it does not wait.

        To leave the queue, release the lease.
        """
        return self._holder.place_of(self)

    def first_token(self) -> None:
        """Note that the first token of the answer, of content or of reasoning, has come: see ``"learn"``."""
        self._holder.first_token(self)

    def release(
        self, *, tokens: int | None = None, cost_usd: float | None = None, output_tokens: int | None = None
    ) -> ReleaseOutcome:
        """Give everything back. Safe to call again: the second call changes nothing.

        Parameters
        ----------
        tokens : int, optional
            Tokens really used; the difference from the estimate is settled.
        cost_usd : float, optional
            Dollars really spent, likewise.
        output_tokens : int, optional
            Tokens of the answer, for a capacity that is learned. Default: ``tokens`` minus the prompt, where
            both are known.
        """
        if output_tokens is None:
            return self._holder.release(self, tokens=tokens, cost_usd=cost_usd)
        return self._holder.release(self, tokens=tokens, cost_usd=cost_usd, output_tokens=output_tokens)

    def keep_alive(self) -> Self:
        """Have the lease renewed by itself until it is released or this object is dropped; return it.

        A process that ends, or that drops the object without a release, gives everything back within
        ``ttl_s``: choose that by how soon capacity should come back, not by how long the work may take.
        """
        self._holder.keep(self)
        return self

    def __enter__(self) -> Self:
        self._entered_by = os.getpid()
        return self.keep_alive()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._entered_by == os.getpid():  # not at the end of a child that was forked within the block
            self.release()

    async def __aenter__(self) -> Self:
        self._entered_by = os.getpid()
        return self.keep_alive()  # notes who is alive; nothing is sent

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._entered_by == os.getpid():
            await self._holder.release_async(self)

    def __repr__(self) -> str:
        return f"Lease({self.lease_id!r}, model={self.model!r}, {self.granted.value}, ttl_s={self.ttl_s:g})"
