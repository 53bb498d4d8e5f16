"""Large instances, up to a hundred thousand agents: prices first, then a core that is solved repeatedly.

The relaxation of a few thousand random agents, with their share of every capacity, takes tens of milliseconds
and gives prices within a few percent. Newton steps on the smoothed dual of all agents, restricted to each
agent's near models, make them exact. Under exact prices nearly all agents have the right model already; the
few thousand agents that nearly have two best models, the core, are released together, with exactly the
capacity that the others leave, and solved with the whole machinery. The certified gap says when to stop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.engines.lagrangian.candidate_models import NearArcs, coupling_entries, survey, typical_prices
from solver.engines.lagrangian.core_problem import restrict, solve_core
from solver.engines.lagrangian.params import LagrangianParams, LargeParams
from solver.engines.lagrangian.sampling import drawn, sample_prices
from solver.engines.lagrangian.smoothed_dual import minimise_smoothed_dual
from solver.problem.instance import UNASSIGNED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.engines.lagrangian.candidate_models import Survey
    from solver.engines.lagrangian.smoothed_dual import SmoothedOptimum
    from solver.problem.instance import Instance


class Large:
    """One solve of an instance too large to be relaxed as a whole in the time left.

    Parameters
    ----------
    instance : Instance
        Without agents that move together.
    deadline : Deadline
        When to stop.
    rng : numpy.random.Generator
        Source of all randomness.
    hint : (n,) int64, optional
        A choice to start from where prices lead to a worse one.
    params : LagrangianParams, optional
        Tuning constants.
    """

    def __init__(
        self,
        instance: Instance,
        *,
        deadline: Deadline,
        rng: np.random.Generator,
        hint: NDArray[np.int64] | None = None,
        params: LagrangianParams | None = None,
    ) -> None:
        stages = params or LagrangianParams()
        self.params, self.core_params, self.search_params = stages.large, stages.core, stages.search
        self.instance, self.deadline, self.rng, self.hint = instance, deadline, rng, hint
        self.leave = instance.penalty is None or bool(np.isfinite(instance.penalty).any())
        limits = instance.limits
        self.prices = np.zeros((instance.m, instance.r))
        self.limit_prices = np.zeros(0 if limits is None else limits.count)
        self.bound = np.inf
        self.choice = np.full(instance.n, UNASSIGNED, np.int64)
        self.best: NDArray[np.int64] | None = None
        self.best_value = -np.inf
        self.infeasible = False
        self.progress: list[tuple[float, float, float]] = []
        self._seen: Survey | None = None  # under the best prices
        self._slack = 0.0
        self._pass_s = 0.0
        self._core_s = 0.0

    @staticmethod
    def is_for(instance: Instance, *, budget_s: float, params: LargeParams | None = None) -> bool:
        """Return whether the instance is better not relaxed as a whole, or not in the time left."""
        params = params or LargeParams()
        layers = 0 if instance.limits is None else len(instance.limits.layers)
        if instance.limits is not None and instance.limits.count > params.most_limit_rows:
            return False
        if instance.n < params.least_agents or (instance.limits is not None and instance.limits.together):
            return False
        work = instance.n * instance.m * (instance.r + layers)
        return work > params.most_relaxed_work or params.relaxation_s_per_pair * work > 0.3 * budget_s

    def run(self, gap_tolerance: float) -> None:
        """Find prices, round, and solve cores until the gap is closed or time is up; else keep the hint."""
        self._search(gap_tolerance)
        if self.best is None and self.hint is not None:
            self._consider(self.hint)

    def _search(self, gap_tolerance: float) -> None:
        if self.deadline.expired():
            return
        self._find_prices()
        if self.infeasible or self._seen is None:
            return
        if self.leave and self._excess() > self.params.most_excess:
            # The prices have not converged. Where agents may stay out, something feasible is a better place to start.
            self._drop_to_fit()
            if self.hint is not None:
                self._consider(self.hint)
            self._consider(self.choice)
            self.choice = self.choice if self.best is None else self.best.copy()
        self._consider(self.choice)
        size, patience = self.params.core_agents, self.params.first_patience
        for _ in range(self.params.most_cores):
            affordable = self._affordable_agents()
            if self.deadline.remaining_s() <= 2 * self._pass_s + self._core_s:
                break
            if affordable < min(size, self.params.least_core_agents):
                break
            if self.best is not None and self._gap() <= gap_tolerance:
                break
            size = int(min(size, affordable))
            start_s, before = self.deadline.clock.now(), self.best_value
            self._solve_core(size, patience)
            self._consider(self.choice)
            self._core_s = max(self._core_s, self.deadline.clock.now() - start_s)
            if self.best is None:
                self._slack = max(self.params.first_slack, 3 * self._slack)
            elif not self.best_value > before:
                size, patience = min(2 * size, self.params.largest_core_agents, self.instance.n), 2 * patience

    def _affordable_agents(self) -> float:
        """Return of how many agents a core can be set up in the time left, two passes over all pairs apart."""
        instance, params = self.instance, self.params
        layers = instance.r + (0 if instance.limits is None else len(instance.limits.layers))
        setup_s = params.core_s_per_agent + params.core_s_per_entry * instance.m * layers
        return (self.deadline.remaining_s() - 2 * self._pass_s) / setup_s

    def _gap(self) -> float:
        return (self.bound - self.best_value) / max(abs(self.bound), abs(self.best_value), 1e-300)

    def _find_prices(self) -> None:
        """Balance the loads of ever more agents; give each agent a model, drawn at random where several are as good."""
        instance = self.instance
        now, left = self.deadline.clock.now(), max(0.0, self.deadline.remaining_s())
        part = drawn(instance, min(self.params.large_sample_agents, instance.n // 2), self.rng, self.params)
        for ease in self.params.eases:
            found = sample_prices(
                instance,
                ease=ease,
                leave=self.leave,
                deadline=self.deadline,
                rng=self.rng,
                params=self.params,
            )
            if found is None:
                break
            self.prices, self.limit_prices = found.prices, found.limit_prices
            if not found.infeasible:
                break
        prices = self.prices, self.limit_prices
        start_s = self.deadline.clock.now()
        seen = survey(part, *prices, nearest=self.params.near_models, leave=self.leave)
        self._pass_s = (self.deadline.clock.now() - start_s) * instance.n / part.n
        if self.deadline.remaining_s() < self.params.least_passes * self._pass_s:
            return
        params = self.params
        pricing_s = params.pricing_share * left
        stop_s = now + 0.5 * pricing_s
        _, optimum = self._minimise_near(
            part, seen, params.hottest, params.lukewarm, params.wide_margin, stop_s
        )
        seen = self._look(*self._split(optimum.price), nearest=params.near_models)
        self.infeasible = bool(seen.unservable.any()) and not instance.serve_first
        if self.infeasible:
            return
        temperature = min(optimum.temperature, params.hottest_whole)
        arcs, optimum = self._minimise_near(
            instance, seen, temperature, params.coldest, params.narrow_margin, now + pricing_s
        )
        self.choice = arcs.drawn(optimum.weight, self.rng.random())

    def _minimise_near(
        self,
        instance: Instance,
        seen: Survey,
        temperature: float,
        coldest: float,
        reach: float,
        stop_s: float,
    ) -> tuple[NearArcs, SmoothedOptimum]:
        """Balance loads by prices for all or a part of the agents, and look up near models again as prices move.

        A trust region keeps prices close to where the near models were looked up. The next one is centred where
        prices ended if they reached its boundary or if models had been missed. If the models missed made the bound
        worse, prices return to the last centre, with a smaller radius.
        """
        whole = instance is self.instance
        for at in range(self.params.rounds):
            scale = typical_prices(instance, seen)
            arcs = NearArcs(instance, seen, scale=scale, reach=reach)
            optimum = minimise_smoothed_dual(
                arcs,
                temperature=temperature,
                coldest=min(temperature, coldest),
                scale=scale,
                trust_radius=0.5 * reach,  # agents beyond reach stay decided if no price moves farther
                deadline=self.deadline,
                stop_s=stop_s,
                rng=self.rng,
            )
            if self.deadline.remaining_s() < self.params.least_passes * self._pass_s:
                break
            late = at == self.params.rounds - 1 or self.deadline.clock.now() > stop_s
            if not whole and (late or not optimum.held):
                break
            prices = self._split(optimum.price)
            if whole:
                after = self._look(*prices, nearest=self.params.near_models)
            else:
                after = survey(instance, *prices, nearest=self.params.near_models, leave=self.leave)
            missed = after.bound - arcs.dual(optimum.price)
            if late or not (optimum.held or missed > self.params.missed_tolerance * abs(after.bound)):
                break
            if after.bound > seen.bound and missed > 0.5 * (after.bound - seen.bound):
                reach, temperature = self.params.shrink * reach, self.params.shrink * temperature
                continue
            seen = after
            if optimum.held:
                reach, temperature = 2 * reach, optimum.temperature
            else:
                temperature = max(self.params.reheat * temperature, coldest)
        return arcs, optimum

    def _split(self, price: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the prices of capacities and of limit rows."""
        cells = self.instance.capacity.size
        return price[:cells].reshape(self.instance.capacity.shape), price[cells:]

    def _look(
        self, prices: NDArray[np.float64], limit_prices: NDArray[np.float64], *, nearest: int = 2
    ) -> Survey:
        """Return the best models of all agents at some prices; keep the prices if they prove a better bound."""
        start_s = self.deadline.clock.now()
        seen = survey(self.instance, prices, limit_prices, nearest=nearest, leave=self.leave)
        self._pass_s = self.deadline.clock.now() - start_s
        if self._seen is None or seen.bound < self.bound:
            self.bound, self.prices, self.limit_prices = seen.bound, prices, limit_prices
            self._seen = seen
        return seen

    def _solve_core(self, size: int, patience: int) -> None:
        """Release the agents that are misplaced or undecided, and solve them with what the others leave."""
        instance = self.instance
        agents, others = self._core(size)
        capacity = np.maximum(instance.capacity - instance.usage(others), 0.0)
        limits = instance.limits
        bound = np.zeros(0) if limits is None else limits.bound - limits.usage(others)
        answer = solve_core(
            restrict(instance, agents, capacity, bound),
            self.choice[agents],
            np.concatenate([self.prices.ravel(), self.limit_prices]),
            leave=self.leave,
            slack=self._slack,
            patience=patience,
            deadline=self.deadline,
            stop_s=self.deadline.ends_s - 2.5 * self._pass_s,
            rng=self.rng,
            params=self.core_params,
            search_params=self.search_params,
        )
        if answer is None:
            return
        if answer.choice is not None:
            self.choice[agents] = answer.choice
        if self.deadline.remaining_s() > 2 * self._pass_s:
            self._look(*self._split(answer.price))

    def _core(self, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the agents to release, and the choice of all others."""
        instance, seen = self.instance, self._seen
        assert seen is not None
        n = instance.n
        size = min(size, n)
        margin = np.minimum(seen.margin, np.finfo(np.float64).max / 4)
        typical = float(np.median(margin)) or 1.0
        key = margin - 1e3 * self._shortfall(seen)
        key += 1e-3 * typical * self.rng.random(n)  # ties are drawn by lot, differently every time
        agents = np.sort(np.argpartition(key, size - 1)[:size])
        others = self.choice.copy()
        others[agents] = UNASSIGNED
        crowded = np.asarray((instance.usage(others) > instance.capacity).any(axis=1))
        if crowded.any():
            # Models that the others overload give up a twentieth of their agents as well.
            staying = np.flatnonzero((others >= 0) & crowded[others])
            extra = self.rng.choice(staying, max(1, len(staying) // 20), replace=False)
            agents = np.union1d(agents, extra)
            others[agents] = UNASSIGNED
        return agents, others

    def _excess(self) -> float:
        """Return what exceeds capacities, in parts of all capacity of a resource; the largest of the resources."""
        capacity = self.instance.capacity
        over = np.maximum(self.instance.usage(self.choice) - capacity, 0.0).sum(axis=0)
        return float((over / np.maximum(capacity.sum(axis=0), np.finfo(np.float64).tiny)).max())

    def _drop_to_fit(self) -> None:
        """Leave agents unassigned until no capacity is exceeded, those first who lose least per unit freed."""
        instance, choice = self.instance, self.choice
        for k in range(instance.r):
            load = instance.usage(choice)[:, k]
            for j in np.flatnonzero(load > instance.capacity[:, k]):
                members = np.flatnonzero((choice == j) & (instance.unserved > -np.inf))
                freed = np.ones(len(members)) if instance.demand is None else instance.demand[members, j, k]
                lost = instance.score[members, j] - instance.unserved[members]
                order = np.argsort(lost / np.maximum(freed, np.finfo(np.float64).tiny), kind="stable")
                enough = np.searchsorted(np.cumsum(freed[order]), load[j] - instance.capacity[j, k]) + 1
                choice[members[order[:enough]]] = UNASSIGNED

    def _shortfall(self, seen: Survey) -> NDArray[np.float64]:
        """Return what every agent's present model falls short of its best under the prices of a survey."""
        instance = self.instance
        all_agents = np.arange(instance.n)
        left = self.choice == UNASSIGNED
        model = np.where(left, instance.m, self.choice)
        row, amount = coupling_entries(instance, all_agents, model)
        price = np.concatenate([seen.prices.ravel(), seen.limit_prices, np.zeros(1)])
        own = instance.score[all_agents, np.maximum(self.choice, 0)].astype(np.float64)
        own = np.where(left, instance.unserved, own) - (price[row] * amount).sum(axis=0)
        return np.where(seen.unservable, 0.0, np.maximum(seen.reduced[0] - own, 0.0))

    def _consider(self, choice: NDArray[np.int64]) -> None:
        """Keep a choice if it is feasible and the best so far."""
        instance = self.instance
        if (instance.usage(choice) > instance.capacity * (1 + 1e-9)).any():
            return
        limits = instance.limits
        if limits is not None and (limits.usage(choice) > limits.bound + 1e-9 * np.abs(limits.bound)).any():
            return
        served = np.flatnonzero(choice != UNASSIGNED)
        left = np.flatnonzero(choice == UNASSIGNED)
        value = float(instance.score[served, choice[served]].sum(dtype=np.float64))
        value += float(instance.unserved[left].sum())
        if value > self.best_value:
            self.best, self.best_value = choice.copy(), value
            self.progress.append((self.deadline.elapsed_ms(), value, self.bound))
