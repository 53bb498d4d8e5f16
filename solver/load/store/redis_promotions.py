"""Hearing from the server which leases of this replica have left the queue."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

import redis

from solver.errors import StoreDownError
from solver.load.lease import LeaseState
from solver.load.listeners import notify
from solver.load.store.redis_server import text_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from solver.load.store.redis_link import RedisLink
    from solver.load.store.replica_memory import ReplicaMemory

_RESUBSCRIBE_S = 0.5
"""Seconds between two attempts to subscribe, and between checks of whether the store still exists."""


class PromotionChannel:
    """A subscription to the promotions that the server publishes, and a thread that hears them.

    What was published while the subscription was broken is made up for by asking for the state of every
    lease that was waiting.

    Parameters
    ----------
    link : RedisLink
        The connection.
    memory : ReplicaMemory
        Knows which leases of this replica wait.
    """

    def __init__(self, link: RedisLink, memory: ReplicaMemory) -> None:
        self._link = link
        self._memory = memory
        self._listeners: tuple[Callable[[str], object], ...] = ()
        self.begin_process()

    def begin_process(self) -> None:
        """Begin without a thread, also in the child of a fork."""
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self.subscribed = threading.Event()
        """Set while promotions are heard as they happen."""
        if self._listeners:
            self._start()

    def listen(self, listener: Callable[[str], object]) -> None:
        """Call a listener with the id of every promoted lease."""
        with self._lock:
            self._listeners = (*self._listeners, listener)
            if self._thread is None:
                self._start()

    def _start(self) -> None:
        self._thread = threading.Thread(
            target=_run, args=(weakref.ref(self), self._closing), name="solver-promotions", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._closing.set()

    def receive(self, closing: threading.Event, this: weakref.ref[PromotionChannel]) -> None:
        """Listen until the connection breaks or the store is closed."""
        try:
            self._link.call("state", "")  # joins, which chooses the name
        except StoreDownError:
            closing.wait(_RESUBSCRIBE_S)
            return
        subscription = self._link.subscribe(f"promoted:{self._link.replica.name}")
        try:
            subscription.get_message(timeout=_RESUBSCRIBE_S)  # the server's word that it has begun
            self._catch_up()
            self.subscribed.set()
            while not closing.is_set() and this() is not None:
                message = subscription.get_message(timeout=_RESUBSCRIBE_S)
                if message is not None:
                    self._promoted(text_of(message["data"]))
        finally:
            self.subscribed.clear()
            subscription.close()

    def _catch_up(self) -> None:
        for lease_id, held in list(self._memory.held.items()):
            if (
                held.state is LeaseState.QUEUED
                and self._link.call("state", lease_id)[0] == LeaseState.RUNNING
            ):
                self._promoted(lease_id)

    def _promoted(self, lease_id: str) -> None:
        held = self._memory.held.get(lease_id)
        if held is not None:
            if held.state is LeaseState.RUNNING:  # announced already
                return
            held.state = LeaseState.RUNNING
        notify(self._listeners, lease_id)


def _run(this: weakref.ref[PromotionChannel], closing: threading.Event) -> None:
    while not closing.is_set():
        channel = this()
        if channel is None:
            return
        try:
            channel.receive(closing, this)
        except (redis.exceptions.RedisError, StoreDownError, OSError, ValueError):
            closing.wait(_RESUBSCRIBE_S)  # the link logs what is wrong with the server
        del channel
