"""The interface of a store of live load, in one process or on a server."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from solver.load.lease import Ask, LeaseState, ReleaseOutcome
    from solver.load.refusal import Refusal
    from solver.load.stops import Stop, StopOwner
    from solver.load.store.queue_rules import QueueRules
    from solver.load.store.usage_limits import UsageLimit

METER_NAMES = ("requests", "tokens", "cost")
"""The metered resources, in the order in which they are checked and reported."""

WINDOW_PARTS = 60
"""A sliding window moves in this many steps, so that it costs bounded memory."""

UNLIMITED = -1
"""A limit that is not there."""


def nano_usd(cost_usd: float) -> int:
    """Return dollars as whole billionths, so that sums of them are exact."""
    return round(cost_usd * 1e9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a store enforces for one model; amounts are whole numbers.

    Parameters
    ----------
    max_concurrent : int
        Slots; 0 means drained.
    max_queue : int
        Queue places.
    requests : int or None
        Requests in any 60 seconds.
    tokens : int or None
        Tokens in any 60 seconds.
    budget_nano_usd : int or None
        Money in any ``budget_period_s``, billionths of a dollar.
    budget_period_s : float or None
        None: the budget is spent once and never comes back.
    rules : QueueRules or None
        In which order waiting leases start; None: the store's default.
    further : tuple of UsageLimit
        Limits over other periods, all of which hold at the same time.
    pools : tuple of str
        Pools of limits that it draws on besides its own.
    full_slots : int or None
        Slots to come back to, while a circuit breaker lets only some of them be used; every replica sees them.
    """

    max_concurrent: int
    max_queue: int = 0
    requests: int | None = None
    tokens: int | None = None
    budget_nano_usd: int | None = None
    budget_period_s: float | None = None
    rules: QueueRules | None = None
    further: tuple[UsageLimit, ...] = ()
    pools: tuple[str, ...] = ()
    full_slots: int | None = None

    def with_slots(self, slots: int) -> Limits:
        """Return the same limits with so many slots; those that a circuit breaker keeps closed stay closed."""
        if self.full_slots is None:
            return replace(self, max_concurrent=slots)
        return replace(self, max_concurrent=min(max(1, self.max_concurrent), slots), full_slots=slots)

    def meters(self) -> tuple[tuple[int | None, float | None], ...]:
        """Return (limit, window in seconds) of each of ``METER_NAMES``, without the further ones."""
        return (self.requests, 60.0), (self.tokens, 60.0), (self.budget_nano_usd, self.budget_period_s)


class MeterRow(NamedTuple):
    """What was used of one limit.

    Parameters
    ----------
    resource : {"requests", "tokens", "cost_usd"}
        What is counted.
    period : float, str or None
        Seconds of the sliding window, the calendar's period, or None for a budget that is spent once.
    limit, used : float
        Most of it, and what is used now; US dollars for ``cost_usd``.
    """

    resource: str
    period: float | str | None
    limit: float
    used: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRow:
    """The state of one model in a store.

    Parameters
    ----------
    active, queued : int
        Slots and queue places taken, by leases and by work reported from outside.
    accepting : bool
        False while new work is rejected on purpose.
    age_s : float
        Seconds since anything about the model was last heard.
    limits : Limits
        What is enforced.
    stops : tuple of Stop
        What keeps new work away, in the order in which it was set.
    hold_s : float or None
        Mean time for which leases ran lately, seconds, where the store knows it.
    pool_free : int or None
        Slots left in the fullest of the pools that the model draws on; None: no pool limits them.
    meters : tuple of MeterRow
        Every limit on usage, with what is used.
    """

    active: int
    queued: int
    accepting: bool
    age_s: float
    limits: Limits
    stops: tuple[Stop, ...] = ()
    hold_s: float | None = None
    pool_free: int | None = None
    meters: tuple[MeterRow, ...] = ()


