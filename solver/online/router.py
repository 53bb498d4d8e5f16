"""OptimalRouter: one agent at a time, at the quality of a whole batch, reserved as it is decided."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import SpecError, Violation, ViolationKind
from solver.load.balance.prediction import CompletionPredictor
from solver.load.lease import ONE_SLOT, Demand, Lease, Refusal, RefusalReason, ReleaseOutcome
from solver.online.choices import Choice, rank_models
from solver.online.decision import Decision, RouteRefusal, RouteRefusalReason
from solver.online.gathering import Gathering
from solver.online.joint import place_jointly
from solver.online.live import LiveLoad
from solver.online.parameters import PriceParams, RefreshParams
from solver.online.pricing import HorizonPricing, Pricing, SteadyPricing
from solver.online.refresher import Refresher
from solver.online.router_status import RouterStatus
from solver.online.rows import RowMaker
from solver.online.setup import announce, check_parameters, per_second
from solver.online.spending import Spending
from solver.online.window import AgentRow, History, Window
from solver.problem.spec import Objective

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from numpy.typing import ArrayLike

    from solver.load.tracker import LoadTracker
    from solver.problem.spec import Agent, Model

__all__ = ["OptimalRouter"]

_LASTING = frozenset({RefusalReason.STORE_UNAVAILABLE, RefusalReason.RECOVERING})
_LEFT_OUT_OF_SAMPLE = 4096  # arrivals kept for the next refresh; older ones are dropped


class OptimalRouter:
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

    Raises
    ------
    SpecError
        If a parameter is out of range.

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
        row = self._row(agent, scores, cost_usd, service_s, tokens, tenant, priority)
        ttl = self._ttl_s if ttl_s is None else ttl_s
        self._refresh_if_due()
        name = None if agent is None else agent.id
        with self._lock:
            choices, refusal = self._arrive(row)
        return self._reserve(name, row, choices, refusal, ttl)

    def _reserve(
        self,
        name: str | None,
        row: AgentRow,
        choices: list[Choice],
        refusal: RouteRefusalReason,
        ttl_s: float,
    ) -> Decision:
        """Reserve the best model that is not lost to another client meanwhile."""
        last: Refusal | None = None
        for choice in choices:
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
                return self._decision(name, row, choice, answer)
            self._unclaim(choice.column, row)
            last = answer
            if answer.reason in _LASTING:
                break
        return self._refused(name, row, refusal, last)

    async def route_async(
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
        """Do :meth:`route` without blocking the event loop on a remote store.

        Tasks that wait in the same pass of the event loop are placed jointly, as by :meth:`route_many`. When the
        awaiting task is cancelled meanwhile, whatever is granted is released again.
        """
        row = self._row(agent, scores, cost_usd, service_s, tokens, tenant, priority)
        ttl = self._ttl_s if ttl_s is None else ttl_s
        self._refresh_if_due()
        name = None if agent is None else agent.id
        column = await self._gathering.column(row)
        with self._lock:
            self._load.look()
            choices, refusal = self._choices(row)
            if column >= 0 and (planned := self._planned(row, column)) is not None:
                choices = [planned, *(choice for choice in choices if choice.column != column)]
        last: Refusal | None = None
        for choice in choices:
            if not self._claim(choice.column, row):
                continue
            try:
                answer = await self._tracker.try_acquire_async(
                    self._ids[choice.column], self._demand(row, choice.column), ttl, queue=self._queue
                )
            except BaseException:  # cancelled, too: the tracker releases what it still grants
                self._unclaim(choice.column, row)
                raise
            if isinstance(answer, Lease):
                return self._decision(name, row, choice, answer)
            self._unclaim(choice.column, row)
            last = answer
            if answer.reason in _LASTING:
                break
        return self._refused(name, row, refusal, last)

    def _place_waiting(self, rows: list[AgentRow]) -> list[int]:
        """Count arrivals that wait together and place them jointly."""
        with self._lock:
            self._load.look()
            for row in rows:
                self._note_arrival(row)
            return place_jointly(rows, self._pricing, self._load)

    def _planned(self, row: AgentRow, column: int) -> Choice | None:
        """Return a jointly placed model as a choice, None where it is full by now. Under the lock."""
        net = float(self._pricing.net(row, self._load)[column])
        return Choice(column, net, -1, 0.0) if net > -np.inf else None

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
        rows, names = self._many_rows(agents, scores, service_s, cost_usd)
        self._refresh_if_due()
        ttl = self._ttl_s if ttl_s is None else ttl_s
        columns = self._place_waiting(rows)
        decisions: list[Decision | None] = [None] * len(rows)
        for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
            with self._lock:
                self._load.look()
                planned = self._planned(row, column) if column >= 0 else None
            if planned is not None:
                taken = self._reserve(names[i], row, [planned], RouteRefusalReason.FULL, ttl)
                decisions[i] = taken or None
        return [
            self._late(names[i], rows[i], ttl) if decision is None else decision
            for i, decision in enumerate(decisions)
        ]

    def _late(self, name: str | None, row: AgentRow, ttl_s: float) -> Decision:
        """Decide alone on an agent that the joint placement left out; its arrival is counted already."""
        with self._lock:
            self._load.look()
            choices, refusal = self._choices(row)
        return self._reserve(name, row, choices, refusal, ttl_s)

    def _row(
        self,
        agent: Agent | None,
        scores: ArrayLike | None,
        cost_usd: ArrayLike | None,
        service_s: ArrayLike | None,
        tokens: int,
        tenant: str | None,
        priority: float,
    ) -> AgentRow:
        if (agent is None) == (scores is None):
            raise SpecError(
                Violation(
                    "agent",
                    "expected either an agent or scores",
                    shown="neither" if agent is None else "both",
                )
            )
        if agent is not None:
            return self._rows.of_agent(agent)
        assert scores is not None
        return self._rows.of_arrays(
            scores, cost_usd=cost_usd, service_s=service_s, tokens=tokens, tenant=tenant, priority=priority
        )

    def _many_rows(
        self,
        agents: Sequence[Agent] | None,
        scores: ArrayLike | None,
        service_s: ArrayLike | None,
        cost_usd: ArrayLike | None,
    ) -> tuple[list[AgentRow], list[str | None]]:
        if (agents is None) == (scores is None):
            raise SpecError(
                Violation(
                    "agents",
                    "expected either agents or scores",
                    shown="neither" if agents is None else "both",
                )
            )
        if agents is not None:
            return [self._rows.of_agent(agent) for agent in agents], [agent.id for agent in agents]
        given = np.asarray(scores, np.float64)
        if given.ndim != 2:
            raise SpecError(
                Violation(
                    "scores",
                    f"expected shape (n, {len(self._ids)})",
                    shown=f"shape {given.shape}",
                    kind=ViolationKind.TYPE,
                )
            )
        extra: list[Any] = []
        for name, array in (("service_s", service_s), ("cost_usd", cost_usd)):
            part = None if array is None else np.asarray(array, np.float64)
            if part is not None and part.shape != given.shape:
                raise SpecError(
                    Violation(
                        name,
                        f"expected shape {given.shape}",
                        shown=f"shape {part.shape}",
                        kind=ViolationKind.TYPE,
                    )
                )
            extra.append([None] * len(given) if part is None else part)
        return [
            self._rows.of_arrays(row, service_s=service, cost_usd=cost, tokens=0, tenant=None, priority=1.0)
            for row, service, cost in zip(given, *extra, strict=True)
        ], [None] * len(given)

    def _note_arrival(self, row: AgentRow) -> None:
        now = self._clock.now()
        self._arrivals += 1
        self._pricing.arrived(now)
        self._arrived.append(row)
        if self._background is not None and self._pricing.due(now):
            self._background.wake()
        if len(self._arrived) > 2 * _LEFT_OUT_OF_SAMPLE:
            del self._arrived[:_LEFT_OUT_OF_SAMPLE]

    def _arrive(self, row: AgentRow) -> tuple[list[Choice], RouteRefusalReason]:
        """Count an arrival and choose for it. Under the lock."""
        self._note_arrival(row)
        self._load.look()
        return self._choices(row)

    def _choices(self, row: AgentRow) -> tuple[list[Choice], RouteRefusalReason]:
        """Return up to three models in order of net value, and why there is no further one. Under the lock."""
        left_usd = None if self._spending is None else self._spending.left_usd(self._clock.now())
        return rank_models(row, self._pricing, self._load, left_usd)

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

    def _decision(
        self, name: str | None, row: AgentRow, choice: Choice, lease: Lease, reason: str = "best after price"
    ) -> Decision:
        score = float(row.scores[choice.column])
        runner_up = self._ids[choice.runner_up] if choice.runner_up >= 0 else None
        return Decision(
            name,
            lease.model,
            lease,
            score,
            score - choice.net,
            runner_up,
            choice.margin,
            reason,
            None,
            self,
            choice.column,
            _cost(row, choice.column),
        )

    def _refused(
        self, name: str | None, row: AgentRow, reason: RouteRefusalReason, cause: Refusal | None
    ) -> Decision:
        if cause is not None and cause.reason in _LASTING:
            reason = RouteRefusalReason.STORE_UNAVAILABLE
        retry = None if cause is None else cause.retry_after_s
        if retry is None and reason is RouteRefusalReason.FULL:
            retry = float(self._pricing.next_release_s(row))
        if retry is None and reason is RouteRefusalReason.BUDGET and self._spending is not None:
            left = self._spending.left_s(self._clock.now())
            retry = left if left < np.inf else None
        refusal = RouteRefusal(reason=reason, retry_after_s=retry, cause=cause)
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
        )

    def prices(self) -> dict[str, float]:
        """Return what one more slot of each model is worth now, in score; 0 before the first prices."""
        with self._lock:
            self._load.look()
            price = self._pricing.slot_price(self._load)
        return dict(zip(self._ids, price.tolist(), strict=True))

    def close(self) -> None:
        """Stop the background thread. Routing goes on with the last prices."""
        if self._background is not None:
            self._background.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _cost(row: AgentRow, column: int) -> float:
    return 0.0 if row.cost_usd is None else float(row.cost_usd[column])
