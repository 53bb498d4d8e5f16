"""OptimalRouter: one agent at a time, at the quality of a whole batch, reserved as it is decided."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING

from solver.online.joint import place_jointly
from solver.online.lease_taking import Reservations
from solver.online.live_load import LiveLoad
from solver.online.micro_batching import Gathering
from solver.online.parameters import PriceParams, RefreshParams
from solver.online.price_process import PriceProcess
from solver.online.refresh_thread import Refresher
from solver.online.router_status import RouterStatus
from solver.online.rows import RowMaker
from solver.online.setup import announce, check_parameters, learners, new_pricing, open_log
from solver.online.spending import Spending
from solver.online.window import AgentRow, History, Window
from solver.problem.spec import Objective

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Literal, Self

    from numpy.typing import ArrayLike

    from solver.load.balance.prediction import CompletionPredictor
    from solver.load.tracker import LoadTracker
    from solver.online.decision import Decision
    from solver.online.decision_log import DecisionLog
    from solver.problem.spec import Agent, Model


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
        slots suffice for all still to come, no agent is.
    horizon : int, optional
        Agents still to come, who use slots up (``Capacity.slots``, else ``max_concurrent``). None: steady
        traffic, where slots come back.
    budget_usd : float, optional
        Money for the horizon, or for each ``budget_period_s``; never exceeded by expected costs.
    history : (N, m) array_like or History, optional
        Scores of past agents, or more about them.
    background : bool or "process"
        Whether prices are computed in a thread; ``"process"``: in a process of their own, which that thread
        waits for. False: inside :meth:`route`, deterministic.
    seed : int
        Of the order in which replicas of one model are preferred.
    budget_period_s : float, optional
        Seconds for which ``budget_usd`` has to last in steady traffic; then it starts anew.
    tenant_shares : mapping of str to float, optional
        Most of the fleet's slot time that a tenant should get, 0 to 1: a price, not a hard limit.
    queue : bool
        Whether queue places count as room; a queued lease becomes running by itself, tenants in fair shares and
        in order of priority.
    wait_cost_per_s : float
        Score lost per second waited, >= 0.
    tail_weight : float
        Score lost per second that an agent adds to the mean latency of the slowest twentieth, >= 0: agents whose
        prompts tell of long answers go to fast models. Learned from outcomes that state the tokens of the answer.
        Arrays of scores are taken as they are.
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
        background: bool | Literal["process"] = True,
        seed: int = 0,
        *,
        budget_period_s: float | None = None,
        tenant_shares: Mapping[str, float] | None = None,
        queue: bool = False,
        wait_cost_per_s: float = 0.0,
        tail_weight: float = 0.0,
        ttl_s: float = 30.0,
        replicas: int = 1,
        predictor: CompletionPredictor | None = None,
        task_types: Mapping[str, tuple[str, ...]] | None = None,
        prices: PriceParams | None = None,
        refresh: RefreshParams | None = None,
        decision_log: DecisionLog | str | Path | None = None,
    ) -> None:
        shares = dict(tenant_shares or {})
        weights = {"wait_cost_per_s": wait_cost_per_s, "tail_weight": tail_weight}
        check_parameters(horizon, budget_usd, budget_period_s, weights, ttl_s, replicas, shares, background)
        self._tracker, self._clock = tracker, tracker.clock
        self._ttl_s = float(ttl_s)
        predictor, tail = learners(tracker, predictor, tail_weight)
        self._rows = RowMaker(
            models,
            objective or Objective(),
            predictor=predictor,
            tail=tail,
            tenants=tuple(shares),
            task_types=task_types,
        )
        self._ids = self._rows.pool.ids
        announce(tracker, self._rows.pool.models)
        self._log = open_log(decision_log, self._ids, self._clock.now())
        self._load = LiveLoad(tracker, self._ids, queue=queue)
        self._lock, self._refresh_lock = threading.Lock(), threading.Lock()
        params, pace = prices or PriceParams(), refresh or RefreshParams()
        self._spending = (
            None if budget_usd is None else Spending(budget_usd, budget_period_s, self._clock.now())
        )
        if history is not None and not isinstance(history, History):
            history = History(scores=history)
        self._pricing = new_pricing(
            self._rows, horizon, self._spending, shares, wait_cost_per_s, replicas, params, pace, seed
        )
        self._reservations = Reservations(
            tracker,
            self._ids,
            pricing=self._pricing,
            load=self._load,
            spending=self._spending,
            log=self._log,
            queue=queue,
            lock=self._lock,
        )
        self._window = Window(
            len(self._ids),
            pace.steady_window if horizon is None else max(64, min(horizon, pace.horizon_window)),
            history=history,
            expected=horizon,
            crossed_off_weight=params.crossed_off_weight,
        )
        self._gathering = Gathering(self._place_waiting)
        self._arrived: deque[AgentRow] = deque(maxlen=self._window.most_pending)
        self._arrivals = self._refreshes = self._failures = 0
        self._refresh_ms = 0.0
        self._last_error: str | None = None
        self._process: PriceProcess | None = None
        if len(self._window):
            self.refresh()
        elsewhere = background == "process"
        self._background = Refresher(self, pace.largest_share, elsewhere=elsewhere) if background else None
        if elsewhere:
            self._process = PriceProcess()
        _ROUTERS.add(self)

    def _begin_process(self) -> None:
        """Make the locks anew in the child of a fork, where no thread is left to release them."""
        self._refresh_lock = threading.Lock()
        self._lock = self._reservations.lock = threading.Lock()
        if self._background is not None:
            self._background.begin_process()

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
            If neither or both of agent and scores are given, a value is out of range, or the agent names a task type
            or a capability that is unknown.
        """
        rows = self._rows
        if agent is None and scores is not None:
            row = rows.of_arrays(scores, cost_usd, service_s, tokens, tenant, priority)
        else:
            row = rows.of_one(agent, scores, cost_usd, service_s, tokens, tenant, priority)
        return self.route_row(row, agent, self._ttl_s if ttl_s is None else ttl_s)

    def route_row(self, row: AgentRow, agent: Agent | None, ttl_s: float) -> Decision:
        """Do :meth:`route` for a row that the caller has made, as plug-ins do. Its arrays are kept, not copied."""
        if self._background is None:
            self.refresh_if_due()
        with self._lock:
            self._note_arrival(row)
            candidates = self._reservations.look(row)
        return self._reservations.reserve(agent, row, candidates, ttl_s)

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
        row = self._rows.of_one(agent, scores, cost_usd, service_s, tokens, tenant, priority)
        return await self.route_row_async(row, agent, self._ttl_s if ttl_s is None else ttl_s)

    async def route_row_async(self, row: AgentRow, agent: Agent | None, ttl_s: float) -> Decision:
        """Do :meth:`route_async` for a row that the caller has made. Its arrays are kept, not copied."""
        if self._background is None:
            self.refresh_if_due()
        column = await self._gathering.column(row)
        candidates = self._reservations.look_again(row)
        candidates.begin_with(column)
        return await self._reservations.reserve_async(agent, row, candidates, ttl_s)

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
        if self._background is None:
            self.refresh_if_due()
        ttl = self._ttl_s if ttl_s is None else ttl_s
        decisions: list[Decision | None] = [None] * len(rows)
        reservations = self._reservations
        columns = self._place_waiting(rows)
        for i, candidates in enumerate(reservations.look_for_all(rows)):
            column = columns[i]
            if candidates.only(column):
                decisions[i] = reservations.reserve(who[i], rows[i], candidates, ttl) or None
        for i, decision in enumerate(
            decisions
        ):  # those left out decide alone, now that the others hold theirs
            if decision is None:
                decisions[i] = reservations.reserve(who[i], rows[i], reservations.look_again(rows[i]), ttl)
        return [decision for decision in decisions if decision is not None]

    def _note_arrival(self, row: AgentRow) -> None:
        self._arrivals += 1
        self._arrived.append(row)
        due = self._pricing.arrived(self._clock.now())
        if due and self._background is not None:
            self._background.wake()

    # -- refreshing

    def refresh_if_due(self) -> bool:
        """Compute prices now if it is time: what the background thread does, and a decision where there is none.

        A program without a background thread that decides in a loop may call this between decisions.

        Returns
        -------
        bool
            Whether prices were computed.
        """
        if not self._pricing.due(self._clock.now()):
            return False
        self.refresh()
        return True

    def refresh(self) -> None:
        """Compute prices now, from what is known now. Called by the router itself when it is due."""
        with self._refresh_lock:
            started = self._clock.now()
            fetched = self._load.fetch()
            with self._lock:
                arrived, self._arrived = self._arrived, deque(maxlen=self._window.most_pending)
                self._load.accept(fetched)
            self._window.extend(arrived)
            if not len(self._window):
                return
            usd_left = None if self._spending is None else self._spending.left_usd(started)
            sample = self._window.sample(self._rows.predicted_s)
            price_job = self._pricing.price_job(sample, self._load, usd_left, started)
            prices = price_job() if self._process is None else self._process.answer(price_job)
            with self._lock:
                self._pricing.install(prices, self._load)
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
        """Stop the background work and write the log. Routing goes on with the last prices."""
        if self._background is not None:
            self._background.stop()
        if self._process is not None:
            self._process.close()
        if self._log is not None and not self._log.shared:
            self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_ROUTERS: weakref.WeakSet[OptimalRouter] = weakref.WeakSet()


def _tell_routers_of_fork() -> None:
    for router in list(_ROUTERS):
        router._begin_process()  # noqa: SLF001 # of this module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_tell_routers_of_fork)
