"""The service itself: live load, router, leases, logs, and what happens once a second."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from solver.errors import SpecError
from solver.interfaces.http.events import EventHub
from solver.interfaces.http.fleet import Fleet, read_fleet
from solver.interfaces.http.ledger import DecisionLog, Held, HeldLeases
from solver.interfaces.http.limits import ServiceLimits
from solver.interfaces.http.problem_details import RequestRefused, retry_after
from solver.interfaces.http.solves import SolverProcesses
from solver.load.balance.balancer import LoadBalancer
from solver.load.balance.prediction import CompletionPredictor
from solver.load.control.alerts import Alert, AlertMonitor, AlertRule
from solver.load.control.capacity import CapacityManager
from solver.load.observe.trends import Trends
from solver.load.tracker import LoadTracker
from solver.online.router import OptimalRouter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from solver.load.control.capacity import CapacityEvent, ScalingRule
    from solver.load.store.base import Store
    from solver.online.decision import Decision
    from solver.problem.spec import Agent

__all__ = ["ALERT_RULES", "Placed", "Service", "now_text"]

_LOG = logging.getLogger("solver.http")
_T = TypeVar("_T")

ALERT_RULES = (
    AlertRule(name="high utilization", metric="utilization", threshold=0.95, clear=0.85, hold_s=10.0),
    AlertRule(name="slow", metric="p99_ms", threshold=30_000.0, hold_s=30.0),
    AlertRule(name="failing", metric="failure_rate", threshold=0.2, clear=0.1, hold_s=10.0),
)
"""Alerts of a service that is not told otherwise."""


def now_text() -> str:
    """Return the time as text: UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(slots=True, eq=False)
