from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("fastapi")

from solver.interfaces.http.events import EventHub


def test_a_thread_may_publish_to_a_stream_that_is_waiting() -> None:
    async def main() -> bytes:
        hub = EventHub(most=2)
        stream = hub.stream({})
        await anext(stream)
        waiting = asyncio.ensure_future(anext(stream))
        for _ in range(10):
            await asyncio.sleep(0)  # until the stream waits for its next event
        await asyncio.to_thread(hub.publish, "alert", {"model": "a"})
        return await asyncio.wait_for(waiting, timeout=5)

    assert b"event: alert" in asyncio.run(
        main(), debug=True
    )  # debug mode refuses calls of the loop from other threads
