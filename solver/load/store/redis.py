"""The store of several replicas: counts and leases on a Redis server, by one atomic script an operation."""

from __future__ import annotations

import itertools
import json
import math
import os
import secrets
import threading
import weakref
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from solver.errors import SpecError, StoreDownError, Violation
from solver.load.checks import name_problems, positive_problems, whole_problems
from solver.load.lease import Ask, LeaseState, ReleaseOutcome
from solver.load.refusal import Refusal, RefusalReason
from solver.load.stops import Stop, StopOwner, checked_stop, reopens_in_s
from solver.load.store.heartbeat import Heartbeat
from solver.load.store.redis_codec import ask_fields, limit_fields, read_row, read_stops, read_view
from solver.load.store.redis_link import LinkState, OutageCause, RedisLink, StoreFullError
from solver.load.store.redis_promotions import PromotionChannel
from solver.load.store.replica_memory import METER_WINDOW_S, ReplicaMemory, share_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from solver.clock import Clock
    from solver.load.store.base import Limits, StoreRow, StoreView
    from solver.load.store.memory import MemoryStore

__all__ = ["LinkState", "OutageCause", "RedisStore"]

_T = TypeVar("_T")
_GRANTED = (LeaseState.RUNNING, LeaseState.QUEUED)


_FEW_LIMITS = "a shared store knows limits a minute and one budget; others need MemoryStore"
_FIRST_COME = (
    "the queue of a shared store is first come, first served; priorities and tenants need MemoryStore"
)


