"""Handing things to a receiver that may be slow, or never answer, from a thread that does nothing else."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")

_IDLE_S = 1.0
"""Seconds without anything to do after which the thread ends; it is started again when it is needed."""

_LOG = logging.getLogger("solver.load")


class Outbox(Generic[_T]):
    """Delivers items one at a time, in order; whoever puts them in does not wait.

    After a fork the child begins with an empty one: what waits in the parent is the parent's to deliver.

    Parameters
    ----------
    deliver : callable
        Called with each item. What it raises is logged, and the item counts as lost.
    backlog : int
        Items that may wait; when full, the oldest is lost for the newest.
    lose : callable
        Called with each item that is lost.
    name : str
        Of the thread.
    """

    def __init__(
        self, deliver: Callable[[_T], object], *, backlog: int, lose: Callable[[_T], object], name: str
    ) -> None:
        self._deliver, self._backlog, self._lose, self._name = deliver, backlog, lose, name
        self.begin_process()
        _OUTBOXES.add(self)

    def begin_process(self) -> None:
        """Begin empty and without a thread, also in the child of a fork."""
        self._changed = threading.Condition()
        self._items: deque[_T] = deque()
        self._thread: threading.Thread | None = None
        self.closing = threading.Event()
        """Set once nothing more is waited for."""

    @property
    def is_inside(self) -> bool:
        """Whether the calling thread is the one that delivers."""
        return threading.current_thread() is self._thread

    def put(self, item: _T) -> None:
        """Take one item for delivery; never blocks."""
        lost: list[_T] = []
        with self._changed:
            if len(self._items) >= self._backlog:
                lost.append(self._items.popleft())
            self._items.append(item)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify()
        for each in lost:
            self._lose(each)

    def close(self, timeout_s: float) -> None:
        """Wait for what is left to be delivered, at most so long."""
        with self._changed:
            self.closing.set()
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(timeout_s)

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._items and not self.closing.is_set():
                    self._changed.wait(_IDLE_S)
                if not self._items:
                    self._thread = None
                    return
                item = self._items.popleft()
            try:
                self._deliver(item)
            except Exception:  # noqa: BLE001 # whatever it is, the items after this one must be delivered
                _LOG.exception("could not be delivered: %r", item)
                self._lose(item)


_OUTBOXES: weakref.WeakSet[Outbox[Any]] = weakref.WeakSet()


def _after_fork() -> None:
    for outbox in list(_OUTBOXES):
        outbox.begin_process()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
