"""Operations of the tracker for an event loop: awaited, on threads of their own where the store is remote."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial, update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, cast

from solver.load.lease import Lease
from solver.load.tracking.state import TrackerState

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

P = ParamSpec("P")
S = TypeVar("S", bound="AsyncWork")
T = TypeVar("T")

_THREADS_PER_TRACKER = 8
"""Operations on a remote store that one tracker awaits at once, so that a store that hangs does not block others."""


def awaited(
    operation: Callable[Concatenate[S, P], T],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Return the method that does the same without blocking the event loop.

    An operation that has begun is carried out even if the awaiting task is cancelled; whatever it grants is then
    released again.
    """

    async def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.carried_out(partial(operation, self, *args, **kwargs))

    update_wrapper(call, operation)
    call.__name__ = f"{operation.__name__}_async"
    call.__qualname__ = f"{operation.__qualname__}_async"
    call.__doc__ = f"""Do :meth:`~solver.LoadTracker.{operation.__name__}` without blocking the event loop.

        What has begun is carried out even if the awaiting task is cancelled; a lease granted then is released again.
        """
    return call


class _Job(Generic[T]):
    """Blocking work that an event loop waits for: what it grants is given back once nobody waits any more.

    Neither a cancellation, nor the end of the loop, whenever it comes, loses a lease.
    """

    def __init__(self, work: Callable[[], T], loop: asyncio.AbstractEventLoop) -> None:
        self._work, self._loop = work, loop
        self.answer: asyncio.Future[T] = loop.create_future()
        self._lock = threading.Lock()
        self._is_done = self._is_abandoned = False
        self._result: T | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Do the work, on a thread, and tell the loop."""
        try:
            self._result = self._work()
        except BaseException as error:  # noqa: BLE001 # for whoever awaits it
            self._error = error
        with self._lock:
            self._is_done, is_abandoned = True, self._is_abandoned
        if is_abandoned:
            self._give_back()
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed, and its coroutine will be
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        if self.answer.done():
            return
        if self._error is not None:
            self.answer.set_exception(self._error)
        else:
            self.answer.set_result(cast("T", self._result))

    def abandon(self) -> None:
        """Give back what was granted, or will be: nobody waits for it any more."""
        with self._lock:
            self._is_abandoned = True
            if not self._is_done:
                return
        try:  # on the loop's own threads: it waits for them when it ends
            self._loop.run_in_executor(None, self._give_back)
        except RuntimeError:  # it has ended
            self._give_back()

    def _give_back(self) -> None:
        result, self._result = self._result, None
        for one in result if isinstance(result, list) else [result]:
            lease = one if isinstance(one, Lease) else getattr(one, "lease", None)
            if lease is not None:
                lease.release()


class AsyncWork(TrackerState):
    """What :class:`~solver.LoadTracker` offers to code that must not block.

    With a store of this process every operation is done at once. Operations on a remote store run on a small
    pool of threads that belongs to the tracker, so that a server that hangs does not slow unrelated work
    down that shares the event loop's default executor.
    """

    def _begin_process(self) -> None:
        """Set what no two processes may share."""
        super()._begin_process()
        self._threads: ThreadPoolExecutor | None = None

    async def carried_out(self, work: Callable[[], T]) -> T:
        """Return what blocking work returns, done on the tracker's threads where the store is remote.

        It is carried out even if the awaiting task is cancelled; leases, or reservations, granted then are released.
        """
        if not self._store.remote:
            return work()
        import asyncio  # most processes that import this package never need it

        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS_PER_TRACKER, thread_name_prefix="solver-store")
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return work()  # in a coroutine whose loop was closed before it ended: nothing else can run now
        job = _Job(work, loop)
        self._threads.submit(job.run)
        try:
            return await job.answer
        except (asyncio.CancelledError, GeneratorExit):
            job.abandon()
            raise
