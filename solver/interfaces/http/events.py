"""Server-sent events: one hub, bounded queues; a slow reader delays no other client."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from solver.interfaces.http.json_codec import to_json
from solver.interfaces.http.problem_details import RequestRefused, retry_after

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_BUFFERED_EVENTS = 32
"""Events that a reader may fall behind before it is disconnected."""

_HEARTBEAT_S = 15.0
"""Seconds between two comments on an idle stream, which keep proxies from closing it."""


class EventHub:
    """Passes events on to every open stream. Streams live in one event loop; any thread may publish.

    Parameters
    ----------
    most : int
        Streams that may be open at one time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._queues: set[asyncio.Queue[bytes | None]] = set()
        self._number = 0
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None  # of the streams, known once one is read

    def __len__(self) -> int:
        return len(self._queues)

    def publish(self, kind: str, data: Any) -> None:
        """Send an event; a reader that is too far behind is disconnected, and comes back for the state as it is."""
        if not self._queues:
            return
        if self._loop is None or self._loop is _running_loop():
            self._deliver(kind, data)
        else:
            self._loop.call_soon_threadsafe(self._deliver, kind, data)

    def _deliver(self, kind: str, data: Any) -> None:
        self._number += 1
        text = b"id: %d\nevent: %s\ndata: %s\n\n" % (self._number, kind.encode(), to_json(data))
        for queue in tuple(self._queues):
            try:
                queue.put_nowait(text)
            except asyncio.QueueFull:
                self._end(queue)

    def _end(self, queue: asyncio.Queue[bytes | None]) -> None:
        self._queues.discard(queue)
        with suppress(asyncio.QueueEmpty):
            queue.get_nowait()
        queue.put_nowait(None)

    def close(self) -> None:
        """End every stream."""
        self._closed = True
        for queue in tuple(self._queues):
            self._end(queue)

    def stream(self, first: Any) -> AsyncIterator[bytes]:
        """Return a stream that begins with the state as it is."""
        if self._closed:
            raise RequestRefused(503, "the service is shutting down", headers=retry_after(2.0))
        if len(self._queues) >= self._most:
            raise RequestRefused(429, "too many open event streams", headers=retry_after(5.0))
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(_BUFFERED_EVENTS)
        self._queues.add(queue)
        head = b"retry: 1000\nevent: state\ndata: %s\n\n" % to_json(first)
        return self._read(queue, head)

    async def _read(self, queue: asyncio.Queue[bytes | None], head: bytes) -> AsyncIterator[bytes]:
        self._loop = asyncio.get_running_loop()
        try:
            yield head
            while True:
                try:
                    text = await asyncio.wait_for(queue.get(), _HEARTBEAT_S)
                except TimeoutError:
                    text = b": still here\n\n"
                if text is None:
                    return
                yield text
        finally:
            self._queues.discard(queue)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:  # a thread without one
        return None