class StoreView(NamedTuple):
    """The state of every model in a store at one instant.

    A tuple, since one is made for every request; its arrays are not to be written to.

    Parameters
    ----------
    models : tuple of str
        The m models, in the order in which they were first configured.
    version : int
        Grows with every change.
    now_s : float
        Reading of the store's clock, seconds.
    active, queued : (m,) int64
        Slots and queue places taken.
    accepting : (m,) bool
        False while new work is rejected on purpose.
    last_update_s : (m,) float64
        Reading of the store's clock when anything was last heard, seconds.
    max_concurrent, max_queue : (m,) int64
        The limits. As long as they do not change, a store may answer with the same array objects.
    meter_limit, meter_used : (3, m) float64
        Limits (``inf`` for none) and usage of ``METER_NAMES``: requests, tokens, billionths of a dollar. Of
        several limits on one resource, of the model and of its pools, the one with the least left.
    metered : tuple of int
        Positions in ``METER_NAMES`` of the resources that some model limits.
    stops : mapping of str to tuple of Stop
        What keeps new work away from a model, in the order in which it was set; open models are not in it.
    pool_free : (m,) int64 or None
        Slots left in the fullest of the pools that each model draws on; None: there are no pools.
    """

    models: tuple[str, ...]
    version: int
    now_s: float
    active: NDArray[np.int64]
    queued: NDArray[np.int64]
    accepting: NDArray[np.bool_]
    last_update_s: NDArray[np.float64]
    max_concurrent: NDArray[np.int64]
    max_queue: NDArray[np.int64]
    meter_limit: NDArray[np.float64]
    meter_used: NDArray[np.float64]
    metered: tuple[int, ...]
    stops: Mapping[str, tuple[Stop, ...]] = MappingProxyType({})
    pool_free: NDArray[np.int64] | None = None

    @property
    def age_s(self) -> NDArray[np.float64]:
        """(m,) float64, seconds since anything was last heard."""
        return self.now_s - self.last_update_s


