"""The settings of a fleet in a store, as arrays that snapshots share because they rarely change."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from solver.load.stops import Stop
    from solver.load.store.meters import Window
    from solver.load.store.pools import Pool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelSettings:
    """What rarely changes, as arrays that views share."""

    accepting: NDArray[np.bool_]
    max_concurrent: NDArray[np.int64]
    max_queue: NDArray[np.int64]
    meter_limit: NDArray[np.float64]
    no_usage: NDArray[np.float64]
    metered: tuple[int, ...]
    meters: tuple[tuple[int, Window, NDArray[np.bool_], NDArray[np.float64]], ...]
    """(kind, window, (m,) models with a limit on it, (m,) their limits)."""
    several: bool
    """Whether a model has several limits on one resource."""
    stops: Mapping[str, tuple[Stop, ...]]
    pools: tuple[tuple[Pool, NDArray[np.intp]], ...]
    """(pool, rows of the models that draw on it)."""


def read_settings(
    models: tuple[str, ...],
    *,
    max_concurrent: Sequence[int],
    max_queue: Sequence[int],
    accepting: Sequence[int],
    limited: Sequence[Sequence[tuple[int, Window, int]]],
    chains: Sequence[tuple[Pool, ...]],
    stops: Sequence[tuple[Stop, ...]],
) -> ModelSettings:
    """Return the settings of m models. O(m).

    Parameters
    ----------
    models : tuple of str
        Their ids.
    max_concurrent, max_queue, accepting : (m,) sequences
        Slots, queue places, and whether no stop stands.
    limited : (m,) sequence
        Per model, (kind, window, most) of each limit on usage.
    chains, stops : (m,) sequences
        Per model, the pools that it draws on, and the stops that stand.
    """
    m = len(models)
    limit = np.full((3, m), np.inf)
    meters: dict[Window, tuple[int, Window, NDArray[np.bool_], NDArray[np.float64]]] = {}
    several = False
    for i, own in enumerate(limited):
        several |= len({kind for kind, _, _ in own}) < len(own)
        for kind, window, most in own:
            limit[kind, i] = most
            entry = meters.setdefault(window, (kind, window, np.zeros(m, np.bool_), np.full(m, np.inf)))
            entry[2][i], entry[3][i] = True, min(entry[3][i], most)
    if several:
        limit = np.full((3, m), np.inf)
    drawn: dict[Pool, list[int]] = {}
    for i, chain in enumerate(chains):
        for pool in chain:
            drawn.setdefault(pool, []).append(i)
    in_pools = {kind for pool in drawn for kind, _, _ in pool.meters.limited[0]}
    return ModelSettings(
        accepting=_read_only(np.array(accepting, np.bool_)),
        max_concurrent=_read_only(np.array(max_concurrent, np.int64)),
        max_queue=_read_only(np.array(max_queue, np.int64)),
        meter_limit=_read_only(limit),
        no_usage=_read_only(np.zeros((3, m))),
        metered=tuple(sorted({kind for kind, _, _, _ in meters.values()} | in_pools)),
        meters=tuple(meters.values()),
        several=several,
        stops=MappingProxyType({model: own for model, own in zip(models, stops, strict=True) if own}),
        pools=tuple((pool, np.array(rows, np.intp)) for pool, rows in drawn.items()),
    )


def _read_only(values: NDArray[Any]) -> NDArray[Any]:
    """Return an array that snapshots may share."""
    values.flags.writeable = False
    return values
