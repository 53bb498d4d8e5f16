"""Chooses one of the deployments that LiteLLM calls healthy, and reserves it."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.interfaces.litellm.fleet import FleetOptions, describe, expected_tokens, models_of, set_capacities
from solver.interfaces.litellm.queued_calls import SlotQueue
from solver.interfaces.litellm.request_leases import CallEnd, LeaseLedger
from solver.load.balance.prediction import CompletionPredictor
from solver.load.tracker import LoadTracker
from solver.online.learned_answer_size import AnswerSize
from solver.online.router import OptimalRouter
from solver.online.rows import RowMaker
from solver.online.window import AgentRow, Forecast
from solver.problem.spec import Agent, Objective

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from solver.load.request_outcome import Outcome
    from solver.online.decision import Decision
    from solver.problem.spec import Model

_log = logging.getLogger(__name__)


class Selector:
    """The fleet behind a LiteLLM router, the router that prices it, and the ledger of its leases. Thread-safe.

    Parameters
    ----------
    tracker : LoadTracker, optional
        Shared with others, such as one over Redis; default: one of its own.
    options : FleetOptions, optional
        What LiteLLM's model list does not say.
    """

    def __init__(self, tracker: LoadTracker | None = None, options: FleetOptions | None = None) -> None:
        self.tracker = tracker or LoadTracker()
        self.options = options or FleetOptions()
        self.ledger = LeaseLedger(self.tracker.clock, self.options.ttl_s)
        self.queue: SlotQueue | None = None
        if self.options.queue:
            self.queue = SlotQueue(self.tracker, self.options.queue_timeout_s, self.options.select_ttl_s)
        self._predictor = CompletionPredictor(clock=self.tracker.clock)
        self._answer = AnswerSize(self.options.output_tokens)
        self.tracker.listen(self._predictor.observe)
        self.tracker.listen(self._note_answer)
        self._lock = threading.Lock()
        self._deployments: dict[str, dict[str, Any]] = {}
        self._limits: dict[str, Any] = {}
        self._router: OptimalRouter | None = None
        self._rows: RowMaker | None = None
        self._columns: dict[str, int] = {}
        self._stop = threading.Event()
        self._timer: threading.Thread | None = None

    def _note_answer(self, outcome: Outcome) -> None:
        if outcome.success and outcome.output_tokens:
            self._answer.learn(outcome.output_tokens)

    # -- the fleet

    def learn(self, deployments: Sequence[Mapping[str, Any]]) -> None:
        """Take note of new or changed deployments; prices start anew when the set of pools changes."""
        changed = [entry for entry in deployments if self._is_new(entry)]
        if not changed:
            return
        with self._lock:
            for entry in changed:
                read = describe(entry)
                self._deployments[read.id] = dict(entry)
                self._limits[read.id] = (read.pool, read.limits)
            fleet = list(self._deployments.values())
            set_capacities(self.tracker, fleet, self.options)
            models = models_of(fleet, self.options)
            if self._router is None or [model.id for model in models] != list(self._columns):
                self._rebuild(models)

    def _is_new(self, entry: Mapping[str, Any]) -> bool:
        read = describe(entry)
        return self._limits.get(read.id) != (read.pool, read.limits)

    def _rebuild(self, models: list[Model]) -> None:
        objective = Objective(latency_weight=0.0, cost_weight=0.0)
        before = self._router
        self._rows = RowMaker(models, objective, predictor=self._predictor)
        options = self.options
        self._router = OptimalRouter(
            self.tracker,
            models,
            objective,
            predictor=self._predictor,
            ttl_s=options.select_ttl_s,
            queue=self.queue is not None,
            wait_cost_per_s=0.0 if self.queue is None else options.latency_weight,
        )
        self._columns = {model.id: j for j, model in enumerate(models)}
        if before is not None:
            before.close()

    # -- one request

    def prepare(
        self, healthy: Sequence[Mapping[str, Any]], request: Mapping[str, Any], messages: Any, text: Any
    ) -> tuple[OptimalRouter, AgentRow, dict[str, Mapping[str, Any]]]:
        """Return the router, the row of the request, and the deployment that stands for each pool."""
        self.start()
        self.ledger.drain()
        self.learn(healthy)
        router, rows = self._router, self._rows
        assert router is not None
        assert rows is not None
        of_pool: dict[str, Mapping[str, Any]] = {}
        for entry in healthy:
            of_pool.setdefault(describe(entry).pool, entry)
        tokens_in, tokens_out = expected_tokens(request, messages, text, self.options)
        agent = Agent(
            id="request",
            task_type=(request.get("metadata") or {}).get("task_type"),
            input_tokens=tokens_in,
            output_tokens=tokens_out,
        )
        row = rows.of_agent(agent)  # limits and budgets count on the longest answer that was asked for
        asked = request.get("max_tokens") or request.get("max_completion_tokens")
        answer = min(float(tokens_out), self._answer.tokens) if asked else self._answer.tokens
        service_s = 1e-3 * self._predictor.predict_ms(rows.pool.models, [tokens_in], [answer])[0]
        scores = np.full(len(self._columns), -np.inf)
        for pool, entry in of_pool.items():
            j = self._columns[pool]
            quality = self._quality(entry, dict(request), float(row.scores[j]) / 100.0)
            scores[j] = quality
        weight = self.options.latency_weight
        scores -= weight * service_s
        if row.cost_usd is not None:
            scores -= self.options.cost_weight * row.cost_usd
        forecast = Forecast(tokens_in, answer, weight)
        return router, row._replace(scores=scores, service_s=service_s, forecast=forecast), of_pool

    def _quality(self, entry: Mapping[str, Any], request: dict[str, Any], capability: float) -> float:
        given, info = self.options.scores, entry["model_info"]
        if callable(given):
            return float(given(dict(entry), request))
        if given is not None:
            read = describe(entry)
            for name in (read.id, read.upstream, read.pool):
                if name in given:
                    return float(given[name])
        if info.get("solver_score") is not None:
            return float(info["solver_score"])
        return capability if info.get("solver_capabilities") else 1.0

    def keep(self, decision: Decision, deployment: Mapping[str, Any], trace: str) -> None:
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
        """Stop the threads."""
        self._stop.set()
        if self._timer is not None:
            self._timer.join()
        if self._router is not None:
            self._router.close()


def owner() -> object:
    """Return what runs one call at a time: the task, or the thread outside of a loop."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return id(task) if task is not None else threading.get_ident()


def end_of(response: Any, *, success: bool, cached: bool = False) -> CallEnd:
    """Read tokens and cost from a response, as far as it states them."""
    usage = getattr(response, "usage", None) or (
        response.get("usage") if isinstance(response, dict) else None
    )
    total = getattr(usage, "total_tokens", None)
    if total is None and isinstance(usage, dict):
        total = usage.get("total_tokens")
    hidden = getattr(response, "_hidden_params", None)
    cost = hidden.get("response_cost") if isinstance(hidden, dict) else None
    return CallEnd(
        success=success,
        timed=not cached,
        tokens=total if isinstance(total, int) and total >= 0 else None,
        cost_usd=float(cost) if isinstance(cost, int | float) and cost >= 0 else None,
    )


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
    return seconds if seconds is not None and 0 <= seconds < np.inf else None
