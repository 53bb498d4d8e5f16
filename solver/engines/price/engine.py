"""The price engine: certified optimum of slot instances at any size.

With m models and n agents, m much smaller than n, the whole problem lives in m prices. They are estimated
from random samples of growing size, each with an error bar; the full data is then reduced, in one pass, to
the agents whose choice is still open within the error bars; and what is left is solved exactly.
See ``docs/explanation/price-engine.md`` for the method, the theory and the references.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np

from solver.engines.base import Claim
from solver.engines.certificate import best_response
from solver.engines.duals import priced_claim
from solver.engines.network_duals import network_prices
from solver.engines.price.agent_rows import DenseRows
from solver.engines.price.compressed import CompressedRows
from solver.engines.price.duplicate_columns import first_duplicates, share_out
from solver.engines.price.estimate import estimate_prices
from solver.engines.price.optimum import Outcome, find_optimum, solve_everything
from solver.engines.price.params import PriceEngineParams
from solver.engines.price.recalled_prices import recall_prices
from solver.engines.price.repair import drop_overload
from solver.engines.price.rounded_grid import is_proven
from solver.engines.price.sample_sizes import probe_scale
from solver.engines.price.scarce_prices import price_scarce, scarce_seconds, small_slot_shortage
from solver.engines.price.time_left import choice_seconds, flow_seconds, hasty_seconds
from solver.engines.slot_supply import Supply
from solver.problem.blocks import chunks, row_maxima
from solver.problem.instance import UNASSIGNED
from solver.problem.network import UnitFlow
from solver.problem.sparse import CompressedScores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.engines.price.row_protocols import Rows
    from solver.engines.price.sample_sizes import Scale
    from solver.engines.price.smoothed_dual import Estimate
    from solver.problem.instance import Instance


class PriceEngine:
    """Sampled prices, one reducing pass, one small flow: O(n m) time, O(n) memory beyond the input.

    Parameters
    ----------
    params : PriceEngineParams, optional
        Thresholds and times.
    """

    name = "price"

    def __init__(self, params: PriceEngineParams | None = None) -> None:
        self._params = params or PriceEngineParams()

    def unsupported_reason(self, instance: Instance, *, remaining_s: float) -> str | None:
        """Return why not: no slots, or too little time even for rough prices.

        On large instances with few models it answers sooner than any other engine would, even out of time.
        """
        if not instance.is_slots:
            return "price: every agent must take exactly one slot"
        m, params = instance.m, self._params
        if m > params.most_models:
            return f"price: {m:,} models, at most {params.most_models:,}"
        estimate = min(m**3 * params.s_per_cube, m * params.s_per_first_model)
        small = _pairs(instance) <= params.rough_pairs
        if small:
            estimate = max(
                estimate if m > params.few_models else 0.0, hasty_seconds(instance, _pairs(instance), params)
            )
        if (small or m > params.few_models) and estimate > remaining_s:
            return f"price: needs about {estimate * 1e3:.0f} ms, {max(remaining_s, 0) * 1e3:.0f} ms left"
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
        """Return the optimum with its smallest prices, or the proof that there is none.

        With a deadline too short for exactness: a feasible choice, and prices that bound it. Prices of a
        ``hint`` replace the samples when a look at this instance does not contradict them.
        """
        n, m = instance.n, instance.m
        forbids = instance.forbids
        outside = instance.unserved if instance.may_leave else None
        generator = np.random.default_rng(seed)
        supply = Supply.of(instance)
        if _is_short(instance, outside, supply, forbids):
            return Claim(choice=np.full(n, UNASSIGNED, np.int64), infeasible=True)
        score = instance.score
        first_duplicate = None if isinstance(score, CompressedScores) else first_duplicates(score)
        pooled = supply if first_duplicate is None else supply.pooled(first_duplicate)
        max_slot_cost = pooled.max_slot_cost
        if outside is None and pooled.total.sum() == n:
            pooled = pooled.anchored()
        rows = _rows(instance, outside, pooled.closed, threads)
        scale = probe_scale(rows, generator, self._params).with_costs(pooled.cost)
        known = _known(instance, hint, first_duplicate)
        outcome = _outcome(instance, rows, pooled, scale, generator, known, deadline, threads, self._params)
        if outcome is None:
            return Claim(choice=np.full(n, UNASSIGNED, np.int64), infeasible=True)
        prices = outcome.prices
        if pooled.anchor is not None:
            # Every slot is sold, only differences of prices matter: as low as the most expensive slots allow.
            prices = prices - (prices - max_slot_cost)[~pooled.closed].min()
        if first_duplicate is not None:
            prices = prices[first_duplicate]
        prices = np.maximum(prices, 0.0)
        choice = cast("NDArray[np.int64] | None", outcome.choice)
        response = None
        if choice is None:
            response = best_response(instance, np.where(supply.closed, np.inf, prices), threads=threads)
            choice = response.model.astype(np.int64)
            if outside is not None:
                choice[outside > response.value] = m
        if first_duplicate is not None:
            choice = share_out(choice, first_duplicate, supply)
        not_smallest = pooled.anchor is not None or instance.load_cost is not None
        if not outcome.exact:
            choice = drop_overload(instance, choice, prices, deadline, self._params)
        elif not_smallest and n * m <= self._params.repriced_pairs:
            return _repriced(instance, choice)
        if supply.closed.any():
            prices = _price_closed(instance, choice, prices, supply.closed)
        choice[choice == m] = UNASSIGNED
        return Claim(choice=choice, prices=prices[:, None], response=response)


def _known(
    instance: Instance, hint: Claim | None, first_duplicate: NDArray[np.int64] | None
) -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
    """Return the prices of a hint and what each agent had there, if they are about as many models."""
    m = instance.m
    if hint is None or hint.prices is None or hint.prices.shape != (m, 1):
        return None
    return hint.prices[:, 0], np.append(np.arange(m) if first_duplicate is None else first_duplicate, m)[
        hint.choice
    ]


def _repriced(instance: Instance, choice: NDArray[np.int64]) -> Claim:
    """Return an optimal choice with its smallest prices, found anew."""
    choice[choice == instance.m] = UNASSIGNED
    if instance.load_cost is None:
        return priced_claim(instance, choice)
    smallest = network_prices(instance, UnitFlow.of_choice(choice))
    return Claim(choice=choice, prices=np.maximum(smallest, 0.0))


def _outcome(
    instance: Instance,
    rows: Rows,
    supply: Supply,
    scale: Scale,
    generator: np.random.Generator,
    known: tuple[NDArray[np.float64], NDArray[np.int64]] | None,
    deadline: Deadline,
    threads: int,
    params: PriceEngineParams,
) -> Outcome | None:
    """Return the optimum, or prices if there is no time for it; None if not all agents that must be served can be.

    ``known`` are the prices of a similar instance and what each agent had there.
    """
    n = instance.n
    arcs = n * instance.m * scale.allowed + n * instance.may_leave
    inner = deadline
    if deadline.limited:  # what is left is kept for a feasible choice at the prices known then
        tail_s = choice_seconds(instance, _pairs(instance), params) / threads
        inner = replace(deadline, ends_s=deadline.ends_s - tail_s)
    if arcs <= (
        params.flow_arcs_sparse if arcs <= params.sparse_arcs * n else params.flow_arcs
    ) and inner.remaining_s() >= flow_seconds(int(arcs), params):
        return solve_everything(rows, supply, scale, params=params)
    most = _agents_in_haste(instance, inner.remaining_s(), threads, params)
    estimate = None if known is None else recall_prices(rows, supply, scale, *known, generator, params)
    if most is not None:
        estimate = estimate or estimate_prices(
            rows, supply, scale, generator, most=most, deadline=inner, params=params
        )
        return Outcome(choice=None, prices=estimate.prices, exact=False)
    estimate = estimate or _estimated(instance, rows, supply, scale, generator, threads, inner, params)
    outcome = find_optimum(rows, supply, scale, estimate, inner, params)
    if scale.rounded and outcome is not None and not is_proven(instance, supply, outcome, threads):
        finer = find_optimum(rows, supply, replace(scale, grid=None), estimate, inner, params)
        return finer if finer is not None and finer.exact else outcome
    return outcome


def _pairs(instance: Instance) -> int:
    score = instance.score
    return len(score.data) if isinstance(score, CompressedScores) else instance.n * instance.m


def _rows(
    instance: Instance, outside: NDArray[np.float64] | None, closed: NDArray[np.bool_], threads: int
) -> Rows:
    if isinstance(instance.score, CompressedScores):
        return CompressedRows(instance.score, outside, closed)
    return DenseRows(instance.score, outside, closed, threads)


def _agents_in_haste(
    instance: Instance, left_s: float, threads: int, params: PriceEngineParams
) -> float | None:
    """Return how many agents samples may have, negative for no steps at all; None if there is time for exactness."""
    pairs = _pairs(instance)
    algebra_s = instance.m**3 * params.s_per_cube
    if left_s >= pairs * params.exact_s_per_pair / threads + algebra_s:
        return None
    if algebra_s > max(left_s, params.least_algebra_s):
        return -1.0
    return (
        params.sampling_share * max(left_s - algebra_s, 0.0) * instance.n / (params.exact_s_per_pair * pairs)
    )


def _estimated(
    instance: Instance,
    rows: Rows,
    supply: Supply,
    scale: Scale,
    generator: np.random.Generator,
    threads: int,
    deadline: Deadline,
    params: PriceEngineParams,
) -> Estimate:
    """Return prices from samples, put right where samples cannot see and time allows."""
    short = (
        small_slot_shortage(instance.n, supply, params) if instance.may_leave and not instance.forbids else 0
    )
    if short:
        all_served = _rows(instance, None, supply.closed, threads)
        enough = supply.scaled(instance.n / supply.total.sum()).anchored()
        estimate = estimate_prices(all_served, enough, scale, generator, deadline=deadline, params=params)
    else:
        estimate = estimate_prices(rows, supply, scale, generator, deadline=deadline, params=params)
    if deadline.limited and deadline.remaining_s() < scarce_seconds(rows, supply, params):
        return estimate
    return price_scarce(rows, supply, estimate, short=short, params=params)


def _is_short(instance: Instance, outside: NDArray[np.float64] | None, supply: Supply, forbids: bool) -> bool:
    """Whether counting alone shows that not all agents that must be served can be."""
    stay = instance.n if outside is None else int(np.isneginf(outside).sum())
    if stay == 0:
        return False
    if stay > int(supply.total.sum()):
        return True
    if not forbids:
        return False
    if isinstance(instance.score, CompressedScores):
        unservable = np.isneginf(instance.score.best(np.where(supply.closed, np.inf, 0.0))[1])
        return bool((unservable & (True if outside is None else np.isneginf(outside))).any())
    for rows in chunks(instance.n, instance.m):
        unservable = np.isneginf(row_maxima(np.where(supply.closed, -np.inf, instance.score[rows])))
        if outside is not None:
            unservable &= np.isneginf(outside[rows])
        if unservable.any():
            return True
    return False


def _price_closed(
    instance: Instance, choice: NDArray[np.int64], prices: NDArray[np.float64], closed: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Price models without slots at what their first slot would be worth, the least that deters every agent."""
    worth = np.zeros(int(closed.sum()))
    for rows in chunks(instance.n, instance.m):
        pick = choice[rows]
        served = pick < instance.m
        own = np.where(served, 0.0, instance.unserved[rows])
        models = pick[served]
        block = instance.score[rows]
        own[served] = block[served, models] - prices[models]
        np.maximum(worth, (block[:, closed] - own[:, None]).max(axis=0), out=worth)
    prices = prices.copy()
    prices[closed] = worth
    return prices
