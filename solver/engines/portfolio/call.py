"""One call of the portfolio: incumbent, engines in turn, and service before score where both are hard."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np

from solver.engines.base import ENGINES, Claim, StopReason, load_engine, loading_seconds
from solver.engines.certificate import certify, verification_seconds
from solver.engines.network_greedy import round_seconds
from solver.engines.portfolio.choice import (
    Step,
    answers_before_greedy,
    coupled_steps,
    engines_by_shape,
    is_answered_at_once,
    is_coupled,
    seconds_for_greedy,
)
from solver.engines.portfolio.incumbent import (
    Answer,
    CallSettings,
    answer_past_deadline,
    better_verified,
    greedy_incumbent,
    unsolved,
)
from solver.engines.portfolio.params import DEFAULT_PARAMS, PortfolioParams
from solver.engines.serve_first import fixed_service, service_instance, service_order
from solver.errors import SpecError
from solver.problem.instance import UNASSIGNED, Instance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from solver.clock import Deadline
    from solver.engines.base import Engine
    from solver.engines.lagrangian.engine import LagrangianEngine

_RESERVING = "lagrangian", "cpsat", "lsap"
"""Engines that use up the time they are given."""

_LOADING = "skipped {name}: loading it takes about {ms:.0f} ms; solver.warm_up() does that beforehand"


def run(
    instance: Instance,
    *,
    deadline: Deadline,
    engine: str = "auto",
    hint: Claim | None = None,
    seed: int = 0,
    threads: int | None = 1,
    params: PortfolioParams | None = None,
) -> Answer:
    """Solve an instance with one engine, or with the best for its shape and the time left.

    Parameters
    ----------
    instance : Instance
        The problem.
    deadline : Deadline
        Shared by everything that happens in the call.
    engine : str
        ``"auto"`` or a name from :data:`solver.engines.base.ENGINES`.
    hint : Claim, optional
        Choice and prices of a similar instance.
    seed : int
        Same seed and one thread: same answer.
    threads : int, optional
        Most threads an engine may use. None: one, and all cores where a deadline presses on a large instance.
    params : PortfolioParams, optional
        Thresholds.

    Returns
    -------
    Answer

    Raises
    ------
    SpecError
        If the engine is unknown or cannot handle this kind of instance at all.
    """
    params = params or DEFAULT_PARAMS
    if engine == "auto" and hint is None and is_answered_at_once(instance, deadline, params):
        answer = _answer_at_once(instance, deadline, seed, params)
        if answer is not None:
            return answer
    read_ms = deadline.elapsed_ms()
    if engine != "auto":
        _check_named(engine, instance, deadline)
    names = engines_by_shape(instance, deadline, params) if engine == "auto" else (engine,)
    if threads is None:
        presses = deadline.limited and instance.is_slots and instance.n * instance.m > params.large_pairs
        threads = (os.cpu_count() or 1) if presses else 1
    call = _Call(deadline=deadline, seed=seed, threads=threads, named=engine != "auto", params=params)
    if deadline.expired() and not call.named:
        return answer_past_deadline(instance, call, read_ms)
    steps = [Step(name) for name in names]
    if not is_coupled(instance):
        return call.attempt(instance, steps, hint)
    if not call.named:
        steps = coupled_steps(instance, deadline, params)
        if steps[0].engine == "flow":  # limits that are a network: solved at once, or not at all
            answer = call.attempt(instance, steps[:1], hint)
            if answer.proven:
                return answer
            steps, hint = steps[1:], hint if answer.certificate.violations else answer.claim
    in_phases = instance.serve_first and engine in ("auto", "cpsat", "lagrangian")
    if not in_phases or instance.n * instance.m > params.split_pairs:
        return call.attempt(instance, steps, hint)
    return call.serve_first(instance, steps, hint)


def _check_named(engine: str, instance: Instance, deadline: Deadline) -> None:
    """Raise SpecError for a name that is no engine's, or an engine that cannot handle such instances at all."""
    if engine not in ENGINES:
        raise SpecError(f"engine: expected auto, {', '.join(ENGINES)}, got {engine!r}")
    if loading_seconds(engine) > max(0.0, deadline.remaining_s()):
        return
    reason = load_engine(engine).unsupported_reason(instance, remaining_s=np.inf)
    if reason is not None:
        raise SpecError(f"engine: cannot solve this instance: {reason}")


def _answer_at_once(
    instance: Instance, deadline: Deadline, seed: int, params: PortfolioParams
) -> Answer | None:
    """Return the compiled kernel's answer to a small instance, None where it is no proven one."""
    candidate = load_engine("transport")
    if candidate.unsupported_reason(instance, remaining_s=deadline.remaining_s()) is not None:
        return None
    own = Step(candidate.name, share=params.at_once_share).within(deadline) if deadline.limited else deadline
    claim = candidate.solve(instance, deadline=own, seed=seed)
    if claim is None or claim.infeasible:
        return None
    call = CallSettings(deadline=deadline, seed=seed, threads=1, named=False, params=params)
    answer = better_verified(instance, claim, candidate.name, None, call, deadline)
    return replace(answer, stopped_by=StopReason.PROVEN) if answer.certificate.optimal else None