class Store(Protocol):
    """Counts and leases of every model. Each operation is atomic; all of them are safe from any thread.

    A lease expires ``ttl_s`` after its grant or last renewal, by the store's own clock, and gives back what
    it took. When slots come free, queued leases become running, in the order of the model's
    :class:`~solver.QueueRules`. Counts never go below zero.
    """

    remote: bool
    """Whether operations may block on a network."""

    def configure(self, model: str, limits: Limits) -> None:
        """Set the limits of a model, new or known; what is running keeps running."""
        ...

    def limits(self, model: str) -> Limits:
        """Return the limits of a model, or raise SpecError when it is unknown."""
        ...

    def adopt_limits(self, model: str, limits: Limits) -> None:
        """Take note of limits that another process has set."""
        ...

    def exchange(self, topic: str, text: str, ttl_s: float) -> dict[str, tuple[str, float]]:
        """Publish a text to the processes that share the store, for ``ttl_s`` seconds.

        Returns what each of them published last, this one included, with its age in seconds, by the name of the
        replica. Empty where the store is not shared, or does not answer.
        """
        ...

    @property
    def replica(self) -> str:
        """Name of this process among those that share the store; empty where it is not shared."""
        ...

    def configure_pool(self, pool: str, limits: Limits) -> None:
        """Set the limits of a pool, new or known, and the pools that it draws on in turn.

        Models that name it in their limits draw on it with every lease. Its queue places mean nothing.
        """
        ...

    def forget_pool(self, pool: str) -> None:
        """Remove a pool; nothing happens when it is unknown. Raise SpecError while anything draws on it."""
        ...

    def pool_row(self, pool: str) -> StoreRow:
        """Return the state of a pool, or raise SpecError when it is unknown."""
        ...

    def reset_pool(self, pool: str) -> None:
        """Do :meth:`reset_usage` for a pool."""
        ...

    def acquire(self, ask: Ask) -> LeaseState | Refusal:
        """Take everything the ask names, or nothing. Raise SpecError for an unknown model."""
        ...

    def acquire_many(self, asks: Sequence[Ask], *, whole_plan: bool) -> list[LeaseState | Refusal]:
        """Take each ask whole or not at all; with ``whole_plan`` all of them or none. One atomic step."""
        ...

    def keep(self, lease_id: str, ttl_s: float, alive: Callable[[], bool]) -> LeaseState:
        """Let a live lease live on, ``ttl_s`` at a time, for as long as its holder is ``alive``.

        Renewal is the store's business from then on: once ``alive()`` says False, or the process has ended,
        the lease expires within ``ttl_s``. GONE when the lease is not live.
        """
        ...

    def renew(self, lease_id: str, ttl_s: float) -> LeaseState:
        """Let a live lease expire ``ttl_s`` from now; GONE when it is not live."""
        ...

    def release(self, lease_id: str, *, tokens: int | None, cost_nano_usd: int | None) -> ReleaseOutcome:
        """Give everything back once, and settle the estimates with the amounts really used."""
        ...

    def move(self, lease_id: str, ask: Ask) -> LeaseState | Refusal:
        """Swap a live lease for one on another model under ``ask.lease_id``: both steps, or neither."""
        ...

    def lease_state(self, lease_id: str) -> LeaseState:
        """Return whether a lease runs, waits, or is gone."""
        ...

    def queued_leases(self, model: str) -> list[str]:
        """Return the ids of the waiting leases of a model, in the order in which they start."""
        ...

    def slots_before(self, model: str, lease_id: str) -> tuple[int, int] | None:
        """Return how many leases, and slots, start before a waiting one; None when it does not wait."""
        ...

    def end_leases(self, model: str) -> int:
        """End every lease of a model and return how many there were; estimates stay charged until settled."""
        ...

    def reset_usage(self, model: str) -> None:
        """Count what a model has used of its limits from nothing again; leases in flight are not refunded."""
        ...

    def forget(self, model: str) -> None:
        """Remove a model with its leases, usage and stops; nothing happens when it is unknown."""
        ...

    def adjust(self, model: str, *, active: int, queue: int) -> None:
        """Add to the work reported from outside (not under leases), with a floor at zero."""
        ...

    def observe(
        self, model: str, *, active: int, queue: int, ttl_s: float | None = None, age_s: float = 0.0
    ) -> None:
        """Set totals measured from outside; what exceeds the leases counts as work from outside.

        Without a further measurement the excess is forgotten after ``ttl_s``; None: it stays. What was
        measured ``age_s`` ago is compared with the leases of that time, as far as they are known.
        """
        ...

    def stop(
        self,
        model: str,
        owner: StopOwner | str,
        *,
        name: str = "",
        reason: str = "",
        for_s: float | None = None,
        extend: bool = False,
    ) -> Stop:
        """Keep new work away from a model, and return the stop that stands now.

        Owner and name identify the stop; setting it again replaces it. It ends by itself after ``for_s``,
        or when :meth:`resume` lifts it. With ``extend``, an earlier setting that lasts longer stays.
        """
        ...

    def resume(self, model: str, owner: StopOwner | str, *, name: str | None = None) -> int:
        """Lift the stops of one owner (with ``name``, that one) and return how many stood."""
        ...

    def set_accepting(self, model: str, accepting: bool) -> None:
        """Set or lift the operator's unnamed stop. Stops of other owners stay as they are."""
        ...

    def listen(self, promoted: Callable[[str], object]) -> None:
        """Call ``promoted`` with the id of every lease of this store object that leaves the queue and runs.

        It is called soon after the promotion, from whichever thread noticed it, outside the store's lock.
        """
        ...

    def next_event_s(self) -> float:
        """Return the reading of the store's clock at which something ends by itself next, ``inf`` for never.

        Leases, stops and reported load end at times known beforehand; a simulation or a timer that calls the
        store at that time misses nothing.
        """
        ...

    def row(self, model: str) -> StoreRow:
        """Return the state of one model, or raise SpecError when it is unknown."""
        ...

    def view(self) -> StoreView:
        """Return the state of every model at one instant."""
        ...
