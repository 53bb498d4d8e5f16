"""Builds the arrays that a batch is placed on, from agents and live load."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.errors import SpecError, Violation
from solver.load.balance.model_pool import ModelPool
from solver.load.balance.request_demand import usual_demand
from solver.load.balance.strategies import Work
from solver.load.balance.traffic_shares import TrafficShares
from solver.problem.numbers import wrong_shape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from solver.load.balance.prediction import CompletionPredictor
    from solver.load.balance.strategies import LoadStrategy
    from solver.load.observe.feedback import AdaptiveScorer
    from solver.load.snapshot import LoadSnapshot
    from solver.load.tracker import LoadTracker
    from solver.problem.spec import Agent, Model, Objective

_FEEDBACK_AGE_S = 0.25
"""Age up to which statistics are used for routing; reading those of 500 models anew costs as much as a decision."""

_CACHED_FLEETS = 64
"""Fleets that can alternate without being compiled anew."""


class BatchBuilder:
    """Knows the fleets of a balancer and lays batches out on them, as :class:`~.strategies.Work`.

    Thread-safe. The parameters are those of :class:`~solver.LoadBalancer`.
    """

    def __init__(
        self,
        tracker: LoadTracker,
        strategy: LoadStrategy,
        *,
        scorer: AdaptiveScorer | None,
        predictor: CompletionPredictor | None,
        fill_to_target: bool,
        queue: bool,
        task_types: Mapping[str, tuple[str, ...]] | None,
        objective: Objective | None,
        shares: Mapping[str, float],
    ) -> None:
        self._tracker = tracker
        self._strategy = strategy
        self._scorer = scorer
        self._predictor = predictor
        self._fill_to_target = fill_to_target
        self._queue = queue
        self._task_types = task_types
        self._objective = objective
        self._shares: TrafficShares | None = None
        self.set_shares(shares)
        self._pools: dict[tuple[int, ...], tuple[tuple[Model, ...], ModelPool]] = {}
        self._latest: tuple[tuple[Model, ...], ModelPool | None] = ((), None)

    def set_shares(self, shares: Mapping[str, float]) -> None:
        """Set the shares of the traffic; models whose share stays the same keep their account."""
        self._shares = TrafficShares(shares, self._shares) if shares else None

    def pool_of(self, models: Sequence[Model]) -> ModelPool:
        """Return the pool of a fleet, the same one for equal models."""
        fleet = tuple(models)
        seen, latest = self._latest
        if latest is not None and seen == fleet:  # mostly the same objects, which compare at once
            return latest
        key = tuple(map(id, fleet))  # an entry keeps its models alive, so their identities stay theirs
        entry = self._pools.get(key)
        if entry is not None:
            self._latest = entry
            return entry[1]
        pool = next((pool for seen, pool in tuple(self._pools.values()) if seen == fleet), None)
        if pool is None:
            pool = ModelPool(fleet, objective=self._objective, task_types=self._task_types)
        if len(self._pools) >= _CACHED_FLEETS:
            self._pools = {}
        self._pools[key] = self._latest = fleet, pool
        return pool

    def current(self, pool: ModelPool) -> LoadSnapshot:
        """Return the present load; models that the tracker does not know, or no longer, get the capacity they state."""
        snapshot = self._tracker.snapshot()
        if pool.knows(snapshot):
            return snapshot
        for model in pool.models:
            if model.id not in snapshot.index:
                self._tracker.set_capacity(
                    model.id,
                    model.capacity,
                    requests_per_minute=model.requests_per_minute,
                    tokens_per_minute=model.tokens_per_minute,
                )
        return self._tracker.snapshot()

    def snapshot(self, pool: ModelPool) -> LoadSnapshot:
        """Return the load to reserve on; where no model is open, after opening one as a last resort."""
        snapshot = self.current(pool)
        closed = snapshot.stops and not snapshot.open_slots[pool.positions(snapshot)].any()
        if closed and self._tracker.last_resort(pool.ids):
            return self._tracker.snapshot()
        return snapshot

    def work(
        self,
        agents: Sequence[Agent],
        pool: ModelPool,
        snapshot: LoadSnapshot,
        given: NDArray[np.float64] | None,
        *,
        preview: bool = False,
    ) -> Work:
        """Return a batch as arrays; a ``preview`` leaves the account of shares as it is."""
        feedback = None
        if self._scorer is not None and (given is None or pool.scorer.objective.quality == "combined"):
            kinds = [agent.task_type for agent in agents]
            feedback = self._scorer.feedback_of(kinds, pool.ids, max_age_s=_FEEDBACK_AGE_S)
        terms = pool.scorer.terms(agents, feedback=feedback, given=given)
        eligible = terms.eligible
        where = pool.positions(snapshot)
        slots, divisor = pool.slots(snapshot)
        room = self._room(agents, pool, snapshot, where)
        shares = self._shares
        if shares is not None:
            eligible = shares.restricted(eligible, room, pool.ids, preview=preview)
        rank = None
        if len(agents) > 1:
            priority = [agent.priority for agent in agents]
            rank = None if min(priority) == max(priority) else np.array(priority)
        weight = penalty = None
        if self._objective is not None:
            weight = np.array([[agent.priority] for agent in agents])
            if self._strategy.values_scores:
                penalty = _penalties(agents, self._objective)
        service = None
        if self._strategy.needs_prediction and self._predictor is not None:
            service = self._predictor.predict_ms(
                pool.models,
                [agent.input_tokens for agent in agents],
                [agent.output_tokens for agent in agents],
            )
        active = snapshot.active[where].astype(np.float64)
        if self._queue:
            active += snapshot.queued[where]
        return Work(
            quality=terms.quality,
            eligible=eligible,
            active=active,
            slots=slots,
            divisor=divisor,
            room=room,
            usable=eligible & (room > 0),
            queue=self._queue,
            rank=rank,
            service_ms=service,
            charge=terms.charge,
            weight=weight,
            penalty=penalty,
            sign=pool.scorer.sign,
        )

    def _room(
        self,
        agents: Sequence[Agent],
        pool: ModelPool,
        snapshot: LoadSnapshot,
        where: NDArray[np.intp] | slice,
    ) -> NDArray[np.int64]:
        demand = usual_demand(self._tracker, pool, snapshot, agents)  # the largest: then every subset fits
        room = snapshot.room(demand, queue=self._queue)[where]
        if self._fill_to_target:
            limit = np.floor(snapshot.target[where] * snapshot.max_concurrent[where] + 1e-9)
            room = np.clip(limit - snapshot.active[where], 0, room).astype(np.int64)
        return room


def _penalties(agents: Sequence[Agent], objective: Objective) -> NDArray[np.float64] | None:
    """Return what leaving each agent out costs before its priority, (n,); None: serve as many as possible."""
    own = [
        objective.unassigned_penalty if agent.unassigned_penalty is None else agent.unassigned_penalty
        for agent in agents
    ]
    if any(value is None or not np.isfinite(value) for value in own):
        return None
    return np.array(own, np.float64)


def checked_scores(scores: ArrayLike | None, n: int, m: int) -> NDArray[np.float64] | None:
    """Return the scores of n agents on m models as an array, or raise SpecError."""
    if scores is None:
        return None
    given = np.asarray(scores, np.float64)
    if given.shape != (n, m):
        raise SpecError(wrong_shape("scores", str((n, m)), given.shape))
    if not (given < np.inf).all():
        i, j = np.argwhere(~(given < np.inf))[0]
        raise SpecError(Violation(f"scores[{i}, {j}]", "expected a finite number or -inf", given[i, j]))
    return given
