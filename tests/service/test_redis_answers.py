"""Requests with an ``Idempotency-Key`` are carried out once by all replicas together, whichever of them dies."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from solver.interfaces.http.idempotency import RepeatedRequests
from solver.interfaces.http.limits import ServiceLimits
from solver.interfaces.http.problem_details import RequestRefused
from solver.interfaces.http.reply import Reply
from solver.load.store.redis import RedisStore
from solver.load.store.redis_answers import CLAIM_S, Claim, SharedAnswers
from tests.http_service import TOKENS, running
from tests.loopback import NO_TLS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from tests.redis_server import RedisServer

AGENT = {"agent": {"id": "a", "task_type": "coding"}}
WHERE = ("caller", "POST", "/v1/decide", "k")


def ask(url: str, key: str, body: dict[str, Any]) -> httpx.Response:
    headers = {"Authorization": f"Bearer {TOKENS['route']}", "Idempotency-Key": key}
    return httpx.post(f"{url}/v1/decide", json=body, headers=headers, timeout=30, verify=NO_TLS)


def answers(server: RedisServer, namespace: str) -> SharedAnswers:
    """Return the answers of one replica of a namespace, which has joined."""
    store = RedisStore(server.url, replicas=2, namespace=namespace)
    store.state()
    return store.shared_answers()


def test_a_killed_replica_and_its_neighbour_give_the_same_answer_again(
    tmp_path: Path, own_server: RedisServer
) -> None:
    options = ("--redis", own_server.url, "--replicas", "2", "--replica")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with running(tmp_path / "b", *options, "b") as other:
        with running(tmp_path / "a", *options, "a") as first:
            answered = ask(first.url, "k", AGENT)
            assert answered.status_code == 200
            first.process.kill()
            first.process.wait()
        with running(tmp_path / "a", *options, "a") as restarted:
            for service in (restarted, other, restarted):
                again = ask(service.url, "k", AGENT)
                assert (again.status_code, again.content) == (200, answered.content)
                assert again.headers.get_list("idempotency-replayed") == ["true"]
            assert ask(other.url, "k", {"agent": {"id": "b"}}).status_code == 422
            assert ask(other.url, "another", AGENT).content != answered.content


def test_one_replica_at_a_time_carries_a_request_out(shared_server: RedisServer, namespace: str) -> None:
    async def in_thread(work: Callable[[], Any]) -> Any:
        return await asyncio.to_thread(work)

    async def main() -> None:
        first, second = [
            RepeatedRequests(ServiceLimits(), answers(shared_server, namespace), in_thread) for _ in range(2)
        ]
        begun, go_on = asyncio.Event(), asyncio.Event()
        made = 0

        async def make() -> Reply:
            nonlocal made
            made += 1
            begun.set()
            await go_on.wait()
            if made == 1:
                raise RequestRefused(503, "not now")
            return Reply(200, b"\n{}\n", (("X", "y"),))

        failing = asyncio.create_task(first.answer(WHERE, b"body", 0.0, make))
        await begun.wait()
        await asyncio.sleep(1.2 * CLAIM_S)  # the claim is renewed meanwhile
        with pytest.raises(RequestRefused, match="still running") as refused:
            await second.answer(WHERE, b"body", 0.0, make)
        assert (refused.value.status, refused.value.headers) == (409, {"Retry-After": "1"})
        go_on.set()
        with pytest.raises(RequestRefused, match="not now"):
            await failing
        reply = await second.answer(WHERE, b"body", 0.0, make)  # a refusal that is no last word is not kept
        again = await first.answer(WHERE, b"body", 0.0, make)
        assert again == reply._replace(headers=(("X", "y"), ("Idempotency-Replayed", "true")))
        assert made == 2

    asyncio.run(main())


def test_what_a_dead_replica_had_begun_is_free_after_some_seconds(
    shared_server: RedisServer, namespace: str
) -> None:
    dead, other = answers(shared_server, namespace), answers(shared_server, namespace)
    begun_s = time.perf_counter()
    late, new = Claim("k", "d" * 64, "1"), Claim("k", "d" * 64, "2")
    assert dead.claim(late) is None
    while (found := other.claim(new)) is not None:
        assert found == ("d" * 64, None)
        assert time.perf_counter() - begun_s < 2 * CLAIM_S
        time.sleep(0.05)
    dead.renew(late)  # it was only slow: neither its claim nor its answer counts any more
    dead.finish(late, b"late", keep_s=60.0, most=10, most_bytes=1_000)
    other.finish(new, b"new", keep_s=60.0, most=10, most_bytes=1_000)
    dead.give_up(late)
    assert dead.claim(late) == ("d" * 64, b"new")


@pytest.mark.parametrize(("most", "most_bytes"), [(3, 10_000), (100, 3 * 75)])
def test_the_oldest_answers_are_dropped(
    shared_server: RedisServer, namespace: str, most: int, most_bytes: int
) -> None:
    shared = answers(shared_server, namespace)
    claims = [Claim(f"k{number}", "d" * 64, "t") for number in range(10)]
    for claim in claims:
        assert shared.claim(claim) is None
        shared.finish(claim, b"0123456789", keep_s=60.0, most=most, most_bytes=most_bytes)
    found = [shared.claim(claim) for claim in claims]
    assert [one is not None for one in found] == [False] * 7 + [True] * 3


def test_without_a_server_each_request_is_new(own_server: RedisServer, namespace: str) -> None:
    shared = answers(own_server, namespace)
    own_server.stop()
    claim = Claim("k", "d" * 64, "t")
    assert shared.claim(claim) is None
    shared.finish(claim, b"answer", keep_s=60.0, most=10, most_bytes=1_000)
