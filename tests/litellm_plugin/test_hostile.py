"""What callers, servers and operators may do to the plug-in: nothing leaks, no request fails because of it.

Skipped where LiteLLM is not installed; ``make litellm-matrix`` runs it on the lowest, a middle and the newest version.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("litellm", reason="needs the extra [litellm]")

import litellm

from solver.errors import SpecError
from solver.interfaces.litellm import FleetOptions, install
from solver.interfaces.litellm.fleet import duration_s
from solver.interfaces.litellm.request_size import expected_tokens
from solver.interfaces.litellm.selection import Selector
from tests.litellm_plugin.sdk import HELLO, ask, deployment, drained, held, routed
from tests.upstream import Behaviour, Upstream

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.filterwarnings("ignore")  # of LiteLLM and what it imports

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + 4000 * "A"}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
CALLED = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at": "it"}'}}
ODD_CALLS: list[dict[str, Any]] = [
    {"max_tokens": -5},
    {"max_tokens": 10**30},
    {"max_tokens": True},
    {"max_tokens": 0},
    {"n": 3},
    {"metadata": {"task_type": ["no", "text"]}},
    {"metadata": {"task_type": "codng"}},
    {"metadata": {}},
    {"litellm_trace_id": ["not", "hashable"]},
    {"litellm_trace_id": "one for many"},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "what?"}, IMAGE]}], "tools": [TOOL]},
    {"messages": [{"role": "user", "content": 400_000 * "long "}]},
    {
        "messages": [
            *HELLO,
            {"role": "assistant", "content": None, "tool_calls": [CALLED]},
            {"role": "tool", "tool_call_id": "1", "content": "there"},
        ]
    },
]


@pytest.fixture(scope="module")
def up() -> Iterator[Upstream]:
    with Upstream(
        fast=Behaviour(),
        slow=Behaviour(latency_s=0.3),
        silent=Behaviour(usage=None),
        boastful=Behaviour(usage={"prompt_tokens": 0, "completion_tokens": 10**18, "total_tokens": 10**18}),
    ) as served:
        yield served


def used_tokens(strategy: Any) -> int:
    return int(strategy.selector.tracker.snapshot().view.meter_used[1, 0])


async def _ask(router: Any, **call: Any) -> Any:
    return await router.acompletion(**{"model": "g", "messages": HELLO, **call})


def test_odd_requests_are_served_and_hold_nothing_afterwards(up: Upstream) -> None:
    async def main() -> None:
        for call in ODD_CALLS:
            answer = await _ask(router, **call)
            assert answer.choices[0].message.content == "hello", call
        told = [*HELLO, answer.choices[0].message, *HELLO]  # as loops over tools pass answers on
        assert await _ask(router, messages=told)
        assert await drained(strategy) == 0
        assert strategy.selector.ledger.held() == 0

    capable: Any = {"solver_capabilities": {"coding": 0.5}}
    with routed([deployment(up, "d0", max_parallel_requests=2, info=capable)]) as (router, strategy):
        asyncio.run(main())


def test_embeddings_and_the_responses_api_are_counted_by_what_they_use(up: Upstream) -> None:
    async def main() -> None:
        for words in ("hello", ["hello", "you"], [[1, 2, 3], [4]], [1, 2, 3]):
            assert await router.aembedding(model="g", input=words)
        assert (await router.aresponses(model="g", input="hello", max_output_tokens=5)).output
        assert (await router.atext_completion(model="g", prompt="hello", max_tokens=5)).choices
        assert await drained(strategy) == 0

    # An embedding has no output to reserve: with it, none would ever fit.
    with routed([deployment(up, "d0", max_parallel_requests=1, tpm=200)]) as (router, strategy):
        asyncio.run(main())
        assert used_tokens(strategy) == 60


def test_sizes_are_told_by_length() -> None:
    options = FleetOptions(output_tokens=100)
    for request, messages, text, expected in (
        ({}, HELLO, None, (2, 100)),
        ({"max_tokens": 7}, HELLO, None, (2, 7)),
        ({"max_completion_tokens": 7, "n": 3}, HELLO, None, (2, 21)),
        ({}, [{"role": "user", "content": [{"type": "text", "text": 8 * "a"}, IMAGE]}], None, (252, 100)),
        ({}, [{"role": "user", "content": [{"type": "text", "text": 5}, None, 7]}], None, (0, 100)),
        ({"tools": [4 * "a"]}, HELLO, None, (4, 100)),
        ({}, None, [[1, 2, 3], [4]], (4, 0)),
        ({}, None, ["abcd", "efgh"], (2, 0)),
        ({"litellm_metadata": {}}, None, "abcd", (1, 100)),
        ({"max_output_tokens": 9}, None, [{"role": "user", "content": "abcd"}], (1, 9)),
        ({"max_tokens": None, "n": None}, "abcd", None, (1, 100)),
        ({}, 7, object(), (0, 100)),
    ):
        assert expected_tokens(request, messages, text, options) == expected, (request, messages, text)
    nested: Any = "text"
    for _ in range(5000):
        nested = [nested]
    assert expected_tokens({}, nested, None, options) == (0, 100)


@pytest.mark.parametrize("model", ["silent", "boastful"])
def test_usage_that_is_missing_or_absurd_settles_nothing(up: Upstream, model: str) -> None:
    async def main() -> None:
        assert await _ask(router, max_tokens=48)
        assert await drained(strategy) == 0

    with routed([deployment(up, "d0", model=model, max_parallel_requests=1, tpm=1000)]) as (router, strategy):
        asyncio.run(main())
        assert used_tokens(strategy) == 50  # what was reserved


def test_scores_that_fail_are_replaced_by_the_default(up: Upstream, caplog: Any) -> None:
    def wrong(deployment: dict[str, Any], request: dict[str, Any]) -> Any:
        return {"a": float("nan"), "b": 1 / 0}[deployment["model_info"]["id"]]

    async def main() -> None:
        for _ in range(3):
            assert await _ask(router)
        assert await drained(strategy) == 0

    fleet = [deployment(up, "a"), deployment(up, "b")]
    with (
        caplog.at_level(logging.WARNING, "solver"),
        routed(fleet, FleetOptions(scores=wrong)) as (router, strategy),
    ):
        asyncio.run(main())
    assert "FleetOptions.scores failed for b" in caplog.text
    assert "ZeroDivisionError" in caplog.text

    caplog.clear()
    given = FleetOptions(scores={"a": 0.5, "typo": 1.0})
    with caplog.at_level(logging.WARNING, "solver"), routed(fleet, given) as (router, strategy):
        asyncio.run(main())
    assert caplog.text.count("FleetOptions.scores does not name deployment b") == 1
    with pytest.raises(SpecError, match=r"scores\.a: expected a finite number or -inf, got nan"):
        FleetOptions(scores={"a": float("nan")})
    with pytest.raises(SpecError, match="scores: expected a mapping or a callable"):
        FleetOptions(scores=[1.0])  # type: ignore[arg-type]


def test_an_unknown_task_type_counts_as_none_and_is_told_once(up: Upstream, caplog: Any) -> None:
    def info(coding: float) -> Any:
        return {"solver_capabilities": {"coding": coding}}

    async def main() -> list[str]:
        return [
            (await _ask(router, metadata={"task_type": kind}))._hidden_params["model_id"]
            for kind in ("coding", "codng", "codng")
        ]

    fleet = [deployment(up, "weak", info=info(0.1)), deployment(up, "able", info=info(0.9))]
    with caplog.at_level(logging.WARNING, "solver"), routed(fleet) as (router, _):
        assert asyncio.run(main())[0] == "able"
    assert caplog.text.count("metadata.task_type: unknown, got 'codng'") == 1


def test_deployments_come_go_and_change_while_requests_run(up: Upstream, caplog: Any) -> None:
    async def main() -> None:
        assert strategy.selector.pools == ("a", "b")
        asks = [asyncio.create_task(_ask(router)) for _ in range(4)]
        await asyncio.sleep(0.1)
        router.delete_deployment(id="b")
        assert await _ask(router)
        assert strategy.selector.pools == ("a",)  # the slots of b count for nothing any more
        assert all(await asyncio.gather(*asks))
        wider = deployment(
            up, "a", model="slow", max_parallel_requests=7, info={"solver_capabilities": {"sql": 1}}
        )
        for entry in (wider, deployment(up, "c", max_parallel_requests=1)):
            router.upsert_deployment(litellm.types.router.Deployment(**entry))
        assert await _ask(router)
        assert strategy.selector.pools == ("a", "c")
        assert strategy.selector.tracker.capacity("a").max_concurrent == 7
        assert await drained(strategy) == 0
        unreadable = deployment(up, "d", max_budget=1.0, budget_duration="soon")
        router.upsert_deployment(litellm.types.router.Deployment(**unreadable))
        for _ in range(3):
            assert await _ask(router)
        assert strategy.selector.pools == ("a", "c")
        assert await drained(strategy) == 0
        for name in ("a", "c"):
            router.delete_deployment(id=name)
        assert await _ask(
            router
        )  # what is left cannot be read: it is used as LiteLLM would, and holds nothing
        assert held(strategy) == 0

    fleet = [deployment(up, name, model="slow", max_parallel_requests=3) for name in "ab"]
    with caplog.at_level(logging.WARNING, "solver"), routed(fleet) as (router, strategy):
        asyncio.run(main())
    assert (
        caplog.text.count("a deployment is left out: model_list[d].budget_duration: expected a number and")
        == 1
    )
    assert caplog.text.count("a request could not be placed; it is sent anywhere") == 1


def test_a_first_model_list_that_cannot_be_read_is_refused(up: Upstream) -> None:
    bad = deployment(up, "d0", info={"solver_capabilities": {"coding": "much"}})
    with pytest.raises(SpecError, match=r"model_list\[d0\]\.capabilities"):
        install(litellm.Router(model_list=[bad]))
    assert [duration_s(text) for text in ("30s", "2m", "1h", "1d", "1w", "1mo")] == [
        30,
        120,
        3600,
        86400,
        604800,
        2592000,
    ]


def test_calls_that_time_out_are_cancelled_or_retried_leave_nothing(up: Upstream) -> None:
    async def impatient(rng: random.Random) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(_ask(router), rng.uniform(0.0, 0.4))

    async def main() -> None:
        rng = random.Random(0)  # noqa: S311 - patience, not secrets
        await asyncio.gather(*(impatient(rng) for _ in range(30)))
        late = await ask(router, timeout=0.05)
        assert isinstance(late, litellm.Timeout)
        up.behaviours["slow"].fail_first = 2
        assert not isinstance(await ask(router, num_retries=3), Exception)
        assert await drained(strategy) == 0
        assert strategy.selector.ledger.held() == 0

    fleet = [deployment(up, "d0", model="slow", max_parallel_requests=40)]
    options = FleetOptions(select_ttl_s=1.0)
    with routed(fleet, options, disable_cooldowns=True, retry_after=0) as (router, strategy):
        asyncio.run(main())


def test_a_full_group_falls_back_to_another(up: Upstream) -> None:
    async def main() -> None:
        answers = await asyncio.gather(*(ask(router) for _ in range(5)))
        served = [
            answer._hidden_params["model_id"] for answer in answers if not isinstance(answer, Exception)
        ]
        assert sorted(served) == ["first", "spare", "spare"]
        assert await drained(strategy) == 0

    fleet = [
        deployment(up, "first", model="slow", max_parallel_requests=1),
        deployment(up, "spare", group="h", model="slow", max_parallel_requests=2),
    ]
    with routed(fleet, fallbacks=[{"g": ["h"]}]) as (router, strategy):
        asyncio.run(main())


def test_a_failure_of_the_plug_in_is_logged_and_the_request_served(up: Upstream, caplog: Any) -> None:
    async def main() -> None:
        assert await _ask(router)
        strategy.selector.tracker.forget("d0")  # an operator's mistake: the router still prices it
        assert await _ask(router)

    with caplog.at_level(logging.ERROR, "solver"), routed([deployment(up, "d0")]) as (router, strategy):
        asyncio.run(main())
        answer = router.completion(model="g", messages=HELLO)
        assert answer.choices
    assert caplog.text.count("a request could not be placed; it is sent anywhere, and holds no slot") == 2


def test_after_close_a_router_goes_on_and_holds_nothing(up: Upstream) -> None:
    async def main() -> None:
        strategy.close()
        for _ in range(5):
            assert await _ask(router)
        assert held(strategy) == 0

    with routed([deployment(up, "d0", max_parallel_requests=2)]) as (router, strategy):
        asyncio.run(main())


def test_the_child_of_a_fork_begins_with_nothing_held(up: Upstream) -> None:
    selector = Selector(options=FleetOptions(queue=3))
    fleet = [deployment(up, "d0", max_parallel_requests=1)]
    selector.follow(fleet)
    router, row, of_pool = selector.prepare(fleet, {}, HELLO, None)
    decision = router.route_row(row, None, 30.0)
    selector.keep(decision, of_pool["d0"], "trace")
    with selector._lock:  # another thread may hold it at the time of the fork
        child = os.fork()
        if child == 0:
            status = 1
            try:
                again, row, _ = selector.prepare(fleet, {}, HELLO, None)
                free = selector.ledger.held() == 0 and again is not router
                status = 0 if free and again.route_row(row, None, 30.0).model == "d0" else 2
            finally:
                os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (selector.ledger.held(), int(selector.tracker.snapshot().active.sum())) == (1, 1)
    selector.close()
