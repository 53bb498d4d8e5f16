"""Which engine, when: an incumbent first where time is short, then the best engine for the shape.

An engine's claim replaces the incumbent only if the certificate verifies it and it is better; whatever
happens afterwards, the best verified answer so far is what is returned.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from solver.engines import kernels
from solver.engines.base import ENGINES, Claim, load_engine
from solver.engines.certificate import Certificate, certify, verification_seconds
from solver.engines.network_terms import claimed_flow
from solver.errors import EngineError, SpecError
from solver.problem.instance import UNASSIGNED, Instance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline

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
    """

    claim: Claim
    certificate: Certificate
    engine: str
    infeasible: bool = False
    notes: tuple[str, ...] = ()


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
    best: Answer | None = None
    notes: list[str] = []
    if deadline.expired() and engine == "auto":
        return _too_late(instance, deadline, threads)
    if deadline.limited and engine != "greedy" and not _starts_itself(instance, names[0], deadline):
        best = _incumbent(instance, deadline, threads)
    for name in names:
        if best is not None and best.certificate.optimal:
            break
        candidate = load_engine(name)
        patience_s = deadline.remaining_s() - _MARGIN_S
        if engine == "auto" and name == "lsap":
            patience_s = min(patience_s, _LAST_RESORT_S)
        reason = candidate.unsupported_reason(instance, remaining_s=patience_s)
        if reason is not None:
            notes.append(f"skipped {reason}")
            continue
        start = best.claim if best is not None else hint
        inner = _reserved(instance, deadline) if name in _RESERVING else deadline
        claim = candidate.solve(instance, deadline=inner, hint=start, seed=seed, threads=threads)
        if claim is None:
            notes.append(f"{name}: nothing found in time")
            continue
        if claim.infeasible:
            return Answer(
                claim=claim,
                certificate=certify(instance, claim),
                engine=name,
                infeasible=True,
                notes=(*notes, f"{name}: proved that no assignment serves every agent"),
            )
        best = _judge(instance, claim, name, best, threads, deadline)
    if best is None:
        best = _incumbent(instance, deadline, threads)
    if best is None:
        best = _judge(instance, None, "none", None, threads, deadline)
    return replace(best, notes=tuple(notes)) if notes else best


def _incumbent(instance: Instance, deadline: Deadline, threads: int) -> Answer | None:
    """Return greedy's answer, or None where greedy does not know the instance's limits."""
    greedy = load_engine("greedy")
    if greedy.unsupported_reason(instance, remaining_s=deadline.remaining_s()) is not None:
        return None
    claim = greedy.solve(instance, deadline=deadline)
    return None if claim is None else _judge(instance, claim, "greedy", None, threads, deadline)


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
    if instance.network is not None:
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
    if not instance.is_slots:
        return ("lagrangian",)
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
    quick = needed_s > 0 and deadline.limited and deadline.remaining_s() < needed_s
    nothing = claim is None
    if claim is None:
        claim = Claim(choice=np.full(instance.n, UNASSIGNED, np.int64))
    certificate = certify(instance, claim, threads=threads, quick=quick)
    broken = [line for line in certificate.violations if not (nothing or line.endswith("must be served"))]
    if broken:
        raise EngineError(
            f"engine {name} claimed an assignment that fails verification: {'; '.join(broken[:3])}"
        )
    answer = Answer(claim=claim, certificate=certificate, engine=name)
    if best is None:
        return answer
    winner, other = (answer, best) if _rank(instance, answer) > _rank(instance, best) else (best, answer)
    if other.claim.prices is not None and not winner.certificate.optimal and not quick:
        shared = replace(
            winner.claim,
            prices=other.claim.prices,
            limit_prices=other.claim.limit_prices,
            score_prices=other.claim.score_prices,
            score_limit_prices=other.claim.score_limit_prices,
        )
        joint = certify(instance, shared, threads=threads)
        if joint.bound < winner.certificate.bound:
            winner = replace(winner, claim=shared, certificate=joint)
    word = other.claim.bound
    if word is not None and word < winner.certificate.bound and (not instance.serve_first or winner is best):
        # What the loser of a tie vouches for holds for the winner, who serves as well.
        shared = replace(winner.claim, bound=word)
        return replace(
            winner, claim=shared, certificate=certify(instance, shared, threads=threads, quick=quick)
        )
    return winner


def _rank(instance: Instance, answer: Answer) -> tuple[bool, float]:
    """Return a sort key: feasible first, then the objective with the value of service included."""
    value = answer.certificate.objective
    if instance.network is not None:
        left = instance.network.supply - claimed_flow(answer.claim).served(instance.n)
        return (not answer.certificate.violations, value + _service_value(instance, left))
    left = answer.claim.choice == UNASSIGNED
    if instance.serve_first and left.any():
        value += float(instance.unserved[left].sum())
    return (not answer.certificate.violations, value)


def _service_value(instance: Instance, left: NDArray[np.int64]) -> float:
    """Return the value of leaving (n,) units out, where the objective does not count it."""
    some = np.flatnonzero(left)
    return float(instance.unserved[some] @ left[some]) if instance.serve_first and len(some) else 0.0
