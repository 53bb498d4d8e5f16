"""LiteLLM's own routing strategies, in process, through its real Router, on simulated time."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import contextmanager
from datetime import UTC, datetime
from time import perf_counter
from typing import TYPE_CHECKING, Any

from solver.errors import MissingExtraError
from solver.simulate.replay import PolicyBase

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Sequence

    from solver.clock import ManualClock
    from solver.simulate.scenario import Scene

LITELLM_STRATEGIES = (
    "simple-shuffle",
    "least-busy",
    "latency-based-routing",
    "cost-based-routing",
    "usage-based-routing",
    "usage-based-routing-v2",
)
"""Values of ``routing_strategy`` of LiteLLM's Router."""

_EPOCH = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
"""Unix time that LiteLLM sees when the simulated clock stands at zero."""

_GROUP, _PROVIDER = "fleet", "solver-simulated"

_CALLBACK_TURNS = 25
"""Turns of the event loop that LiteLLM's own callbacks get after an answer."""

_RETRY_TIMEOUT_S = 5.0
"""Real seconds that a retry inside LiteLLM may take before the request is given up."""


_UNENDING_S = 1e6
"""Cooldown, seconds, of a Router whose cooldowns are ended by simulated time."""


_CALLBACKS = (
    "callbacks",
    "input_callback",
    "success_callback",
    "failure_callback",
    "_async_success_callback",
    "_async_failure_callback",
)
"""Lists of LiteLLM's module that every Router adds to, for all calls of the process."""


class _Loop(asyncio.SelectorEventLoop):
    """An event loop whose timers run on real time, whatever the simulated clock says."""

    def time(self) -> float:
        return perf_counter()


class _NativeCooldowns:
    """Ends cooldowns by simulated time where LiteLLM keeps them outside of Python, from 1.110 on.

    Such a store reads the machine's clock, on which a replay takes seconds: a deployment that failed once would be
    left alone for a good part of the trace. Before 1.110 there is nothing to do.

    Parameters
    ----------
    litellm : module
        The package.
    clock : ManualClock
        Simulated time.
    """

    def __init__(self, litellm: Any, clock: ManualClock) -> None:
        self._clock = clock
        self._seconds = float(litellm.constants.DEFAULT_COOLDOWN_TIME_SECONDS)
        self.settings: dict[str, float] = {}
        if hasattr(litellm.Router, "health"):
            self.settings["cooldown_time"] = _UNENDING_S
        self._store: Any = None
        self._until: dict[str, float] = {}

    def watch(self, router: Any) -> None:
        """Begin with a Router that was made with ``settings``."""
        if self.settings:
            self._store = router.health().cooldowns.cooldown_store

    def sweep(self, deployments: Sequence[str]) -> None:
        """Note the cooldowns that have begun, and end those whose time is over."""
        if self._store is None:
            return
        now = self._clock.seconds
        for deployment, _ in self._store.active_sync(deployments):
            if now >= self._until.setdefault(deployment, now + self._seconds):
                self._store.evict_local(deployment)
                del self._until[deployment]


