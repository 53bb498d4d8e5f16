"""Operations of the tracker for an event loop: awaited, on threads of their own where the store is remote."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial, update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

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


def _release_result(answer: asyncio.Future[Any]) -> None:
    """Give back, off the event loop, what a cancelled caller was granted."""
    if not answer.cancelled() and answer.exception() is None:
        granted = answer.result()
        for one in granted if isinstance(granted, list) else [granted]:
            lease = one if isinstance(one, Lease) else getattr(one, "lease", None)
            if lease is not None:  # on the loop's own threads: it waits for them when it ends
                answer.get_loop().run_in_executor(None, lease.release)


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
        answer = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            answer.add_done_callback(_release_result)
            raise
