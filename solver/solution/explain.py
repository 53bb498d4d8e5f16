"""Why this model: the terms of the score, the runner-up, the price that decided, what would change it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.errors import SpecError, Violation
from solver.problem.capability import unmet_requirements
from solver.problem.instance import UNASSIGNED
from solver.problem.values import unknown_name
from solver.solution.thresholds import Counterfactuals

if TYPE_CHECKING:
    from solver.problem.instance import Instance
    from solver.solution.plan import Plan


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
        change=_change(plan, row, own[-1] if own else None, rivals),
    )


def _change(plan: Plan, row: int, chosen: Candidate | None, rivals: list[Candidate]) -> str:
    """Return the least that would have to change for another answer."""
    instance = plan.instance
    if not rivals:
        return Violation(
            "nothing", "no model is eligible" if chosen is None else "no other model is eligible"
        )
    first = rivals[0].model_id
    if not Counterfactuals.are_for(instance, plan.solution):
        return _estimated_change(instance, chosen, rivals[0])
    again = Counterfactuals(instance, plan.solution, row)
    columns = {model.id: j for j, model in enumerate(plan.problem.models)}
    models = [columns[rival.model_id] for rival in rivals]
    tie = chosen is not None and instance.sign * (chosen.net - rivals[0].net) <= 0
    if tie and instance.has_exact_prices and again.takes_next_unit(models[0]):
        return Violation(
            "the next free slot", f"{first} is worth as much to it, and its price is what keeps it out"
        )
    more = []
    if chosen is None and again.takes_next_unit(models[0]):
        more.append(f"one more unit on {first}")
    if chosen is None and instance.serve_first and again.fits_with_priority(models):
        more.append("a higher priority")
    found = again.thresholds(models)
    if found:
        lost, model = found[0].lost, plan.problem.models[found[0].model].id
        if lost == 0.0:
            return f"nothing in score: {model} would do as well"
        more.insert(0, _would_win(model, f"{lost:.6g}", instance.sign))
    if more:
        return ("; or " if found else ", or ").join(more)
    return "no score alone: on every other model the rest would not fit, or fewer would be served"


def _estimated_change(instance: Instance, chosen: Candidate | None, rival: Candidate) -> str:
    """Return what prices say: a lower bound on a score where they are exact, and else an estimate."""
    if chosen is None:
        return f"more room on {rival.model_id}, or a higher priority"
    margin = max(instance.sign * (chosen.net - rival.net), 0.0)
    if instance.has_exact_prices:
        words = (
            f"score at least {margin:.6g} more" if instance.sign > 0 else f"cost at least {margin:.6g} less"
        )
        return f"{rival.model_id} would have to {words}; how much depends on who would have to move"
    estimate = _would_win(rival.model_id, f"about {margin:.3g}", instance.sign)
    return f"{estimate}; the multipliers of limits are estimates"


def _would_win(model: str, amount: str, sign: float) -> str:
    if sign < 0:
        return f"{model} would win if it cost {amount} less"
    return f"{model} would win if it scored {amount} more, or cost {amount} less"


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
