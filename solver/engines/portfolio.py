"""Which engine, when: an incumbent first where time is short, then the best engine for the shape.

An engine's claim replaces the incumbent only if the certificate verifies it and it is better; whatever
happens afterwards, the best verified answer so far is what is returned.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from solver.clock import Deadline
from solver.engines import kernels
from solver.engines.base import ENGINES, Claim, StopReason, load_engine
from solver.engines.certificate import Certificate, certify, verification_seconds
from solver.engines.limit_repair import repaired
from solver.engines.network_terms import claimed_flow
from solver.engines.service import fixed_service, service_instance, service_order
from solver.errors import EngineError, SpecError, ViolationKind
from solver.problem.instance import UNASSIGNED, Instance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from solver.engines.lagrangian.engine import LagrangianEngine

__all__ = ["Answer", "run", "warm_up"]

# Which engine comes first for slots (benchmarks/bench_engines.py -k picks):
_TRANSPORT_PAIRS = 1_000_000  # agents · models up to which the compiled kernel does, where there is one
_TINY_CELLS = 13_000  # rows · replicated columns up to which lsap does
_SMALL_PAIRS = 20_000  # agents · models up to which flow does,
_MEDIUM_PAIRS, _MANY_AGENTS = 50_000, 100  # with so many agents per model, its core being small,
_CROWDED_PAIRS, _FEW_AGENTS = 100_000, 20  # and with fewer than so many: samples say little then
_MANY_MODELS, _FEW_AGENTS_COMPILED = (
    150,
    4,
)  # from so many models lsap does with fewer agents per model, kernel or not
_FEW_SLOTS = 400  # slots that many agents compete for, up to which lsap is as fast as if they were the agents
_LARGE_PAIRS = 2_000_000  # agents · models: an incumbent from greedy takes longer than prices above this
_BIDS_S_PER_PAIR = 0.4e-6  # with so much time per pair, the lagrangian engine has bids at its own prices
_LAST_RESORT_S = 5.0  # that lsap may take where the others found no proof, if so much is left
_SHARE_OF_FLOW = (
    0.3  # of the time left that floors, copies and counts may be expected to take without an incumbent
)
_RESERVING = "lagrangian", "cpsat", "lsap"  # engines that use up the time they are given
_WAY_OUT_S, _MOST_RESERVED = (
    0.0005,
    0.5,
)  # kept back besides verification, and at most that share of what is left
_ENUMERATED_PAIRS = 160  # agents · models up to which all plans are enumerated, as long as there are few
_CPSAT_FIRST_PAIRS = 400  # up to which CP-SAT comes before the search, with demands or limits,
_CPSAT_FIRST_S, _CPSAT_FIRST_SHARE = 2.0, 0.4  # for so many seconds, or for so much of what is left
_CPSAT_LAST_PAIRS, _CPSAT_LAST_S = 20_000, 10.0  # up to which it is asked where the search found nothing
_SPLIT_PAIRS = 50_000  # up to which service and score are two problems, where demands or limits couple agents
_WEIGHTED_SHARE, _SERVICE_SHARE = 0.5, 0.4  # of the time left for the weighted start, and for service alone
_PRICING_S, _PRICING_S_PER_PAIR = 0.004, 5e-6  # multipliers for the report take about so long
_TIE = 1e-12  # relative: objectives closer than this differ by rounding
_USED_UP = 0.9  # of the time given: then the deadline is what ended the call
_SHORT_PASS_S = 0.0005  # verification that takes no longer is never cut short
_MARGIN_S = 0.003  # kept back for verification of the last answer and the way out


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The best verified claim, its certificate, whose it is, and what was tried.

    Parameters
    ----------
    claim : Claim
        Best claim.
    certificate : Certificate
        What was recomputed from it.
    engine : str
        Engine that found the choice.
    infeasible : bool
        An exact engine proved that no feasible assignment exists.
    notes : tuple of str
        Engines skipped, and why.
    stopped_by : StopReason
        Why the call ended.
    """

    claim: Claim
    certificate: Certificate
    engine: str
    infeasible: bool = False
    notes: tuple[str, ...] = ()
    stopped_by: StopReason = StopReason.EXHAUSTED


def warm_up(*engines: str) -> None:
    """Import engines, so that the first deadline need not pay for it.

    Parameters
    ----------
    *engines : str
        Names; all of them by default.
    """
    for name in engines or ENGINES:
        load_engine(name)


