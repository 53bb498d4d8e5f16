"""Seeded instances: realistic fleets and batches, and the hard families of the assignment literature."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from solver.errors import SpecError, Violation, ViolationKind
from solver.problem.agents import AgentTable, Profile
from solver.problem.capability import CAPABILITIES
from solver.problem.spec import Capacity, Model, Problem

if TYPE_CHECKING:
    from numpy.typing import NDArray

GapType = Literal["A", "B", "C", "D", "E"]
GAP_TYPES: tuple[GapType, ...] = ("A", "B", "C", "D", "E")
"""The families of generalized assignment instances, the first two the easiest."""

_WORK_MIX = {
    "coding": (0.24, 1800, 700, 0.35),
    "general": (0.20, 350, 250, 0.05),
    "question_answering": (0.16, 1200, 180, 0.15),
    "summarization": (0.13, 6000, 350, 0.0),
    "math": (0.09, 400, 600, 0.1),
    "translation": (0.08, 700, 700, 0.0),
    "reasoning": (0.07, 900, 1200, 0.1),
    "arabic": (0.03, 500, 450, 0.0),
}
"""Task type: share of the batch, median input tokens, median output tokens, share that calls tools."""

_TOKEN_SPREAD = 0.7
"""Standard deviation of the logarithm of token counts."""

_PRIORITIES = ((1.0, 2.0, 5.0), (0.80, 0.15, 0.05))
_PREFERRED = ((), ("low_latency",), ("high_accuracy",))
_TENANTS = ("evaluation", "research", "support", "documents")


def generate_agents(n: int, *, seed: int = 0) -> AgentTable:
    """Return n agents over eight task types, with lognormal token counts, priorities and tenants. O(n).

    Parameters
    ----------
    n : int
        At least 1.
    seed : int
        Same n and seed: same agents.

    Raises
    ------
    SpecError
        When n is below 1.
    """
    _at_least_one("agents", n)
    rng = np.random.default_rng([seed, 1])
    kinds = list(_WORK_MIX)
    shares, inputs, outputs, tools = (np.array(column) for column in zip(*_WORK_MIX.values(), strict=True))
    kind = rng.choice(len(kinds), n, p=shares)
    input_tokens = _tokens(rng, inputs[kind])
    output_tokens = _tokens(rng, outputs[kind])
    preferred = rng.choice(len(_PREFERRED), n, p=(0.55, 0.25, 0.20))
    calls_tools = rng.random(n) < tools[kind]
    sees = rng.random(n) < 0.04
    need = input_tokens + output_tokens
    # Context is asked for in powers of two from 4,096 tokens on, and strictly by those that would not fit.
    context = np.maximum(4096, 2 ** np.ceil(np.log2(need)).astype(np.int64))
    strict = context > 8192
    variant = ((kind * len(_PREFERRED) + preferred) * 2 + calls_tools) * 4 + sees * 2 + strict
    used, profile = np.unique(variant, return_inverse=True)
    return AgentTable(
        ids=np.array([f"a{i:0{len(str(n - 1))}d}" for i in range(n)], dtype=object),
        profiles=tuple(_profile(int(code), kinds) for code in used),
        profile=profile.astype(np.int32),
        min_context_tokens=context,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        priority=rng.choice(_PRIORITIES[0], n, p=_PRIORITIES[1]),
        min_score=np.full(n, np.nan),
        tenants=_TENANTS,
        tenant=rng.integers(0, len(_TENANTS), n).astype(np.int32),
    )


def _tokens(rng: np.random.Generator, median: NDArray[np.int64]) -> NDArray[np.int64]:
    drawn = median * np.exp(_TOKEN_SPREAD * rng.standard_normal(len(median)))
    return np.clip(np.rint(drawn), 16, 100_000).astype(np.int64)


def _profile(variant: int, kinds: list[str]) -> Profile:
    strict, sees, calls_tools = variant & 1, variant >> 1 & 1, variant >> 2 & 1
    kind, preferred = divmod(variant >> 3, len(_PREFERRED))
    return Profile(
        task_type=kinds[kind],
        preferred_capabilities=_PREFERRED[preferred],
        requires_context=bool(strict),
        requires_tools=bool(calls_tools),
        requires_vision=bool(sees),
    )


def generate_fleet(m: int, *, slots: int, seed: int = 0) -> tuple[Model, ...]:
    """Return m models whose price, strength and speed go together as they do in the market.

    Parameters
    ----------
    m : int
        At least 1.
    slots : int
        Slots of the whole fleet; cheap models have more of them than strong ones.
    seed : int
        Same arguments: same fleet.

    Raises
    ------
    SpecError
        When m is below 1 or slots below 0.
    """
    _at_least_one("models", m)
    if slots < 0:
        msg = Violation("slots", "expected >= 0", slots)
        raise SpecError(msg)
    rng = np.random.default_rng([seed, 2])
    strength = np.sort(rng.uniform(0.35, 0.97, m))[::-1]
    price = 0.05 * np.exp(5.0 * (strength - 0.35)) * rng.uniform(0.6, 1.6, m)
    share = rng.uniform(0.5, 1.5, m) * (1.3 - strength)
    exact = slots * share / share.sum()
    count = np.floor(exact).astype(np.int64)
    count[np.argsort(count - exact, kind="stable")[: slots - int(count.sum())]] += 1
    models = []
    for j in range(m):
        talents = np.clip(strength[j] + rng.normal(0, 0.10, len(CAPABILITIES)), 0.05, 1.0)
        speed = float(rng.uniform(40, 120) * (1.6 - strength[j]))
        capabilities = dict(zip(CAPABILITIES, talents.round(2).tolist(), strict=True))
        capabilities["low_latency"] = round(min(1.0, speed / 150), 2)
        models.append(
            Model(
                id=f"m{j:0{len(str(m - 1))}d}",
                capacity=Capacity(
                    max_concurrent=int(count[j]), max_queue=int(count[j]) // 2, target_utilization=0.8
                ),
                capabilities=capabilities,
                context_tokens=2 ** int(rng.integers(15, 21)),
                usd_per_million_input_tokens=round(float(price[j]), 3),
                usd_per_million_output_tokens=round(float(price[j] * rng.uniform(3, 5)), 3),
                latency_s=round(float(rng.uniform(0.2, 1.2)), 2),
                output_tokens_per_second=round(speed, 1),
                provider=f"provider-{int(rng.integers(1, 5))}",
                region=("eu", "us")[int(rng.integers(0, 2))],
                supports_tools=bool(j == 0 or rng.random() < 0.8),
                supports_vision=bool(j == 0 or rng.random() < 0.5),
            )
        )
    return tuple(models)


def generate_problem(n: int, m: int, *, tightness: float = 0.9, seed: int = 0) -> Problem:
    """Return a seeded problem of n agents and m models.

    Parameters
    ----------
    n, m : int
        At least 1.
    tightness : float
        Agents per slot, greater than 0: at 0.9 a tenth of the slots stays free, above 1 not all fit.
    seed : int
        Same arguments: same problem.

    Raises
    ------
    SpecError
        When an argument is out of its range.
    """
    if not (np.isfinite(tightness) and tightness > 0):
        msg = Violation("tightness", "expected a finite number > 0", tightness)
        raise SpecError(msg)
    agents = generate_agents(n, seed=seed)
    return Problem(agents=agents, models=generate_fleet(m, slots=int(np.ceil(n / tightness)), seed=seed))


def generate_scores(
    n: int, m: int, *, seed: int = 0, fill: float = 0.8
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return a dense slot instance as arrays: scores of pairs, and slots.

    Scores are logistic in the model's quality, the agent's difficulty, the match of eight hidden skills and
    noise, as graded answers of language models are; slots are gamma-distributed over the models.

    Parameters
    ----------
    n, m : int
        Agents and models, at least 1 each.
    seed : int
        Same arguments: same instance.
    fill : float
        Agents per slot, about; above 1 not all fit.

    Returns
    -------
    scores : (n, m) float64, 0 to 1
    slots : (m,) int64

    Raises
    ------
    SpecError
        When a number is below 1, or ``fill`` is not above 0.
    """
    _at_least_one("agents", n)
    _at_least_one("models", m)
    if not fill > 0:
        msg = Violation("fill", "expected > 0", fill)
        raise SpecError(msg)
    rng = np.random.default_rng([seed, 4])
    quality = rng.beta(5, 2, m)
    difficulty = rng.normal(size=(n, 1))
    match = rng.normal(size=(n, 8)) @ rng.normal(size=(8, m)) / np.sqrt(8)
    logit = 3 * quality - 1.5 + 0.6 * match - 0.3 * difficulty + 0.3 * rng.normal(size=(n, m))
    weight = rng.gamma(2, 1, m)
    slots = np.maximum(1, np.floor(weight / weight.sum() * n / fill)).astype(np.int64)
    slots[0] += max(0, int(np.ceil(n / max(fill, 1.0))) - int(slots.sum()))
    return 1 / (1 + np.exp(-logit)), slots


