"""The best verified answer so far: claims are verified here, and the better of two answers is kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.engines.base import Claim, StopReason, load_engine
from solver.engines.certificate import Certificate, certify, verification_seconds
from solver.engines.limit_repair import repair_seconds, repaired
from solver.engines.network_terms import claimed_flow
from solver.engines.portfolio.priced_greedy import priced_greedy
from solver.errors import EngineError, ViolationKind
from solver.problem.instance import UNASSIGNED, Instance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.engines.portfolio.params import PortfolioParams

_REPAIR_SHARE = 0.6
"""Share of the time left that is kept back at most for making greedy's answer keep the limits, or a flow of it."""

_FLOW_S_PER_PAIR = 3e-7
"""Seconds per pair in use that making and checking greedy's flow take."""

_TIE = 1e-12
"""Relative difference below which two objectives differ by rounding."""


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

    @property
    def proven(self) -> bool:
        """Whether nothing is left to find: it is optimal, or no feasible assignment exists."""
        return self.infeasible or self.certificate.optimal

    @property
    def serves_all(self) -> bool:
        """Whether it is feasible and serves every agent."""
        return not self.certificate.violations and bool((self.claim.choice >= 0).all())


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSettings:
    """What all attempts of one call share.

    Parameters
    ----------
    deadline : Deadline
        Of the whole call.
    seed : int
        For engines that draw random numbers.
    threads : int
        Most threads an engine may use.
    named : bool
        Whether the caller asked for one engine by name.
    params : PortfolioParams
        Thresholds.
    """

    deadline: Deadline
    seed: int
    threads: int
    named: bool
    params: PortfolioParams


def better_verified(
    instance: Instance,
    claim: Claim | None,
    name: str,
    best: Answer | None,
    call: CallSettings,
    deadline: Deadline,
) -> Answer:
    """Verify a claim and return the better of it and the incumbent, with the tighter of the two bounds.

    Where no time is left for a pass over all pairs, the bound is what the largest score allows.
    """
    quick = False
    if deadline.limited:
        needed_s = verification_seconds(instance, claim)
        quick = needed_s > call.params.short_pass_s and deadline.remaining_s() < needed_s
    nothing = claim is None
    if claim is None:
        claim = Claim(choice=np.full(instance.n, UNASSIGNED, np.int64))
    certificate = certify(instance, claim, threads=call.threads, quick=quick)
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
    again_s = verification_seconds(instance, winner.claim)
    if again_s > call.params.short_pass_s and deadline.limited and deadline.remaining_s() < again_s:
        return winner
    bounds_hold = (same_service or not instance.serve_first) and not other.certificate.violations
    return _with_proofs_of(other, winner, instance, call.threads, bounds_hold=bounds_hold)


def _with_proofs_of(
    other: Answer, winner: Answer, instance: Instance, threads: int, *, bounds_hold: bool
) -> Answer:
    """Return the winner with what another engine proved: prices and bounds are about the instance, not the choice."""
    proofs: dict[str, Any] = {}
    if other.claim.prices is not None:
        names = ("prices", "limit_prices", "score_prices", "score_limit_prices", "response")
        proofs = {name: getattr(other.claim, name) for name in names}
    if bounds_hold:
        bounds = [bound for bound in (winner.claim.bound, other.claim.bound) if bound is not None]
        most = winner.claim.serves_most or other.claim.serves_most
        proofs |= {"bound": min(bounds, default=None), "serves_most": most}
    if not proofs:
        return winner
    shared = replace(winner.claim, **proofs)
    joint = certify(instance, shared, threads=threads)
    better = joint.bound < winner.certificate.bound or joint.optimal
    return replace(winner, claim=shared, certificate=joint) if better else winner


def unsolved(instance: Instance, call: CallSettings) -> Answer:
    """Return the answer that leaves all agents unassigned."""
    return better_verified(instance, None, "none", None, call, call.deadline)


def greedy_incumbent(instance: Instance, deadline: Deadline, call: CallSettings) -> Answer | None:
    """Return greedy's answer, put right where there are limits, or None where that does not lead anywhere."""
    greedy = load_engine("greedy")
    limits = instance.limits
    free = instance.without_limits()
    if greedy.unsupported_reason(free, remaining_s=deadline.remaining_s()) is not None:
        return None
    own = deadline
    if deadline.limited:
        after_s = repair_seconds(instance)
        if instance.network is not None:
            after_s += _FLOW_S_PER_PAIR * float(instance.network.depth.sum())
        reserve_s = min(after_s, _REPAIR_SHARE * max(0.0, deadline.remaining_s()))
        own = replace(deadline, ends_s=deadline.ends_s - reserve_s)
    claim = greedy.solve(free, deadline=own)
    if claim is None:
        return None
    if limits is None:
        return better_verified(instance, claim, "greedy", None, call, deadline)
    choice = repaired(instance, claim.choice, deadline)
    best = None
    if choice is not None:
        best = better_verified(instance, Claim(choice=choice), "greedy", None, call, deadline)
    if deadline.limited and (best is None or not best.serves_all):
        priced = priced_greedy(instance, deadline, call.seed)
        if priced is not None:
            best = better_verified(instance, priced, "greedy", best, call, deadline)
    return best


def answer_past_deadline(instance: Instance, call: CallSettings, read_ms: float) -> Answer:
    """Return whatever takes no time, where the deadline has passed before any engine could start.

    ``read_ms`` is what passed before engines were chosen.
    """
    deadline = call.deadline
    given_ms = (deadline.ends_s - deadline.started_s) * 1e3
    if read_ms >= given_ms:
        late = (
            f"skipped every search: reading the input took {read_ms:.0f} ms of a deadline of {given_ms:g} ms"
        )
    else:
        late = (
            f"skipped every search: choosing an engine took {deadline.elapsed_ms() - read_ms:.0f} ms after "
            f"{read_ms:.0f} ms of reading, of a deadline of {given_ms:g} ms"
        )
    best = greedy_incumbent(instance, deadline, call) or unsolved(instance, call)
    return replace(best, notes=(*best.notes, late))


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
