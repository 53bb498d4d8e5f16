"""Why this model: the terms of the score, the runner-up, the price that decided, what would change it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from solver.clock import Deadline
from solver.errors import SpecError, Violation
from solver.problem.capability import unmet_requirements
from solver.problem.instance import UNASSIGNED
from solver.problem.values import unknown_name
from solver.solution.solution import Status
from solver.solution.solving import solve_instance

if TYPE_CHECKING:
    from solver.solution.plan import Plan

_SOLVED_AGAIN_PAIRS = 400
"""Agents times models up to which a threshold is found by solving again."""

_SOLVED_AGAIN_MS = 500.0
"""Deadline of each solve that looks for a threshold, in milliseconds."""

_MAX_RIVALS = 8
"""Most other models whose thresholds are found by solving again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One model as one agent sees it.

    Parameters
    ----------
    model_id : str
        The model.
    quality, load_factor, priority : float
        ``score = priority · (quality · load_factor − costs)``.
    cost_usd, latency_s : float or None
        None where the objective does not weigh them.
    score : float
        What was maximised; ``-inf`` when not eligible. Where scores are costs, the cost; ``inf`` when not eligible.
    price : float
        Price of what the agent takes of the model; negative where a floor wants it there.
    net : float
        ``score − price``: each agent's model is the one with the highest. Of costs ``score + price``, the lowest.
    unmet : tuple of str
        Why the model is not eligible; empty when it is.
    """

    model_id: str
    quality: float
    load_factor: float
    priority: float
    cost_usd: float | None
    latency_s: float | None
    score: float
    price: float
    net: float
    unmet: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why one agent got its model, or none.

    Parameters
    ----------
    agent_id : str
        The agent.
    chosen : Candidate or None
        Its model, the best of them where it has several.
    runner_up : Candidate or None
        The best of the other eligible models, prices included.
    candidates : tuple of Candidate
        All models, highest net value first, those not eligible last.
    reason : str
        As in the plan.
    change : str
        The least that would have to change for another answer.
    """

    agent_id: str
    chosen: Candidate | None
    runner_up: Candidate | None
    candidates: tuple[Candidate, ...]
    reason: str
    change: str


def explain(plan: Plan, agent_id: str) -> Explanation:
    """Explain one agent of a plan. O(m).

    Parameters
    ----------
    plan : Plan
        Any plan.
    agent_id : str
        One of its agents.

    Raises
    ------
    SpecError
        When the plan has no such agent.
    """
    agents = plan.problem.agents
    row = agents.positions.get(agent_id)
    if row is None:
        raise SpecError(
            unknown_name("agent", f"expected one of {len(agents)} ids", agent_id, agents.positions)
        )
    candidates = _candidates(plan, row)
    sign = plan.instance.sign
    ranked = sorted(candidates, key=lambda one: -sign * one.net)
    flow = plan.solution.unit_flow
    held = np.atleast_1d(plan.solution.choice[row]) if flow is None else flow.model[flow.agent == row]
    own = [candidates[j] for j in held.tolist() if j != UNASSIGNED]
    own.sort(key=lambda one: -sign * one.score)
    chosen = own[0] if own else None
    rivals = [one for one in ranked if one not in own and not one.unmet]
    runner_up = rivals[0] if rivals else None
    return Explanation(
        agent_id=agent_id,
        chosen=chosen,
        runner_up=runner_up,
        candidates=tuple(ranked),
        reason=str(plan.reasons[row]),
        change=_coupled_change(plan, row, own[-1] if own else None, rivals)
        or _change(own[-1] if own else None, runner_up, sign),
    )


