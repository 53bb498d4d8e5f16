"""Steps of the price engine that cannot be interrupted are not begun where they would not end in time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from solver.clock import Deadline

if TYPE_CHECKING:
    from solver.problem.instance import Instance

__all__ = ["NO_DEADLINE", "OutOfTimeError", "flow_seconds", "hasty_seconds", "tail_seconds", "take_time"]

NO_DEADLINE = Deadline(0.0, math.inf)
"""For calls without one."""

_SECONDS_PER_ARC, _FLOW_S = 1.2e-6, 3e-4  # of a flow, generously
_FIRST_SAMPLE, _PER_MODEL, _ALL_ARCS = (
    (125, 250),
    5,
    15_000,
)  # agents of the first sample; arcs that need none
_SECONDS_PER_PAIR = 1e-8  # of a look at everybody, and of moving whoever is too many
_SECONDS_PER_AGENT = 1e-7
_OVERHEAD_S, _SECONDS_PER_MODEL = 0.0015, 6e-5


class OutOfTimeError(Exception):
    """The next step would not end before the deadline."""


def take_time(deadline: Deadline, seconds: float) -> None:
    """Raise :class:`OutOfTimeError` unless so much time is left."""
    if deadline.remaining_s() < seconds:
        raise OutOfTimeError


def flow_seconds(arcs: int) -> float:
    """Return about how long a flow on so many arcs takes."""
    return _FLOW_S + arcs * _SECONDS_PER_ARC


def tail_seconds(instance: Instance, pairs: int) -> float:
    """Return about how long it takes to get from prices to a feasible choice, with so many allowed pairs."""
    return pairs * _SECONDS_PER_PAIR + instance.n * _SECONDS_PER_AGENT + 0.3 * _OVERHEAD_S


def hasty_seconds(instance: Instance, pairs: int) -> float:
    """Return about how long prices of the first sample, and a feasible choice from them, take at least."""
    n, m = instance.n, instance.m
    least, most = _FIRST_SAMPLE
    arcs = min(n, max(least, min(_PER_MODEL * m, most))) * m * (pairs / (n * m))
    if pairs <= _ALL_ARCS:
        arcs = pairs
    return flow_seconds(int(arcs)) + tail_seconds(instance, pairs) + _OVERHEAD_S + m * _SECONDS_PER_MODEL