class _Call:
    """A request inside LiteLLM: its task, the deployment it is at, and the answer it waits for."""

    __slots__ = ("answer", "at", "dead", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[Any] | None = None
        self.at: asyncio.Future[int] | None = None
        self.answer: asyncio.Future[int] | None = None
        self.dead = False


def _packages() -> tuple[Any, Any]:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # nothing is fetched from anywhere
    try:
        import litellm
    except ImportError as error:
        raise MissingExtraError("litellm", "litellm") from error
    try:
        import time_machine
    except ImportError as error:
        raise MissingExtraError("time-machine", "litellm") from error
    return litellm, time_machine


def _provider(litellm: Any) -> Any:
    """Return the one provider of simulated deployments that this process has registered with LiteLLM."""
    for entry in litellm.custom_provider_map:
        if entry["provider"] == _PROVIDER:
            return entry["custom_handler"]

    class Simulated(litellm.CustomLLM):  # type: ignore[misc, name-defined, unused-ignore]
        """Deployments whose answers a replay gives."""

        policy: LiteLLMPolicy | None = None

        async def acompletion(self, *_: Any, **call: Any) -> Any:
            assert self.policy is not None
            return await self.policy.served(call)

    handler = Simulated()
    litellm.custom_provider_map = [
        *litellm.custom_provider_map,
        {"provider": _PROVIDER, "custom_handler": handler},
    ]
    return handler


class LiteLLMPolicy(PolicyBase):
    """A strategy of LiteLLM's Router, unmodified.

    Every request is a call of ``Router.acompletion``; its deployments are a provider whose answers come when the
    simulated server is done, so that the router's own counters, latencies, cool-downs and retries are at work. The
    process's clock shows simulated time meanwhile. Deployments carry the fleet's prices, and its slots as weights,
    which only ``simple-shuffle`` reads. The router knows no limits of the servers: LiteLLM has no notion of slots.

    Parameters
    ----------
    scene : Scene
        Traffic and fleet.
    clock : ManualClock
        Simulated time.
    strategy : str
        One of :data:`LITELLM_STRATEGIES`.

    Raises
    ------
    MissingExtraError
        Without LiteLLM, or without time-machine.
    """

    def __init__(self, scene: Scene, clock: ManualClock, strategy: str) -> None:
        self._litellm, self._time_machine = _packages()
        self._scene, self._clock = scene, clock
        self._inputs: list[int] = scene.traffic.input_tokens.tolist()
        self._outputs: list[int] = scene.traffic.output_tokens.tolist()
        self._handler = _provider(self._litellm)
        self._loop = _Loop()
        self._calls: dict[int, _Call] = {}
        self._again: dict[int, int] = {}
        self._callbacks = {name: list(getattr(self._litellm, name)) for name in _CALLBACKS}
        self._verbosity = logging.getLogger("LiteLLM").level
        for name in ("LiteLLM", "LiteLLM Router"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._litellm.suppress_debug_info = True
        fleet = scene.fleet
        self._ids = [str(j) for j in range(len(fleet)) if fleet.slots[j]]
        self._cooldowns = _NativeCooldowns(self._litellm, clock)
        self._router = self._run(self._make_router(strategy))
        self._cooldowns.watch(self._router)

    async def _make_router(self, strategy: str) -> Any:
        """Return the Router; inside the loop, where it leaves tasks of its own."""
        scene, fleet = self._scene, self._scene.fleet
        return self._litellm.Router(
            model_list=[
                {
                    "model_name": _GROUP,
                    "litellm_params": {
                        "model": f"{_PROVIDER}/{j}",
                        "api_key": "none",
                        "weight": max(int(fleet.slots[j]), 1),
                        "input_cost_per_token": float(fleet.token_prices.usd_per_input_token[j]),
                        "output_cost_per_token": float(fleet.token_prices.usd_per_output_token[j]),
                    },
                    "model_info": {"id": str(j)},
                }
                for j in range(len(fleet))
                if fleet.slots[j]
            ],
            routing_strategy=strategy,
            num_retries=scene.retries,
            **self._cooldowns.settings,
        )

    @contextmanager
    def _at_now(self) -> Iterator[None]:
        """Have the process's clock show simulated time."""
        when = datetime.fromtimestamp(_EPOCH + self._clock.seconds, UTC)
        self._handler.policy = self
        with self._time_machine.travel(when, tick=False):
            yield

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        with self._at_now():
            self._cooldowns.sweep(self._ids)
            result = self._loop.run_until_complete(work)
            self._cooldowns.sweep(self._ids)
            return result

    async def served(self, given: dict[str, Any]) -> Any:
        """Be a deployment: say which one was chosen, wait until the replay has the answer, and return it."""
        request = int(given["messages"][0]["content"].split()[0])
        column, call = int(given["model"]), self._calls[request]
        if call.dead:
            raise self._litellm.BadRequestError("the request has failed before", _GROUP, _PROVIDER)
        call.answer = self._loop.create_future()
        assert call.at is not None
        call.at.set_result(column)
        tokens = await call.answer
        litellm = self._litellm
        response = given.get("model_response") or litellm.ModelResponse()
        message = litellm.Message(role="assistant", content="")
        response.choices = [litellm.Choices(finish_reason="stop", index=0, message=message)]
        prompt = self._inputs[request]
        response.usage = litellm.Usage(
            prompt_tokens=prompt, completion_tokens=tokens, total_tokens=prompt + tokens
        )
        response.model = given["model"]
        return response

    async def _until_placed(self, call: _Call) -> int:
        """Return the deployment a call has reached, -1 when it ends without."""
        assert call.task is not None
        assert call.at is not None
        await asyncio.wait(
            [call.task, call.at], timeout=_RETRY_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
        )
        if call.at.done():
            return call.at.result()
        if not call.task.done():
            call.task.cancel()
        await asyncio.gather(call.task, return_exceptions=True)
        return -1

    async def _begin(self, request: int) -> int:
        call = self._calls[request] = _Call()
        call.at = self._loop.create_future()
        messages = [{"role": "user", "content": f"{request}"}]
        call.task = self._loop.create_task(self._router.acompletion(model=_GROUP, messages=messages))
        column = await self._until_placed(call)
        if column < 0:
            del self._calls[request]
        return column

    async def _fail(self, request: int, status: int) -> int:
        """End the attempt with an error and return where LiteLLM tries again, -1 for nowhere."""
        call = self._calls[request]
        assert call.answer is not None
        call.at = self._loop.create_future()
        error = self._litellm.RateLimitError if status == 429 else self._litellm.ServiceUnavailableError
        call.answer.set_exception(error("turned away", _PROVIDER, _GROUP))
        column = await self._until_placed(call)
        await self._settle()
        if column < 0:
            del self._calls[request]
        return column

    @staticmethod
    async def _settle() -> None:
        for _ in range(_CALLBACK_TURNS):
            await asyncio.sleep(0)

    def choose(self, requests: range) -> list[int]:
        """Return the deployments that the router has called."""
        chosen = []
        for request in requests:
            again = self._again.pop(request, None)
            chosen.append(self._run(self._begin(request)) if again is None else again)
        return chosen

    def ended(self, request: int, column: int, latency_s: float, service_s: float, *, success: bool) -> None:
        """Answer the call, or fail it."""
        if not success:
            self._calls[request].dead = True
            self._run(self._fail(request, 500))
            return

        async def answered() -> None:
            call = self._calls[request]
            assert call.answer is not None
            assert call.task is not None
            call.answer.set_result(self._outputs[request])
            await call.task
            await self._settle()
            del self._calls[request]

        self._run(answered())

    def turned_away(self, request: int, column: int, status: int) -> None:
        """Fail the attempt; where LiteLLM goes next is what it chooses when it is asked again."""
        self._again[request] = self._run(self._fail(request, status))

    def close(self) -> None:
        """End what LiteLLM has left running."""
        pending = asyncio.all_tasks(self._loop)
        for task in pending:
            task.cancel()
        if pending:
            self._loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        self._loop.close()
        for name, before in self._callbacks.items():
            setattr(self._litellm, name, before)
        for name in ("LiteLLM", "LiteLLM Router"):
            logging.getLogger(name).setLevel(self._verbosity)
