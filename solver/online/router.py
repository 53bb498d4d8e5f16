"""OptimalRouter: one agent at a time, at the quality of a whole batch, reserved as it is decided."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from solver.errors import SpecError, Violation
from solver.load.balance.prediction import CompletionPredictor
from solver.load.lease import ONE_SLOT, Demand, Lease, ReleaseOutcome
from solver.online.async_routing import LASTING, AsyncRouting
from solver.online.choices import Candidates, Choice
from solver.online.decision import Decision, RouteRefusal, RouteRefusalReason
from solver.online.gathering import Gathering
from solver.online.joint import place_jointly
from solver.online.live import LiveLoad
from solver.online.parameters import PriceParams, RefreshParams
from solver.online.pricing import HorizonPricing, Pricing, SteadyPricing
from solver.online.refresher import Refresher
from solver.online.router_status import RouterStatus
from solver.online.rows import RowMaker
from solver.online.setup import announce, check_parameters, open_log, per_second
from solver.online.spending import Spending
from solver.online.window import AgentRow, History, Window
from solver.problem.spec import Objective

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Self

    from numpy.typing import ArrayLike

    from solver.load.refusal import Refusal
    from solver.load.tracker import LoadTracker
    from solver.online.decision_log import DecisionLog
    from solver.problem.spec import Agent, Model

__all__ = ["OptimalRouter"]

_PENDING_ARRIVALS = 4096
"""Arrivals kept for the next refresh; older ones are dropped."""


class OptimalRouter(AsyncRouting):
    """Routes agents one at a time by the prices that capacity has for those still to come.

    A decision is one subtraction and an arg-max; prices are computed in the background from a window of
    recent agents. Thread-safe. See :doc:`/explanation/online-routing`.

    Parameters
    ----------
    tracker : LoadTracker
        The live load; it has the last word on every reservation. Models it does not know yet are given the
        capacity they state.
    models : sequence of Model
        The fleet; the order of all arrays.
    objective : Objective, optional
        What is maximised. ``load_weight`` has no effect: prices stand in its place. Without
        ``unassigned_penalty`` agents are turned away only for want of room or money; in a finite horizon, while
        slots suffice for all still to come, nobody is.
    horizon : int, optional
        Agents still to come, who use slots up (``Capacity.slots``, else ``max_concurrent``). None: steady
        traffic, where slots come back.
    budget_usd : float, optional
        Money for the horizon, or for each ``budget_period_s``; never exceeded by expected costs.
    history : (N, m) array_like or History, optional
        Scores of past agents, or more about them.
    background : bool
        Whether prices are computed in a thread. False: inside :meth:`route`, deterministic.
    seed : int
        Of the order in which replicas of one model are preferred.
    budget_period_s : float, optional
        Seconds for which ``budget_usd`` has to last in steady traffic; then it starts anew.
    tenant_shares : mapping of str to float, optional
        Most of the fleet's slot time that a tenant should get, 0 to 1: a price, not a hard limit.
    queue : bool
        Whether queue places count as room; a queued lease becomes running by itself.
    wait_cost_per_s : float
        Score lost per second waited, >= 0.
    ttl_s : float
        Time to live of leases, seconds.
    replicas : int
        Routers that share the traffic over one store, this one included.
    predictor : CompletionPredictor, optional
        Of service times; default: one of its own that listens to the tracker.
    task_types : mapping of str to tuple of str, optional
        Required capabilities of the user's own task types.
    prices, refresh : PriceParams, RefreshParams, optional
        Tuning constants.
    decision_log : DecisionLog, str or Path, optional
        Where every decision is noted; default: nowhere. The router closes it.

    Raises
    ------
    SpecError
        If a parameter is out of range, or the log cannot be written.

    Examples
    --------
    >>> import solver
    >>> models = [
    ...     solver.Model(id="large", capacity=solver.Capacity(max_concurrent=1)),
    ...     solver.Model(id="small", capacity=solver.Capacity(max_concurrent=1)),
    ... ]
    >>> router = solver.OptimalRouter(
    ...     solver.LoadTracker(), models, horizon=2, history=[[0.9, 0.8], [0.9, 0.1]], background=False
    ... )
    >>> first = router.route(scores=[0.9, 0.8])  # the next agent may need the large model more
    >>> first.model, router.route(scores=[0.9, 0.1]).model
    ('small', 'large')
    """

    def __init__(
        self,
        tracker: LoadTracker,
        models: Sequence[Model],
        objective: Objective | None = None,
        horizon: int | None = None,
        budget_usd: float | None = None,
        history: ArrayLike | History | None = None,
        background: bool = True,
        seed: int = 0,
        *,
        budget_period_s: float | None = None,
        tenant_shares: Mapping[str, float] | None = None,
        queue: bool = False,
        wait_cost_per_s: float = 0.0,
        ttl_s: float = 30.0,
        replicas: int = 1,
        predictor: CompletionPredictor | None = None,
        task_types: Mapping[str, tuple[str, ...]] | None = None,
        prices: PriceParams | None = None,
        refresh: RefreshParams | None = None,
        decision_log: DecisionLog | str | Path | None = None,
    ) -> None:
        shares = dict(tenant_shares or {})
        check_parameters(horizon, budget_usd, budget_period_s, wait_cost_per_s, ttl_s, replicas, shares)
        self._tracker, self._clock = tracker, tracker.clock
        self._ttl_s, self._queue = float(ttl_s), queue
        if predictor is None:
            predictor = CompletionPredictor(clock=tracker.clock)
            tracker.listen(predictor.observe)
        self._rows = RowMaker(
            models,
            objective or Objective(),
            predictor=predictor,
            tenants=tuple(shares),
            task_types=task_types,
        )
        self._ids = self._rows.pool.ids
        announce(tracker, self._rows.pool.models)
        self._log = open_log(decision_log, self._ids, self._clock.now())
        self._load = LiveLoad(tracker, self._ids, queue=queue)
        self._lock = threading.Lock()
        self._refresh_lock = threading.Lock()
        params, pace = prices or PriceParams(), refresh or RefreshParams()
        self._spending = (
            None if budget_usd is None else Spending(budget_usd, budget_period_s, self._clock.now())
        )
        if history is not None and not isinstance(history, History):
            history = History(scores=history)
        self._pricing: Pricing = self._new_pricing(
            horizon, shares, wait_cost_per_s, replicas, params, pace, seed
        )
        self._window = Window(
            len(self._ids),
            pace.steady_window if horizon is None else max(64, min(horizon, pace.horizon_window)),
            history=history,
            expected=horizon,
            crossed_off_weight=params.crossed_off_weight,
        )
        self._gathering = Gathering(self._place_waiting)
        self._arrived: list[AgentRow] = []
        self._arrivals = self._refreshes = self._failures = 0
        self._refresh_ms = 0.0
        self._last_error: str | None = None
        self._background = Refresher(self, pace.largest_share) if background else None
        if len(self._window):
            self.refresh()

    def _new_pricing(
        self,
        horizon: int | None,
        shares: Mapping[str, float],
        wait_cost_per_s: float,
        replicas: int,
        params: PriceParams,
        pace: RefreshParams,
        seed: int,
    ) -> Pricing:
        models = self._rows.pool.models
        if horizon is not None:
            slots = np.array([model.capacity.batch_slots for model in models], np.int64)
            return HorizonPricing(
                slots, horizon, budget=self._spending is not None, params=params, refresh=pace
            )
        return SteadyPricing(
            typical_service_s=self._rows.typical_service_s,
            requests_per_s=per_second([model.requests_per_minute for model in models]),
            tokens_per_s=per_second([model.tokens_per_minute for model in models]),
            tenant_shares=np.array(list(shares.values()), np.float64),
            wait_cost_per_s=float(wait_cost_per_s),
            replicas=replicas,
            budget_left_s=(lambda _: np.inf) if self._spending is None else self._spending.left_s,
            params=params,
            refresh=pace,
            tie_break=np.random.default_rng(seed).permutation(len(models)) / len(models),
        )

    # -- deciding

    def route(
        self,
        agent: Agent | None = None,
        *,
        scores: ArrayLike | None = None,
        cost_usd: ArrayLike | None = None,
        service_s: ArrayLike | None = None,
        tokens: int = 0,
        tenant: str | None = None,
        priority: float = 1.0,
        ttl_s: float | None = None,
    ) -> Decision:
        """Choose a model for one agent and reserve it.

        Parameters
        ----------
        agent : Agent, optional
            Who needs a model; or the arrays below, in the order of the models.
        scores : (m,) array_like, optional
            Higher is better; ``-inf`` forbids a model.
        cost_usd, service_s : (m,) array_like, optional
            Expected cost in US dollars, and seconds that a slot will be held.
        tokens : int
            Tokens, counted against rate limits.
        tenant : str, optional
            On whose account.
        priority : float
            Greater than 0; multiplies the scores.
        ttl_s : float, optional
            Time to live of the lease, seconds; default: the router's.

        Returns
        -------
        Decision
            With a lease, or with a refusal that says why. O(m).

        Raises
        ------
        SpecError
            If neither or both of agent and scores are given, or a value is out of range.
        """
        row = self._rows.of_one(agent, scores, cost_usd, service_s, tokens, tenant, priority)
        ttl = self._ttl_s if ttl_s is None else ttl_s
        self._refresh_if_due()
        with self._lock:
            self._note_arrival(row)
            self._load.look()
            candidates = self._candidates(row)
        return self._logged(agent, row, candidates, self._reserve(agent, row, candidates, ttl))

    def _reserve(self, agent: Agent | None, row: AgentRow, candidates: Candidates, ttl_s: float) -> Decision:
        """Reserve the best model that is not lost to another client meanwhile."""
        last: Refusal | None = None
        while (choice := candidates.following()) is not None:
            if not self._claim(choice.column, row):
                continue
            try:
                answer = self._tracker.try_acquire(
                    self._ids[choice.column], self._demand(row, choice.column), ttl_s, queue=self._queue
                )
            except BaseException:
                self._unclaim(choice.column, row)
                raise
            if isinstance(answer, Lease):
                return self._decision(agent, row, choice, answer)
            self._unclaim(choice.column, row)
            last = answer
            if answer.reason in LASTING:
                break
        return self._refused(agent, row, candidates.refusal, last)

    def _place_waiting(self, rows: list[AgentRow]) -> list[int]:
        """Count arrivals that wait together and place them jointly."""
        with self._lock:
            self._load.look()
            for row in rows:
                self._note_arrival(row)
            return place_jointly(rows, self._pricing, self._load)

    def route_many(
        self,
        agents: Sequence[Agent] | None = None,
        *,
        scores: ArrayLike | None = None,
        service_s: ArrayLike | None = None,
        cost_usd: ArrayLike | None = None,
        ttl_s: float | None = None,
    ) -> list[Decision]:
        """Place agents that are all waiting now, jointly, against the free places at their prices.

        One assignment problem instead of a greedy sequence; who comes first has no advantage. Worth it for
        what is simultaneous: waiting for more to come gains nothing.

        Parameters
        ----------
        agents : sequence of Agent, optional
            Those who wait; or the arrays below.
        scores, service_s, cost_usd : (n, m) array_like, optional
            As in :meth:`route`, a row each.
        ttl_s : float, optional
            Time to live of the leases, seconds.

        Returns
        -------
        list of Decision
            In the order given.
        """
        rows = self._rows.of_many(agents, scores, service_s, cost_usd)
        who: Sequence[Agent | None] = [None] * len(rows) if agents is None else agents
        self._refresh_if_due()
        ttl = self._ttl_s if ttl_s is None else ttl_s
        decisions: list[Decision | None] = [None] * len(rows)
        for i, column in enumerate(self._place_waiting(rows)):
            candidates = self._candidates_now(rows[i])
            if candidates.only(column) and (taken := self._reserve(who[i], rows[i], candidates, ttl)):
                decisions[i] = self._logged(who[i], rows[i], candidates, taken)
        return [
            self._late(who[i], rows[i], ttl) if decision is None else decision
            for i, decision in enumerate(decisions)
        ]

    def _late(self, agent: Agent | None, row: AgentRow, ttl_s: float) -> Decision:
        """Decide alone on an agent that the joint placement left out; its arrival is counted already."""
        candidates = self._candidates_now(row)
        return self._logged(agent, row, candidates, self._reserve(agent, row, candidates, ttl_s))

    def _note_arrival(self, row: AgentRow) -> None:
        now = self._clock.now()
        self._arrivals += 1
        self._pricing.arrived(now)
        self._arrived.append(row)
        if self._background is not None and self._pricing.due(now):
            self._background.wake()
        if len(self._arrived) > 2 * _PENDING_ARRIVALS:
            del self._arrived[:_PENDING_ARRIVALS]

    def _candidates(self, row: AgentRow) -> Candidates:
        """Return the models worth trying. Under the lock."""
        left_usd = None if self._spending is None else self._spending.left_usd(self._clock.now())
        return Candidates(row, self._pricing, self._load, left_usd, keep=self._log is not None)

    def _candidates_now(self, row: AgentRow) -> Candidates:
        """Look at the live load, and return the models worth trying."""
        with self._lock:
            self._load.look()
            return self._candidates(row)

    def _logged(
        self, agent: Agent | None, row: AgentRow, candidates: Candidates, decision: Decision
    ) -> Decision:
        """Note a decision in the log, where there is one, and return it."""
        if self._log is not None and candidates.kept is not None:
            self._log.decided(self._clock.now(), agent, row, candidates.kept, decision)
        return decision

    def _claim(self, column: int, row: AgentRow) -> bool:
        """Take a slot of the horizon and the money before anything is reserved; False when it is gone."""
        with self._lock:
            if not self._pricing.claim(column):
                return False
            if self._spending is not None and not self._spending.spend(_cost(row, column), self._clock.now()):
                self._pricing.unclaim(column)
                return False
            self._load.note(column, 1)
            return True

    def _unclaim(self, column: int, row: AgentRow) -> None:
        with self._lock:
            self._pricing.unclaim(column)
            if self._spending is not None:
                self._spending.give_back(_cost(row, column))
            self._load.note(column, -1)

    def _demand(self, row: AgentRow, column: int) -> Demand:
        if not row.tokens and row.cost_usd is None:
            return ONE_SLOT
        return Demand(tokens=int(row.tokens), cost_usd=_cost(row, column))

    def _decision(self, agent: Agent | None, row: AgentRow, choice: Choice, lease: Lease) -> Decision:
        score = float(row.scores[choice.column])
        runner_up = self._ids[choice.runner_up] if choice.runner_up >= 0 else None
        return Decision(
            None if agent is None else agent.id,
            lease.model,
            lease,
            score,
            score - choice.net,
            runner_up,
            choice.margin,
            "best after price",
            None,
            self,
            choice.column,
            _cost(row, choice.column),
        )

    def _refused(
        self, agent: Agent | None, row: AgentRow, reason: RouteRefusalReason, cause: Refusal | None
    ) -> Decision:
        if cause is not None and cause.reason in LASTING:
            reason = RouteRefusalReason.STORE_UNAVAILABLE
        retry = None if cause is None else cause.retry_after_s
        if retry is None and reason is RouteRefusalReason.FULL:
            retry = float(self._pricing.next_release_s(row))
        if retry is None and reason is RouteRefusalReason.BUDGET and self._spending is not None:
            left = self._spending.left_s(self._clock.now())
            retry = left if left < np.inf else None
        refusal = RouteRefusal(reason=reason, retry_after_s=retry, cause=cause)
        name = None if agent is None else agent.id
        return Decision(name, None, None, 0.0, 0.0, None, 0.0, reason.value, refusal)

    def settle(
        self,
        decision: Decision,
        *,
        latency_ms: float | None,
        tokens: int | None,
        cost_usd: float | None,
        success: bool,
    ) -> ReleaseOutcome | None:
        """Release a decision's lease, settle its cost and record its outcome, once. See ``Decision.release``."""
        lease = decision.lease
        if lease is None:
            return None
        if latency_ms is not None and not 0 <= latency_ms < np.inf:
            raise SpecError(Violation("latency_ms", "expected a finite number >= 0", latency_ms))
        outcome = lease.release(tokens=tokens, cost_usd=cost_usd)
        with self._lock:
            if decision._released:  # noqa: SLF001 - a decision is this router's own record
                return outcome
            decision._released = True  # noqa: SLF001
            self._load.note(decision._column, -1)  # noqa: SLF001
            if self._spending is not None and cost_usd is not None:
                self._spending.correct(cost_usd - decision._expected_usd)  # noqa: SLF001
        if self._log is not None:
            facts = {"latency_ms": latency_ms, "tokens": tokens, "cost_usd": cost_usd, "success": success}
            self._log.released(self._clock.now(), lease.lease_id, {**facts, "outcome": outcome.value})
        if latency_ms is not None:
            self._tracker.record(
                lease.model, latency_ms=latency_ms, success=success, output_tokens=tokens, cost_usd=cost_usd
            )
        return outcome

    # -- refreshing

    def _refresh_if_due(self) -> None:
        """Compute prices before a decision that needs new ones, where no thread does it after the last."""
        if self._background is None and self._pricing.due(self._clock.now()):
            self.refresh()

    def refresh(self) -> None:
        """Compute prices now, from what is known now. Called by the router itself when it is due."""
        with self._refresh_lock:
            started = self._clock.now()
            fetched = self._load.fetch()
            with self._lock:
                arrived, self._arrived = self._arrived, []
                self._load.accept(fetched)
            for row in arrived:
                self._window.add(row)
            if not len(self._window):
                return
            usd_left = None if self._spending is None else self._spending.left_usd(started)
            install = self._pricing.compute(self._window.sample(), self._load, usd_left, started)
            with self._lock:
                install()
            self._refreshes += 1
            self._refresh_ms = 1000.0 * (self._clock.now() - started)

    def note_failure(self, error: BaseException) -> None:
        """Count a background refresh that raised an error; the prices before stay in use."""
        self._failures += 1
        self._last_error = f"{type(error).__name__}: {error}"

    def status(self) -> RouterStatus:
        """Return how the background work is doing."""
        return RouterStatus(
            refreshes=self._refreshes,
            refresh_ms=self._refresh_ms,
            failures=self._failures,
            last_error=self._last_error,
            arrivals=self._arrivals,
            spent_usd=0.0 if self._spending is None else self._spending.spent_usd,
            log_dropped=0 if self._log is None else self._log.dropped,
            log_error=None if self._log is None else self._log.last_error,
        )

    def prices(self) -> dict[str, float]:
        """Return what one more slot of each model is worth now, in score; 0 before the first prices."""
        with self._lock:
            self._load.look()
            price = self._pricing.slot_price(self._load)
        return dict(zip(self._ids, price.tolist(), strict=True))

    def close(self) -> None:
        """Stop the background thread and write the log. Routing goes on with the last prices."""
        if self._background is not None:
            self._background.stop()
        if self._log is not None:
            self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _cost(row: AgentRow, column: int) -> float:
    return 0.0 if row.cost_usd is None else float(row.cost_usd[column])
