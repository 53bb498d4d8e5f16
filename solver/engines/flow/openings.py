"""Models that cost, or have a floor, only if they are opened: local search over open sets, each a flow.

For a given set of open models the rest is a network flow. Spreading the cost of opening a model over its slots gives a
relaxation that is one flow as well (the convex hull of ``{0} ∪ [L, C]`` is ``[0, C]``); its prices are the best
Lagrange multipliers there are for the bound of the certificate, and its loads say which models to open first. Then
models are closed, opened and exchanged one at a time as long as that helps (Kuehn and Hamburger 1963).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.flow.generation import solve_network
from solver.params import Params
from solver.problem.instance import Instance

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.engines.flow.generation import NetworkOptimum
    from solver.problem.network import NetworkShape, UnitFlow


@dataclass(frozen=True, kw_only=True)
class OpeningParams(Params):
    """How long the search over open sets goes on."""

    most_flows: int = 400
    """Open sets that are tried at most."""
    most_s: float = 10.0
    """Seconds after which the search ends where no deadline does, to be seen in the gap."""
    margin: float = 0.8
    """Share of the time left that the next flow may be expected to take."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Tried:
    """The best flow of one open set."""

    is_open: NDArray[np.bool_]
    value: float
    flow: UnitFlow
    load: NDArray[np.int64]


def search_openings(
    instance: Instance, shape: NetworkShape, deadline: Deadline, params: OpeningParams | None = None
) -> tuple[UnitFlow | None, NDArray[np.float64]]:
    """Return the best flow found, None if none is, and the (m,) prices of the relaxation, for the bound.

    Parameters
    ----------
    instance, shape
        The problem; its shape has openings.
    deadline : Deadline
        When to stop.
    params : OpeningParams, optional
        How long to go on.
    """
    params = params or OpeningParams()
    clock = deadline.clock
    ends_s = min(deadline.ends_s, clock.now() + params.most_s)
    slots = np.maximum(instance.slots, 1)
    relaxed = Instance(
        score=instance.score,
        capacity=instance.capacity,
        penalty=instance.penalty,
        rank=instance.rank,
        load_cost=(shape.opening_cost / slots)[:, None],
        network=replace(
            shape, floor_if_open=np.zeros_like(shape.floor), opening_cost=np.zeros_like(shape.opening_cost)
        ),
    )
    began = clock.now()
    relaxation = solve_network(relaxed, deadline)
    slowest = clock.now() - began
    load = relaxation.flow.load(instance.m)
    must = shape.floor > 0
    worthwhile = (load > 0) | must
    least = np.maximum(shape.floor_if_open, 1)
    # Beside the models of the relaxation: those alone that it fills, and everything that can be open at all.
    starts = [
        worthwhile & (least <= instance.slots),
        worthwhile & ((load >= least) | must),
        least <= instance.slots,
    ]
    best: _Tried | None = None
    tried: set[bytes] = set()
    if ((load == 0) | (load >= np.where(shape.opens, shape.floor_if_open, 0))).all():
        best = _valued(instance, shape, load > 0, relaxation)
        if best is not None and not shape.opening_cost.any():  # nothing is better than the relaxation
            return best.flow, relaxation.prices
    for start in starts:
        if best is not None and clock.now() + params.margin * slowest > ends_s:
            return best.flow, relaxation.prices
        best = _better(best, _try(instance, shape, start | must, deadline, relaxation.prices, tried))
    if best is None:
        best = _repair(instance, shape, deadline, relaxation.prices, starts[-1] | must, tried, ends_s)
    for _ in range(params.most_flows):  # every round but the last improves by a flow of its own
        if best is None:
            break
        improved = False
        for candidate in _neighbours(best, shape, must, least <= instance.slots):
            now = clock.now()
            if len(tried) >= params.most_flows or now + params.margin * slowest > ends_s:
                return best.flow, relaxation.prices
            found = _try(instance, shape, candidate, deadline, relaxation.prices, tried)
            slowest = max(slowest, clock.now() - now)
            if found is not None and found.value > best.value + 1e-12 * abs(best.value):
                best, improved = found, True
                break
        if not improved:
            return best.flow, relaxation.prices
    return None if best is None else best.flow, relaxation.prices


