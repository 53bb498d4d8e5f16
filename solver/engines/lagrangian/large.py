"""A hundred thousand agents: blocks first, then a core that is solved again and again.

A random block of a few thousand agents, given its share of every capacity, is a small version of the whole: its
relaxation takes tens of milliseconds and its prices are nearly the prices of the whole. All blocks together
give an assignment; the mean of their prices gives a bound. What the blocks got wrong lies with the agents
that are not at their best model under the common prices, or nearly have two best models. These few
thousand, the core, are released together, with exactly the capacity that the others leave, and solved again
with the whole machinery. The certified gap says when to stop.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.certificate import reduced_scores
from solver.engines.form import build_form
from solver.engines.lagrangian.interior_point import relax
from solver.engines.lagrangian.rounding import fill, shed
from solver.engines.lagrangian.search import Search
from solver.engines.lagrangian.smoothing import Preferences, newton_step
from solver.problem.instance import UNASSIGNED, Instance, chunks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.engines.form import Form
    from solver.engines.lagrangian.interior_point import Relaxation

__all__ = ["Large"]

_SAMPLE = 4000  # agents whose relaxation gives the first prices
_BLOCK = 2000  # agents: small enough for the cache, large enough for prices within a percent
_CORE, _CORE_AFTER_BLOCKS = 6000, 3000  # agents released together, after prices alone and after all blocks
_LARGEST_CORE = 20_000
_BLOCK_TOLERANCE, _BLOCK_JITTER = 1e-4, 1e-3
_SECONDS_PER_PAIR = 4e-7  # to relax a form as a whole, per resource or limit layer
_NEWTON_STEPS, _TRIED_STEPS = 14, 3
_FIRST_HEAT, _LEAST_HEAT = 0.05, 1e-3  # relative price change over which agents change their mind
_CORE_TOLERANCE = 1e-4
_SETTLED, _UNSETTLED = 3e-3, 0.02  # of all capacity on the wrong side
_PATIENCE = 6  # local optima without improvement before the core is drawn anew


class Large:
    """One solve of an instance too large to be relaxed as a whole in the time left.

    Parameters
    ----------
    instance : Instance
        Without agents that move together.
    leave : bool
        Whether agents may be left unassigned.
    deadline : Deadline
        When to stop.
    rng : numpy.random.Generator
        Source of all randomness.
    """

    def __init__(
        self, instance: Instance, *, leave: bool, deadline: Deadline, rng: np.random.Generator
    ) -> None:
        self.instance, self.leave, self.deadline, self.rng = instance, leave, deadline, rng
        limits = instance.limits
        self.prices = np.zeros((instance.m, instance.r))
        self.limit_prices = np.zeros(0 if limits is None else limits.count)
        self.bound = np.inf
        self.choice = np.full(instance.n, UNASSIGNED, np.int64)
        self.feasible = False
        self.best: NDArray[np.int64] | None = None
        self._total = np.inf
        self._refined = False
        self._block_prices = (self.prices, self.limit_prices)
        self.best_value = -np.inf
        self.infeasible = False
        self.progress: list[tuple[float, float, float]] = []
        self._favourite = self.choice
        self._pass_s = 0.0
        self._core_s = 0.0
        self._split = np.zeros(instance.n, bool)

    @staticmethod
    def is_for(instance: Instance, *, budget_s: float) -> bool:
        """Return whether relaxing the instance as a whole would take too much of the time left."""
        layers = 0 if instance.limits is None else len(instance.limits.layers)
        if instance.n < 4 * _BLOCK or (instance.limits is not None and instance.limits.together):
            return False
        whole_s = _SECONDS_PER_PAIR * instance.n * instance.m * (instance.r + layers)
        return whole_s > 0.3 * budget_s

    def run(self, gap_tolerance: float) -> None:
        """Solve the blocks, then cores until the gap is closed or time is up."""
        if not self._solve_blocks():
            return
        size = _CORE if self._refined else _CORE_AFTER_BLOCKS
        while self.deadline.remaining_s() > 2 * self._pass_s + self._core_s:
            start_s = self.deadline.clock.now()
            shortfall, margin = self._price_out(self.prices, self.limit_prices)
            passed_s = self.deadline.clock.now()
            self._pass_s = max(self._pass_s, passed_s - start_s)
            self._consider()
            if self.best is not None and self._gap() <= gap_tolerance:
                break
            before = self.best_value
            self._solve_core(shortfall, margin, size)
            self._core_s = max(self._core_s, self.deadline.clock.now() - passed_s)
            self._consider()
            if self.best is not None and not self.best_value > before:
                size = min(2 * size, _LARGEST_CORE, self.instance.n)

    def _gap(self) -> float:
        return (self.bound - self.best_value) / max(abs(self.bound), abs(self.best_value), 1e-300)

    def _part(
        self, agents: NDArray[np.int64], capacity: NDArray[np.float64], bound: NDArray[np.float64]
    ) -> Form:
        """Return the form of some agents with some capacity."""
        instance = self.instance
        limits = instance.limits
        if limits is not None:
            layers = tuple(
                replace(layer, row=layer.row[agents], coefficient=layer.coefficient[agents])
                for layer in limits.layers
            )
            limits = replace(limits, bound=bound, layers=layers)
        penalty = instance.penalty
        part = Instance(
            score=instance.score[agents],
            capacity=capacity,
            demand=None if instance.demand is None else instance.demand[agents],
            penalty=-instance.unserved[agents] if penalty is None else penalty[agents],
            limits=limits,
        )
        return build_form(part, leave=self.leave)

    def _solve_blocks(self) -> bool:
        """Assign everybody: by the prices of one sample, refined, or else block by block."""
        n = self.instance.n
        order = self.rng.permutation(n)
        if not self._solve_block(order[:_SAMPLE]):
            return False
        if self._refine():
            self._refined = True
            return True
        rest = order[_SAMPLE:]
        blocks = np.array_split(rest, max(1, round(len(rest) / _BLOCK)))
        share = _SAMPLE / n
        prices, limit_prices = (share * part for part in self._block_prices)
        longest_s = 0.0
        for block in blocks:
            start_s = self.deadline.clock.now()
            if self.deadline.remaining_s() < longest_s + 2 * self._pass_s or not self._solve_block(block):
                return False
            share = len(block) / n
            prices = prices + share * self._block_prices[0]
            limit_prices = limit_prices + share * self._block_prices[1]
            longest_s = max(longest_s, self.deadline.clock.now() - start_s)
        self.prices, self.limit_prices = prices, limit_prices
        return True

    def _solve_block(self, block: NDArray[np.int64]) -> bool:
        """Assign some agents with their share of everything; False when their relaxation is infeasible."""
        instance = self.instance
        agents = np.sort(block)
        share = len(agents) / instance.n
        bound = np.zeros(0) if instance.limits is None else instance.limits.bound * share
        form = self._part(agents, instance.capacity * share, bound)
        relaxation = self._relax(form, _BLOCK_TOLERANCE, jitter=_BLOCK_JITTER)
        self._block_prices = (
            np.ascontiguousarray(relaxation.price[:, : form.models].T),
            relaxation.row_price,
        )
        self.prices, self.limit_prices = self._block_prices
        self._place(agents, form, relaxation.weight.argmax(axis=0))
        self._split[agents[form.agents]] = (relaxation.weight.max(axis=0) < 0.99)[form.owner]
        self.infeasible = relaxation.infeasible
        return not relaxation.infeasible

    def _refine(self) -> bool:
        """Improve the prices of one block by Newton steps on everybody; False when loads do not settle."""
        prices, limit_prices = self.prices, self.limit_prices
        heat = _FIRST_HEAT
        before, violation, first_total = np.inf, np.inf, np.inf
        for step in range(_NEWTON_STEPS):
            start_s = self.deadline.clock.now()
            self._price_out(prices, limit_prices)
            likes, favourite = self._likes, self._favourite
            first_total = self._total if step == 0 else first_total
            if step == _TRIED_STEPS and self.bound >= first_total:
                return False  # too many agents like too many models equally: prices alone cannot decide
            prices, limit_prices, violation, firmness = newton_step(
                self.instance, likes, prices, limit_prices, heat
            )
            self._pass_s = max(self._pass_s, self.deadline.clock.now() - start_s)
            if violation < _SETTLED or self.deadline.remaining_s() < 4 * self._pass_s:
                break
            if np.isfinite(before):
                heat = max(_LEAST_HEAT, heat * float(np.clip(violation / before, 0.6, 1.0)))
            before = violation
        if violation > _UNSETTLED:
            return False
        # Undecided agents are drawn by lot: loads then come out as the smoothed ones, up to chance.
        stay = self.rng.random(self.instance.n) < firmness
        self.choice = np.where(stay, likes.first, likes.second)
        if self.leave:
            self.choice = np.where(favourite == UNASSIGNED, UNASSIGNED, self.choice)
        self._split = firmness < 0.9
        return True

    def _relax(self, form: Form, tolerance: float, jitter: float = 2e-4) -> Relaxation:
        return relax(
            form,
            deadline=self.deadline,
            share=0.6,
            tolerance=tolerance,
            jitter=jitter,
            rng=self.rng,
            single=True,
        )

    def _place(self, agents: NDArray[np.int64], form: Form, columns: NDArray[np.int64]) -> None:
        self.choice[agents] = form.choice(columns)

    def _price_out(
        self, prices: NDArray[np.float64], limit_prices: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return every agent's shortfall and margin under some prices; keep prices that prove more."""
        instance = self.instance
        best = np.empty(instance.n)
        second = np.empty(instance.n)
        own = np.empty(instance.n)
        favourite = np.empty(instance.n, np.int64)
        runner_up = np.empty(instance.n, np.int64)
        charged = limit_prices if len(limit_prices) else None
        oversized = instance.has_oversized
        for rows in chunks(instance.n, instance.m):
            value = reduced_scores(instance, rows, prices, limit_prices=charged)
            if oversized:
                value[instance.oversized(rows)] = -np.inf
            index = np.arange(len(value))
            pick = self.choice[rows]
            unserved = instance.unserved[rows]
            own[rows] = np.where(pick == UNASSIGNED, unserved, value[index, pick])
            first = value.argmax(axis=1)
            best[rows] = value[index, first]
            favourite[rows] = first
            value[index, first] = -np.inf
            runner_up[rows] = value.argmax(axis=1)
            second[rows] = value[index, runner_up[rows]]
            if self.leave:
                second[rows] = np.maximum(second[rows], np.minimum(best[rows], unserved))
                favourite[rows] = np.where(unserved > best[rows], UNASSIGNED, favourite[rows])
                best[rows] = np.maximum(best[rows], unserved)
        stranded = np.isneginf(best)
        lone = np.isneginf(second)
        self._likes = Preferences(
            first=np.maximum(favourite, 0),
            second=runner_up,
            margin=np.where(lone, np.inf, best - np.where(lone, 0.0, second)),
        )
        best[stranded] = own[stranded]
        favourite[stranded] = UNASSIGNED
        self._favourite = favourite
        total = float(best.sum() + (prices * instance.capacity).sum())
        if instance.limits is not None:
            total += float(limit_prices @ instance.limits.bound)
        self._total = total
        if total < self.bound:
            self.bound, self.prices, self.limit_prices = total, prices, limit_prices
        second[np.isneginf(second)] = -np.finfo(np.float64).max / 4
        return best - own, best - second

    def _solve_core(self, shortfall: NDArray[np.float64], margin: NDArray[np.float64], size: int) -> None:
        """Release the agents that are misplaced or undecided, and solve them with what the others leave."""
        instance = self.instance
        n = instance.n
        size = min(size, n)
        typical = float(np.median(margin)) or 1.0
        key = margin - 1e3 * shortfall - np.where(self._split, 10 * typical, 0.0)
        key += 1e-3 * typical * self.rng.random(n)  # ties are drawn by lot, differently every time
        agents = np.sort(np.argpartition(key, size - 1)[:size])
        others = self.choice.copy()
        others[agents] = UNASSIGNED
        capacity = instance.capacity - instance.usage(others)
        crowded = np.asarray((capacity < 0).any(axis=1))
        if crowded.any():
            # Models that the fixed agents overload give some of them up to the core.
            agents = self._widen(agents, crowded)
            others[agents] = UNASSIGNED
            capacity = np.maximum(instance.capacity - instance.usage(others), 0.0)
        limits = instance.limits
        bound = np.zeros(0) if limits is None else limits.bound - limits.usage(others)
        form = self._part(agents, capacity, bound)
        if not form.n:
            return
        relaxation = self._relax(form, _CORE_TOLERANCE if self.best is None else 0.1 * _CORE_TOLERANCE)
        if relaxation.infeasible:
            return
        search = Search(form, relaxation, rng=self.rng)
        start = relaxation.weight.argmax(axis=0)
        if self.leave:
            search.keep(fill(form, shed(form, start)))
        given = form.columns_of(self.choice[agents])
        if given is not None:
            search.keep(given)
        stop_s = self.deadline.ends_s - 2.5 * self._pass_s
        search.descend(start, deadline=self.deadline, stop_s=stop_s, patience=_PATIENCE)
        if search.best is not None:
            self._place(agents, form, search.best)
            self._split[agents] = False
        if self.deadline.remaining_s() > 2 * self._pass_s:
            self._price_out(np.ascontiguousarray(relaxation.price[:, : form.models].T), relaxation.row_price)

    def _widen(self, agents: NDArray[np.int64], over: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Add a twentieth of the agents of overloaded models to the core."""
        crowded = np.flatnonzero((self.choice >= 0) & over[self.choice])
        extra = self.rng.choice(crowded, max(1, len(crowded) // 20), replace=False)
        return np.union1d(agents, extra)

    def _consider(self) -> None:
        """Keep the current choice if it is feasible and the best so far."""
        instance, choice = self.instance, self.choice
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
