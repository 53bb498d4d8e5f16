"""Runs every operation on the server, or locally during an outage, and sends what is due after an outage."""

from __future__ import annotations

import json
import math
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from solver.errors import StoreDownError
from solver.load.store.outage_causes import StoreFullError

if TYPE_CHECKING:
    from collections.abc import Callable

    from solver.load.store.heartbeat import Heartbeat
    from solver.load.store.memory import MemoryStore
    from solver.load.store.redis_link import RedisLink
    from solver.load.store.replica_memory import ReplicaMemory

_T = TypeVar("_T")


class RedisOperations:
    """The connection, what this replica remembers, and the store that stands in during an outage."""

    _link: RedisLink
    _memory: ReplicaMemory
    _heartbeat: Heartbeat
    _replicas: int
    _max_ttl_s: float
    _on_outage: str
    _settle_s: float
    _local: MemoryStore | None

    def _begin_process(self) -> None:
        self._inside = threading.local()
        self._late: deque[Callable[[], object]] = deque()
        """Operations that came while their own thread was inside another one, from a finalizer."""

    @property
    def _interrupted(self) -> bool:
        """Whether a finalizer has interrupted an operation of this very thread."""
        return bool(getattr(self._inside, "depth", 0))

    # -- one operation, on the server or locally

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

    # -- outages

    def _share_open(self) -> bool:
        silent_s = self._link.clock.now() - self._link.last_answer_s
        return self._on_outage == "local_share" and silent_s >= self._settle_s

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
        for kind, name in list(memory.unsent_limits):  # pools were set before the models that draw on them
            self._send_limits(kind, name)
        for lease_id, actual in list(memory.unsent_releases.items()):
            reply = self._link.call("release", lease_id, *actual)
            memory.note_usage(reply[2:], self._link.epoch)
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

    def _send_limits(self, kind: str, name: str) -> None:
        fields = self._memory.limits_of(kind, name)
        while (reply := self._link.call("configure", *fields))[0] != "ok":
            for pool in json.loads(fields[9]):  # another replica has removed it meanwhile
                self._send_limits("p", pool)
            fields = self._memory.limits_of(kind, name)
        self._memory.set_at[f"{kind}:{name}"] = float(reply[1])
        self._memory.unsent_limits.pop((kind, name), None)

    def _send(self, operation: str, *arguments: str | float) -> None:
        """Send an operation, and remember what its answer says that it has changed."""
        reply = self._link.call(operation, *arguments)
        if operation in ("reset_usage", "reset_pool"):
            self._memory.note_usage(reply[1:], self._link.epoch)
        if operation in ("adjust", "observe"):
            self._memory.note_outside(str(arguments[0]), int(reply[1]), int(reply[2]), int(reply[3]))
        if operation == "resume":
            self._memory.note_lifted(str(arguments[0]), reply[1], self._link.server_now_s)
        if operation == "observe":
            until_s = self._link.clock.now() + float(arguments[3]) if arguments[3] else math.inf
            self._memory.observed[str(arguments[0])] = (int(reply[4]), int(reply[5]), until_s)
