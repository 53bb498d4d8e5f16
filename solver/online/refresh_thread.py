"""A thread that computes prices while requests are routed by the last ones."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from typing import Protocol

_log = logging.getLogger(__name__)


class _Refreshed(Protocol):
    def refresh_if_due(self) -> object: ...

    def note_failure(self, error: BaseException) -> None: ...


class Refresher:
    """Runs ``refresh_if_due`` when woken, never twice at once, within its share of one processor.

    The thread is a daemon, starts at the first wake-up, and ends by itself when its router is gone. In a
    process made by a fork it starts again.

    Parameters
    ----------
    router : object with ``refresh_if_due`` and ``note_failure``
        Held weakly.
    largest_share : float
        Share of one processor, in (0, 1].
    elsewhere : bool
        Whether another process does the work: its time is then the time from job to answer, of which
        this thread's own processor time says nothing.
    """

    def __init__(self, router: _Refreshed, largest_share: float, *, elsewhere: bool = False) -> None:
        self._time_s = time.monotonic if elsewhere else time.thread_time
        self._stopped = threading.Event()
        self.begin_process()
        self._router = weakref.ref(router, lambda _: self._wanted.set())
        self._pause = 1.0 / largest_share - 1.0

    def begin_process(self) -> None:
        """Make what threads wait for anew in the child of a fork, where there is none of them."""
        if not self._stopped.is_set():
            self._stopped = threading.Event()
        self._wanted, self._lock = threading.Event(), threading.Lock()
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """Ask for a refresh. O(1); returns at once."""
        if not self._wanted.is_set():
            self._wanted.set()
        thread = self._thread
        if thread is None or not thread.is_alive():
            self._start()

    def _start(self) -> None:
        with self._lock:
            if self._stopped.is_set() or (self._thread is not None and self._thread.is_alive()):
                return
            self._thread = threading.Thread(target=self._run, name="solver-online-refresh", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._wanted.wait()
            self._wanted.clear()
            router = self._router()
            if router is None or self._stopped.is_set():
                return
            started = self._time_s()
            try:
                router.refresh_if_due()
            except Exception as error:  # noqa: BLE001 - logged and counted; routing must go on
                _log.exception("prices could not be computed; the last ones stay in use")
                router.note_failure(error)
            del router
            self._stopped.wait(self._pause * (self._time_s() - started))

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stopped.set()
        self._wanted.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
