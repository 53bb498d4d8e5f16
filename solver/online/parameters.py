"""Tuning constants of online routing, each with its unit, its meaning, and the benchmark that chose it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from solver.errors import SpecError, Violation


def _check_positive(values: dict[str, float], zero_allowed: tuple[str, ...] = ()) -> None:
    lines = [
        Violation(name, f"expected a finite number {('>=' if name in zero_allowed else '>')} 0", value)
        for name, value in values.items()
        if not (np.isfinite(value) and (value > 0 or (value == 0 and name in zero_allowed)))
    ]
    if lines:
        raise SpecError(*lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceParams:
    """How prices are computed from a window of agents. Chosen by ``benchmarks/bench_online.py``.

    Parameters
    ----------
    smoothing : float
        Temperature of the smoothed dual, as a share of the range of the window's scores. Exact optimal
        prices make ties by construction, and routing by them reaches 95.9 % of the optimum even in
        hindsight; smoothed prices reach 99.7 %.
    held_back_slots : float
        Slots subtracted from what is left of each model in a finite horizon. A slot costs
        ``V(C) − V(C − 1)``, which is the derivative of V at ``C − ½``.
    caution : float
        Share by which everything left is thought scarcer for a window of no agents; it falls with
        ``sqrt(m / (agents + m))``. A small sample underrates prices.
    crossed_off_weight : float
        Weight of an agent that has come, where history describes the whole batch and the history row
        nearest to it is crossed off; the rows that are left weigh 1.
    unserved_margin : float
        For an objective without ``unassigned_penalty`` in steady traffic: how far below the worst score
        seen the value of refusing lies at least, as a share of the range of scores; it is never above
        0, since who is turned away gets nothing.
    rate_limit_share : float
        Share of tokens and requests per minute that prices plan for. Load fluctuates, and a window that
        is planned full turns agents away.
    coupling_rounds : int
        How often occupancy tables and the mean prices they imply for the other models are recomputed.
    largest_pool : int
        Occupancy states computed for one model; larger pools are computed in units of several slots.
    most_alternatives : int
        Pools up to which the price of each takes the present occupancy of the others into account. It matters
        where agents have few alternatives, and costs a product of a matrix with a vector in each decision.
    """

    smoothing: float = 0.005
    held_back_slots: float = 0.5
    caution: float = 0.3
    crossed_off_weight: float = 0.5
    unserved_margin: float = 0.25
    rate_limit_share: float = 0.95
    coupling_rounds: int = 3
    largest_pool: int = 256
    most_alternatives: int = 32

    def __post_init__(self) -> None:
        values = {name: float(getattr(self, name)) for name in self.__slots__}
        free = ("held_back_slots", "caution", "crossed_off_weight", "unserved_margin", "most_alternatives")
        _check_positive(values, zero_allowed=free)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshParams:
    """When prices are computed again, and from what. Chosen by ``benchmarks/bench_online.py``.

    Parameters
    ----------
    steady_window : int
        Agents remembered in steady traffic.
    horizon_window : int
        Most agents remembered in a finite horizon.
    rate_arrivals : int
        Arrivals whose time span estimates the arrival rate; those of one millisecond count as one.
    rate_services : float
        Shortest such time span, in mean service times. What matters is how many arrive while a slot is
        held; a hundred arrivals at one instant are no infinite rate.
    every_arrivals : int
        Arrivals between two refreshes in steady traffic.
    every_s : float
        Seconds between two refreshes in steady traffic.
    horizon_parts : int
        Refreshes in a finite horizon, at least every 5 arrivals; each of the first 20 arrivals has one.
    largest_share : float
        Share of one processor that background refreshes may use.
    """

    steady_window: int = 1000
    horizon_window: int = 8192
    rate_arrivals: int = 50
    rate_services: float = 0.05
    every_arrivals: int = 10
    every_s: float = 0.5
    horizon_parts: int = 160
    largest_share: float = 0.2

    def __post_init__(self) -> None:
        _check_positive({name: float(getattr(self, name)) for name in self.__slots__})
