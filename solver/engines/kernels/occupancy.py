"""Prices by occupancy, and the heavy steps of mean prices: what a refresh of the online router is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from solver.engines.kernels.library import loaded, pointer

if TYPE_CHECKING:
    from numpy.typing import NDArray


class OccupancyCosts(NamedTuple):
    """Costs of one more admission, and the process they come from; entries from a model's last state on are 0.

    Parameters
    ----------
    cost : (m, top) float64
        D of :mod:`solver.online.occupancy`, ascending; from the last state on it is repeated.
    chance : (m, top + 1) float64
        Stationary distribution.
    births : (m, top) float64
        Admissions a second.
    price : (m,) float64
        Mean prices of a second that the others were charged in the last round.
    displaced : (m, top) float64 or None
        Later agents that one more admission displaces, 0 to 1; None unless asked for.
    """

    cost: NDArray[np.float64]
    chance: NDArray[np.float64]
    births: NDArray[np.float64]
    price: NDArray[np.float64]
    displaced: NDArray[np.float64] | None


def occupancy_costs(
    scores: NDArray[np.float64],
    service_s: NDArray[np.float64],
    *,
    weights: NDArray[np.float64],
    unserved: NDArray[np.float64],
    mean_s: NDArray[np.float64],
    mean_price: NDArray[np.float64],
    arrivals_per_s: NDArray[np.float64],
    servers: NDArray[np.int64],
    full: NDArray[np.int64],
    wait_cost_per_s: float,
    rounds: int,
    displaced: bool,
) -> OccupancyCosts:
    """Iterate policies of every model, and mean prices between the models; the lock of the interpreter is free.

    O(rounds · n m log F) for n agents, m models and F states, a few times over.

    Parameters
    ----------
    scores, service_s : (n, m) float64
        As in :func:`solver.online.occupancy.occupancy_prices`.
    weights, unserved : (n,) float64
        Likewise.
    mean_s, mean_price, arrivals_per_s : (m,) float64
        Mean service, mean prices to start from, and arrivals a second per unit of states.
    servers, full : (m,) int64
        States with a free server, and all states in which a request may be admitted; at least 1.
    wait_cost_per_s : float
        Score lost per second waited.
    rounds : int
        How often the prices of the others are updated, plus one.
    displaced : bool
        Whether to compute what an admission displaces.

    Raises
    ------
    ValueError
        If shapes do not fit.
    RuntimeError
        If the kernels are not available.
    MemoryError
        If there is none.
    """
    library = loaded()
    n, m = scores.shape
    rows = [np.ascontiguousarray(part, np.float64) for part in (scores, service_s)]
    of_agents = [np.ascontiguousarray(part, np.float64) for part in (weights, unserved)]
    of_models = [np.ascontiguousarray(part, np.float64) for part in (mean_s, arrivals_per_s)]
    sizes = [np.ascontiguousarray(part, np.int64) for part in (servers, full)]
    price = np.array(mean_price, np.float64)
    if (
        rows[1].shape != (n, m)
        or any(part.shape != (n,) for part in of_agents)
        or any(part.shape != (m,) for part in (*of_models, *sizes, price))
        or any(part.min(initial=1) < 1 for part in sizes)
    ):
        raise ValueError(f"expected arrays of {n} agents and {m} models with at least one state each")
    top = int(sizes[1].max(initial=1))
    cost = np.repeat((price * of_models[0])[:, None], top, axis=1)
    chance, births = np.zeros((m, top + 1)), np.zeros((m, top))
    later = np.zeros((m, top)) if displaced else None
    given = [pointer(part) for part in (*rows, *of_agents, *of_models, *sizes)]
    made = [pointer(part) for part in (cost, chance, births, price, later)]
    if library.solver_occupancy(n, m, top, *given, wait_cost_per_s, rounds, *made):
        raise MemoryError("not enough memory to price capacity")
    return OccupancyCosts(cost, chance, births, price, later)


def smoothed_shares(
    net: NDArray[np.float64], unserved: NDArray[np.float64], temperature: float
) -> NDArray[np.float64]:
    """Replace net values by the shares of a softmax; return the smoothed maximum of each row, (n,). O(n m).

    Parameters
    ----------
    net : (n, m) float64
        In C order, writeable; becomes the shares, which with that of refusing sum to 1.
    unserved : (n,) float64
        Finite value of one more choice, to refuse.
    temperature : float
        Greater than 0.

    Raises
    ------
    ValueError
        If shapes or types do not fit.
    RuntimeError
        If the kernels are not available.
    """
    if net.ndim != 2 or net.dtype != np.float64 or not net.flags.writeable:
        raise ValueError(f"expected writeable float64 net values (n, m), got {net.shape} of {net.dtype}")
    worth = np.empty(len(net))
    refused_value = np.ascontiguousarray(unserved, np.float64)
    if refused_value.shape != worth.shape:
        raise ValueError(f"expected a value of refusing for {len(net)} rows")
    loaded().solver_shares(*net.shape, pointer(net), pointer(refused_value), temperature, pointer(worth))
    return worth


def negative_gram(
    uses: NDArray[np.float64], weights: NDArray[np.float64], *, least_share: float
) -> NDArray[np.float64]:
    """Return −Σ_i w_i u_i u_iᵀ, (k, k). O(n (k + c²) + k²) for c entries of a row that count.

    Parameters
    ----------
    uses : (n, k) float64
        Rows u_i >= 0.
    weights : (n,) float64
        w_i.
    least_share : float
        Entries of at most this share of the largest of their row count as 0.
    """
    rows, factors = np.ascontiguousarray(uses, np.float64), np.ascontiguousarray(weights, np.float64)
    n, k = rows.shape
    if factors.shape != (n,):
        raise ValueError(f"expected {n} weights")
    matrix = np.empty((k, k))
    if loaded().solver_gram(n, k, pointer(rows), pointer(factors), least_share, pointer(matrix)):
        raise MemoryError("not enough memory for second derivatives")
    return matrix