class Placed:
    """An assignment that ``auto-assign-all`` made, or an operator."""

    agent_id: str
    model_id: str | None
    score: float
    reason: str
    lease_id: str | None = None
    at: str = field(default_factory=now_text)
    overridden_by: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the assignment as clients get it."""
        return asdict(self)


class Service:
    """Everything behind the HTTP interface. To be used in the event loop, but for what says otherwise.

    Parameters
    ----------
    store : Store, optional
        Of live load; default: this process.
    fleet_file : Path, optional
        The fleet; read again when it changes.
    fleet : Fleet, optional
        The fleet itself, where there is no file.
    limits : ServiceLimits, optional
        Bounds.
    solver_processes : int
        Processes that solve batches.
    replicas : int
        Services that share the store, this one included.
    alert_rules, scaling_rules : sequence, optional
        What to watch.
    """

    def __init__(
        self,
        *,
        store: Store | None = None,
        fleet_file: Path | None = None,
        fleet: Fleet | None = None,
        limits: ServiceLimits | None = None,
        solver_processes: int = 1,
        replicas: int = 1,
        alert_rules: Sequence[AlertRule] = ALERT_RULES,
        scaling_rules: Sequence[ScalingRule] = (),
    ) -> None:
        self.limits = limits or ServiceLimits()
        self.tracker = LoadTracker(store)
        self.trends = Trends(clock=self.tracker.clock)
        self.predictor = CompletionPredictor(clock=self.tracker.clock)
        self.tracker.listen(self.trends.observe)
        self.tracker.listen(self.predictor.observe)
        self.fleet_file = fleet_file
        self._file_seen: tuple[int, int] | None = None
        self._replicas = replicas
        self.fleet: Fleet | None = None
        self.router: OptimalRouter | None = None
        self.held = HeldLeases()
        self.decisions = DecisionLog(self.limits.decisions_kept)
        self.assignments: dict[str, Placed] = {}
        self.audit: deque[dict[str, Any]] = deque(maxlen=self.limits.audit_kept)
        self.alert_log: deque[dict[str, Any]] = deque(maxlen=self.limits.alerts_kept)
        self.standing: dict[tuple[str, str], dict[str, Any]] = {}
        self.events = EventHub(self.limits.subscribers)
        self.monitor = AlertMonitor(alert_rules, [self._note_alert], clock=self.tracker.clock)
        self.manager = CapacityManager(scaling_rules, self.tracker.clock, sink=self._note_scaling)
        self.solvers = SolverProcesses(solver_processes, self.limits.waiting_solves)
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="service")
        self._balancers: dict[tuple[str, str, bool], LoadBalancer] = {}
        self._decision_prefix = secrets.token_hex(4)
        self._told = 0
        self.draining = self.ready = False
        self._tasks: list[asyncio.Task[None]] = []
        if fleet_file is not None:
            self._file_seen = _stamp(fleet_file)
            fleet = read_fleet(fleet_file)
        if fleet is not None:
            self.install(fleet)

    # -- running

    async def start(self) -> None:
        """Begin to sample the load and to warm the solver processes."""
        self._tasks = [asyncio.create_task(self._tick()), asyncio.create_task(self._warm())]

    async def stop(self) -> None:
        """End everything that runs by itself."""
        self.draining = True
        self.events.close()
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self.solvers.close()
        if self.router is not None:
            self.router.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _warm(self) -> None:
        await self.solvers.warm()
        self.ready = True

    def admit(self) -> None:
        """Refuse new work while the service shuts down."""
        if self.draining:
            raise RequestRefused(503, "the service is shutting down", headers=retry_after(1.0))

    async def off_loop(self, work: Callable[[], _T]) -> _T:
        """Run what takes long, or waits for a network, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def on_store(self, work: Callable[[], _T]) -> _T:
        """Run an operation of the store: here where it takes microseconds, in a thread where it is remote."""
        return await self.off_loop(work) if self.tracker.store.remote else work()

    # -- fleet

    def install(self, fleet: Fleet) -> None:
        """Route to a fleet from now on. Models that are gone take nothing new; what runs on them ends as usual.

        Raises
        ------
        SpecError
            If the fleet breaks a rule; the one before stays.
        """
        router = OptimalRouter(
            self.tracker,
            fleet.models,
            fleet.objective,
            budget_usd=fleet.budget_usd,
            budget_period_s=fleet.budget_period_s,
            tenant_shares=fleet.tenant_shares,
            task_types=fleet.task_types,
            predictor=self.predictor,
            replicas=self._replicas,
        )
        before, old = self.fleet, self.router
        changed = {} if before is None else {model.id: model for model in before.models}
        for model in fleet.models:
            if changed.get(model.id, model) != model:
                self.tracker.set_capacity(
                    model.id,
                    model.capacity,
                    requests_per_minute=model.requests_per_minute,
                    tokens_per_minute=model.tokens_per_minute,
                )
        for gone in changed.keys() - set(fleet.ids):
            self.tracker.stop(gone, "drain", name="fleet", reason="no longer in the fleet file")
        for back in set(fleet.ids):
            self.tracker.resume(back, "drain", name="fleet")
        self.fleet, self.router = fleet, router
        if old is not None:
            old.close()

    def routing(self) -> tuple[Fleet, OptimalRouter]:
        """Return fleet and router, or refuse where there is none."""
        if self.fleet is None or self.router is None:
            raise RequestRefused(409, "the service has no fleet: start it with --fleet FILE")
        return self.fleet, self.router

    def _reload(self) -> None:
        """Take a changed fleet file; keep the fleet and raise an alert where it is not right."""
        path = self.fleet_file
        if path is None or (seen := _stamp(path)) == self._file_seen:
            return
        self._file_seen = seen
        key = ("fleet file", "")
        try:
            self.install(read_fleet(path))
        except (SpecError, OSError) as error:
            self._alert(*key, raised=True, detail=str(error)[:2_000])
        else:
            if key in self.standing:
                self._alert(*key, raised=False, detail="the fleet file is right again")
            self.note("fleet file", "reloaded", str(path.name))

    # -- logs

    def note(self, who: str, action: str, what: str, **details: Any) -> None:
        """Add a line to the audit trail."""
        entry = {"at": now_text(), "who": who, "action": action, "what": what} | details
        self.audit.append(entry)
        self.events.publish("audit", entry)
        _LOG.warning("%s %s %s", who, action, what, extra={"audit": entry})

    def _alert(self, rule: str, model: str, *, raised: bool, detail: str, **figures: Any) -> None:
        entry = {"at": now_text(), "rule": rule, "model": model, "raised": raised, "detail": detail} | figures
        if raised:
            self.standing[rule, model] = entry
        else:
            self.standing.pop((rule, model), None)
        self.alert_log.append(entry)
        self.events.publish("alert", entry)
        _LOG.warning("alert %s %s %s", rule, model, "raised" if raised else "cleared", extra={"alert": entry})

    def _note_alert(self, alert: Alert) -> None:
        detail = f"{alert.metric} {alert.value:.4g}, threshold {alert.threshold:.4g}"
        self._alert(
            alert.rule,
            alert.model,
            raised=alert.raised,
            detail=detail,
            metric=alert.metric,
            value=alert.value,
            threshold=alert.threshold,
        )

    def _note_scaling(self, event: CapacityEvent) -> None:
        detail = f"utilization {event.utilization:.2f}" + (f", {event.slots} slots" if event.slots else "")
        self._alert(f"scaling: {event.action.value}", event.model, raised=event.active, detail=detail)

    # -- decisions and leases

    def hold(self, lease: Any, agent_id: str | None, decision: Decision | None = None) -> None:
        """Remember a lease that is being given out."""
        expires_s = self.tracker.clock.now() + lease.ttl_s
        self.held.add(Held(lease, agent_id, decision, expires_s))

    def log_decision(self, decision: Decision, agent: Agent | None) -> dict[str, Any]:
        """Add a decision to the log and return it as clients get it."""
        lease, refusal = decision.lease, decision.refusal
        entry: dict[str, Any] = {
            "decision_id": f"{self._decision_prefix}-{self.decisions.count}",
            "at": now_text(),
            "agent_id": decision.agent_id,
            "model": decision.model,
            "lease_id": None if lease is None else lease.lease_id,
            "lease_state": None if lease is None else lease.granted.value,
            "ttl_s": None if lease is None else lease.ttl_s,
            "score": decision.score,
            "price": decision.price,
            "runner_up": decision.runner_up,
            "margin": _finite(decision.margin),
            "reason": decision.reason,
        }
        if refusal is not None:
            entry["retry_after_s"] = _finite(refusal.retry_after_s)
        self.decisions.add(entry, agent)
        return entry

    def balancer(self, strategy: str, routing: str, *, queue: bool, blind: bool) -> LoadBalancer:
        """Return the balancer of these strategies; a blind one looks at an empty fleet of its own."""
        if blind:
            return LoadBalancer(LoadTracker(), strategy, routing, load_weight=0.0, queue=queue)
        key = (strategy, routing, queue)
        if key not in self._balancers:
            self._balancers[key] = LoadBalancer(
                self.tracker, strategy, routing, queue=queue, predictor=self.predictor
            )
        return self._balancers[key]

    # -- once a second

    async def _tick(self) -> None:
        while True:
            try:
                await self.on_store(self._sample)
                self._expire()
                if len(self.events):
                    self.events.publish("load", await self.on_store(self.load))
                    new = min(self.decisions.count - self._told, 50)
                    if new > 0:
                        self.events.publish("decisions", self.decisions.latest(new))
                self._told = self.decisions.count
            except Exception:  # noqa: BLE001 - logged; the next second may go well
                _LOG.exception("sampling the load failed")
            await asyncio.sleep(self.limits.tick_s)

    def _sample(self) -> None:
        self._reload()
        self.trends.sample(self.tracker.snapshot())
        self.monitor.check(self.tracker, self.trends)
        self.manager.enforce(self.tracker)

    def _expire(self) -> None:
        for held in self.held.expired(self.tracker.clock.now()):
            if held.decision is not None:
                decision = held.decision
                self._threads.submit(
                    decision.release
                )  # settles what the router counts; the slot is free already
            placed = self.assignments.get(held.agent_id or "")
            if placed is not None and placed.lease_id == held.lease.lease_id:
                del self.assignments[placed.agent_id]

    def load(self) -> dict[str, Any]:
        """Return the live load of every model, as clients get it. O(m)."""
        snapshot = self.tracker.snapshot()
        prices = {} if self.router is None else self.router.prices()
        fleet = set() if self.fleet is None else set(self.fleet.ids)
        now_s = self.tracker.clock.now()
        models = []
        for j, model in enumerate(snapshot.models):
            latency = self.trends.latency(model)
            models.append(
                {
                    "model": model,
                    "in_fleet": model in fleet,
                    "active_requests": int(snapshot.active[j]),
                    "queue_depth": int(snapshot.queued[j]),
                    "max_concurrent": int(snapshot.max_concurrent[j]),
                    "max_queue": int(snapshot.max_queue[j]),
                    "utilization": float(snapshot.utilization[j]),
                    "target_utilization": float(snapshot.target[j]),
                    "accepting": bool(snapshot.accepting[j]),
                    "slot_price": prices.get(model),
                    "requests_60s": latency.requests,
                    "success_rate": latency.success_rate,
                    "p50_ms": latency.p50_ms,
                    "p95_ms": latency.p95_ms,
                    "p99_ms": latency.p99_ms,
                    "stops": [
                        {
                            "owner": stop.owner.value,
                            "name": stop.name,
                            "reason": stop.reason,
                            "ends_in_s": _finite(max(0.0, stop.until_s - now_s)),
                        }
                        for stop in snapshot.stops.get(model, ())
                    ],
                }
            )
        return {"at": now_text(), "models": models}

    def state(self) -> dict[str, Any]:
        """Return what a page shows at first: load, alerts, decisions and the audit trail."""
        return {
            "load": self.load(),
            "alerts": list(self.standing.values()),
            "decisions": self.decisions.latest(50),
            "audit": list(self.audit)[-50:],
            "draining": self.draining,
        }


def _finite(value: float | None) -> float | None:
    return None if value is None or not abs(value) < float("inf") else float(value)


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return what changes when a file does."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