class RedisStore:
    """Counts and leases shared by several processes or hosts.

    Time is the server's; steps of its clock neither end leases that run nor keep others from expiring. A
    lease survives the death of its holder only until its time to live is over. When the server cannot be
    reached, or refuses what it is asked, nothing is granted (``on_outage="refuse"``), or each replica grants
    its own share of the capacity (``"local_share"``); ``state`` says which, ``cause`` and ``detail`` why. A
    server that comes back without its memory grants nothing until every replica has told what it holds, or
    until every lease it might have forgotten has expired. Stops, and work reported from outside, are told
    again, too; what was set during an outage is sent afterwards.

    After a fork the child joins as a replica of its own; leases that the parent holds stay the parent's.

    Parameters
    ----------
    server : str or redis.Redis
        URL such as ``redis://10.0.0.5:6379/0``, or a client of your own making (with short time-outs and
        without retries), for example of Sentinel's ``master_for``. Nothing is sent before the first
        operation, so an unreachable server is no error. A Redis Cluster is refused, and so is a server that
        evicts keys when its memory is full.
    replicas : int
        Processes that share the store, each with a store object of its own. Recovery waits for that many.
    namespace : str
        Separates trackers that share a server.
    on_outage : {"refuse", "local_share"}
        What to do while the server cannot be reached.
    max_ttl_s : float
        Longest time to live a lease may ask for; also how long recovery waits for silent replicas.
    settle_s : float, optional
        With ``"local_share"``: seconds without an answer before the local share is granted. Default: twice
        ``max_ttl_s``, at least 120. By then leases granted before have expired, and replicas that still
        reach the server have been leaving the share alone for long enough.
    timeout_s : float
        For connecting and for each answer.
    retry_s : float
        Seconds between attempts to reach a server that does not answer.
    clock : Clock, optional
        Time of the store instead of the server's, for tests and replays.
    name : str, optional
        Of this replica: the same after a restart, and nobody else's. Default: the host and the lowest
        number free on it. Needed where a restarted replica comes up on a host of another name.

    Raises
    ------
    SpecError
        If a parameter is out of range; with the first operation, if the server is one that is refused.
    MissingExtraError
        On import, if redis-py is not installed.
    """

    remote = True
    orders_queue = False

    def __init__(
        self,
        server: Any,
        *,
        replicas: int,
        namespace: str = "default",
        on_outage: Literal["refuse", "local_share"] = "refuse",
        max_ttl_s: float = 120.0,
        settle_s: float | None = None,
        timeout_s: float = 0.25,
        retry_s: float = 0.5,
        clock: Clock | None = None,
        name: str | None = None,
    ) -> None:
        settle_s = max(2 * max_ttl_s, 2 * METER_WINDOW_S) if settle_s is None else settle_s
        problems = whole_problems("replicas", replicas, low=1) + name_problems("namespace", namespace)
        for path, value in (("max_ttl_s", max_ttl_s), ("timeout_s", timeout_s), ("retry_s", retry_s)):
            problems += positive_problems(path, value)
        if not 0 <= settle_s < math.inf:
            problems.append(Violation("settle_s", "expected a finite number >= 0", settle_s))
        if on_outage not in ("refuse", "local_share"):
            problems.append(Violation("on_outage", "expected 'refuse' or 'local_share'", on_outage))
        problems += [] if name is None else name_problems("name", name)
        if problems:
            raise SpecError(*problems)
        self._replicas = int(replicas)
        self._on_outage = on_outage
        self._max_ttl_s = max_ttl_s
        self._settle_s = settle_s
        self._models: tuple[str, ...] = ()
        self._local: MemoryStore | None = None
        this = weakref.ref(self)  # no circle: a store that is dropped gives up its name at once

        def order() -> dict[str, Any]:
            store = this()
            return {} if store is None else store._order()  # noqa: SLF001 # of this class

        def joined(outside: list[list[str]]) -> None:
            store = this()
            if store is not None:
                store._joined(outside)  # noqa: SLF001 # of this class

        self._link = RedisLink(
            server,
            namespace=namespace,
            replicas=self._replicas,
            name=name,
            peers=self._replicas if on_outage == "local_share" else 0,
            absent_s=settle_s / 2,
            timeout_s=timeout_s,
            retry_s=retry_s,
            clock=clock,
            order=order,
            joined=joined,
        )
        self._memory = ReplicaMemory(self._link.clock)
        self._heartbeat = Heartbeat(self.renew, self._link.clock)
        self._promotions = PromotionChannel(self._link, self._memory)
        self._begin_process()
        _STORES.add(self)

    def _begin_process(self) -> None:
        self._inside = threading.local()
        self._late: deque[Callable[[], object]] = deque()
        """Operations that came while their own thread was inside another one, from a finalizer."""

    def _before_fork(self) -> None:
        """Leave the name of a replica that holds nothing to the children."""
        if not self._memory.held:
            self._link.leave()

    def _after_fork(self) -> None:
        """In the child: join as a replica of its own, and leave the parent's leases to the parent."""
        self._link.begin_process()
        self._link.leave()
        self._memory.begin_process()
        self._heartbeat.begin_process()
        self._promotions.begin_process()
        self._local = None
        self._begin_process()

    # -- what the outside may want to know

    def state(self) -> LinkState:
        """Return what the store can promise now, after trying to reach the server."""
        try:
            self._link.call("state", "")
        except StoreDownError:
            return LinkState.LOCAL_SHARE if self._share_open() else LinkState.UNAVAILABLE
        return LinkState.CONNECTED

    @property
    def detail(self) -> str:
        """Why the server does not answer, in its own words; empty while it does."""
        return self._link.detail

    @property
    def cause(self) -> OutageCause | None:
        """Why the server does not answer; None while it does."""
        return self._link.cause

    @property
    def replica(self) -> str:
        """Name of this replica; empty before the first operation where it was not given."""
        return self._link.replica.name

    def close(self) -> None:
        """Close the connections; live leases stay until they expire."""
        self._heartbeat.stop()
        self._promotions.stop()
        self._link.close()

    # -- models

    def configure(self, model: str, limits: Limits) -> None:
        """Set the limits of a model; kept and sent later when the server does not answer."""
        if limits.further:
            raise SpecError(
                Violation("limits", f"expected none: {_FEW_LIMITS}", shown=f"{len(limits.further)}")
            )
        if limits.rules is not None:
            raise SpecError(Violation("rules", f"expected None: {_FIRST_COME}", limits.rules))
        with self._link.lock:
            self._memory.limits[model] = limits
            self._memory.unsent_limits.add(model)
        self._run(
            lambda: self._send_limits(model),
            lambda local: local.configure(model, share_of(limits, self._replicas)),
        )

    def limits(self, model: str) -> Limits:
        """Return the limits of a model."""
        return self.row(model).limits

    def end_leases(self, model: str) -> int:
        """End every lease of a model, of every replica; sent later when the server does not answer."""

        def remotely() -> int:
            return int(self._link.call("end_leases", model)[1])

        def locally(local: MemoryStore) -> int:
            self._memory.unsent.append(("end_leases", model))
            return local.end_leases(model)

        ended = self._run(remotely, locally)
        self._memory.end_leases(model)
        return ended

    def reset_usage(self, model: str) -> None:
        """Raise SpecError: replicas remember usage, and would tell the server again."""
        raise SpecError(Violation("reset_usage", "expected a store of one process", shown="a shared store"))

    def forget(self, model: str) -> None:
        """Remove a model with its leases, usage and stops; sent later when the server does not answer."""

        def locally(local: MemoryStore) -> None:
            self._memory.unsent.append(("forget", model))
            local.forget(model)

        self._run(lambda: self._link.call("forget", model), locally)
        self._memory.forget(model)

    # -- leases

    def acquire(self, ask: Ask) -> LeaseState | Refusal:
        """Take everything the ask names, or nothing."""
        self._check(ask)
        return self._run(
            lambda: self._answer(ask, self._link.call("acquire", *ask_fields(ask))),
            lambda local: self._acquire_locally(local, ask),
            lambda: _unavailable(ask),
        )

    def acquire_many(self, asks: Sequence[Ask], *, whole_plan: bool) -> list[LeaseState | Refusal]:
        """Take each ask whole or not at all; with ``whole_plan`` all of them or none."""
        for ask in asks:
            self._check(ask)
        if not asks:
            return []
        fields = list(itertools.chain.from_iterable(ask_fields(ask) for ask in asks))

        def remotely() -> list[LeaseState | Refusal]:
            replies = self._link.call("acquire_many", int(whole_plan), *fields)
            return [self._answer(ask, reply) for ask, reply in zip(asks, replies, strict=True)]

        def locally(local: MemoryStore) -> list[LeaseState | Refusal]:
            if not self._share_open():
                return [self._acquire_locally(local, ask) for ask in asks]
            answers = local.acquire_many(asks, whole_plan=whole_plan)
            for ask, answer in zip(asks, answers, strict=True):
                if isinstance(answer, Refusal):  # the server may have granted it before it went away
                    self._memory.drop_later(ask.lease_id)
                else:
                    self._memory.hold(ask, answer, here=True)
            return answers

        return self._run(remotely, locally, lambda: [_unavailable(ask) for ask in asks])

    def renew(self, lease_id: str, ttl_s: float) -> LeaseState:
        """Let a live lease expire ``ttl_s`` from now.

        While the server does not answer, a lease it granted cannot be extended: it stays live until the
        time it has, unless the local share covers it.
        """
        if ttl_s > self._max_ttl_s:
            raise SpecError(Violation("ttl_s", f"expected <= {self._max_ttl_s:g} (max_ttl_s)", ttl_s))
        asked_s = self._link.clock.now()

        def remotely() -> LeaseState:
            held = self._memory.held.get(lease_id)
            known = [] if held is None else [json.dumps(held.fields(asked_s))]
            state = LeaseState(self._link.call("renew", lease_id, repr(float(ttl_s)), *known)[0])
            if held is not None and state is not LeaseState.GONE:
                held.state, held.until_s = state, self._link.clock.now() + ttl_s
            elif held is not None:
                self._memory.held.pop(lease_id, None)
            return state

        def locally(local: MemoryStore) -> LeaseState:
            if self._memory.waits(lease_id):
                return LeaseState.QUEUED
            if not self._share_open():
                return local.lease_state(lease_id)
            state = local.renew(lease_id, ttl_s)
            held = self._memory.held.get(lease_id)
            if held is not None and state is not LeaseState.GONE:
                held.state, held.until_s, held.here = state, self._link.clock.now() + ttl_s, True
            return state

        return self._run(remotely, locally)

    def keep(self, lease_id: str, ttl_s: float, alive: Callable[[], bool]) -> LeaseState:
        """Renew a lease by a heartbeat for as long as its holder is ``alive``; nothing is sent at once."""
        held = self._memory.held.get(lease_id)
        if held is None:
            state = self.renew(lease_id, ttl_s)
            if state is LeaseState.GONE:
                return state
        else:
            state = held.state
        self._heartbeat.keep(lease_id, ttl_s, alive)
        return state

    def release(self, lease_id: str, *, tokens: int | None, cost_nano_usd: int | None) -> ReleaseOutcome:
        """Give everything back once, and settle the estimates; sent later when the server does not answer."""
        if getattr(self._inside, "depth", 0):  # a finalizer has interrupted this very thread
            self._late.append(lambda: self.release(lease_id, tokens=tokens, cost_nano_usd=cost_nano_usd))
            return ReleaseOutcome.DEFERRED
        actual = ("" if tokens is None else str(tokens), "" if cost_nano_usd is None else str(cost_nano_usd))
        self._heartbeat.drop(lease_id)

        def remotely() -> ReleaseOutcome:
            held = lease_id in self._memory.held
            reply, sent = self._link.call_counted("release", lease_id, *actual)
            self._memory.held.pop(lease_id, None)
            self._memory.unsent_releases.pop(lease_id, None)
            if len(reply) > 2:
                self._memory.note_usage(reply[1], reply[2:])
            if reply[0] == "unknown" and sent > 1 and held:  # it was released, and the answer was lost
                return ReleaseOutcome.RELEASED
            return ReleaseOutcome(reply[0])

        def locally(local: MemoryStore) -> ReleaseOutcome:
            held = self._memory.held.pop(lease_id, None)
            local.release(lease_id, tokens=tokens, cost_nano_usd=cost_nano_usd)
            if held is None and (
                lease_id in self._memory.unsent_releases or lease_id in self._memory.unsent_drops
            ):
                return ReleaseOutcome.UNKNOWN
            self._memory.unsent_releases[lease_id] = actual
            return ReleaseOutcome.DEFERRED

        return self._run(remotely, locally)

    def move(self, lease_id: str, ask: Ask) -> LeaseState | Refusal:
        """Swap a live lease for one on another model: both steps, or neither. Refused during an outage.

        Two round trips: the old lease is dropped once the answer about the new one has come, so that a lost
        answer leaves the caller with what it believes to have. In between both count.
        """
        self._check(ask)

        def remotely() -> LeaseState | Refusal:
            reply = self._link.call("move", lease_id, *ask_fields(ask))
            return LeaseState.GONE if reply[0] == LeaseState.GONE else self._answer(ask, reply)

        def locally(_: MemoryStore) -> Refusal:
            self._memory.drop_later(ask.lease_id)  # the answer may have been lost
            return _unavailable(ask)

        answer = self._run(remotely, locally, lambda: _unavailable(ask))
        if answer in _GRANTED:
            self._memory.held.pop(lease_id, None)
            self._heartbeat.drop(lease_id)
            self._run(lambda: self._drop(lease_id), lambda _: self._memory.drop_later(lease_id))
        return answer

    def lease_state(self, lease_id: str) -> LeaseState:
        """Tell where a lease stands."""

        def remotely() -> LeaseState:
            state = LeaseState(self._link.call("state", lease_id)[0])
            held = self._memory.held.get(lease_id)
            if held is not None:
                held.state = state
            return state

        def locally(local: MemoryStore) -> LeaseState:
            return LeaseState.QUEUED if self._memory.waits(lease_id) else local.lease_state(lease_id)

        return self._run(remotely, locally)

    def queued_leases(self, model: str) -> list[str]:
        """Return the ids of the waiting leases of a model, first come first."""
        return self._run(
            lambda: list(self._link.call("queued", model)[1]), lambda local: local.queued_leases(model)
        )

    def slots_before(self, model: str, lease_id: str) -> tuple[int, int] | None:
        """Return how many leases wait before one, each counted as one slot; None when it does not wait."""
        waiting = self.queued_leases(model)
        return (waiting.index(lease_id),) * 2 if lease_id in waiting else None

    # -- work from outside, and stops

    def adjust(self, model: str, *, active: int, queue: int) -> None:
        """Add to the work reported from outside, with a floor at zero; counted once, whatever is repeated."""
        if getattr(self._inside, "depth", 0):  # as in release
            self._late.append(lambda: self.adjust(model, active=active, queue=queue))
            return
        operation = ("adjust", model, active, queue, secrets.token_hex(8))

        def locally(local: MemoryStore) -> None:
            local.adjust(model, active=active, queue=queue)
            self._memory.unsent.append(operation)

        self._run(lambda: self._send(*operation), locally)

    def observe(self, model: str, *, active: int, queue: int, ttl_s: float | None = None) -> None:
        """Set totals measured from outside; what exceeds the leases counts as work from outside."""
        ttl = "" if ttl_s is None else repr(float(ttl_s))
        operation = ("observe", model, active, queue, ttl, secrets.token_hex(8))

        def locally(local: MemoryStore) -> None:
            local.observe(model, active=active, queue=queue, ttl_s=ttl_s)
            self._memory.unsent.append(operation)

        self._run(lambda: self._send(*operation), locally)

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
        """Keep new work away from a model; sent later when the server does not answer."""
        key = checked_stop(owner, name, reason, for_s)
        seconds = "" if for_s is None else repr(float(for_s))
        operation = ("stop", model, key.owner.value, name, reason, seconds, int(extend))

        def remotely() -> Stop:
            [stop] = read_stops([self._link.call(*operation)[1]])
            self._memory.note_stop(model, stop)
            return stop

        def locally(local: MemoryStore) -> Stop:
            self._memory.unsent.append(operation)
            return local.stop(model, owner, name=name, reason=reason, for_s=for_s, extend=extend)

        return self._run(remotely, locally)

    def resume(self, model: str, owner: StopOwner | str, *, name: str | None = None) -> int:
        """Lift the stops of one owner; sent later when the server does not answer."""
        key = checked_stop(owner, name or "", "", None)
        operation = ("resume", model, key.owner.value, name or "", int(name is None))

        def remotely() -> int:
            lifted = self._link.call(*operation)[1]
            self._memory.note_lifted(model, lifted, self._link.server_now_s)
            return len(lifted)

        def locally(local: MemoryStore) -> int:
            self._memory.unsent.append(operation)
            return local.resume(model, owner, name=name)

        return self._run(remotely, locally)

    def set_accepting(self, model: str, accepting: bool) -> None:
        """Set or lift the operator's unnamed stop."""
        if accepting:
            self.resume(model, StopOwner.OPERATOR, name="")
        else:
            self.stop(model, StopOwner.OPERATOR)

    # -- reading

    def row(self, model: str) -> StoreRow:
        """Return the state of one model; this replica's own part of it when the server does not answer."""

        def locally(local: MemoryStore) -> StoreRow:
            row = local.row(model)
            return replace(row, accepting=row.accepting and self._share_open())

        return self._run(lambda: read_row(self._link.call("row", model)[1:]), locally)

    def view(self) -> StoreView:
        """Return the state of every model; this replica's own part of it when the server does not answer."""

        def remotely() -> StoreView:
            view = read_view(self._link.call("models"))
            if view.models == self._models:  # the same object again: what is derived from it stays valid
                view = view._replace(models=self._models)
            self._models = view.models
            with self._link.lock:
                self._memory.note_view(view.stops, frozenset(view.models), view.version)
            return view

        def locally(local: MemoryStore) -> StoreView:
            view = local.view()
            return view._replace(
                version=self._memory.version + view.version, accepting=view.accepting & self._share_open()
            )

        return self._run(remotely, locally)

    def listen(self, promoted: Callable[[str], object]) -> None:
        """Call ``promoted`` with the id of every lease of this replica that leaves the queue and runs.

        The server publishes promotions; a thread of this store hears them.
        """
        self._promotions.listen(promoted)

    def next_event_s(self) -> float:
        """Return the store's time at which a lease, a stop or reported load ends next."""
        return self._run(
            lambda: min((float(text) for text in self._link.call("next_event") if text), default=math.inf),
            lambda local: local.next_event_s(),
        )

    # -- one operation, here or there

    def _run(
        self,
        remotely: Callable[[], _T],
        locally: Callable[[MemoryStore], _T],
        full: Callable[[], _T] | None = None,
    ) -> _T:
        """Run an operation on the server, or here without it; ``full`` when its memory is."""
        self._inside.depth = getattr(self._inside, "depth", 0) + 1
        try:
            if not self._heartbeat.idle:
                self._heartbeat.beat()
            return self._attempt(remotely, locally, full)
        finally:
            self._inside.depth -= 1
            while self._late and not self._inside.depth:
                self._late.popleft()()

    def _attempt(
        self,
        remotely: Callable[[], _T],
        locally: Callable[[MemoryStore], _T],
        full: Callable[[], _T] | None,
    ) -> _T:
        while True:
            try:
                return remotely()
            except StoreFullError:
                if full is None:
                    raise
                return full()
            except StoreDownError:
                with self._link.lock:
                    if self._link.up:  # another thread has just joined again
                        continue
                    if self._local is None:
                        self._local = self._memory.open_local(self._replicas)
                    return locally(self._local)

    def _answer(self, ask: Ask, reply: list[Any]) -> LeaseState | Refusal:
        if reply[0] in _GRANTED:
            if len(reply) > 2:
                self._memory.note_usage(ask.model, reply[2:])
            state = LeaseState(reply[0])
            self._memory.hold(ask, state)
            return state
        if len(reply) > 2 and reply[2] == "stops":
            stops = read_stops(reply[3])
            wait_s = reopens_in_s(stops, self._link.server_now_s)
            return Refusal(model=ask.model, reason=RefusalReason(reply[0]), retry_after_s=wait_s, stops=stops)
        wait_s = float(reply[1]) if reply[1] else None
        return Refusal(model=ask.model, reason=RefusalReason(reply[0]), retry_after_s=wait_s)

    def _check(self, ask: Ask) -> None:
        if ask.ttl_s > self._max_ttl_s:
            raise SpecError(Violation("ttl_s", f"expected <= {self._max_ttl_s:g} (max_ttl_s)", ask.ttl_s))
        if ask.queue and ask.priority != 1.0:
            raise SpecError(Violation("priority", f"expected 1: {_FIRST_COME}", ask.priority))
        if ask.queue and ask.tenant is not None:
            raise SpecError(Violation("tenant", f"expected None: {_FIRST_COME}", ask.tenant))

    # -- outages

    def _share_open(self) -> bool:
        silent_s = self._link.clock.now() - self._link.last_answer_s
        return self._on_outage == "local_share" and silent_s >= self._settle_s

    def _acquire_locally(self, local: MemoryStore, ask: Ask) -> LeaseState | Refusal:
        # The server may have granted it before the answer was lost: have it taken back on recovery.
        self._memory.drop_later(ask.lease_id)
        if ask.model not in self._memory.limits or not self._share_open():
            return _unavailable(ask)
        answer = local.acquire(ask)
        if not isinstance(answer, Refusal):
            self._memory.unsent_drops.pop(ask.lease_id, None)
            self._memory.hold(ask, answer, here=True)
        return answer

    def _order(self) -> dict[str, Any]:
        return {**self._memory.order(), "replicas": self._replicas, "max_ttl_s": self._max_ttl_s}

    def _joined(self, outside: list[list[str]]) -> None:
        """Send what could not be sent, and leave local operation."""
        self._local = None
        memory = self._memory
        for model, active, queued, changes in outside:
            memory.note_outside(model, int(active), int(queued), int(changes))
        for held in list(memory.held.values()):
            held.here = False
        for model in list(memory.unsent_limits):
            self._send_limits(model)
        for lease_id, actual in list(memory.unsent_releases.items()):
            self._link.call("release", lease_id, *actual)
            memory.unsent_releases.pop(lease_id, None)
        for lease_id in list(memory.unsent_drops):
            self._drop(lease_id)
        while memory.unsent:
            operation, *arguments = memory.unsent[0]
            self._send(str(operation), *arguments)
            memory.unsent.pop(0)

    def _drop(self, lease_id: str) -> None:
        """Take back a lease as if it had never been granted."""
        self._link.call("drop", lease_id)
        self._memory.unsent_drops.pop(lease_id, None)

    def _send_limits(self, model: str) -> None:
        self._link.call("configure", *limit_fields(model, self._memory.limits[model]))
        self._memory.unsent_limits.discard(model)

    def _send(self, operation: str, *arguments: str | float) -> None:
        """Send an operation whose answer says what it has changed of the work from outside."""
        reply = self._link.call(operation, *arguments)
        if operation in ("adjust", "observe"):
            self._memory.note_outside(str(arguments[0]), int(reply[1]), int(reply[2]), int(reply[3]))
        if operation == "resume":
            self._memory.note_lifted(str(arguments[0]), reply[1], self._link.server_now_s)
        if operation == "observe":
            until_s = self._link.clock.now() + float(arguments[3]) if arguments[3] else math.inf
            self._memory.observed[str(arguments[0])] = (int(reply[4]), int(reply[5]), until_s)


def _unavailable(ask: Ask) -> Refusal:
    return Refusal(model=ask.model, reason=RefusalReason.STORE_UNAVAILABLE)


_STORES: weakref.WeakSet[RedisStore] = weakref.WeakSet()


def _before_fork() -> None:
    for store in list(_STORES):
        store._before_fork()  # noqa: SLF001 # of this module


def _after_fork() -> None:
    for store in list(_STORES):
        store._after_fork()  # noqa: SLF001 # of this module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)


if TYPE_CHECKING:
    from solver.load.store.base import Store

    _conforms: type[Store] = RedisStore
