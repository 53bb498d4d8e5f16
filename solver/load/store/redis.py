"""The store of several replicas: counts and leases on a Redis server, by one atomic script an operation."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from solver.errors import SpecError
from solver.load.checks import name_problems, positive_problems, whole_problems
from solver.load.lease import Ask, LeaseState, Refusal, RefusalReason, ReleaseOutcome
from solver.load.store.base import Limits, StoreRow, StoreView, nano_usd
from solver.load.store.memory import MemoryStore
from solver.load.store.redis_codec import ask_fields, limit_fields, read_row, read_view
from solver.load.store.redis_link import LinkState, RedisLink, StoreDownError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from solver.clock import Clock

__all__ = ["LinkState", "RedisStore"]

_T = TypeVar("_T")
_METER_WINDOW_S = 60.0


@dataclass(slots=True)
class _Held:
    """A lease this replica was granted, to be told again to a server that has forgotten it."""

    ask: Ask
    state: LeaseState
    until_s: float
    here: bool = False
    """Granted or extended without the server: it cannot know."""


class RedisStore:
    """Counts and leases shared by several processes or hosts.

    Time is the server's. A lease survives the death of its holder only until its time to live is over. When
    the server cannot be reached, nothing is granted (``on_outage="refuse"``), or each replica grants its own
    share of the capacity (``"local_share"``); ``state`` says which. A server that comes back without its
    memory grants nothing until every replica has told what it holds, or until every lease it might have
    forgotten has expired.

    Parameters
    ----------
    server : str or redis.Redis
        URL such as ``redis://10.0.0.5:6379/0``, or a client of your own making (with short time-outs and
        without retries). Nothing is sent before the first operation, so an unreachable server is no error.
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

    Raises
    ------
    SpecError
        If a parameter is out of range.
    MissingExtraError
        On import, if redis-py is not installed.
    """

    remote = True

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
    ) -> None:
        settle_s = max(2 * max_ttl_s, 2 * _METER_WINDOW_S) if settle_s is None else settle_s
        problems = whole_problems("replicas", replicas, low=1) + name_problems("namespace", namespace)
        for name, value in (("max_ttl_s", max_ttl_s), ("timeout_s", timeout_s), ("retry_s", retry_s)):
            problems += positive_problems(name, value)
        if not 0 <= settle_s < math.inf:
            problems.append(f"settle_s: expected a finite number >= 0, got {settle_s!r}")
        if on_outage not in ("refuse", "local_share"):
            problems.append(f"on_outage: expected 'refuse' or 'local_share', got {on_outage!r}")
        if problems:
            raise SpecError(*problems)
        self._replicas = int(replicas)
        self._on_outage = on_outage
        self._max_ttl_s = max_ttl_s
        self._settle_s = settle_s
        self._models: tuple[str, ...] = ()
        self._limits: dict[str, Limits] = {}
        self._unsent_limits: set[str] = set()
        self._used: dict[str, tuple[tuple[int, int, int], float]] = {}
        self._held: dict[str, _Held] = {}
        self._unsent: dict[str, tuple[str, str]] = {}
        self._version = 0
        self._prune_at = 1024
        self._local: MemoryStore | None = None
        peers = self._replicas if on_outage == "local_share" else 0
        self._link = RedisLink(
            server,
            namespace=namespace,
            membership=f"{peers}:{settle_s / 2:.6f}",
            timeout_s=timeout_s,
            retry_s=retry_s,
            clock=clock,
            order=self._order,
            joined=self._joined,
        )

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
        """Why the server does not answer; empty while it does."""
        return self._link.detail

    def close(self) -> None:
        """Close the connections; live leases stay until they expire."""
        self._link.close()

    # -- Store

    def configure(self, model: str, limits: Limits) -> None:
        """Set the limits of a model; kept and sent later when the server does not answer."""
        with self._link.lock:
            self._limits[model] = limits
            self._unsent_limits.add(model)
        self._run(
            lambda: self._send_limits(model),
            lambda local: local.configure(model, self._share(limits)),
        )

    def limits(self, model: str) -> Limits:
        """Return the limits of a model."""
        return self.row(model).limits

    def acquire(self, ask: Ask) -> LeaseState | Refusal:
        """Take everything the ask names, or nothing."""
        self._check(ask)
        return self._run(
            lambda: self._answer(ask, self._link.call("acquire", *ask_fields(ask))),
            lambda local: self._acquire_locally(local, ask),
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
            if replies[0][0] == "unknown_model":
                raise SpecError(f"model: expected one whose capacity is set, got {replies[0][2]!r}")
            return [self._answer(ask, reply) for ask, reply in zip(asks, replies, strict=True)]

        def locally(local: MemoryStore) -> list[LeaseState | Refusal]:
            if not self._share_open():
                return [self._acquire_locally(local, ask) for ask in asks]
            answers = local.acquire_many(asks, whole_plan=whole_plan)
            for ask, answer in zip(asks, answers, strict=True):
                if isinstance(answer, Refusal):  # the server may have granted it before it went away
                    self._unsent[ask.lease_id] = ("", "")
                else:
                    self._hold(ask, answer, here=True)
            return answers

        return self._run(remotely, locally)

    def renew(self, lease_id: str, ttl_s: float) -> LeaseState:
        """Let a live lease expire ``ttl_s`` from now.

        While the server does not answer, a lease it granted cannot be extended: it stays live until the
        time it has, unless the local share covers it.
        """
        if ttl_s > self._max_ttl_s:
            raise SpecError(f"ttl_s: expected <= {self._max_ttl_s:g} (max_ttl_s), got {ttl_s!r}")

        def remotely() -> LeaseState:
            state = LeaseState(self._link.call("renew", lease_id, repr(float(ttl_s)))[0])
            held = self._held.get(lease_id)
            if held is not None and state is not LeaseState.GONE:
                held.state, held.until_s = state, self._link.clock.now() + ttl_s
            elif held is not None:
                self._held.pop(lease_id, None)
            return state

        def locally(local: MemoryStore) -> LeaseState:
            if not self._share_open():
                return local.lease_state(lease_id)
            state = local.renew(lease_id, ttl_s)
            held = self._held.get(lease_id)
            if held is not None and state is not LeaseState.GONE:
                held.state, held.until_s, held.here = state, self._link.clock.now() + ttl_s, True
            return state

        return self._run(remotely, locally)

    def release(self, lease_id: str, *, tokens: int | None, cost_nano_usd: int | None) -> ReleaseOutcome:
        """Give everything back once, and settle the estimates; sent later when the server does not answer."""
        actual = ("" if tokens is None else str(tokens), "" if cost_nano_usd is None else str(cost_nano_usd))

        def remotely() -> ReleaseOutcome:
            reply = self._link.call("release", lease_id, *actual)
            self._held.pop(lease_id, None)
            self._unsent.pop(lease_id, None)
            if len(reply) > 1:
                self._note_usage(reply[1], reply[2:])
            return ReleaseOutcome(reply[0])

        def locally(local: MemoryStore) -> ReleaseOutcome:
            held = self._held.pop(lease_id, None)
            local.release(lease_id, tokens=tokens, cost_nano_usd=cost_nano_usd)
            if held is None and lease_id in self._unsent:
                return ReleaseOutcome.UNKNOWN
            self._unsent[lease_id] = actual
            return ReleaseOutcome.DEFERRED

        return self._run(remotely, locally)

    def move(self, lease_id: str, ask: Ask) -> LeaseState | Refusal:
        """Swap a live lease for one on another model: both steps, or neither. Refused during an outage."""
        self._check(ask)

        def remotely() -> LeaseState | Refusal:
            reply = self._link.call("move", lease_id, *ask_fields(ask))
            if reply[0] == LeaseState.GONE:
                return LeaseState.GONE
            answer = self._answer(ask, reply)
            if not isinstance(answer, Refusal):
                self._held.pop(lease_id, None)
            return answer

        return self._run(remotely, lambda _: _unavailable(ask))

    def lease_state(self, lease_id: str) -> LeaseState:
        """Tell where a lease stands."""

        def remotely() -> LeaseState:
            state = LeaseState(self._link.call("state", lease_id)[0])
            held = self._held.get(lease_id)
            if held is not None:
                held.state = state
            return state

        return self._run(remotely, lambda local: local.lease_state(lease_id))

    def queued_leases(self, model: str) -> list[str]:
        """Return the ids of the waiting leases of a model, first come first."""
        return self._run(
            lambda: list(self._link.call("queued", model)[1]), lambda local: local.queued_leases(model)
        )

    def adjust(self, model: str, *, active: int, queue: int) -> None:
        """Add to the work reported from outside, with a floor at zero."""
        self._run(
            lambda: self._link.call("adjust", model, active, queue),
            lambda local: local.adjust(model, active=active, queue=queue),
        )

    def observe(self, model: str, *, active: int, queue: int) -> None:
        """Set totals measured from outside; what exceeds the leases counts as work from outside."""
        self._run(
            lambda: self._link.call("observe", model, active, queue),
            lambda local: local.observe(model, active=active, queue=queue),
        )

    def set_accepting(self, model: str, accepting: bool) -> None:
        """Start or stop rejecting new work on purpose."""
        self._run(
            lambda: self._link.call("accepting", model, int(accepting)),
            lambda local: local.set_accepting(model, accepting),
        )

    def row(self, model: str) -> StoreRow:
        """Return the state of one model; this replica's own part of it when the server does not answer."""

        def locally(local: MemoryStore) -> StoreRow:
            row = local.row(model)
            return replace(row, accepting=row.accepting and self._share_open())

        return self._run(lambda: read_row(self._link.call("row", model)[1:]), locally)

    def view(self) -> StoreView:
        """Return the state of every model; this replica's own part of it when the server does not answer."""
        return self._run(self._remote_view, self._local_view)

    # -- one operation, here or there

    def _run(self, remotely: Callable[[], _T], locally: Callable[[MemoryStore], _T]) -> _T:
        while True:
            try:
                return remotely()
            except StoreDownError:
                with self._link.lock:
                    if self._link.up:  # another thread has just joined again
                        continue
                    return locally(self._local or self._open_local())

    def _answer(self, ask: Ask, reply: list[Any]) -> LeaseState | Refusal:
        if len(reply) > 2:
            self._note_usage(ask.model, reply[2:])
        if reply[0] in (LeaseState.RUNNING, LeaseState.QUEUED):
            state = LeaseState(reply[0])
            self._hold(ask, state)
            return state
        wait_s = float(reply[1]) if reply[1] else None
        return Refusal(model=ask.model, reason=RefusalReason(reply[0]), retry_after_s=wait_s)

    def _check(self, ask: Ask) -> None:
        if ask.ttl_s > self._max_ttl_s:
            raise SpecError(f"ttl_s: expected <= {self._max_ttl_s:g} (max_ttl_s), got {ask.ttl_s!r}")

    def _hold(self, ask: Ask, state: LeaseState, *, here: bool = False) -> None:
        now = self._link.clock.now()
        self._held[ask.lease_id] = _Held(ask, state, now + ask.ttl_s, here)
        if len(self._held) > self._prune_at:  # leases that nobody released
            with self._link.lock:
                for lease_id in [key for key, held in list(self._held.items()) if held.until_s <= now]:
                    self._held.pop(lease_id, None)
                self._prune_at = max(1024, 2 * len(self._held))

    def _note_usage(self, model: str, used: list[str]) -> None:
        self._used[model] = ((int(used[0]), int(used[1]), int(used[2])), self._link.clock.now())

    def _remote_view(self) -> StoreView:
        view = read_view(self._link.call("models"))
        if view.models == self._models:  # the same object again: what is derived from it stays valid
            view = view._replace(models=self._models)
        self._models = view.models
        self._version = view.version
        return view

    # -- outages

    def _share(self, limits: Limits) -> Limits:
        """Return this replica's share of the limits. Money is not shared: what others spent is unknown."""
        n = self._replicas
        return Limits(
            max_concurrent=limits.max_concurrent // n,
            max_queue=limits.max_queue // n,
            requests=None if limits.requests is None else limits.requests // n,
            tokens=None if limits.tokens is None else limits.tokens // n,
            budget_nano_usd=None if limits.budget_nano_usd is None else 0,
            budget_period_s=limits.budget_period_s,
        )

    def _share_open(self) -> bool:
        silent_s = self._link.clock.now() - self._link.last_answer_s
        return self._on_outage == "local_share" and silent_s >= self._settle_s

    def _open_local(self) -> MemoryStore:
        """Return a local store that holds what this replica holds, under its share of the limits."""
        local = MemoryStore(clock=self._link.clock)
        now = self._link.clock.now()
        for model in self._limits:
            local.configure(model, Limits(max_concurrent=2**53, max_queue=2**53))
        for lease_id, held in self._held.items():
            if held.until_s > now and held.ask.model in self._limits:
                local.acquire(
                    Ask(
                        model=held.ask.model,
                        demand=held.ask.demand,
                        ttl_s=held.until_s - now,
                        lease_id=lease_id,
                    )
                )
        for model, limits in self._limits.items():
            local.configure(model, self._share(limits))
        self._local = local
        return local

    def _acquire_locally(self, local: MemoryStore, ask: Ask) -> LeaseState | Refusal:
        # The server may have granted it before the answer was lost: have it released on recovery.
        self._unsent[ask.lease_id] = ("", "")
        if ask.model not in self._limits or not self._share_open():
            return _unavailable(ask)
        answer = local.acquire(ask)
        if not isinstance(answer, Refusal):
            del self._unsent[ask.lease_id]
            self._hold(ask, answer, here=True)
        return answer

    def _local_view(self, local: MemoryStore) -> StoreView:
        view = local.view()
        return view._replace(
            version=self._version + view.version,
            accepting=view.accepting & self._share_open(),
        )

    # -- joining

    def _order(self) -> dict[str, Any]:
        """Return what the server must know of this replica: models, usage and live leases."""
        now = self._link.clock.now()
        models = []
        for model, limits in self._limits.items():
            used, at_s = self._used.get(model, ((0, 0, 0), now))
            recent = now - at_s < 2 * _METER_WINDOW_S
            models.append(
                {
                    "limits": [str(value) for value in limit_fields(model, limits)],
                    "used": [used[0] if recent else 0, used[1] if recent else 0, used[2]],
                }
            )
        leases = [
            {
                "id": lease_id,
                "model": held.ask.model,
                "state": held.state.value,
                "slots": held.ask.demand.slots,
                "ttl_s": held.until_s - now,
                "here": held.here,
                "amounts": [
                    held.ask.demand.requests,
                    held.ask.demand.tokens,
                    nano_usd(held.ask.demand.cost_usd),
                ],
            }
            for lease_id, held in list(self._held.items())
            if held.until_s > now and held.state is not LeaseState.GONE
        ]
        return {
            "models": models,
            "leases": leases,
            "version": self._version,
            "replicas": self._replicas,
            "max_ttl_s": self._max_ttl_s,
        }

    def _joined(self) -> None:
        """Send what could not be sent, and leave local operation."""
        self._local = None
        for held in list(self._held.values()):
            held.here = False
        for model in list(self._unsent_limits):
            self._send_limits(model)
        for lease_id, actual in list(self._unsent.items()):
            self._link.call("release", lease_id, *actual)
            self._unsent.pop(lease_id, None)

    def _send_limits(self, model: str) -> None:
        self._link.call("configure", *limit_fields(model, self._limits[model]))
        self._unsent_limits.discard(model)


def _unavailable(ask: Ask) -> Refusal:
    return Refusal(model=ask.model, reason=RefusalReason.STORE_UNAVAILABLE)


if TYPE_CHECKING:
    from solver.load.store.base import Store

    _conforms: type[Store] = RedisStore
