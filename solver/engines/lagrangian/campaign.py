"""The schedule of the search: which step comes next, until the answer is proven, good enough, or time is up.

Three things compete for the time that is left: descents from mixed, perturbed or sampled assignments;
neighbourhoods of a few models solved by CP-SAT; and, once, the kernel of pairs that a better assignment may
use at all, whose exhaustion is a proof (reduced-cost fixing). Each is given time in proportion to what it
has been worth so far.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.lagrangian.knapsack_dual import KnapsackDual
from solver.engines.lagrangian.knapsacks import knapsacks_of
from solver.engines.lagrangian.params import CampaignParams, KnapsackParams, SearchParams
from solver.engines.lagrangian.rounding import relocate, serve_all
from solver.engines.lagrangian.search import Search
from solver.engines.lagrangian.weak_duality import reduced_losses
from solver.engines.pair_model import is_loaded
from solver.problem.tolerances import OPTIMALITY_TOLERANCE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.engines.lagrangian.interior_point import Relaxation
    from solver.engines.standard_form import StandardForm


class Campaign:
    """Improve one form until nothing is left to do.

    Parameters
    ----------
    form : StandardForm
        The problem.
    relaxation : Relaxation
        Its dual solution.
    deadline : Deadline
        When to stop.
    rng : numpy.random.Generator
        Source of all randomness.
    gap_tolerance : float
        Relative gap of the objective at which to be satisfied.
    params, search_params, knapsack_params
        Tuning constants.
    """

    def __init__(
        self,
        form: StandardForm,
        relaxation: Relaxation,
        *,
        deadline: Deadline,
        rng: np.random.Generator,
        gap_tolerance: float = 0.0,
        params: CampaignParams | None = None,
        search_params: SearchParams | None = None,
        knapsack_params: KnapsackParams | None = None,
    ) -> None:
        self.params = params or CampaignParams()
        self.knapsack_params = knapsack_params or KnapsackParams()
        self.form, self.relaxation, self.deadline, self.rng = form, relaxation, deadline, rng
        self.budget_s = max(deadline.remaining_s(), 1e-3)
        search_params = search_params or SearchParams()
        if self.budget_s < self.params.short_s and form.n <= search_params.few_agents:
            width, near_models = self.params.short_chain_width, self.params.short_near_models
            search_params = replace(search_params, chain_width=width, near_models=near_models)
        self.search = Search(form, relaxation, rng=rng, params=search_params)
        self.search.on_better = self._note
        self.bound = self._whole(relaxation.bound)
        self.knapsack_dual: KnapsackDual | None = None
        self._using: NDArray[np.float64] | None = None
        self.gap_tolerance = gap_tolerance
        self.proved = False
        self.infeasible = False
        self.bound_is_claimed = False  # by whole knapsacks: no prices of capacities prove it
        self.progress: list[tuple[float, float, float]] = []
        self.fallback: NDArray[np.int64] | None = None
        self._pool: list[tuple[float, NDArray[np.int64]]] = []
        self._spent = {"descend": 1e-9, "dive": 0.0}
        self._worth = {"descend": 1.0, "dive": 1.0}
        self._models_freed = min(4, form.models)
        self._misses = 0
        self._kernel_tried = np.inf  # pairs of the last kernel that was not exhausted

    def _whole(self, bound: float) -> float:
        """Round a bound up to a whole number where every loss is one."""
        return float(np.ceil(bound - 1e-6 * max(1.0, abs(bound)))) if self.form.integral else bound

    @property
    def done(self) -> bool:
        """Whether the incumbent is proven optimal or good enough."""
        if self.proved or self.search.best is None:
            return self.proved
        objective, bound = self.form.objective_and_bound(self.search.best, self.bound)
        tolerance = max(self.gap_tolerance, 0.5 * OPTIMALITY_TOLERANCE)
        return bound - objective <= tolerance * max(abs(objective), abs(bound)) + 1e-14 * abs(
            self.form.offset
        )

    def start(self, *, stop_s: float = np.inf) -> None:
        """Round the relaxation and descend from there; ends without an incumbent only when time is up.

        What the agents get by bidding at the prices is the fallback. It is worse than what the descent
        reaches from the rounded relaxation as soon as it has crossed into the feasible, but costs a
        fraction of the time, and it is the better start where time was too short for the relaxation.
        """
        rounded = self.relaxation.weight.argmax(axis=0)
        converged = self.relaxation.converged
        if converged and self.search.keep(rounded):
            self._note()
        if self.done:
            return
        if self.search.best is None:
            self._bid(rounded if converged else None)
        if converged or self.fallback is None:
            if self.fallback is not None:
                left_s = self.params.fallback_share * max(0.0, self.deadline.remaining_s())
                stop_s = min(stop_s, self.deadline.clock.now() + left_s)
            self._descend(rounded, patience=self.params.first_patience, feasible_stop_s=stop_s)
        if self.search.best is None and self.fallback is not None:
            self._fall_back()

    def _bid(self, first: NDArray[np.int64] | None) -> None:
        """Find a fallback by bids at the prices."""
        form, relaxation = self.form, self.relaxation
        priced = reduced_losses(form, relaxation.price, relaxation.row_price)
        columns = serve_all(form, priced, first=first)
        if columns is not None and form.feasible(columns):
            self.fallback = columns

    def _fall_back(self) -> None:
        """Start from the bids, after moving whoever fits somewhere better."""
        form, columns = self.form, self.fallback
        assert columns is not None
        if not form.rows:
            columns = relocate(form, columns, self.deadline)
        self.search.keep(columns)
        self._note()
        self._descend(columns, patience=self.params.first_patience)

    def find_feasible(self) -> None:
        """Find a feasible assignment, or prove that there is none: descend, ask CP-SAT, descend again."""
        left_s = self.deadline.remaining_s()
        pairs = self.form.loss.size
        most = self.params.whole_pairs if left_s >= self.params.short_s else self.params.kernel_pairs_short
        askable = pairs <= most and (is_loaded() or left_s >= self.params.short_s)
        building_s = pairs * self.params.building_s_per_pair
        askable = askable and left_s > 2 * building_s + self.params.least_cpsat_s
        share = (
            self.params.descent_share if left_s >= self.params.short_s else self.params.descent_share_short
        )
        now = self.deadline.clock.now()
        self.start(stop_s=now + (share * (left_s - building_s) if askable else np.inf))
        if self.search.best is None and askable:
            from solver.engines.lagrangian.neighbourhood import solve_whole

            limit_s = 0.5 * self.deadline.remaining_s() - building_s
            reply = solve_whole(self.form, limit_s=limit_s, seed=int(self.rng.integers(2**31)))
            if reply.columns is not None and self.search.keep(reply.columns):
                self._note()
            self.infeasible = reply.columns is None and reply.complete and reply.exact
        if self.search.best is None and not self.infeasible:
            self._descend(self.search.chains.column[:-1], patience=self.params.first_patience)

    def run(self) -> None:
        """Go on until proven, satisfied or out of time."""
        if not self.done and not self.infeasible and self.budget_s >= self.params.short_s:
            self._keep_capacities_whole()
        now = self.deadline.clock.now
        for _ in range(self.params.most_attempts):
            if self.done or self.infeasible or self.deadline.remaining_s() < max(0.002, self.search.step_s):
                break
            if self._cpsat_next():
                self._ask_cpsat()
                continue
            before, start_s = self.search.best_loss, now()
            kind = self._next_start()
            if kind == "dive":
                self._dive()
            else:
                self._restart()
            value = self.params.reward if self.search.best_loss < before else 1.0
            self._worth[kind] = 0.8 * self._worth[kind] + 0.2 * value
            self._spent[kind] += now() - start_s

    def _next_start(self) -> str:
        """Return where the next descent starts from: what has had the least time for what it was worth."""
        if self.knapsack_dual is None or self.search.best is None:
            return "descend"
        return min(self._spent, key=lambda kind: self._spent[kind] / self._worth[kind])

    def _dive(self) -> None:
        """Descend from where the whole knapsacks point."""
        dual = self.knapsack_dual
        assert dual is not None
        stop_s = self.deadline.clock.now() + self.params.longest_share * self.budget_s
        columns = dual.dive(self.search.best_loss, deadline=self.deadline, stop_s=stop_s)
        self._descend_from(columns)

    def _keep_capacities_whole(self) -> None:
        """Tighten the bound by whole knapsacks, where time allows for it."""
        form, params, clock = self.form, self.knapsack_params, self.deadline.clock
        knapsacks = knapsacks_of(form)
        if knapsacks is None:
            return
        stop_s = clock.now() + params.share * self.deadline.remaining_s()
        paid = reduced_losses(form, self.relaxation.price, self.relaxation.row_price).min(axis=0)
        if np.abs(paid).sum() > knapsacks.most_multiplier:
            return
        started_s = clock.now()
        estimate_s = params.s_per_cell * form.n * float(knapsacks.capacity.sum())
        if params.least_rounds * estimate_s > params.first_round_slower * (stop_s - started_s):
            return
        dual = KnapsackDual(knapsacks, paid, rng=self.rng, params=params)
        round_s = clock.now() - started_s
        if params.least_rounds * round_s > stop_s - started_s:  # the first round finds nothing in the caches
            if params.least_rounds * round_s > params.first_round_slower * (stop_s - started_s):
                return
            started_s = clock.now()
            dual = KnapsackDual(knapsacks, paid, rng=self.rng, params=params)
            if params.least_rounds * (clock.now() - started_s) > stop_s - started_s:
                return
        target = (
            self.search.best_loss if self.search.best is not None else self.bound + 0.01 * abs(self.bound)
        )
        dual.tighten(target, deadline=self.deadline, stop_s=stop_s)
        self.knapsack_dual, self._using = dual, dual.increase()
        bound = self._whole(dual.bound)
        if bound > self.bound:
            self.bound, self.bound_is_claimed = bound, True
            self._note()

    def _descend(
        self,
        columns: NDArray[np.int64],
        *,
        patience: int,
        stop_s: float = np.inf,
        feasible_stop_s: float = np.inf,
    ) -> None:
        loss, found = self.search.descend(
            columns, deadline=self.deadline, stop_s=stop_s, feasible_stop_s=feasible_stop_s, patience=patience
        )
        if found is not None and all((found != other).any() for _, other in self._pool):
            self._pool.append((loss, found))
            self._pool.sort(key=lambda entry: entry[0])
            del self._pool[self.params.elite :]

    def _note(self) -> None:
        if self.search.best is not None:
            objective, bound = self.form.objective_and_bound(self.search.best, self.bound)
            self.progress.append((self.deadline.elapsed_ms(), objective, bound))

    def _restart(self) -> None:
        """Descend from a variation of what is known."""
        form, rng, best = self.form, self.rng, self.search.best
        draw = rng.random()
        if best is None or draw >= 0.8:
            columns = self._sample()
        elif draw < 0.35:
            columns = best
        elif draw < 0.65 and len(self._pool) >= 2:
            one, other = rng.choice(len(self._pool), 2, replace=False)
            columns = self._pool[one][1].copy()
            swapped = np.flatnonzero(columns != self._pool[other][1])
            swapped = swapped[rng.random(len(swapped)) < 0.5]
            columns[swapped] = self._pool[other][1][swapped]
        else:
            columns = best.copy()
            chains = self.search.chains
            moved = rng.choice(form.n, min(form.n, max(2, form.n // 20)), replace=False)
            columns[moved] = chains.near[moved, rng.integers(0, min(3, chains.nearest), len(moved))]
        self._descend_from(columns)

    def _descend_from(self, columns: NDArray[np.int64]) -> None:
        """Descend with chains of random depth, as long as one attempt may take."""
        chains, rng = self.search.chains, self.rng
        chains.depth = int(rng.choice(self.params.chain_depths))
        if self.budget_s > self.params.short_s:
            chains.width = self.params.long_chain_width
        longest = max(0.1, self.params.longest_share * self.budget_s)
        self._descend(columns, patience=self.params.patience, stop_s=self.deadline.clock.now() + longest)

    def _sample(self) -> NDArray[np.int64]:
        """Draw an assignment from the weights of the relaxation."""
        weight = np.maximum(self.relaxation.weight, 0)
        cumulative = np.cumsum(weight, axis=0)
        drawn = (self.rng.random(self.form.n) * cumulative[-1] > cumulative).sum(axis=0)
        likeliest = weight.argmax(axis=0)
        sure = weight[likeliest, np.arange(self.form.n)] > 0.9 * cumulative[-1]
        columns: NDArray[np.int64] = np.where(sure, likeliest, np.minimum(drawn, self.form.columns - 1))
        return columns

    @property
    def _target(self) -> float:
        """Loss that the next incumbent has to reach."""
        return self.search.best_loss - self._step

    @property
    def _step(self) -> float:
        """Return the least improvement worth having: one where losses are whole, else far below the tolerance."""
        if self.form.integral or self.search.best is None:
            return 1.0
        objective, _ = self.form.objective_and_bound(self.search.best, 0.0)
        return 0.1 * OPTIMALITY_TOLERANCE * abs(objective) + 1e-14 * abs(self.form.offset)

    def _kernel(self) -> NDArray[np.bool_]:
        """Return the (c, n) pairs that an assignment reaching the target can use."""
        room = self._target - self.relaxation.bound
        within: NDArray[np.bool_] = self.search.reduced <= room + 1e-6 * max(1.0, abs(room))
        if self._using is not None:
            within &= self._using <= self._target + 1e-6 * max(1.0, abs(self._target))
        return within

    def _cpsat_next(self) -> bool:
        if self.search.best is None or self.deadline.remaining_s() <= self.params.least_cpsat_s:
            return False
        long = self.budget_s >= self.params.short_s
        if not long and not is_loaded():
            return False
        if self._kernel_pays(int(self._kernel().sum())):
            return True
        return long and self.form.models <= 3

    def _kernel_pays(self, pairs: int) -> bool:
        """Whether a kernel of so many pairs, fewer with every improvement, is small enough to be solved as a whole."""
        params = self.params
        most: float = params.kernel_pairs if self.budget_s >= params.short_s else params.kernel_pairs_short
        if self.knapsack_dual is not None:
            most = min(most, params.kernel_pairs_per_agent * self.form.n)
        return pairs <= min(most, params.kernel_shrinks * self._kernel_tried)

    def _ask_cpsat(self) -> None:
        """Solve the kernel where it is small, neighbourhoods otherwise."""
        from solver.engines.lagrangian.neighbourhood import solve_part

        form, best = self.form, self.search.best
        assert best is not None
        left = self.deadline.remaining_s()
        kernel = self._kernel()
        pairs = int(kernel.sum())
        whole = self._kernel_pays(pairs) or self._models_freed >= form.models
        if whole:
            self._kernel_tried = pairs
            limit_s = (
                min(0.8 * left, 0.25 * self.budget_s) if self.budget_s >= self.params.short_s else 0.8 * left
            )
            free = np.arange(form.n)
        else:
            chosen = np.zeros(form.columns, bool)
            chosen[self.rng.choice(form.models, self._models_freed, replace=False)] = True
            if form.leave:
                chosen[-1] = True
            free = np.flatnonzero(chosen[best])
            near = self.search.reduced <= max(
                0.002 * abs(form.offset - self.search.best_loss), 3.0 if form.integral else 0.0
            )
            kernel = kernel & near & chosen[:, None]
            limit_s = min(0.9 * left, max(0.15, 0.05 * self.budget_s))
        reply = solve_part(
            form,
            best,
            free,
            kernel[:, free],
            target=self._target,
            limit_s=limit_s,
            seed=int(self.rng.integers(2**31)),
            proof=whole,
        )
        if reply.columns is not None and self.search.keep(reply.columns):
            self._note()
        if whole:
            # Everything better than the incumbent lies in the kernel: its exhaustion proves the incumbent.
            if reply.complete and reply.exact:
                # Only what is better by less than a tenth of the tolerance of optimality is left open.
                self.proved = True
                self.bound = self.search.best_loss
            if self._models_freed >= form.models:
                self._models_freed = max(2, form.models - 1)
        elif not reply.complete:
            self._models_freed = max(2, self._models_freed - 1)
            self._misses = 0
        elif reply.columns is None:
            self._misses += 1
            if self._misses >= 8 + form.models // 2:
                self._models_freed = min(self._models_freed + 1, form.models)
                self._misses = 0
        else:
            self._misses = 0
