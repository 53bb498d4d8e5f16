"""The engine for everything that is more than slots: a bound first, a feasible answer next, then a better one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from solver.clock import Deadline
from solver.engines.base import Claim, StopReason
from solver.engines.lagrangian.campaign import Campaign
from solver.engines.lagrangian.interior_point import Relaxation, relax
from solver.engines.lagrangian.large import Large
from solver.engines.lagrangian.params import LagrangianParams
from solver.engines.lagrangian.rounding import drop_to_fit, insert_unassigned
from solver.engines.lagrangian.sampling import SamplePrices, sample_prices
from solver.engines.lagrangian.violation_agents import with_violation_agents
from solver.engines.standard_form import StandardForm, build_form
from solver.problem.instance import UNASSIGNED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.problem.instance import Instance


_FORM_TERMS = 4
"""Arrays of columns by agents that are made before the clock is first read."""

_LAYER_TERMS = 3
"""Arrays of columns by agents that each layer of limit rows adds to those."""

_FORM_S_PER_TERM = 2e-8
_FORM_OVERHEAD_S = 0.002
"""Upper estimates of what each of those arrays takes per pair, and of the call itself."""

_SETUP_TERMS = 2
_SETUP_S_PER_TERM = 2e-8
"""Arrays that the search is set up with, besides one for each layer, and an upper estimate per column and agent."""

_SECONDS_PER_PAIR_LARGE = 1e-8
"""Upper estimate of one pass over all pairs, with which the cores of a large instance begin."""

_CANCELLATION = 1e-6
"""Difference, relative to the numbers it is the difference of, below which it is rounding."""


class LagrangianEngine:
    """Dual prices, rounding, compound moves and exact sub-problems; see the explanation in the manual.

    Parameters
    ----------
    params : LagrangianParams, optional
        Tuning constants, of every stage.
    """

    name = "lagrangian"

    def __init__(self, params: LagrangianParams | None = None) -> None:
        self._params = params or LagrangianParams()

    def unsupported_reason(self, instance: Instance, *, remaining_s: float) -> str | None:
        """Return why not: slots whose cost rises with the load belong to the price engine."""
        if instance.network is not None:
            return "lagrangian: does not know floors, copies or counts"
        if instance.load_cost is not None:
            return "lagrangian: does not know load costs"
        layers = 0 if instance.limits is None else len(instance.limits.layers)
        if Large.is_for(instance, budget_s=remaining_s, params=self._params.large):
            estimate = instance.n * instance.m * _SECONDS_PER_PAIR_LARGE * (1 + layers)
        else:
            terms = instance.r + _FORM_TERMS + _LAYER_TERMS * layers
            estimate = instance.n * instance.m * terms * _FORM_S_PER_TERM + _FORM_OVERHEAD_S
        if estimate > remaining_s:
            return f"lagrangian: needs about {estimate * 1e3:.0f} ms, {max(remaining_s, 0) * 1e3:.0f} ms left"
        return None

    def solve(
        self,
        instance: Instance,
        *,
        deadline: Deadline,
        hint: Claim | None = None,
        seed: int = 0,
        threads: int = 1,
    ) -> Claim | None:
        """Return the best assignment found in time, with multipliers that prove a bound.

        Parameters
        ----------
        instance : Instance
            Any.
        deadline : Deadline
            Kept; without a limit the engine stops after :attr:`LagrangianParams.own_limit_s`.
        hint : Claim, optional
            An assignment to fall back on, and to beat.
        seed : int
            Same instance, seed and unlimited time: same claim.
        threads : int
            Not used: one thread.
        """
        now = deadline.clock.now()
        limited_s = deadline.remaining_s() * self._params.used_share - 0.001
        budget_s = limited_s if deadline.limited else self._params.own_limit_s
        inner = Deadline(deadline.started_s, now + budget_s, deadline.clock)
        stop = StopReason.DEADLINE if deadline.limited else StopReason.ENGINE_LIMIT
        rng = np.random.default_rng(seed)
        agents = with_violation_agents(instance)
        if agents is None:
            return _Solve(instance, inner, rng, hint, stop, self._params).claim()
        if hint is not None and not hint.infeasible:
            hint = replace(hint, choice=agents.extended(hint.choice))
        claim = _Solve(agents.instance, inner, rng, hint, stop, self._params).claim()
        return None if claim is None else agents.reduced(claim)

    def priced(
        self, instance: Instance, claim: Claim, *, asked: Instance, deadline: Deadline, seed: int = 0
    ) -> Claim:
        """Return a claim of another engine with the multipliers of the linear relaxation. Milliseconds when small.

        Parameters
        ----------
        instance : Instance
            Its instance.
        claim : Claim
            Any.
        asked : Instance
            What the multipliers are of: the same, or the instance at the claim's service.
        deadline : Deadline
            The more of it is left, the closer the multipliers.
        seed : int
            Source of the noise that breaks ties.
        """
        agents = with_violation_agents(instance)
        if agents is not None:
            theirs = agents if asked is instance else with_violation_agents(asked)
            if theirs is None:
                return claim
            extended = replace(claim, choice=agents.extended(claim.choice))
            priced = self.priced(
                agents.instance, extended, asked=theirs.instance, deadline=deadline, seed=seed
            )
            return replace(agents.reduced(priced), bound=claim.bound)
        may_leave = not asked.serve_first and bool(np.isfinite(asked.unserved).any())
        form = build_form(asked, leave=may_leave)
        if form.n == 0:
            return claim
        relaxation = relax(form, deadline=deadline, rng=np.random.default_rng(seed))
        if relaxation.infeasible or not np.isfinite(relaxation.bound):
            return claim
        rows = 0 if instance.limits is None else instance.limits.count
        claim = replace(
            claim,
            prices=np.ascontiguousarray(relaxation.price[:, : form.models].T),
            limit_prices=relaxation.row_price[:rows] if rows else None,
        )
        if asked is instance:
            return claim
        form = build_form(instance, leave=True)
        relaxation = relax(
            form, deadline=deadline, rng=np.random.default_rng(seed), change=_towards_service(form)
        )
        prices, limit_prices = _in_score(relaxation)
        if prices is None:
            return claim
        return replace(
            claim,
            score_prices=np.ascontiguousarray(prices[:, : form.models].T),
            score_limit_prices=limit_prices if rows else None,
        )

    def rough_prices(
        self, instance: Instance, *, agents: int, ease: float, deadline: Deadline, seed: int = 0
    ) -> SamplePrices | None:
        """Return prices of capacities and limit rows from the relaxation of a few agents, or None.

        Parameters
        ----------
        instance : Instance
            With demands or limits.
        agents : int
            How many are drawn.
        ease : float
            Part of every bound that is added to it; a negative one leaves room for what a sample does not know.
        deadline : Deadline
            Half of what is left of it may be used.
        seed : int
            Of the lot.
        """
        params = replace(self._params.large, sample_agents=agents, sample_share=0.5)
        penalty = instance.penalty
        for leave in (False, True):
            if leave and penalty is not None and not np.isfinite(penalty).any():
                break
            rng = np.random.default_rng(seed)
            found = sample_prices(instance, ease=ease, leave=leave, deadline=deadline, rng=rng, params=params)
            if found is None or not found.infeasible:
                return found
        return None


class _Solve:
    """One call."""

    def __init__(
        self,
        instance: Instance,
        deadline: Deadline,
        rng: np.random.Generator,
        hint: Claim | None,
        stop: StopReason,
        params: LagrangianParams,
    ) -> None:
        self.stop, self.params = stop, params
        self.instance, self.deadline, self.rng, self.hint = instance, deadline, rng, hint
        self.left_s = self.form_s = 0.0  # when a form was begun, and what the last one took
        self.progress: list[tuple[float, float, float]] = []

    def claim(self) -> Claim | None:
        """Decide whether agents may be left out, then search."""
        instance = self.instance
        penalty = instance.penalty
        self.left_s = self.deadline.remaining_s()
        if Large.is_for(instance, budget_s=self.left_s, params=self.params.large):
            return self._large()
        if penalty is not None and np.isfinite(penalty).any():
            return self._with_leaving()
        form = build_form(instance, leave=False)
        if len(form.unservable) and penalty is not None:
            return self._nothing()
        if form.n == 0:
            return self._all_unassigned(form)
        relaxation = self._relax(form)
        if relaxation.infeasible:
            return self._nothing() if penalty is not None else self._with_leaving()
        if self._lacks_time_to_search(form):
            return self._hint_at(relaxation, form)
        campaign = self._campaign(form, relaxation)
        if instance.serve_first:
            now = self.deadline.clock.now()
            campaign.start(
                stop_s=now + self.params.full_service_share * max(0.0, self.deadline.remaining_s())
            )
            if campaign.search.best is None:
                return self._with_leaving(campaign)
        else:
            campaign.find_feasible()
        campaign.run()
        return self._nothing() if campaign.infeasible else self._result(campaign)

    def _large(self) -> Claim | None:
        """Solve by prices and cores."""
        hint = self.hint.choice if self.hint is not None and not self.hint.infeasible else None
        large = Large(self.instance, deadline=self.deadline, rng=self.rng, hint=hint, params=self.params)
        large.run(self.params.large_gap)
        if large.infeasible:
            return self._nothing()
        if large.best is None:
            return None
        return Claim(
            choice=large.best,
            prices=large.prices,
            limit_prices=large.limit_prices if len(large.limit_prices) else None,
            progress=tuple(large.progress),
            stopped_by=self.stop if self.deadline.expired() else StopReason.GAP_TOLERANCE,
        )

    def _relax(self, form: StandardForm) -> Relaxation:
        params, left_s = self.params, self.deadline.remaining_s()
        self.form_s = self.left_s - left_s
        budget_s = max(left_s, 1e-3)
        work = form.loss.size * (form.resources + len(form.row))
        single = work > params.single_precision_work * budget_s
        change = None
        if form.leave and self.instance.serve_first:  # towards a higher value of service
            change = _towards_service(form)
        return relax(
            form,
            deadline=self.deadline,
            share=params.relaxation_share if left_s > params.short_s else params.relaxation_share_short,
            tolerance=1e-4 if single else 1e-6,
            rng=self.rng,
            single=single,
            change=change,
        )

    def _campaign(self, form: StandardForm, relaxation: Relaxation) -> Campaign:
        return Campaign(
            form,
            relaxation,
            deadline=self.deadline,
            rng=self.rng,
            params=self.params.campaign,
            search_params=self.params.search,
            knapsack_params=self.params.knapsack,
        )

    def _with_leaving(self, tried: Campaign | None = None) -> Claim | None:
        """Solve with agents allowed to stay unassigned where the instance allows it."""
        self.left_s = self.deadline.remaining_s()
        if self.left_s < self.form_s:
            return None
        form = build_form(self.instance, leave=True)
        if self.instance.penalty is not None and np.isposinf(self.instance.penalty[form.unservable]).any():
            return self._nothing()
        if form.n == 0:
            return self._all_unassigned(form)
        relaxation = self._relax(form)
        if relaxation.infeasible:
            return self._nothing()
        if self._lacks_time_to_search(form):
            return self._hint_at(relaxation, form)
        campaign = self._campaign(form, relaxation)
        first = relaxation.weight.argmax(axis=0)
        campaign.search.keep(insert_unassigned(form, drop_to_fit(form, first), self.deadline))
        if tried is not None:
            campaign.search.keep(
                insert_unassigned(form, drop_to_fit(form, tried.search.chains.column[:-1]), self.deadline)
            )
        campaign.find_feasible()
        campaign.run()
        return self._nothing() if campaign.infeasible else self._result(campaign)

    def _lacks_time_to_search(self, form: StandardForm) -> bool:
        """Whether the search could not be set up before the deadline."""
        terms = _SETUP_TERMS + len(form.row)
        return self.deadline.remaining_s() < form.loss.size * terms * _SETUP_S_PER_TERM

    def _hint_at(self, relaxation: Relaxation, form: StandardForm) -> Claim | None:
        """Return the assignment that was given, if any, with the prices that were found."""
        if self.hint is None or self.hint.infeasible:
            return None
        prices = np.ascontiguousarray(relaxation.price[:, : form.models].T)
        return replace(
            self.hint, prices=prices, limit_prices=relaxation.row_price if form.rows else None, response=None
        )

    def _all_unassigned(self, form: StandardForm) -> Claim:
        """Return the claim where no model can serve any agent."""
        choice = np.full(self.instance.n, UNASSIGNED, np.int64)
        _, bound = form.objective_and_bound(np.zeros(0, np.int64), 0.0)
        return Claim(choice=choice, bound=bound, infeasible=form.empty_violates_limits)

    def _nothing(self) -> Claim:
        return Claim(choice=np.full(self.instance.n, UNASSIGNED, np.int64), infeasible=True)

    def _result(self, campaign: Campaign) -> Claim | None:
        """Return the incumbent or the hint, whichever is better, with the prices."""
        form, search = campaign.form, campaign.search
        columns = search.best
        if self.hint is not None and not self.hint.infeasible:
            given = form.columns_of(self.hint.choice)
            if given is not None and search.keep(given):
                columns = search.best
        if columns is None:
            return None
        relaxation = campaign.relaxation
        score_prices, score_limit_prices = _in_score(relaxation)
        return Claim(
            choice=form.choice(columns),
            prices=np.ascontiguousarray(relaxation.price[:, : form.models].T),
            limit_prices=relaxation.row_price if form.rows else None,
            score_prices=None
            if score_prices is None
            else np.ascontiguousarray(score_prices[:, : form.models].T),
            score_limit_prices=score_limit_prices if form.rows else None,
            progress=tuple(campaign.progress),
            serves_most=campaign.proved and self.instance.is_slots,
            stopped_by=None if campaign.done else self.stop,
            bound=form.objective_and_bound(columns, campaign.bound)[1]
            if campaign.proved or campaign.bound_is_claimed
            else None,
        )


def _towards_service(form: StandardForm) -> NDArray[np.float64]:
    """Return the direction of the losses in which service becomes worth more."""
    change = np.zeros_like(form.loss)
    change[-1] = -form.service
    return change


def _in_score(
    relaxation: Relaxation,
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | tuple[None, None]:
    """Return what one more unit adds to the score alone, the value of service taken out of the multipliers.

    Their derivative in the value of service is what one more unit adds to that value.
    """
    price, change = relaxation.price, relaxation.price_change
    row_price, row_change = relaxation.row_price, relaxation.row_price_change
    if change is None or row_change is None:
        return None, None

    def rest(value: NDArray[np.float64], service: NDArray[np.float64]) -> NDArray[np.float64]:
        score = value - service
        return np.where(score > _CANCELLATION * (np.abs(value) + np.abs(service)), score, 0.0)

    return rest(price, change), rest(row_price, row_change)