def run(
    instance: Instance,
    *,
    deadline: Deadline,
    engine: str = "auto",
    hint: Claim | None = None,
    seed: int = 0,
    threads: int | None = 1,
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

    Returns
    -------
    Answer

    Raises
    ------
    SpecError
        If the engine is unknown or cannot handle this kind of instance at all.
    """
    if engine == "auto":
        names = _by_shape(instance, deadline)
    elif engine in ENGINES:
        names = (engine,)
        reason = load_engine(engine).unsupported_reason(instance, remaining_s=np.inf)
        if reason is not None:
            raise SpecError(f"engine: cannot solve this instance: {reason}")
    else:
        raise SpecError(f"engine: expected auto, {', '.join(ENGINES)}, got {engine!r}")
    if threads is None:
        presses = deadline.limited and instance.is_slots and instance.n * instance.m > _LARGE_PAIRS
        threads = (os.cpu_count() or 1) if presses else 1
    if deadline.expired() and engine == "auto":
        return _too_late(instance, deadline, threads)
    call = _Call(deadline=deadline, seed=seed, threads=threads, named=engine != "auto")
    if not _is_coupled(instance):
        return call.attempt(instance, [_Step(name) for name in names], hint)
    if call.named:
        steps = [_Step(name) for name in names]
        split = instance.serve_first and engine in ("cpsat", "lagrangian")
    else:
        steps = _coupled_steps(instance, deadline)
        split = instance.serve_first
        if steps[0].engine == "flow":  # limits that are a network: solved at once, or not at all
            answer = call.attempt(instance, steps[:1], hint)
            if answer.infeasible or answer.certificate.optimal:
                return answer
            steps, hint = steps[1:], hint if answer.certificate.violations else answer.claim
    if not split or instance.n * instance.m > _SPLIT_PAIRS:
        return call.attempt(instance, steps, hint)
    return call.serve_first(instance, steps, hint)


@dataclass(frozen=True, slots=True)
class _Step:
    """One engine and the most it may take: seconds without a deadline, and a share of what is left with one."""

    engine: str
    own_limit_s: float = np.inf
    share: float = 1.0
    last_resort: bool = False  # only where nothing was found, or time is left


class _Call:
    """What all attempts of one call share."""

    def __init__(self, *, deadline: Deadline, seed: int, threads: int, named: bool) -> None:
        self.deadline, self.seed, self.threads, self.named = deadline, seed, threads, named

    def attempt(
        self,
        instance: Instance,
        steps: Sequence[_Step],
        hint: Claim | None = None,
        *,
        best: Answer | None = None,
        deadline: Deadline | None = None,
        incumbent: bool = True,
    ) -> Answer:
        """Run engines in turn until the answer is proven or time is up, and return the best that was verified."""
        deadline = deadline or self.deadline
        threads = self.threads
        notes: list[str] = []
        stop: StopReason | None = None
        if (
            incumbent
            and best is None
            and deadline.limited
            and steps[0].engine != "greedy"
            and not _starts_itself(instance, steps[0].engine, deadline)
        ):
            best = _incumbent(instance, deadline, threads)
        for step in steps:
            if best is not None and best.certificate.optimal:
                break
            found = best is not None and not best.certificate.violations
            if step.last_resort and found and not deadline.limited:
                break
            name = step.engine
            candidate = load_engine(name)
            own = _within(deadline, step)
            if name in _RESERVING:
                own = _reserved(instance, own)
            patience_s = own.remaining_s() - _MARGIN_S
            if not self.named and name == "lsap":
                patience_s = min(patience_s, _LAST_RESORT_S)
            reason = candidate.unsupported_reason(instance, remaining_s=patience_s)
            if reason is not None:
                notes.append(f"skipped {reason}")
                continue
            start = best.claim if best is not None else hint
            claim = candidate.solve(instance, deadline=own, hint=start, seed=self.seed, threads=threads)
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
            best = self._priced(instance, _judge(instance, claim, name, best, threads, deadline), deadline)
        if best is None:
            best = _incumbent(instance, deadline, threads)
        if best is None:
            best = _judge(instance, None, "none", None, threads, deadline)
        return replace(best, notes=tuple(notes), stopped_by=_stop_reason(best, stop, deadline))

    def _priced(self, instance: Instance, answer: Answer, deadline: Deadline) -> Answer:
        """Return an answer proven by enumeration or CP-SAT together with multipliers for the report."""
        claim = answer.claim
        if not answer.certificate.optimal or claim.prices is not None or not _is_coupled(instance):
            return answer
        if deadline.remaining_s() < _PRICING_S + _PRICING_S_PER_PAIR * instance.n * instance.m:
            return answer
        pricer = cast("LagrangianEngine", load_engine("lagrangian"))
        asked = instance
        if instance.serve_first and (claim.choice == UNASSIGNED).any():
            asked = fixed_service(instance, service_order(instance), claim.choice)
        priced = pricer.priced(instance, claim, asked=asked, deadline=deadline, seed=self.seed)
        certificate = certify(instance, priced, threads=self.threads)
        return replace(answer, claim=priced, certificate=certificate) if certificate.optimal else answer

    def serve_first(self, instance: Instance, steps: Sequence[_Step], hint: Claim | None) -> Answer:
        """Serve as well as possible, with a proof if there is time for one, then find the best score among those."""
        deadline, order = self.deadline, service_order(instance)
        best = _incumbent(instance, deadline, self.threads) if deadline.limited else None
        notes: tuple[str, ...] = ()
        engines = {step.engine for step in steps}
        if "enumeration" in engines:
            answer = self.attempt(instance, [steps[0]], hint, best=best, incumbent=False)
            if answer.infeasible or answer.certificate.optimal:
                return answer
            best = answer if not answer.certificate.violations and answer.engine != "none" else best
            steps = steps[1:]
        if steps[0].engine == "lagrangian":  # one weighted problem is a good start, and often serves everyone
            share = 1.0 if best is not None and (best.claim.choice >= 0).all() else _WEIGHTED_SHARE
            own = _within(deadline, _Step("lagrangian", share=share))
            answer = self.attempt(instance, steps, hint, best=best, deadline=own, incumbent=False)
            if answer.infeasible or answer.certificate.optimal:
                return answer
            best, notes = answer, answer.notes
            if (best.claim.choice >= 0).all() and not best.certificate.violations:
                return best if not deadline.limited else self.attempt(instance, steps, hint, best=best)
        own = _within(deadline, _Step("", share=_SERVICE_SHARE))
        service = self.attempt(
            service_instance(instance, order), steps, best.claim if best else hint, deadline=own
        )
        if service.infeasible:
            return replace(service, certificate=certify(instance, service.claim))
        if service.certificate.violations:
            return replace(
                best or _judge(instance, None, "none", None, 1, deadline), notes=(*notes, *service.notes)
            )
        proven = service.certificate.optimal and order.exact
        served = Claim(choice=service.claim.choice, serves_most=proven)
        first = _judge(instance, served, service.engine, best, self.threads, deadline)
        asked = fixed_service(instance, order, first.claim.choice)
        score = self.attempt(asked, steps, first.claim)
        if score.infeasible or score.certificate.violations:
            return replace(first, notes=(*notes, *score.notes), stopped_by=score.stopped_by)
        prices = score.claim.limit_prices
        count = 0 if instance.limits is None else instance.limits.count
        claim = replace(
            score.claim,
            limit_prices=prices[:count] if count and prices is not None else None,
            score_prices=None if best is None else best.claim.score_prices,
            score_limit_prices=None if best is None else best.claim.score_limit_prices,
            bound=score.certificate.bound,
            serves_most=proven,
        )
        answer = _judge(instance, claim, score.engine, first, self.threads, deadline)
        return replace(
            answer, notes=(*notes, *score.notes), stopped_by=_stop_reason(answer, score.stopped_by, deadline)
        )


def _within(deadline: Deadline, step: _Step) -> Deadline:
    """Return the part of a deadline that one step may use."""
    now = deadline.clock.now()
    if deadline.limited:
        ends_s = now + step.share * max(0.0, deadline.ends_s - now)
        return Deadline(deadline.started_s, ends_s, deadline.clock) if step.share < 1.0 else deadline
    return Deadline(deadline.started_s, now + step.own_limit_s, deadline.clock)


def _stop_reason(answer: Answer, last: StopReason | None, deadline: Deadline) -> StopReason:
    """Return why a call ended that did not prove infeasibility."""
    if answer.certificate.optimal:
        return StopReason.PROVEN
    if last is not None:
        return last
    used = deadline.clock.now() - deadline.started_s
    if deadline.limited and used > _USED_UP * (deadline.ends_s - deadline.started_s):
        return StopReason.DEADLINE
    return StopReason.EXHAUSTED


def _is_coupled(instance: Instance) -> bool:
    """Whether demands or limits make it more than a network flow."""
    return instance.network is None and not instance.is_slots


def _coupled_steps(instance: Instance, deadline: Deadline) -> list[_Step]:
    """Return what to try on an instance with demands or limits: exact engines first where it is small."""
    pairs = instance.n * instance.m
    steps = []
    if instance.limits is not None and instance.demand is None:
        patience_s = deadline.remaining_s() - _MARGIN_S
        if load_engine("flow").unsupported_reason(instance, remaining_s=patience_s) is None:
            steps.append(_Step("flow"))
    if pairs <= _ENUMERATED_PAIRS:
        steps.append(_Step("enumeration"))
    if pairs <= _CPSAT_FIRST_PAIRS:
        steps.append(_Step("cpsat", own_limit_s=_CPSAT_FIRST_S, share=_CPSAT_FIRST_SHARE))
    steps.append(_Step("lagrangian"))
    if pairs <= _CPSAT_LAST_PAIRS:
        steps.append(_Step("cpsat", own_limit_s=_CPSAT_LAST_S, last_resort=True))
    return steps


def _incumbent(instance: Instance, deadline: Deadline, threads: int) -> Answer | None:
    """Return greedy's answer, put right where there are limits, or None where that does not lead anywhere."""
    greedy = load_engine("greedy")
    limits = instance.limits
    free = instance.without_limits()
    if greedy.unsupported_reason(free, remaining_s=deadline.remaining_s()) is not None:
        return None
    claim = greedy.solve(free, deadline=deadline)
    if claim is None:
        return None
    if limits is not None:
        choice = repaired(instance, claim.choice, deadline)
        if choice is None:
            return None
        claim = Claim(choice=choice)
    return _judge(instance, claim, "greedy", None, threads, deadline)


def _too_late(instance: Instance, deadline: Deadline, threads: int) -> Answer:
    """Return whatever takes no time, where the deadline has passed before any engine could start."""
    late = (
        f"skipped every search: reading the input took {deadline.elapsed_ms():.0f} ms "
        f"of a deadline of {(deadline.ends_s - deadline.started_s) * 1e3:g} ms"
    )
    best = _incumbent(instance, deadline, threads) or _judge(instance, None, "none", None, threads, deadline)
    return replace(best, notes=(*best.notes, late))


def _reserved(instance: Instance, deadline: Deadline) -> Deadline:
    """Return the deadline less what verifying an answer takes, and at most a good part of what is left."""
    if not deadline.limited:
        return deadline
    left_s = max(0.0, deadline.remaining_s())
    reserve_s = min(verification_seconds(instance) + _WAY_OUT_S, _MOST_RESERVED * left_s)
    return replace(deadline, ends_s=deadline.ends_s - reserve_s)


def _starts_itself(instance: Instance, engine: str, deadline: Deadline) -> bool:
    """Whether the engine has an answer sooner than greedy would, or one where greedy seldom has any."""
    if instance.network is not None or (engine == "flow" and instance.limits is not None):
        patience_s = _SHARE_OF_FLOW * deadline.remaining_s()
        return load_engine("flow").unsupported_reason(instance, remaining_s=patience_s) is None
    if instance.is_slots:  # answered at prices, exactly or not
        return instance.n * instance.m > _LARGE_PAIRS
    if engine != "lagrangian" or instance.penalty is None or not np.isposinf(instance.penalty).all():
        return False
    return deadline.remaining_s() > _BIDS_S_PER_PAIR * instance.n * instance.m


def _by_shape(instance: Instance, deadline: Deadline) -> tuple[str, ...]:
    """Return the engines to try, best first."""
    if instance.network is not None:
        return ("flow", "cpsat") if instance.network.has_openings else ("flow",)
    if _is_coupled(instance):
        return tuple(step.engine for step in _coupled_steps(instance, deadline))
    if instance.load_cost is not None:
        return ("price",)
    if _has_many_models(instance):
        rest = _without_kernels(instance, deadline)
        return ("lsap", *(name for name in rest if name != "lsap"))
    if instance.n * instance.m <= _TRANSPORT_PAIRS and kernels.available():
        return ("transport", *_without_kernels(instance, deadline))
    return _without_kernels(instance, deadline)


def _has_many_models(instance: Instance) -> bool:
    """Whether models are so many for the agents that a matching is faster than prices and flows."""
    slots = int(instance.slots.sum())
    alike = instance.serve_first and instance.rank is None and not instance.forbids
    if alike and slots <= min(_FEW_SLOTS, instance.n // _FEW_AGENTS_COMPILED):
        return True
    few = _FEW_AGENTS_COMPILED if kernels.available() else _FEW_AGENTS
    return instance.m >= _MANY_MODELS and instance.n <= few * instance.m


def _without_kernels(instance: Instance, deadline: Deadline) -> tuple[str, ...]:
    """Return the engines for slots that need no compiler, best first."""
    if instance.n * (int(instance.slots.sum()) + instance.n * instance.may_leave) <= _TINY_CELLS:
        return ("lsap", "flow")
    most = _SMALL_PAIRS
    if instance.n >= _MANY_AGENTS * instance.m:
        most = _MEDIUM_PAIRS
    elif instance.n < _FEW_AGENTS * instance.m:
        most = _CROWDED_PAIRS
    exact = ("flow", "price") if instance.n * instance.m <= most else ("price", "flow")
    # Where costs differ too widely for whole numbers, both may fall short of a proof that floats can give.
    return (*exact, "lsap") if deadline.remaining_s() >= _LAST_RESORT_S else exact


def _judge(
    instance: Instance,
    claim: Claim | None,
    name: str,
    best: Answer | None,
    threads: int,
    deadline: Deadline,
) -> Answer:
    """Verify a claim and return the better of it and the incumbent, with the tighter of the two bounds.

    Where no time is left for a pass over all pairs, the bound is what the largest score allows.
    """
    needed_s = verification_seconds(instance, claim)
    quick = needed_s > _SHORT_PASS_S and deadline.limited and deadline.remaining_s() < needed_s
    nothing = claim is None
    if claim is None:
        claim = Claim(choice=np.full(instance.n, UNASSIGNED, np.int64))
    certificate = certify(instance, claim, threads=threads, quick=quick)
    broken = [
        found for found in certificate.violations if not nothing and found.kind is not ViolationKind.UNSERVED
    ]
    if broken:
        raise EngineError(
            f"engine {name} claimed an assignment that fails verification: {'; '.join(broken[:3])}"
        )
    answer = Answer(claim=claim, certificate=certificate, engine=name)
    if best is None:
        return answer
    ours, theirs = _rank(instance, answer), _rank(instance, best)
    same_service = ours[:-1] == theirs[:-1]
    close = _TIE * max(abs(answer.certificate.objective), abs(best.certificate.objective))
    if same_service and not certificate.violations and abs(ours[-1] - theirs[-1]) <= close:
        winner, other = (answer, best) if certificate.bound <= best.certificate.bound else (best, answer)
    else:
        winner, other = (answer, best) if ours > theirs else (best, answer)
    if quick or winner.certificate.optimal or winner.certificate.violations:
        return winner
    # What either engine proved holds for both: prices and bounds are about the instance, not about the choice.
    given: dict[str, Any] = {"prices": other.claim.prices, "limit_prices": other.claim.limit_prices}
    given |= {
        "score_prices": other.claim.score_prices,
        "score_limit_prices": other.claim.score_limit_prices,
        "response": other.claim.response,
    }
    proofs = given if other.claim.prices is not None else {}
    if (same_service or not instance.serve_first) and not other.certificate.violations:
        bounds = [bound for bound in (winner.claim.bound, other.claim.bound) if bound is not None]
        most = winner.claim.serves_most or other.claim.serves_most
        proofs |= {"bound": min(bounds, default=None), "serves_most": most}
    if proofs:
        shared = replace(winner.claim, **proofs)
        joint = certify(instance, shared, threads=threads)
        if joint.bound < winner.certificate.bound or joint.optimal:
            return replace(winner, claim=shared, certificate=joint)
    return winner


def _rank(instance: Instance, answer: Answer) -> tuple[Any, ...]:
    """Return a sort key: feasible first, then service where it comes first, then the objective."""
    value = answer.certificate.objective
    if instance.network is not None:
        left = instance.network.supply - claimed_flow(answer.claim).served(instance.n)
        return (not answer.certificate.violations, value + _service_value(instance, left))
    if not instance.serve_first:
        return (not answer.certificate.violations, value)
    served = answer.claim.choice != UNASSIGNED
    ranks: tuple[int, ...] = ()
    if instance.rank is not None:
        ranks = tuple(
            np.bincount(instance.rank[served], minlength=int(instance.rank.max()) + 1)[::-1].tolist()
        )
    return (not answer.certificate.violations, int(served.sum()), ranks, value)


def _service_value(instance: Instance, left: NDArray[np.int64]) -> float:
    """Return the value of leaving (n,) units out, where the objective does not count it."""
    some = np.flatnonzero(left)
    return float(instance.unserved[some] @ left[some]) if instance.serve_first and len(some) else 0.0