class _Call(CallSettings):
    """Attempts with one or several engines, under the settings of one call."""

    def _ready(
        self, instance: Instance, step: Step, deadline: Deadline, *, looked: bool
    ) -> tuple[Engine, Deadline] | str:
        """Return the engine of a step and the deadline it gets, or a note that says why it is left out.

        ``looked`` says that greedy has been tried, so that no time need be left for it.
        """
        name = step.engine
        own = step.within(deadline)
        if loading_seconds(name) > max(0.0, own.remaining_s()):
            return _LOADING.format(name=name, ms=loading_seconds(name) * 1e3)
        candidate = load_engine(name)
        if own.limited and (name in _RESERVING or name == "price"):
            own = _less_verification(instance, own, self.params, name)
        elif own.limited and name == "transport":
            own = _less(own, verification_seconds(instance), self.params.kernel_reserved_share)
            if instance.network is not None and not looked and not self.named:
                own = _less_greedy(instance, own, self.params)
        patience_s = own.remaining_s() - (0.0 if name == "transport" else self.params.margin_s)
        if not self.named and name == "lsap":
            patience_s = min(patience_s, self.params.lsap_last_resort_s)
        reason = candidate.unsupported_reason(instance, remaining_s=patience_s)
        return (candidate, own) if reason is None else f"skipped {reason}"

    def attempt(
        self,
        instance: Instance,
        steps: Sequence[Step],
        hint: Claim | None = None,
        *,
        best: Answer | None = None,
        deadline: Deadline | None = None,
        incumbent: bool = True,
    ) -> Answer:
        """Run engines in turn until the answer is proven or time is up, and return the best that was verified."""
        deadline = deadline or self.deadline
        notes: list[str] = []
        stop: StopReason | None = None
        looked = deadline.limited and not incumbent  # the caller has
        if (
            incumbent
            and best is None
            and deadline.limited
            and steps[0].engine != "greedy"
            and not answers_before_greedy(instance, steps[0].engine, deadline, self.params)
        ):
            best, looked = greedy_incumbent(instance, deadline, self), True
        for at, step in enumerate(steps):
            if at and best is None and deadline.limited and not looked:
                best, looked = greedy_incumbent(instance, deadline, self), True
            if best is not None and best.certificate.optimal:
                break
            found = best is not None and not best.certificate.violations
            if step.last_resort and found and not deadline.limited:
                break
            name = step.engine
            ready = self._ready(instance, step, deadline, looked=looked)
            if isinstance(ready, str):
                notes.append(ready)
                continue
            candidate, own = ready
            start = best.claim if best is not None else hint
            claim = candidate.solve(instance, deadline=own, hint=start, seed=self.seed, threads=self.threads)
            if claim is None:
                notes.append(f"{name}: nothing found")
                continue
            if claim.infeasible:
                return Answer(
                    claim=claim,
                    certificate=certify(instance, claim),
                    engine=name,
                    infeasible=True,
                    notes=(*notes, f"{name}: proved that no assignment serves every agent"),
                    stopped_by=StopReason.INFEASIBLE,
                )
            stop = claim.stopped_by
            if stop is StopReason.ENGINE_LIMIT:
                notes.append(f"{name}: stopped at its own limit of time; a deadline replaces it")
            best = better_verified(instance, claim, name, best, self, deadline)
            best = self._priced(instance, best, deadline)
        if not looked and (best is None or not best.certificate.optimal):
            best = self._no_worse_than_greedy(instance, best, deadline)
        best = best or unsolved(instance, self)
        return Answer(
            claim=best.claim,
            certificate=best.certificate,
            engine=best.engine,
            infeasible=best.infeasible,
            notes=tuple(notes),
            stopped_by=self._stop_reason(best, stop, deadline),
        )

    def _no_worse_than_greedy(
        self, instance: Instance, best: Answer | None, deadline: Deadline
    ) -> Answer | None:
        """Return greedy's answer where it is better, or there is no other, and time is left for it."""
        if best is not None and (not deadline.limited or deadline.remaining_s() < self.params.margin_s):
            return best
        greedy = greedy_incumbent(instance, deadline, self)
        if best is None or greedy is None:
            return best or greedy
        return better_verified(instance, greedy.claim, greedy.engine, best, self, deadline)

    def _priced(self, instance: Instance, answer: Answer, deadline: Deadline) -> Answer:
        """Return an answer proven by enumeration or CP-SAT together with multipliers for the report."""
        claim = answer.claim
        if not answer.certificate.optimal or claim.prices is not None or not is_coupled(instance):
            return answer
        pricing_s = self.params.pricing_s + self.params.pricing_s_per_pair * instance.n * instance.m
        if deadline.remaining_s() < pricing_s:
            return answer
        pricer = cast("LagrangianEngine", load_engine("lagrangian"))
        asked = instance
        if instance.serve_first and (claim.choice == UNASSIGNED).any():
            asked = fixed_service(instance, service_order(instance), claim.choice)
        priced = pricer.priced(instance, claim, asked=asked, deadline=deadline, seed=self.seed)
        certificate = certify(instance, priced, threads=self.threads)
        return replace(answer, claim=priced, certificate=certificate) if certificate.optimal else answer

    def serve_first(self, instance: Instance, steps: Sequence[Step], hint: Claim | None) -> Answer:
        """Serve as well as possible, with a proof if there is time for one, then find the best score among those."""
        deadline = self.deadline
        best = greedy_incumbent(instance, deadline, self) if deadline.limited else None
        notes: tuple[str, ...] = ()
        if any(step.engine == "enumeration" for step in steps):
            answer = self.attempt(instance, [steps[0]], hint, best=best, incumbent=False)
            if answer.proven:
                return answer
            best = answer if not answer.certificate.violations and answer.engine != "none" else best
            steps = steps[1:]
        if (
            steps[0].engine == "lagrangian"
        ):  # one weighted problem is a good start, and often serves all agents
            all_served = best is not None and bool((best.claim.choice >= 0).all())
            own = Step("lagrangian", share=1.0 if all_served else self.params.weighted_share).within(deadline)
            best = self.attempt(instance, steps, hint, best=best, deadline=own, incumbent=False)
            if best.proven or (best.serves_all and not deadline.limited):
                return best
            if best.serves_all:
                return self.attempt(instance, steps, hint, best=best)
            notes = best.notes
        if best is not None:
            judging_s = self.params.phases_left * verification_seconds(instance, best.claim)
            if deadline.remaining_s() < judging_s:
                return replace(best, notes=notes, stopped_by=self._stop_reason(best, None, deadline))
        answer = self._service_then_score(instance, steps, best, hint)
        return replace(answer, notes=(*notes, *answer.notes))

    def _service_then_score(
        self, instance: Instance, steps: Sequence[Step], best: Answer | None, hint: Claim | None
    ) -> Answer:
        """Find who is served, scores aside, and then the best score with as many of every priority."""
        deadline, order = self.deadline, service_order(instance)
        own = Step("", share=self.params.service_share).within(deadline)
        start = best.claim if best else hint
        service = self.attempt(service_instance(instance, order), steps, start, deadline=own)
        if service.infeasible:
            return replace(service, certificate=certify(instance, service.claim))
        if service.certificate.violations:
            return replace(best or unsolved(instance, self), notes=service.notes)
        proven = service.certificate.optimal and order.exact
        served = Claim(choice=service.claim.choice, serves_most=proven)
        first = better_verified(instance, served, service.engine, best, self, deadline)
        score = self.attempt(fixed_service(instance, order, first.claim.choice), steps, first.claim)
        if score.infeasible or score.certificate.violations:
            return replace(first, notes=score.notes, stopped_by=score.stopped_by)
        prices, count = score.claim.limit_prices, 0 if instance.limits is None else instance.limits.count
        claim = replace(
            score.claim,
            limit_prices=prices[:count] if count and prices is not None else None,
            score_prices=None if best is None else best.claim.score_prices,
            score_limit_prices=None if best is None else best.claim.score_limit_prices,
            bound=score.certificate.bound,
            serves_most=proven,
        )
        answer = better_verified(instance, claim, score.engine, first, self, deadline)
        stopped_by = self._stop_reason(answer, score.stopped_by, deadline)
        return replace(answer, notes=score.notes, stopped_by=stopped_by)

    def _stop_reason(self, answer: Answer, last: StopReason | None, deadline: Deadline) -> StopReason:
        """Return why a call ended that did not prove infeasibility."""
        if answer.certificate.optimal:
            return StopReason.PROVEN
        if last is not None:
            return last
        used = deadline.clock.now() - deadline.started_s
        if deadline.limited and used > self.params.used_up_share * (deadline.ends_s - deadline.started_s):
            return StopReason.DEADLINE
        return StopReason.EXHAUSTED


