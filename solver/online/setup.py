"""Parameters of a router, checked together, and its models made known to the tracker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import SpecError, Violation, missing_value
from solver.load.balance.prediction import CompletionPredictor
from solver.load.checks import money_problems, positive_problems, whole_problems
from solver.online.horizon_pricing import HorizonPricing
from solver.online.steady_pricing import SteadyPricing
from solver.online.tail_latency import TailPrice

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from solver.load.tracker import LoadTracker
    from solver.online.decision_log import DecisionLog
    from solver.online.parameters import PriceParams, RefreshParams
    from solver.online.pricing_protocol import Pricing
    from solver.online.rows import RowMaker
    from solver.online.spending import Spending
    from solver.problem.spec import Model


def open_log(
    log: DecisionLog | str | Path | None, models: tuple[str, ...], now_s: float
) -> DecisionLog | None:
    """Return the log of decisions of a router, opened where a path is given."""
    if log is None:
        return None
    from solver.online.decision_log import DecisionLog  # logging.handlers: only where it is used

    opened = log if isinstance(log, DecisionLog) else DecisionLog(log)
    opened.attach(models, now_s)
    return opened


def _per_second(limits: list[int | None]) -> NDArray[np.float64]:
    """Return limits per minute as limits per second, (m,), ``inf`` where there is none."""
    return np.array([np.inf if limit is None else limit / 60.0 for limit in limits], np.float64)


def new_pricing(
    rows: RowMaker,
    horizon: int | None,
    spending: Spending | None,
    shares: Mapping[str, float],
    wait_cost_per_s: float,
    replicas: int,
    params: PriceParams,
    pace: RefreshParams,
    seed: int,
) -> Pricing[Any]:
    """Return how a router prices capacity: for a horizon where one is given, else for steady traffic."""
    models = rows.pool.models
    if horizon is not None:
        slots = np.array([model.capacity.batch_slots for model in models], np.int64)
        return HorizonPricing(slots, horizon, budget=spending is not None, params=params, refresh=pace)
    return SteadyPricing(
        typical_service_s=rows.typical_service_s,
        requests_per_s=_per_second([model.requests_per_minute for model in models]),
        tokens_per_s=_per_second([model.tokens_per_minute for model in models]),
        tenant_shares=np.array(list(shares.values()), np.float64),
        wait_cost_per_s=float(wait_cost_per_s),
        replicas=replicas,
        budget_left_s=(lambda _: np.inf) if spending is None else spending.left_s,
        params=params,
        refresh=pace,
        tie_break=np.random.default_rng(seed).permutation(len(models)) / len(models),
    )


def learners(
    tracker: LoadTracker, predictor: CompletionPredictor | None, tail_weight: float
) -> tuple[CompletionPredictor, TailPrice | None]:
    """Return the predictor of service times and the price of slow answers, where they have one; both listen."""
    if predictor is None:
        predictor = CompletionPredictor(clock=tracker.clock)
        tracker.listen(predictor.observe, forget=predictor.forget)
    if not tail_weight:
        return predictor, None
    tail = TailPrice(tail_weight, predictor)
    tracker.listen(tail.observe)
    return predictor, tail


def announce(tracker: LoadTracker, models: tuple[Model, ...]) -> None:
    """Give the capacity they state to models that the tracker does not know."""
    known = set(tracker.snapshot().models)
    for model in models:
        if model.id not in known:
            tracker.set_capacity(
                model.id,
                model.capacity,
                requests_per_minute=model.requests_per_minute,
                tokens_per_minute=model.tokens_per_minute,
            )


def check_parameters(
    horizon: int | None,
    budget_usd: float | None,
    budget_period_s: float | None,
    weights: Mapping[str, float],
    ttl_s: float,
    replicas: int,
    shares: Mapping[str, float],
    background: object,
) -> None:
    """Raise one error that lists every parameter out of range."""
    problems = positive_problems("ttl_s", ttl_s) + whole_problems("replicas", replicas, low=1)
    if not (isinstance(background, bool) or background == "process"):
        problems.append(Violation("background", "expected True, False or 'process'", background))
    if horizon is not None:
        problems += whole_problems("horizon", horizon, low=1)
    if budget_usd is not None:
        problems += money_problems("budget_usd", budget_usd)
        if horizon is None and budget_period_s is None:
            problems.append(
                missing_value("budget_period_s", "required with budget_usd in steady traffic, but missing")
            )
    if budget_period_s is not None:
        problems += positive_problems("budget_period_s", budget_period_s)
        if budget_usd is None:
            problems.append(
                Violation(
                    "budget_period_s",
                    "expected a budget_usd with it",
                    budget_period_s,
                    shown=f"{budget_period_s!r} alone",
                )
            )
        if horizon is not None:
            problems.append(
                Violation("budget_period_s", "expected none with a horizon, whose budget is spent once")
            )
    problems += [
        Violation(name, "expected a finite number >= 0", weight)
        for name, weight in weights.items()
        if not (np.isfinite(weight) and weight >= 0)
    ]
    if horizon is not None and shares:
        problems.append(
            Violation("tenant_shares", "expected none with a horizon; they are shares of slot time")
        )
    problems += [
        Violation(f"tenant_shares[{tenant!r}]", "expected between 0 and 1", share)
        for tenant, share in shares.items()
        if not 0 <= share <= 1
    ]
    if problems:
        raise SpecError(*problems)
