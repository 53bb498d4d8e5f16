"""Chooses one of the deployments that LiteLLM calls healthy, and reserves it."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from solver.errors import SpecError
from solver.errors import describe as describe_value
from solver.interfaces.litellm.fleet import (
    Deployment,
    FleetOptions,
    describe,
    is_score,
    pool_of,
    pools_of,
    set_capacity,
)
from solver.interfaces.litellm.queued_calls import SlotQueue
from solver.interfaces.litellm.request_leases import CallEnd, LeaseLedger
from solver.interfaces.litellm.request_size import asked_tokens, expected_tokens, stated_task_type
from solver.load.checks import LARGEST_USD, LARGEST_WHOLE
from solver.load.store.memory import MemoryStore
from solver.load.tracker import LoadTracker
from solver.online.learned_answer_size import AnswerSize
from solver.online.router import OptimalRouter
from solver.online.rows import RowMaker
from solver.online.setup import learners
from solver.online.window import AgentRow, Forecast
from solver.problem.spec import Agent, Capacity, Objective

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from solver.load.request_outcome import Outcome
    from solver.online.decision import Decision
    from solver.problem.spec import Model

_log = logging.getLogger(__name__)

_MOST_WARNINGS = 1000
"""Subjects warned of; names in requests are without end."""

_ANY_CAPACITY = Capacity(max_concurrent=1)


class _Fleet(NamedTuple):
    """What one request is decided by; replaced as a whole."""

    router: OptimalRouter
    rows: RowMaker
    columns: dict[str, int]
    has_capabilities: bool


class Selector:
    """The fleet behind a LiteLLM router, the router that prices it, and the ledger of its leases. Thread-safe.

    Parameters
    ----------
    tracker : LoadTracker, optional
        Shared with others, such as one over Redis; default: one of its own, which counts each process of a fork by
        itself, as LiteLLM's own limits do.
    options : FleetOptions, optional
        What LiteLLM's model list does not say.
    """

    def __init__(self, tracker: LoadTracker | None = None, options: FleetOptions | None = None) -> None:
        self._shared = tracker is not None
        self.tracker = LoadTracker(MemoryStore(per_process=True)) if tracker is None else tracker
        self.options = options or FleetOptions()
        self.queue: SlotQueue | None = None
        if self.options.queue:
            self.queue = SlotQueue(self.tracker, self.options.queue_timeout_s, self.options.select_ttl_s)
        self._predictor, self._tail = learners(self.tracker, None, self.options.tail_weight)
        self._answer = AnswerSize(self.options.output_tokens)
        self.tracker.listen(self._note_answer)
        self._deployments: dict[str, dict[str, Any]] = {}
        self._described: dict[str, Deployment] = {}
        self._warned: set[tuple[str, str]] = set()
        self.closed = False
        self._begin_process()
        _SELECTORS.add(self)

    def _begin_process(self) -> None:
        """Set what no two processes may share, also in the child of a fork: it holds none of its parent's leases."""
        self.ledger = LeaseLedger(self.tracker.clock, self.options.ttl_s)
        self._lock = threading.Lock()
        self._fleet: _Fleet | None = None
        self._stop = threading.Event()
        self._timer: threading.Thread | None = None
        if self.queue is not None:
            self.queue.begin_process()

    def _after_fork(self) -> None:
        self._begin_process()
        if self._deployments and not self._shared:
            _log.warning(
                "forked: every process counts its own calls; a tracker over Redis would count all of them"
            )

    @property
    def pools(self) -> tuple[str, ...]:
        """Names of the pools that are priced now."""
        return () if self._fleet is None else tuple(self._fleet.columns)

    def _note_answer(self, outcome: Outcome) -> None:
        if outcome.success and outcome.output_tokens:
            self._answer.learn(outcome.input_tokens or 0, outcome.output_tokens)

    # -- the fleet

    def follow(self, deployments: Sequence[Mapping[str, Any]]) -> None:
        """Take the deployments that a router has now, in place of those before.

        Raises
        ------
        SpecError
            If the first ones cannot be read; of later ones, what cannot be read is logged and left out.
        """
        with self._lock:
            self._deployments = {describe(entry).id: dict(entry) for entry in deployments}
            self._settle(first=self._fleet is None)

    def learn(self, deployments: Sequence[Mapping[str, Any]]) -> None:
        """Take note of deployments of a request that are new or changed."""
        with self._lock:
            self._deployments.update((describe(entry).id, dict(entry)) for entry in deployments)
            self._settle(first=False)

    def _settle(self, *, first: bool) -> None:
        """Set capacities; prices start anew when the pools or what is known of them have changed."""
        self._described = {name: describe(entry) for name, entry in self._deployments.items()}
        entries = list(self._deployments.values())
        if not first:
            entries = [entry for entry in entries if self._is_readable(entry)]
        pools = pools_of(entries, self.options)
        for pool in pools:
            set_capacity(self.tracker, pool)
        if not pools:
            return
        models = [pool.model for pool in pools]
        before = self._fleet
        if before is None or _lasting(models) != _lasting(before.rows.pool.models):
            self._fleet = self._priced(models)
            if before is not None:
                before.router.close()

    def _is_readable(self, entry: Mapping[str, Any]) -> bool:
        try:
            pool_of(entry, self.options)
        except SpecError as error:
            self._warn_once(describe(entry).id, f"a deployment is left out: {error}")
            return False
        return True

    def _priced(self, models: list[Model]) -> _Fleet:
        objective = Objective(latency_weight=0.0, cost_weight=0.0)
        options = self.options
        router = OptimalRouter(
            self.tracker,
            models,
            objective,
            predictor=self._predictor,
            ttl_s=options.select_ttl_s,
            queue=self.queue is not None,
            wait_cost_per_s=0.0 if self.queue is None else options.latency_weight,
        )
        return _Fleet(
            router,
            RowMaker(models, objective, predictor=self._predictor),
            {model.id: j for j, model in enumerate(models)},
            any(model.capabilities for model in models),
        )

    def _warn_once(self, subject: str, message: str) -> None:
        """Log a warning, once for each subject: a request that cannot be read is served all the same."""
        key = (subject[:200], message[:40])
        if key not in self._warned and len(self._warned) < _MOST_WARNINGS:
            self._warned.add(key)
            _log.warning("%s", message)

    # -- one request

    def prepare(
        self, healthy: Sequence[Mapping[str, Any]], request: Mapping[str, Any], messages: Any, text: Any
    ) -> tuple[OptimalRouter, AgentRow, dict[str, Mapping[str, Any]]]:
        """Return the router, the row of the request, and the deployment that stands for each pool."""
        self.start()
        self.ledger.drain()
        reads = [(describe(entry), entry) for entry in healthy]
        described = self._described
        if self._fleet is None or any(described.get(read.id) != read for read, _ in reads):
            self.learn(healthy)
        fleet = self._fleet
        if fleet is None:
            raise SpecError("model_list: expected a deployment that can be read")
        router, rows, columns, _ = fleet
        tokens_in, tokens_out = expected_tokens(request, messages, text, self.options)
        agent = Agent(
            id="request",
            task_type=self._task_type(request, fleet),
            input_tokens=tokens_in,
            output_tokens=tokens_out,
        )
        row = rows.of_agent(agent)  # limits and budgets count on the longest answer that was asked for
        usual = self._answer.expected(tokens_in)
        answer = usual if asked_tokens(request) is None else min(float(tokens_out), usual)
        service_s = 1e-3 * self._predictor.predict_ms(rows.pool.models, [tokens_in], [answer])[0]
        scores = np.full(len(columns), -np.inf)
        of_pool: dict[str, Mapping[str, Any]] = {}
        for read, entry in reads:
            j = columns.get(read.pool)
            if j is not None and read.pool not in of_pool:
                of_pool[read.pool] = entry
                scores[j] = self._quality(read, entry, request, float(row.scores[j]) / 100.0)
        if not of_pool:
            raise SpecError("model_list: none of the deployments of this request can be read")
        weight = self.options.latency_weight
        scores -= weight * service_s
        if self._tail is not None:
            scores -= self._tail.costs(rows.pool.models, [tokens_in])[0]
        if row.cost_usd is not None:
            scores -= self.options.cost_weight * row.cost_usd
        forecast = Forecast(tokens_in, answer, weight)
        return router, row._replace(scores=scores, service_s=service_s, forecast=forecast), of_pool

    def _task_type(self, request: Mapping[str, Any], fleet: _Fleet) -> str | None:
        """Return the task type of a request, None where it states none or no capability depends on it."""
        stated = stated_task_type(request) if fleet.has_capabilities else None
        if stated is None:
            return None
        if isinstance(stated, str) and stated in fleet.rows.pool.scorer.names.task_types:
            return stated
        shown = describe_value(stated)
        self._warn_once(
            shown, f"metadata.task_type: unknown, got {shown}; requests of it are scored as without one"
        )
        return None

    def _quality(
        self, read: Deployment, entry: Mapping[str, Any], request: Mapping[str, Any], capability: float
    ) -> float:
        """Return the quality of a deployment, the default where what the user gave is no number."""
        given, info = self.options.scores, entry["model_info"]
        quality: Any = info.get("solver_score")
        if callable(given):
            try:
                quality = float(given(dict(entry), dict(request)))
            except Exception:  # noqa: BLE001 - the user's own function: logged, and the request is served
                _log.exception("FleetOptions.scores failed for %s", read.id)
                quality = None
        elif given is not None:
            named = (given[name] for name in (read.id, read.upstream, read.pool) if name in given)
            quality = next(named, quality)
            if quality is None:
                self._warn_once(read.id, f"FleetOptions.scores does not name deployment {read.id}")
        if is_score(quality):
            return float(quality)
        if quality is not None:
            shown = describe_value(quality)
            self._warn_once(read.id, f"the score of deployment {read.id} is no number: {shown}")
        return capability if info.get("solver_capabilities") else 1.0

    def keep(self, decision: Decision, deployment: Mapping[str, Any], trace: Any) -> None:
        """Remember a reservation until its call starts."""
        self.ledger.select(trace, describe(deployment).id, owner(), decision)

    def pause(self, deployment_id: str | None, seconds: float) -> None:
        """Keep new work away from a deployment whose server asked for it."""
        entry = self._deployments.get(deployment_id or "")
        if entry is not None and seconds > 0:
            self.tracker.stop(
                describe(entry).pool, "cooldown", reason="upstream status 429", for_s=seconds, extend=True
            )

    # -- the timer

    def start(self) -> None:
        """Start the thread that renews running leases and releases dropped ones."""
        if self._timer is not None and self._timer.is_alive():
            return
        with self._lock:
            if self._timer is None or not self._timer.is_alive():
                self._stop.clear()
                self._timer = threading.Thread(target=self._run, name="solver-litellm-leases", daemon=True)
                self._timer.start()

    def _run(self) -> None:
        while not self._stop.wait(min(self.options.ttl_s / 3.0, 5.0)):
            try:
                self.ledger.drain()
                self.ledger.renew()
            except Exception:  # noqa: BLE001 - logged; the timer goes on
                _log.exception("leases could not be renewed; the next attempt follows")

    def close(self) -> None:
        """Stop the threads. From then on LiteLLM tells of no call's end, so that nothing is reserved any more."""
        self.closed = True
        self._stop.set()
        if self._timer is not None:
            self._timer.join()
        if self._fleet is not None:
            self._fleet.router.close()