def _less_verification(
    instance: Instance, deadline: Deadline, params: PortfolioParams, engine: str
) -> Deadline:
    """Return the deadline less what verifying an answer takes, and at most a good part of what is left."""
    leaves = instance.is_slots and instance.serve_first and instance.units > instance.slots.sum()
    if engine == "price" and not leaves:  # its answers come with every agent's best at their prices
        return deadline
    reserve_s = verification_seconds(instance, leaves=leaves) + params.return_reserve_s
    return _less(deadline, reserve_s, params.most_reserved_share)


def _less_greedy(instance: Instance, deadline: Deadline, params: PortfolioParams) -> Deadline:
    """Return the deadline less what greedy needs on a network, or less a part of it where that is too short for all."""
    needed_s, left_s = seconds_for_greedy(instance, params), deadline.remaining_s()
    if needed_s <= left_s:
        return replace(deadline, ends_s=deadline.ends_s - needed_s)
    if round_seconds(instance) > params.most_reserved_share * left_s:  # nothing would come of it
        return deadline
    return _less(deadline, needed_s, params.most_reserved_share)


def _less(deadline: Deadline, seconds: float, most_share: float) -> Deadline:
    """Return the deadline less some seconds, and at most less a share of what is left."""
    most_s = most_share * max(0.0, deadline.remaining_s())
    return replace(deadline, ends_s=deadline.ends_s - min(seconds, most_s))
