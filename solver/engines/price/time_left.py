"""Steps of the price engine that cannot be interrupted are not begun where they would not end in time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from solver.clock import Deadline

if TYPE_CHECKING:
    from solver.problem.instance import Instance

NO_DEADLINE = Deadline(0.0, math.inf)
"""For calls without one."""

_CORE_FLOW_S_PER_ARC = 1.2e-6
"""Upper estimate of the seconds per arc of a flow on a core or a sample."""

_FLOW_OVERHEAD_S = 3e-4
"""Upper estimate of the seconds of the call itself."""

_FIRST_AGENTS = (125, 250)
"""Agents of the first sample, at least and at most."""

_FIRST_AGENTS_PER_MODEL = 5
"""Agents of the first sample for each model."""

_UNSAMPLED_ARCS = 15_000
"""Arcs up to which no sample is needed."""

_TAIL_S_PER_PAIR = 1e-8
"""Seconds per pair of a pass over everybody, and of moving agents from overloaded models."""

_TAIL_S_PER_AGENT = 1e-7
"""Seconds per agent of the same."""

_PRICE_OVERHEAD_S = 0.0015
"""Seconds of the call itself."""

_PRICE_S_PER_MODEL = 6e-5
"""Seconds per model of the first sample."""


class OutOfTimeError(Exception):
    """The next step would not end before the deadline."""


def take_time(deadline: Deadline, seconds: float) -> None:
    """Raise :class:`OutOfTimeError` unless so much time is left."""
    if deadline.remaining_s() < seconds:
        raise OutOfTimeError


def flow_seconds(arcs: int) -> float:
    """Return about how long a flow on so many arcs takes."""
    return _FLOW_OVERHEAD_S + arcs * _CORE_FLOW_S_PER_ARC


def tail_seconds(instance: Instance, pairs: int) -> float:
    """Return about how long it takes to get from prices to a feasible choice, with so many allowed pairs."""
    return pairs * _TAIL_S_PER_PAIR + instance.n * _TAIL_S_PER_AGENT + 0.3 * _PRICE_OVERHEAD_S


def hasty_seconds(instance: Instance, pairs: int) -> float:
    """Return about how long prices of the first sample, and a feasible choice from them, take at least."""
    n, m = instance.n, instance.m
    least, most = _FIRST_AGENTS
    arcs = min(n, max(least, min(_FIRST_AGENTS_PER_MODEL * m, most))) * m * (pairs / (n * m))
    if pairs <= _UNSAMPLED_ARCS:
        arcs = pairs
    return (
        flow_seconds(int(arcs)) + tail_seconds(instance, pairs) + _PRICE_OVERHEAD_S + m * _PRICE_S_PER_MODEL
    )
