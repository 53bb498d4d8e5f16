"""The store of several replicas: counts and leases on a Redis server, by one atomic script an operation."""

from __future__ import annotations

import math
import os
import weakref
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from solver.errors import SpecError, StoreDownError, Violation
from solver.load.checks import name_problems, positive_problems, whole_problems
from solver.load.store.heartbeat import Heartbeat
from solver.load.store.outage_causes import LinkState, OutageCause
from solver.load.store.redis_answers import SharedAnswers
from solver.load.store.redis_leases import RedisLeases
from solver.load.store.redis_link import RedisLink
from solver.load.store.redis_models import RedisModels
from solver.load.store.redis_promotions import PromotionChannel
from solver.load.store.replica_memory import METER_WINDOW_S, ReplicaMemory

if TYPE_CHECKING:
    from collections.abc import Callable

    from solver.clock import Clock
    from solver.load.store.memory import MemoryStore

__all__ = ["LinkState", "OutageCause", "RedisStore"]


class RedisStore(RedisLeases, RedisModels):
    """Counts and leases shared by several processes or hosts.

    Time is the server's; steps of its clock neither end leases that run nor keep others from expiring. A
    lease survives the death of its holder only until its time to live is over. When the server cannot be
    reached, or refuses what it is asked, nothing is granted (``on_outage="refuse"``), or each replica grants
    its own share of the capacity (``"local_share"``); ``state`` says which, ``cause`` and ``detail`` why. A
    server that comes back without its memory grants nothing until every replica has reported what it holds, or
    until every lease it might have forgotten has expired. Stops, and work reported from outside, are sent
    again, too; what was set during an outage is sent afterwards.

    After a fork the child joins as a replica of its own; leases that the parent holds stay the parent's.

    Parameters
    ----------
    server : str or redis.Redis
        URL such as ``redis://10.0.0.5:6379/0``, or a client of your own making, for example of Sentinel's
        ``master_for``, whose settings are taken over except for retries: what failed is repeated here. Nothing
        is sent before the first operation, so an unreachable server is no error. A Redis Cluster is refused, and
        so is a server that evicts keys when its memory is full.
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
        For connecting and for each answer, unless a client is given that states others.
    retry_s : float
        Seconds between attempts to reach a server that does not answer.
    clock : Clock, optional
        Time of the store instead of the server's, for tests and replays.
    name : str, optional
        Name of this replica: unique, and the same after a restart. Default: the host and the lowest
        number free on it. Needed where a restarted replica comes up on a host of another name.

    Raises
    ------
    SpecError
        If a parameter is out of range; with the first operation, if the server is one that is refused.
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

    def __reduce__(self) -> NoReturn:
        raise TypeError("a store cannot be sent to another process: make one there, of the same server")

    def _before_fork(self) -> None:
        """Leave the name of a replica that holds nothing to the children."""
        if not self._memory.held:
            self._link.leave()

    def _after_fork(self) -> None:
        """In the child: join as a replica of its own, and leave the parent's leases to the parent."""
        self._link.after_fork()
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

    def shared_answers(self) -> SharedAnswers:
        """Return answers to requests with a key, which the replicas share."""
        return SharedAnswers(self._link)

    def close(self) -> None:
        """Close the connections; live leases stay until they expire."""
        self._heartbeat.stop()
        self._promotions.stop()
        self._link.close()

    def listen(self, promoted: Callable[[str], object]) -> None:
        """Call ``promoted`` with the id of every lease of this replica that leaves the queue and runs.

        The server publishes promotions; a thread of this store hears them.
        """
        self._promotions.listen(promoted)


_STORES: weakref.WeakSet[RedisStore] = weakref.WeakSet()


def _before_fork() -> None:
    for store in list(_STORES):
        store._before_fork()  # noqa: SLF001 # of this module


def _after_fork() -> None:
    for store in list(_STORES):
        store._after_fork()  # noqa: SLF001 # of this module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
