"""The objective function: its weights, and the penalty of leaving an agent unassigned."""

from __future__ import annotations

from typing import Literal

from solver.problem.values import Fraction, Frozen, NonNegative, PenaltyValue, Real


class Objective(Frozen):
    """What is maximised, over all assigned agents, and what leaving one out costs.

    The sum of ``priority × (quality × (1 − load_weight × utilization) − cost_weight × cost_usd
    − latency_weight × latency_s)``, minus ``priority × unassigned_penalty`` of each agent left out.

    Parameters
    ----------
    quality : {"capability", "given", "combined"}, optional
        Where quality comes from: computed from capabilities; the problem's scores as they are; or
        ``capability_weight × capability + given_weight × given``. None: given where the problem has scores.
    capability_weight, given_weight : float
        Weights of a combined quality, >= 0.
    required_weight, preferred_weight, context_weight : float
        Weights of the capability score, >= 0.
    load_weight : float
        How much a model's utilization before the batch lowers its quality, 0 to 1. Without live load there
        is no utilization and nothing is lowered.
    cost_weight : float
        Score points one US dollar costs, >= 0.
    latency_weight : float
        Score points one second costs, >= 0.
    unassigned_penalty : float, optional
        None: serve as many agents as possible first. A number: leave an agent out when that is cheaper.
        Infinite (``.inf`` in YAML, ``"infinite"`` in JSON): all agents or infeasible.
    min_score : float, optional
        Pairs whose quality, before load, cost and latency, is lower are not eligible.
    missing_score : float, optional
        Given score of pairs the problem's scores do not name. None: such pairs are not eligible.
    sense : {"maximize", "minimize"}
        With ``minimize`` scores are costs: their total is made as small as possible, utilization raises them,
        and objective, bound and scores are reported as costs.
    """

    quality: Literal["capability", "given", "combined"] | None = None
    capability_weight: NonNegative = 0.5
    given_weight: NonNegative = 0.5
    required_weight: NonNegative = 0.70
    preferred_weight: NonNegative = 0.20
    context_weight: NonNegative = 0.10
    load_weight: Fraction = 0.3
    cost_weight: NonNegative = 0.0
    latency_weight: NonNegative = 0.0
    unassigned_penalty: PenaltyValue | None = None
    min_score: Real | None = None
    missing_score: Real | None = None
    sense: Literal["maximize", "minimize"] = "maximize"