def _better(best: _Tried | None, found: _Tried | None) -> _Tried | None:
    if found is None or (best is not None and best.value >= found.value):
        return best
    return found


def _repair(
    instance: Instance,
    shape: NetworkShape,
    deadline: Deadline,
    prices: NDArray[np.float64],
    is_open: NDArray[np.bool_],
    tried: set[bytes],
    ends_s: float,
) -> _Tried | None:
    """Close the model with the largest floor until the floors of those open can be met."""
    is_open = is_open.copy()
    floors = np.maximum(shape.floor_if_open, shape.floor)
    for j in np.argsort(-floors, kind="stable"):
        if shape.floor[j] > 0 or not is_open[j] or deadline.clock.now() > ends_s:
            continue
        is_open[j] = False
        found = _try(instance, shape, is_open, deadline, prices, tried)
        if found is not None:
            return found
    return None


def _neighbours(
    best: _Tried, shape: NetworkShape, must: NDArray[np.bool_], able: NDArray[np.bool_]
) -> Iterator[NDArray[np.bool_]]:
    """Yield open sets that differ by one model closed, opened or exchanged, the likeliest first."""
    closable = np.flatnonzero(best.is_open & ~must & shape.opens)
    openable = np.flatnonzero(~best.is_open & able)
    closable = closable[np.argsort(best.load[closable] - shape.floor_if_open[closable], kind="stable")]
    openable = openable[np.argsort(shape.opening_cost[openable], kind="stable")]
    for changes in (
        [(j,) for j in closable],
        [(j,) for j in openable],
        [(j, k) for j in closable for k in openable],
    ):
        for change in changes:
            candidate = best.is_open.copy()
            candidate[list(change)] ^= True
            yield candidate


def _try(
    instance: Instance,
    shape: NetworkShape,
    is_open: NDArray[np.bool_],
    deadline: Deadline,
    prices: NDArray[np.float64],
    tried: set[bytes],
) -> _Tried | None:
    """Return the best flow with some models open, None if there is none or it is known."""
    key = is_open.tobytes()
    if key in tried:
        return None
    tried.add(key)
    floor = np.where(is_open, np.maximum(shape.floor, np.where(shape.opens, shape.floor_if_open, 0)), 0)
    part = Instance(
        score=instance.score,
        capacity=np.where(is_open[:, None], instance.capacity, 0.0),
        penalty=instance.penalty,
        rank=instance.rank,
        network=replace(
            shape,
            floor=floor,
            floor_if_open=np.zeros_like(floor),
            opening_cost=np.zeros_like(shape.opening_cost),
        ),
    )
    vars(part)["score_range"] = instance.score_range
    return _valued(instance, shape, is_open, solve_network(part, deadline, prices=prices))


def _valued(
    instance: Instance, shape: NetworkShape, is_open: NDArray[np.bool_], found: NetworkOptimum
) -> _Tried | None:
    """Return a flow with its value, None if it misses a floor or leaves out an agent that must be served."""
    must = np.zeros(instance.n, bool) if instance.penalty is None else np.isposinf(instance.penalty)
    if found.missing.any() or (found.left > 0)[must].any():
        return None
    load = found.flow.load(instance.m)
    own = instance.scores_of(found.flow.agent, found.flow.model)
    value = float(own @ found.flow.units) - float(shape.opening_cost[load > 0].sum())
    out = np.flatnonzero(found.left)
    if len(out):
        value += float(instance.unserved[out] @ found.left[out])
    return _Tried(is_open=is_open.copy(), value=value, flow=found.flow, load=load)