_SELECTORS: weakref.WeakSet[Selector] = weakref.WeakSet()


def _tell_selectors_of_fork() -> None:
    for selector in list(_SELECTORS):
        selector._after_fork()  # noqa: SLF001 # of this module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_tell_selectors_of_fork)


def _lasting(models: Sequence[Model]) -> list[Model]:
    """Return models without what the tracker is told of, whenever it changes."""
    return [model.model_copy(update={"capacity": _ANY_CAPACITY}) for model in models]


def owner() -> object:
    """Return what runs one call at a time: the task, or the thread outside of a loop."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return id(task) if task is not None else threading.get_ident()


def end_of(response: Any, *, success: bool, cached: bool = False) -> CallEnd:
    """Read tokens and cost from a response, as far as it states them; what no server can mean counts as not stated.

    No tokens are such a figure: LiteLLM fills them in where a server states no usage. An answer from LiteLLM's cache
    has used nothing.
    """
    if cached:
        return CallEnd(success=success, timed=False, tokens=0, cost_usd=0.0)
    usage = _stated(response, "usage")
    total, hidden = _stated(usage, "total_tokens"), getattr(response, "_hidden_params", None)
    cost = _stated(hidden, "response_cost")
    return CallEnd(
        success=success,
        tokens=total if type(total) is int and 0 < total <= LARGEST_WHOLE else None,
        cost_usd=float(cost) if isinstance(cost, int | float) and 0 <= cost <= LARGEST_USD else None,
    )


def _stated(source: Any, name: str) -> Any:
    return source.get(name) if isinstance(source, dict) else getattr(source, name, None)


def retry_after_s(error: BaseException) -> float | None:
    """Return the seconds an upstream asked to be left alone, None where it did not."""
    sources = (getattr(error, "response", None), error)
    names = ("headers", "litellm_response_headers")  # where versions of LiteLLM keep them
    values = [(getattr(source, name, None) or {}).get("retry-after") for source in sources for name in names]
    value = next((value for value in values if value is not None), None)
    try:
        seconds = float(value) if value is not None else None
    except ValueError:
        return None
    return seconds if seconds is not None and 0 <= seconds < math.inf else None
