"""The service itself: live load, router, leases, logs, and what happens once a second."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from solver.errors import SpecError
from solver.interfaces.http.audit_trail import FLEET_FILE, Journal, now_text
from solver.interfaces.http.decision_memory import Assignments, Held, HeldLeases, RecentDecisions
from solver.interfaces.http.fleet import Fleet, read_fleet
from solver.interfaces.http.json_codec import to_json
from solver.interfaces.http.limits import ServiceLimits
from solver.interfaces.http.load_report import finite_or_none, load_report
from solver.interfaces.http.periodic_checks import Watch
from solver.interfaces.http.problem_details import RequestRefused, retry_after
from solver.interfaces.http.solves import SolverProcesses
from solver.load.balance.balancer import LoadBalancer
from solver.load.balance.prediction import CompletionPredictor
from solver.load.tracker import LoadTracker
from solver.online.decision_log import DecisionLog
from solver.online.parameters import RefreshParams
from solver.online.router import OptimalRouter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from solver.load.lease import Lease
    from solver.load.store.base import Store
    from solver.load.store.redis_answers import SharedAnswers
    from solver.online.decision import Decision

_LOG = logging.getLogger("solver.http")
_T = TypeVar("_T")

# The thread that computes prices shares an interpreter with the event loop: a tenth of it is what decisions can
# spare. Chosen by benchmarks/bench_service.py.
_REFRESH = RefreshParams(largest_share=0.1)


class Service:
    """Everything behind the HTTP interface. To be used in the event loop, but for what says otherwise.

    Parameters
    ----------
    store : Store, optional
        Of live load; default: this process.
    shared_answers : SharedAnswers, optional
        To requests with a key, where there are several replicas; default: this process's own.
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
    decision_log : Path, optional
        Where decisions and releases are noted as JSON Lines.

    Attributes
    ----------
    assigning : asyncio.Lock
        Held while assignments of ``auto-assign-all`` and by hand change, so that no agent is given two places.
    """

    def __init__(
        self,
        *,
        store: Store | None = None,
        shared_answers: SharedAnswers | None = None,
        fleet_file: Path | None = None,
        fleet: Fleet | None = None,
        limits: ServiceLimits | None = None,
        solver_processes: int = 1,
        replicas: int = 1,
        decision_log: Path | None = None,
    ) -> None:
        self.limits = limits or ServiceLimits()
        self._log = None
        if decision_log is not None:
            self._log = DecisionLog(
                decision_log,
                max_bytes=self.limits.decision_log_bytes,
                files=self.limits.decision_log_files,
                shared=True,  # by the routers of all fleets to come
            )
        self.tracker = LoadTracker(store)
        self.predictor = CompletionPredictor(clock=self.tracker.clock)
        self.tracker.listen(self.predictor.observe, forget=self.predictor.forget)
        self.journal = Journal(self.limits)
        self.watch = Watch(self.tracker, self.journal)
        self.held = HeldLeases()
        self.decisions = RecentDecisions(self.limits.decisions_kept)
        self.assignments = Assignments()
        self.assigning = asyncio.Lock()
        self.solvers = SolverProcesses(solver_processes, self.limits.waiting_solves)
        self.shared_answers = shared_answers
        self.draining = self.ready = False
        self._fleet_file = fleet_file
        self._file_seen: tuple[int, int] | None = None
        self._replicas = replicas
        self._installed: tuple[Fleet, OptimalRouter] | None = None
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="service")
        self._watching = ThreadPoolExecutor(1, thread_name_prefix="service-watch")
        self._balancers: dict[tuple[str, str, bool], LoadBalancer] = {}
        self._decision_prefix = secrets.token_hex(4)
        self._told = 0
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
        self.journal.events.close()
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self.solvers.close()
        if self.router is not None:
            self.router.close()
        if self._log is not None:
            self._log.close()
        for threads in (self._watching, self._threads):
            threads.shutdown(wait=False, cancel_futures=True)

    async def _warm(self) -> None:
        try:
            await self.solvers.warm()
        except Exception:  # noqa: BLE001 - logged, and `/readyz` goes on saying that the service is starting
            _LOG.exception("the processes that solve batches cannot be started")
        else:
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

    @property
    def log_dropped(self) -> int:
        """Records of decisions that the log could not hold."""
        return 0 if self._log is None else self._log.dropped

    # -- fleet

    @property
    def fleet(self) -> Fleet | None:
        """What is routed to; None: there is none."""
        return None if self._installed is None else self._installed[0]

    @property
    def router(self) -> OptimalRouter | None:
        """Who routes to it."""
        return None if self._installed is None else self._installed[1]

    def routing(self) -> tuple[Fleet, OptimalRouter]:
        """Return fleet and router, or refuse where there is none."""
        if self._installed is None:
            raise RequestRefused(409, "the service has no fleet: start it with --fleet FILE")
        return self._installed

    def install(self, fleet: Fleet) -> None:
        """Route to a fleet from now on, and go by its rules. In any thread.

        Models that are gone take nothing new; what runs on them ends as usual.

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
            refresh=_REFRESH,
            background="process",
            decision_log=self._log,
        )
        old = self._installed
        before = {} if old is None else {model.id: model for model in old[0].models}
        for model in fleet.models:
            if old is not None and before.get(model.id) != model:
                self.tracker.set_capacity(
                    model.id,
                    model.capacity,
                    requests_per_minute=model.requests_per_minute,
                    tokens_per_minute=model.tokens_per_minute,
                )
        for gone in before.keys() - set(fleet.ids):
            self.tracker.stop(gone, "drain", name="fleet", reason="no longer in the fleet file")
        for model_id in fleet.ids:
            self.tracker.resume(model_id, "drain", name="fleet")
        self._installed = fleet, router
        if old is None or (old[0].objective, old[0].task_types) != (fleet.objective, fleet.task_types):
            self._balancers = {}
        self.watch.use(fleet.alert_rules, fleet.scaling_rules)
        if old is not None:
            old[1].close()

    def _reload(self) -> None:
        """Take a changed fleet file; keep the fleet and raise an alert where it is not right."""
        path = self._fleet_file
        if path is None or (seen := _stamp(path)) == self._file_seen:
            return
        self._file_seen = seen
        try:
            self.install(read_fleet(path))
        except (SpecError, OSError) as error:
            self.journal.alert(FLEET_FILE, "", raised=True, detail=str(error)[:2_000])
        else:
            self.journal.clear(FLEET_FILE, "", "the fleet file is right again")
            self.journal.note("fleet file", "reloaded", str(path.name))

    # -- decisions and leases

    def hold(self, lease: Any, agent_id: str | None, decision: Decision | None = None) -> None:
        """Remember a lease that is being given out."""
        expires_s = self.tracker.clock.now() + lease.ttl_s
        self.held.add(Held(lease, agent_id, decision, expires_s))

    def release_later(self, leases: Sequence[Lease]) -> None:
        """Give leases back that no client will ever hear of, without waiting for it."""
        for lease in leases:
            self._threads.submit(lease.release)

    def log_decision(self, decision: Decision, request: bytes | None) -> bytes:
        """Add a decision to the log, with the request where it may be explained; return it as clients get it."""
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
            "margin": finite_or_none(decision.margin),
            "reason": decision.reason,
        }
        if refusal is not None:
            entry["retry_after_s"] = finite_or_none(refusal.retry_after_s)
        text = to_json(entry)
        self.decisions.add(entry["decision_id"], text, request)
        return text

    def balancer(self, strategy: str, routing: str, *, queue: bool, blind: bool) -> LoadBalancer:
        """Return the balancer of these strategies; a blind one looks at an empty fleet of its own."""
        key = (strategy, routing, queue)
        found = None if blind else self._balancers.get(key)
        if found is None:
            fleet = self.fleet
            found = LoadBalancer(
                LoadTracker() if blind else self.tracker,
                strategy,
                routing,
                load_weight=0.0 if blind else None,
                queue=queue,
                predictor=self.predictor,
                task_types=None if fleet is None else fleet.task_types,
                objective=None if fleet is None else fleet.objective,
            )
            if not blind:
                self._balancers[key] = found
        return found

    # -- once a second

    async def _tick(self) -> None:
        loop, events = asyncio.get_running_loop(), self.journal.events
        while True:
            try:
                # Percentiles of hundreds of models take longer than a decision may wait.
                report = await loop.run_in_executor(self._watching, self._look)
                self._expire()
                if report is not None:
                    events.publish("load", report)
                    new = min(self.decisions.count - self._told, 50)
                    if new > 0:
                        events.publish("decisions", self.decisions.latest(new))
                self._told = self.decisions.count
            except Exception:  # noqa: BLE001 - logged; the next second may go well
                _LOG.exception("sampling the load failed")
            await asyncio.sleep(self.limits.tick_s)

    def _look(self) -> dict[str, Any] | None:
        """Check files and rules; return the live load where a client listens."""
        self._reload()
        self.watch.sample(_EveryBalancer(tuple(self._balancers.values())))
        return self.load() if len(self.journal.events) else None

    def _expire(self) -> None:
        for held in self.held.expired(self.tracker.clock.now()):
            if held.decision is not None:
                # Settles what the router counts; the slot is free already.
                self._threads.submit(held.decision.release)
            self.assignments.ended(held.agent_id, held.lease)

    def load(self) -> dict[str, Any]:
        """Return the live load of every model, as clients get it. O(m), in any thread."""
        fleet, router = self.fleet, self.router
        return load_report(
            self.tracker,
            self.watch.trends,
            prices={} if router is None else router.prices(),
            fleet=frozenset() if fleet is None else frozenset(fleet.ids),
        )

    def state(self, load: dict[str, Any]) -> dict[str, Any]:
        """Return what a page shows at first: load, alerts, decisions and the audit trail."""
        return {
            "load": load,
            "alerts": list(self.journal.standing.values()),
            "decisions": self.decisions.latest(50),
            "audit": self.journal.audit(50),
            "draining": self.draining,
        }


class _EveryBalancer:
    """Redistributes through whichever balancer knows the work that waits."""

    def __init__(self, balancers: tuple[LoadBalancer, ...]) -> None:
        self._balancers = balancers

    def redistribute(self, model: str) -> list[str]:
        return [agent for balancer in self._balancers for agent in balancer.redistribute(model)]


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return what changes when a file does."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
