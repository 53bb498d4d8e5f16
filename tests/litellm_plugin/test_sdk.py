"""Traces of LiteLLM's SDK: whatever happens to a call, its lease ends once, and nothing is over-admitted.

Skipped where LiteLLM is not installed; ``make litellm-matrix`` runs it on the lowest, a middle and the newest version.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
litellm = pytest.importorskip("litellm", reason="needs the extra [litellm]")

from solver.interfaces.litellm import FleetOptions  # noqa: E402 - after the skip
from solver.interfaces.litellm.fleet import models_of  # noqa: E402
from tests.litellm_plugin.sdk import HELLO, ask, deployment, drained, held, routed  # noqa: E402
from tests.upstream import Behaviour, Upstream  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of LiteLLM and what it imports

ROUNDS = int(os.environ.get("LITELLM_ROUNDS", "5"))


def test_twenty_at_once_on_twenty_slots_are_all_served() -> None:
    with Upstream(fast=Behaviour(latency_s=0.02)) as up:
        fleet = [deployment(up, f"d{j}", max_parallel_requests=5) for j in range(4)]

        async def main() -> None:
            for _ in range(ROUNDS):
                answers = await asyncio.gather(*(ask(router) for _ in range(20)))
                assert [answer for answer in answers if isinstance(answer, Exception)] == []
            assert await drained(strategy) == 0

        with routed(fleet) as (router, strategy):
            asyncio.run(main())


def test_a_refusal_is_final_and_says_when_to_ask_again() -> None:
    with Upstream(fast=Behaviour(latency_s=0.3)) as up:

        async def main() -> None:
            answers = await asyncio.gather(*(ask(router) for _ in range(5)))
            refused = [answer for answer in answers if isinstance(answer, Exception)]
            assert len(refused) == 2
            for error in refused:
                assert error.status_code == 429  # type: ignore[attr-defined]
                assert int(error.response.headers["retry-after"]) >= 1  # type: ignore[attr-defined]
                assert "every eligible model is full" in str(error)

        choices = []
        with routed([deployment(up, "d0", max_parallel_requests=3)], num_retries=2) as (router, _):
            choose = router.async_get_available_deployment

            async def counted(*arguments: Any, **named: Any) -> Any:
                choices.append(arguments)
                return await choose(*arguments, **named)

            router.async_get_available_deployment = counted
            asyncio.run(main())
        assert len(choices) == 5  # a retry would choose again
        assert up.served["fast"] == 3


@pytest.mark.parametrize("end", ["read", "dropped", "closed", "never read", "no-log", "cut", "cancelled"])
def test_a_stream_holds_its_lease_until_it_ends_however_it_does(end: str) -> None:
    cut = 2 if end == "cut" else None
    with Upstream(fast=Behaviour(chunks=4, chunk_s=0.01, cut_after=cut)) as up:
        fleet = [deployment(up, "d0", max_parallel_requests=8)]

        async def one() -> None:
            extra: Any = {"no-log": True} if end == "no-log" else {}
            stream = await router.acompletion(model="g", messages=HELLO, stream=True, **extra)
            assert held(strategy) >= 1
            if end == "never read":
                return
            try:
                async for _ in stream:
                    if end in ("dropped", "closed"):
                        break
                    if end == "cancelled":
                        raise asyncio.CancelledError
            except Exception:  # noqa: BLE001 - a stream that was cut raises one of LiteLLM's
                assert end == "cut"
            if end == "closed":
                await stream.aclose()

        async def main() -> None:
            await asyncio.gather(*(one() for _ in range(8)), return_exceptions=True)
            assert await drained(strategy) == 0

        with routed(fleet) as (router, strategy):
            asyncio.run(main())
            assert strategy.selector.ledger.held() == 0


def test_cancelled_and_unlogged_calls_are_given_back() -> None:
    with Upstream(fast=Behaviour(latency_s=0.2)) as up:
        unlogged: Any = {"no-log": True}

        async def main() -> None:
            tasks = [asyncio.create_task(ask(router)) for _ in range(4)]
            await asyncio.sleep(0.1)
            assert held(strategy) == 4
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            del tasks, task
            await ask(router, "g", **unlogged)
            assert await drained(strategy) == 0

        with routed([deployment(up, "d0", max_parallel_requests=4)]) as (router, strategy):
            asyncio.run(main())


def test_failures_are_retried_elsewhere_and_fall_back_to_another_group() -> None:
    with Upstream(broken=Behaviour(fail_first=1000), fast=Behaviour()) as up:
        fleet = [
            deployment(up, "bad", model="broken", max_parallel_requests=2),
            deployment(up, "good", group="spare", max_parallel_requests=2),
        ]

        async def main() -> None:
            answer = await ask(router)
            assert not isinstance(answer, Exception), answer
            assert await drained(strategy) == 0

        with routed(fleet, num_retries=1, retry_after=0, fallbacks=[{"g": ["spare"]}]) as (router, strategy):
            asyncio.run(main())
        assert up.served["fast"] == 1


def test_a_server_that_asks_for_a_pause_gets_it() -> None:
    behaviour = Behaviour(fail_first=1, status=429, retry_after_s=30)
    with Upstream(limited=behaviour, fast=Behaviour()) as up:
        fleet = [
            deployment(up, "limited", model="limited", max_parallel_requests=9, info={"solver_score": 1.0}),
            deployment(up, "spare", max_parallel_requests=9, info={"solver_score": 0.1}),
        ]

        async def main() -> None:
            first = await ask(router)
            assert isinstance(first, Exception)
            assert strategy.selector.tracker.is_full("limited")
            for _ in range(3):
                assert not isinstance(await ask(router), Exception)

        with routed(fleet, disable_cooldowns=True) as (router, strategy):
            asyncio.run(main())
        assert up.served["fast"] == 3


def test_requests_per_minute_are_exact() -> None:
    with Upstream() as up:

        async def main() -> list[Any]:
            return list(await asyncio.gather(*(ask(router) for _ in range(30))))

        with routed([deployment(up, "d0", rpm=10)]) as (router, _):
            answers = asyncio.run(main())
        assert up.served["fast"] == 10
        assert sum(isinstance(answer, Exception) for answer in answers) == 20


def test_deployments_of_one_pool_share_its_capacity() -> None:
    with Upstream(fast=Behaviour(latency_s=0.1)) as up:
        shared: Any = {"info": {"solver_pool": "account"}, "max_parallel_requests": 3}
        fleet = [deployment(up, "a", **shared), deployment(up, "b", group="h", **shared)]

        async def main() -> None:
            answers = await asyncio.gather(*(ask(router, group) for group in "ghgh"))
            assert sum(isinstance(answer, Exception) for answer in answers) == 1

        with routed(fleet) as (router, _):
            asyncio.run(main())
        assert up.most["fast"] == 3


def test_flexible_requests_leave_room_for_those_with_one_choice() -> None:
    with Upstream(fast=Behaviour(latency_s=0.5)) as up:
        wide: Any = {"max_parallel_requests": 10}
        fleet = [
            deployment(up, "a", group="any", info={"solver_pool": "A"}, **wide),
            deployment(up, "b", group="any", info={"solver_pool": "B"}, **wide),
            deployment(up, "only", group="only", info={"solver_pool": "B"}, **wide),
        ]

        async def main() -> list[int]:
            served = []
            for _ in range(6 + ROUNDS):
                first = [asyncio.create_task(ask(router, "any")) for _ in range(10)]
                await asyncio.sleep(0.02)
                second = [asyncio.create_task(ask(router, "only")) for _ in range(10)]
                answers = await asyncio.gather(*first, *second)
                served.append(sum(not isinstance(answer, Exception) for answer in answers))
                await drained(strategy)
            return served

        with routed(fleet) as (router, strategy):
            served = asyncio.run(main())
        assert min(served) >= 10  # LiteLLM's own strategies serve 10 to 15
        settled = served[6:]  # the mix has been seen: all of them, but for one round in twenty
        assert len(settled) - settled.count(20) <= max(1, len(settled) // 20), served


def test_two_routers_and_changed_deployments_are_followed() -> None:
    with Upstream(fast=Behaviour(latency_s=0.1)) as up:

        async def main() -> None:
            answers = await asyncio.gather(*(ask(one) for _ in range(2)), *(ask(two) for _ in range(2)))
            assert sum(isinstance(answer, Exception) for answer in answers) == 1
            one.upsert_deployment(
                litellm.types.router.Deployment(**deployment(up, "c", max_parallel_requests=2))
            )
            answers = await asyncio.gather(*(ask(one) for _ in range(3)))
            assert [answer for answer in answers if isinstance(answer, Exception)] == []
            assert await drained(first) == 0
            assert await drained(second) == 0

        with (
            routed([deployment(up, "a", max_parallel_requests=1)]) as (one, first),
            routed([deployment(up, "b", max_parallel_requests=2)]) as (two, second),
        ):
            asyncio.run(main())


def test_synchronous_calls_are_counted_too() -> None:
    with (
        Upstream(fast=Behaviour()) as up,
        routed([deployment(up, "d0", max_parallel_requests=1)]) as (router, strategy),
    ):
        for _ in range(3):
            answer = router.completion(model="g", messages=HELLO)
            assert answer.choices[0].message.content == "hello"
            assert asyncio.run(drained(strategy)) == 0


def test_scores_decide_and_outcomes_are_recorded() -> None:
    with Upstream(fast=Behaviour(), slow=Behaviour()) as up:
        fleet = [deployment(up, "a"), deployment(up, "b", model="slow")]
        options = FleetOptions(scores={"a": 0.2, "openai/slow": 0.9})
        heard: list[Any] = []

        async def main() -> None:
            for _ in range(4):
                await ask(router)
            assert await drained(strategy) == 0

        with routed(fleet, options) as (router, strategy):
            strategy.selector.tracker.listen(heard.append)
            asyncio.run(main())
        assert up.served["slow"] == 4
        assert [(outcome.model, outcome.success) for outcome in heard] == [("b", True)] * 4


def test_the_slowest_answers_have_a_price_of_their_own() -> None:
    with Upstream(fast=Behaviour(), slow=Behaviour()) as up:
        fleet = [deployment(up, "a"), deployment(up, "b", model="slow")]
        options = FleetOptions(scores={"a": 0.9, "b": 0.8}, latency_weight=0.0, tail_weight=1.0)

        async def main() -> None:
            await ask(router)
            record = strategy.selector.tracker.record
            for tokens in [100] * 40 + [400] * 2:  # the server of "slow" answers ten times as quickly
                record("a", latency_ms=40.0 * tokens, input_tokens=1, output_tokens=tokens)
                record("b", latency_ms=4.0 * tokens, input_tokens=1, output_tokens=tokens)
            await ask(router)
            assert await drained(strategy) == 0

        with routed(fleet, options) as (router, strategy):
            asyncio.run(main())
        assert up.served == {"fast": 1, "slow": 1}


def test_slots_are_those_of_litellms_own_limiter() -> None:
    with Upstream() as up:
        fleet = [
            deployment(up, "stated", max_parallel_requests=3, rpm=10),
            deployment(up, "by requests", rpm=10),
            deployment(up, "by tokens", tpm=2000),
            deployment(up, "free"),
        ]
        slots = [model.capacity.max_concurrent for model in models_of(fleet, FleetOptions())]
    assert slots == [3, 10, 12, 1000]


def test_requests_wait_for_a_slot_where_a_queue_is_allowed() -> None:
    with Upstream(fast=Behaviour(latency_s=0.6)) as up:

        async def main() -> None:
            answers = await asyncio.gather(*(ask(router) for _ in range(8)))
            errors = [answer for answer in answers if isinstance(answer, Exception)]
            assert len(errors) == 1  # two run, five wait
            assert await drained(strategy) == 0

        fleet = [deployment(up, "d0", max_parallel_requests=2)]
        with routed(fleet, FleetOptions(queue=5)) as (router, strategy):
            asyncio.run(main())
        assert (up.served["fast"], up.most["fast"]) == (7, 2)


def test_who_waits_too_long_or_leaves_takes_no_slot() -> None:
    with Upstream(fast=Behaviour(latency_s=0.6)) as up:

        async def main() -> None:
            first = asyncio.create_task(ask(router))
            while not held(strategy):
                await asyncio.sleep(0)
            left = asyncio.create_task(ask(router))
            late = asyncio.create_task(ask(router))
            while strategy.selector.tracker.snapshot().queued.sum() < 2:
                await asyncio.sleep(0)
            left.cancel()
            error = await late
            assert error.status_code == 429
            assert "no slot came free within queue_timeout_s" in str(error)
            assert not isinstance(await first, Exception)
            assert await drained(strategy) == 0
            assert strategy.selector.tracker.snapshot().queued.sum() == 0

        fleet = [deployment(up, "d0", max_parallel_requests=1)]
        with routed(fleet, FleetOptions(queue=5, queue_timeout_s=0.1)) as (router, strategy):
            asyncio.run(main())
        assert up.served["fast"] == 1