def _coupled_change(plan: Plan, row: int, chosen: Candidate | None, rivals: list[Candidate]) -> str | None:
    """Return what would change the answer where demands or limits couple agents, None where prices say it exactly.

    Multipliers are no exact prices there. The agent is put on each other model in turn and the rest is solved again:
    what the total loses is what the other model would have to score more.
    """
    instance = plan.instance
    if chosen is None or not rivals or instance.network is not None or instance.is_slots:
        return None
    if instance.n * instance.m > _SOLVED_AGAIN_PAIRS or plan.status is not Status.OPTIMAL:
        best = instance.sign * (chosen.net - rivals[0].net)
        about = f"about {max(best, 0.0):.3g}"
        return f"{rivals[0].model_id} would win if it scored {about} more; the multipliers of limits are estimates"
    columns = {model.id: j for j, model in enumerate(plan.problem.models)}
    served = int((plan.solution.choice != UNASSIGNED).sum())
    found: list[tuple[float, str]] = []
    for rival in rivals[:_MAX_RIVALS]:
        j = columns[rival.model_id]
        score = np.array(instance.score, dtype=np.float64)
        score[row, np.arange(instance.m) != j] = -np.inf
        forced = replace(instance, score=score)
        answer = solve_instance(forced, deadline=Deadline.after(_SOLVED_AGAIN_MS))
        fewer = instance.serve_first and int((answer.choice != UNASSIGNED).sum()) < served
        if answer.status is Status.OPTIMAL and answer.choice[row] == j and not fewer:
            lost = abs(plan.solution.objective - answer.objective)
            found.append((lost, rival.model_id))
    if not found:
        return "no score alone: on every other model the rest would not fit, or fewer would be served"
    lost, model = min(found)
    if lost == 0.0:
        return f"nothing in score: {model} would do as well"
    other = f"scored {lost:.6g} more, or cost" if instance.sign > 0 else "cost"
    return f"{model} would win if it {other} {lost:.6g} less"


def _candidates(plan: Plan, row: int) -> list[Candidate]:
    terms = plan.scorer.terms(np.array([row]))
    instance = plan.instance
    # In serve-first mode with too little capacity the multipliers carry the value of service too; the agent's
    # own comparison needs them, while people are shown what a slot is worth in score.
    prices = plan.solution.prices.reshape(instance.m, instance.r)
    if len(plan.solution.floor_prices):
        prices = prices + plan.solution.floor_prices[:, None]
    taken = np.ones((instance.m, 1)) if instance.demand is None else instance.demand[row]
    price = (prices * taken).sum(axis=1)
    agent = plan.problem.agents[row]
    profile = plan.problem.agents.profiles[plan.problem.agents.profile[row]]
    found = []
    for j, model in enumerate(plan.problem.models):
        score = float(instance.score[row, j])
        unmet: tuple[str, ...] = ()
        if not np.isfinite(score):
            unmet = tuple(unmet_requirements(profile, agent.min_context_tokens, model))
            unmet = unmet or ("has no score, or one below the minimum",)
        found.append(
            Candidate(
                model_id=model.id,
                quality=float(terms.quality[0, j]),
                load_factor=float(terms.load_factor[j]),
                priority=float(terms.priority[0]),
                cost_usd=None if terms.cost_usd is None else float(terms.cost_usd[0, j]),
                latency_s=None if terms.latency_s is None else float(terms.latency_s[0, j]),
                score=instance.sign * score,
                price=float(price[j]),
                net=instance.sign * (score - float(price[j])),
                unmet=unmet,
            )
        )
    return found


def _change(chosen: Candidate | None, runner_up: Candidate | None, sign: float) -> str:
    if chosen is None:
        if runner_up is None:
            return Violation("nothing", "no model is eligible")
        return f"one more unit on {runner_up.model_id}, or a higher priority"
    if runner_up is None:
        return Violation("nothing", "no other model is eligible")
    margin = sign * (chosen.net - runner_up.net)
    if margin <= 0:
        return Violation(
            "the next free slot",
            f"{runner_up.model_id} is worth as much to it, and its price is what keeps it out",
        )
    if sign < 0:
        return f"{runner_up.model_id} would win if it cost {margin:.6g} less"
    return f"{runner_up.model_id} would win if it scored {margin:.6g} more, or cost {margin:.6g} less"
