"""Why no flow satisfies every floor, capacity and demand for service: the least relaxation, and the models it needs.

The closest relaxation is itself a minimum-cost flow: each unit by which a floor is missed or a capacity exceeded costs
one. The models that cannot all keep their floors are those from which units could be moved to a short one, and those
that cannot all keep their capacities those to which units of an overfull one could be moved (Hall 1935).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ortools.graph.python.min_cost_flow import SimpleMinCostFlow

from solver.engines.network_duals import network_exchanges
from solver.errors import EngineError
from solver.problem.network import UnitFlow

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.problem.instance import Instance
    from solver.problem.network import NetworkShape


def closest_flow(
    instance: Instance, shape: NetworkShape
) -> tuple[NDArray[np.int64], dict[str, int], list[str]]:
    """Return agents that no models can serve, the least changes that admit all others, and what conflicts.

    Parameters
    ----------
    instance, shape
        The problem.

    Returns
    -------
    stranded : (k,) int64
        Agents that must be served and have too few eligible models.
    reliefs : dict of str to int
        ``capacity[j, 0]`` to what it lacks, ``min_load[j]`` to what it asks too much. Floors that count only for
        open models are lowered where this flow misses them: enough to admit it, not always the least.
    rows : list of str
        Capacities and floors that cannot all hold.

    Notes
    -----
    One minimum-cost flow over all allowed pairs.
    """
    n, m = instance.n, instance.m
    allowed = np.isfinite(np.asarray(instance.score))
    must = np.zeros(n, bool) if instance.penalty is None else np.isposinf(instance.penalty)
    stranded = np.flatnonzero(must & (allowed.sum(axis=1) < shape.depth))
    bound = must.copy()
    bound[stranded] = False
    slots = instance.slots
    floor = np.minimum(shape.floor, slots)
    agent, model = np.nonzero(allowed)
    free = np.flatnonzero(~bound)
    floored = np.flatnonzero(floor)
    sink, total = n + m, int(shape.supply.sum())
    models = np.arange(m)
    network = SimpleMinCostFlow()
    add = network.add_arcs_with_capacity_and_unit_cost
    pairs = add(agent, model + n, shape.width[agent], np.zeros(len(agent), np.int64))
    add(free, np.full(len(free), sink), shape.supply[free], np.zeros(len(free), np.int64))
    add(models + n, np.full(m, sink), slots - floor, np.zeros(m, np.int64))
    over = add(models + n, np.full(m, sink), np.full(m, total), np.ones(m, np.int64))
    short = add(np.full(len(floored), sink), floored + n, floor[floored], np.ones(len(floored), np.int64))
    network.set_nodes_supplies(
        np.arange(n + m + 1), np.concatenate([shape.supply, -floor, [int(floor.sum()) - total]])
    )
    status = network.solve()
    if status != SimpleMinCostFlow.OPTIMAL:
        raise EngineError(f"closest flow: expected an optimal flow, got {status.name}")
    excess = np.asarray(network.flows(over), np.int64)
    missing = shape.floor - floor
    missing[floored] += np.asarray(network.flows(short), np.int64)
    flow = UnitFlow.of_arcs(agent, model, np.asarray(network.flows(pairs), np.int64))
    moves = network_exchanges(instance, flow)
    inner = (moves.source < m) & (moves.target < m)
    source, target = moves.source[inner], moves.target[inner]
    full = _closure(excess > 0, source, target)
    starved = _closure(missing > 0, target, source)
    reliefs = {f"capacity[{j}, 0]": int(excess[j]) for j in np.flatnonzero(excess)}
    reliefs |= {f"min_load[{j}]": int(missing[j]) for j in np.flatnonzero(missing)}
    rows = [f"capacity[{j}, 0]" for j in np.flatnonzero(full)]
    rows += [f"min_load[{j}]" for j in np.flatnonzero(starved & (shape.floor > 0))]
    load = flow.load(m)
    half = np.flatnonzero((load > 0) & (load < shape.floor_if_open))
    reliefs |= {f"min_load_if_open[{j}]": int(shape.floor_if_open[j] - load[j]) for j in half}
    rows += [f"min_load_if_open[{j}]" for j in half]
    return stranded, reliefs, rows


def _closure(
    start: NDArray[np.bool_], source: NDArray[np.int64], target: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return the nodes that can be reached from some nodes along directed edges."""
    reached = start.copy()
    for _ in range(len(start)):
        further = reached.copy()
        further[target[reached[source]]] = True
        if (further == reached).all():
            break
        reached = further
    return reached
