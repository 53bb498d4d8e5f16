"""Steps of the price engine that cannot be interrupted are not begun where they would not end in time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from solver.clock import Deadline

if TYPE_CHECKING:
    from solver.engines.price.params import PriceEngineParams
    from solver.problem.instance import Instance

NO_DEADLINE = Deadline(0.0, math.inf)
"""The deadline of calls without one."""


class OutOfTimeError(Exception):
    """The next step would not end before the deadline."""


def take_time(deadline: Deadline, seconds: float) -> None:
    """Raise :class:`OutOfTimeError` unless so much time is left."""
    if deadline.remaining_s() < seconds:
        raise OutOfTimeError


def flow_seconds(arcs: int, params: PriceEngineParams) -> float:
    """Return about how long a flow on so many arcs takes."""
    return params.times.flow_overhead_s + arcs * params.times.flow_s_per_arc


def choice_seconds(instance: Instance, pairs: int, params: PriceEngineParams) -> float:
    """Return about how long it takes to get from prices to a feasible choice, with so many allowed pairs."""
    times = params.times
    return pairs * times.choice_s_per_pair + instance.n * times.choice_s_per_agent + 0.3 * times.overhead_s


def hasty_seconds(instance: Instance, pairs: int, params: PriceEngineParams) -> float:
    """Return about how long prices of the first sample, and a feasible choice from them, take at least."""
    n, m = instance.n, instance.m
    times, samples = params.times, params.sampling
    least, most = samples.first_sample
    arcs = min(n, max(least, min(samples.agents_per_model * m, most))) * m * (pairs / (n * m))
    if pairs <= times.unsampled_arcs:
        arcs = pairs
    return (
        flow_seconds(int(arcs), params)
        + choice_seconds(instance, pairs, params)
        + times.overhead_s
        + m * times.s_per_model
    )