def gap_type(name: str) -> GapType:
    """Return a family by its letter, in either case.

    Raises
    ------
    SpecError
        For any other name.
    """
    for kind in GAP_TYPES:
        if name.upper() == kind:
            return kind
    msg = Violation("gap", f"expected one of {', '.join(GAP_TYPES)}", name, kind=ViolationKind.UNKNOWN)
    raise SpecError(msg)


def generate_gap(
    kind: GapType, m: int, n: int, *, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return a generalized assignment instance of a published family, costs to be minimised.

    With use a and cost c of agent i on model j, U the uniform distribution over integers:
    A: a = U[5, 25], c = U[10, 50], capacity ``0.6·15·n/m + 0.4·max_j Σ a`` over the agents that are
    cheapest on j. B: 0.7 times that capacity. C: a and c likewise, capacity ``0.8·Σ_i a / m``.
    D: a = U[1, 100], c = 111 − a + U[−10, 10]. E: a = 1 − 10·ln U(0, 1], c = 1000/a − 10·U[0, 1].
    D and E have the capacity of C.

    Parameters
    ----------
    kind : {"A", "B", "C", "D", "E"}
        Family.
    m, n : int
        Models and agents, at least 1 each.
    seed : int
        Same arguments: same instance.

    Returns
    -------
    cost : (m, n) int64
    use : (m, n) int64
    capacity : (m,) int64

    Raises
    ------
    SpecError
        When an argument is out of its range.

    References
    ----------
    Martello and Toth, "An algorithm for the generalized assignment problem", 1981 (A to D);
    Laguna et al., "Assigning by tabu search with ejection chains", 1995 (E).
    """
    if kind not in GAP_TYPES:
        msg = Violation("kind", f"expected one of {', '.join(GAP_TYPES)}", kind, kind=ViolationKind.UNKNOWN)
        raise SpecError(msg)
    _at_least_one("models", m)
    _at_least_one("agents", n)
    rng = np.random.default_rng([seed, 3, GAP_TYPES.index(kind)])
    if kind == "E":
        drawn = 1.0 - 10.0 * np.log(1.0 - rng.random((m, n)))  # 1 − U[0, 1) is in (0, 1]
        use = np.maximum(1, np.floor(drawn)).astype(np.int64)
        cost = np.maximum(1, np.floor(1000.0 / drawn - 10.0 * rng.random((m, n)))).astype(np.int64)
    elif kind == "D":
        use = rng.integers(1, 101, (m, n))
        cost = 111 - use + rng.integers(-10, 11, (m, n))
    else:
        use = rng.integers(5, 26, (m, n))
        cost = rng.integers(10, 51, (m, n))
    if kind in {"A", "B"}:
        cheapest = cost.argmin(axis=0)
        loads = np.bincount(cheapest, weights=use[cheapest, np.arange(n)], minlength=m)
        units = np.full(m, 0.6 * 15.0 * n / m + 0.4 * loads.max()) * (0.7 if kind == "B" else 1.0)
    else:
        units = 0.8 * use.sum(axis=1) / m
    return cost, use, np.floor(units).astype(np.int64)


def _at_least_one(name: str, count: int) -> None:
    if count < 1:
        msg = Violation(name, "expected at least 1", count)
        raise SpecError(msg)
