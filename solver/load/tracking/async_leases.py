"""The tracker's operations for an event loop: awaited, on threads of their own where the store is remote."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from solver.load.lease import Demand, Lease, LeaseState, ReleaseOutcome
from solver.load.refusal import Refusal
from solver.load.tracking.state import TrackerState

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_T = TypeVar("_T")
_THREADS_PER_TRACKER = 8
"""Operations on a remote store that one tracker awaits at once, so that a store that hangs does not block others."""


class AsyncLeases(TrackerState):
    """What :class:`~solver.LoadTracker` offers to code that must not block.

    With a store of this process every operation is done at once. Operations on a remote store run on a small
    pool of threads that belongs to the tracker, so that a server that hangs does not slow unrelated work
    down that shares the event loop's default executor.
    """

    if TYPE_CHECKING:

        def try_acquire(
            self,
            model: str,
            demand: Demand | None = None,
            ttl_s: float = 30.0,
            *,
            queue: bool = False,
            fill_to: float = 1.0,
            priority: float = 1.0,
            tenant: str | None = None,
        ) -> Lease | Refusal:
            """Reserve capacity, or say why not."""

        def renew(self, lease: Lease | str, *, ttl_s: float | None = None) -> LeaseState:
            """Let a lease live longer."""

        def release(
            self, lease: Lease | str, *, tokens: int | None = None, cost_usd: float | None = None
        ) -> ReleaseOutcome:
            """End a lease."""

    def _begin_process(self) -> None:
        """Set what no two processes may share."""
        super()._begin_process()
        self._threads: ThreadPoolExecutor | None = None

    def submit(self, work: Callable[[], _T]) -> asyncio.Future[_T]:
        """Start blocking work on the tracker's threads; the future belongs to the running event loop."""
        import asyncio  # most processes that import this package never need it

        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS_PER_TRACKER, thread_name_prefix="solver-store")
        return asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def try_acquire_async(
        self,
        model: str,
        demand: Demand | None = None,
        ttl_s: float = 30.0,
        *,
        queue: bool = False,
        fill_to: float = 1.0,
        priority: float = 1.0,
        tenant: str | None = None,
    ) -> Lease | Refusal:
        """Do :meth:`~solver.LoadTracker.try_acquire` without blocking the event loop.

        When the awaiting task is cancelled while a remote store is still answering, whatever it grants is
        released again.
        """

        def work() -> Lease | Refusal:
            return self.try_acquire(
                model, demand, ttl_s, queue=queue, fill_to=fill_to, priority=priority, tenant=tenant
            )

        if not self._store.remote:
            return work()
        import asyncio  # as above

        answer = self.submit(work)
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            answer.add_done_callback(self._release_result)
            raise

    async def acquire_async(
        self,
        model: str,
        demand: Demand | None = None,
        ttl_s: float = 30.0,
        *,
        queue: bool = False,
        fill_to: float = 1.0,
        priority: float = 1.0,
        tenant: str | None = None,
    ) -> Lease | None:
        """Do :meth:`~solver.LoadTracker.acquire` without blocking the event loop."""
        answer = await self.try_acquire_async(
            model, demand, ttl_s, queue=queue, fill_to=fill_to, priority=priority, tenant=tenant
        )
        return None if isinstance(answer, Refusal) else answer

    async def renew_async(self, lease: Lease | str, *, ttl_s: float | None = None) -> LeaseState:
        """Do :meth:`~solver.LoadTracker.renew` without blocking the event loop."""
        return await self._off_loop(lambda: self.renew(lease, ttl_s=ttl_s))

    async def release_async(
        self, lease: Lease | str, *, tokens: int | None = None, cost_usd: float | None = None
    ) -> ReleaseOutcome:
        """Do :meth:`~solver.LoadTracker.release` off the event loop; it is carried out even if cancelled."""
        return await self._off_loop(lambda: self.release(lease, tokens=tokens, cost_usd=cost_usd))

    async def _off_loop(self, work: Callable[[], _T]) -> _T:
        if not self._store.remote:
            return work()
        import asyncio  # as above

        return await asyncio.shield(self.submit(work))

    @staticmethod
    def _release_result(answer: asyncio.Future[Lease | Refusal]) -> None:
        """Give back, off the event loop, what a cancelled caller was granted."""
        if not answer.cancelled() and answer.exception() is None:
            granted = answer.result()
            if isinstance(granted, Lease):  # on the loop's own threads: it waits for them when it ends
                answer.get_loop().run_in_executor(None, granted.release)
