"""Prices of a model's capacity as a function of how much of it is taken: one exact dynamic program a model.

Model j alone, the others at their mean prices: agents arrive at rate λ, agent i is worth v_i more here than
elsewhere, and holds a slot for d_i seconds (d̄ on average). With D(n) the cost of letting one more in at
occupancy n, the average-reward equations of this birth-death process are::

    g = λ φ(D(n) + f(n)) + s(n) D(n−1)   for n = 0 … F−1,       g = s(F) D(F−1),       s(n) = min(n, c) / d̄

    φ(x) = E (v − x d / d̄)⁺,       f(n) = wait_cost · max(n − c + 1, 0) · d̄ / c     (a queue place is a
    state n >= c)

Policy iteration (Howard 1960) solves them: for a given admission policy g is a mean over the stationary
distribution, and D follows by recursion, upwards where arrivals outweigh departures and downwards above,
the direction in which errors shrink. State-dependent prices of loss networks: Ott and Krishnan (1992); Key
(1990); Kelly (1991).

Mean prices of the others are wrong at any one moment: whoever a full model turns away goes to models whose prices
are now those of their present occupancy. To first order this adds ``b_j(n) · Σ_k W_jk (p_k(now) − p̄_k)`` to the
price of model j, where b_j(n), the agents that one more admission displaces later, obeys the same equations with
a reward of 1 an admission, and W_jk is the service that an agent displaced from j takes of its next best model k.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from solver.engines import kernels
from solver.errors import SpecError, Violation

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX_ITERATIONS = 20
"""Iterations of policy improvement; it converges after a few."""

_MOST_ENTRIES = 2**26
"""Models times slots and queue places that a table may have: 512 MiB."""

_MIN_RATE = 1e-12
"""Least admission rate, so that every state has a finite weight in logarithms."""


class Alternatives(NamedTuple):
    """What present prices of the other models do to the price of each.

    Parameters
    ----------
    displaced : (m, k) float64
        Later agents that one more admission displaces, at each occupancy, 0 to 1.
    service : (m, m) float64
        ``[j, k]``: service of model k taken by an agent displaced from j, over the mean service at j.
    mean_price : (m,) float64
        Prices of a second at which the tables were computed.
    """

    displaced: NDArray[np.float64]
    service: NDArray[np.float64]
    mean_price: NDArray[np.float64]


class OccupancyPrices(NamedTuple):
    """Prices of every model by occupancy.

    Parameters
    ----------
    table : (m, max(slots + queue) + 1) float64
        Score per second of service; ``inf`` where no further request is admitted.
    alternatives : Alternatives or None
        None unless asked for.
    """

    table: NDArray[np.float64]
    alternatives: Alternatives | None


@dataclass(frozen=True, eq=False)
class _Advantage:
    """Of all models: agents worth serving here, by value per unit of service, best first."""

    keys: NDArray[np.float64]
    """(k,) ascending: model + 1 − ratio / best ratio of the model."""
    first: NDArray[np.intp]
    """(m,) position of a model's first agent."""
    value: NDArray[np.float64]
    """(k + 1,) cumulative weight × value."""
    service: NDArray[np.float64]
    """(k + 1,) cumulative weight × service / mean service."""
    best: NDArray[np.float64]
    """(m,) best ratio, above zero."""

    @classmethod
    def of(
        cls, value: NDArray[np.float64], service: NDArray[np.float64], weights: NDArray[np.float64]
    ) -> _Advantage:
        """Sort. ``value``, ``service``: (m, n); O(k log k) for the k pairs of positive value."""
        m = len(value)
        model, agent = np.nonzero(value > 0.0)
        gain = value[model, agent]
        share = np.maximum(service[model, agent], 1e-12)
        ratio = gain / share
        best = np.full(m, 1e-300)
        np.maximum.at(best, model, ratio)
        keys = model + 1.0 - ratio / best[model]
        order = np.argsort(keys, kind="stable")
        weight = weights[agent][order]
        zero = np.zeros(1)
        return cls(
            keys[order],
            np.searchsorted(model, np.arange(m)),
            np.concatenate([zero, np.cumsum(weight * gain[order])]),
            np.concatenate([zero, np.cumsum(weight * share[order])]),
            best,
        )

    def admitted(
        self, price: NDArray[np.float64]
    ) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
        """Return who is worth more than a price: positions, mean value, mean service. ``price``: (m, F)."""
        here = np.arange(len(self.best))[:, None]
        wanted = here + 1.0 - np.minimum(price / self.best[:, None], 1.0)
        position = np.maximum(np.searchsorted(self.keys, wanted, side="left"), self.first[:, None])
        start = self.first[:, None]
        return (
            position,
            self.value[position] - self.value[start],
            self.service[position] - self.service[start],
        )


def occupancy_prices(
    scores: NDArray[np.float64],
    service_s: NDArray[np.float64],
    *,
    weights: NDArray[np.float64],
    unserved: NDArray[np.float64],
    shares: NDArray[np.float64],
    mean_price: NDArray[np.float64],
    rate_per_s: float,
    slots: NDArray[np.int64],
    queue: NDArray[np.int64],
    wait_cost_per_s: float = 0.0,
    rounds: int = 3,
    largest_pool: int = 256,
    alternatives: bool = False,
) -> OccupancyPrices:
    """Return the price of a second of service of each model at each occupancy.

    Parameters
    ----------
    scores, service_s : (n, m) float64
        Of the window; ``-inf`` forbids a pair. Predicted service in seconds, > 0.
    weights : (n,) float64
        Sum 1.
    unserved : (n,) float64
        Value of refusing.
    shares : (n, m) float64
        Who is served where at mean prices, see :func:`~solver.online.window_prices.window_prices`.
    mean_price : (m,) float64
        Score a second of service costs on average: where the iteration starts.
    rate_per_s : float
        Arrivals a second, > 0.
    slots, queue : (m,) int64
        Slots and queue places; a model without slots is closed.
    wait_cost_per_s : float
        Score lost per second waited.
    rounds : int
        How often the prices of the others are updated.
    largest_pool : int
        States computed; a larger pool is computed in units of several slots.
    alternatives : bool
        Whether to compute what present prices of other models do to each. O(n m²).

    Raises
    ------
    SpecError
        If the table would be larger than memory should be.
    """
    most = float(slots.max(initial=0)) + float(queue.max(initial=0))
    if len(slots) * most > _MOST_ENTRIES:
        raise SpecError(
            Violation(
                "models",
                f"expected at most {_MOST_ENTRIES // len(slots):,} slots and queue places a model, for prices by "
                f"occupancy of {len(slots)} models",
                most,
            )
        )
    open_models = slots > 0
    real = np.maximum(slots, 1)
    unit = np.maximum(real / largest_pool, 1.0)
    servers = np.ceil(real / unit).astype(np.int64)
    places = np.where(open_models, np.ceil(queue / unit), 0).astype(np.int64)
    full = servers + places
    top = int(full.max())
    served = weights @ shares
    load = weights @ (shares * service_s)
    mean_s = np.maximum(np.where(served > 1e-9, load / np.maximum(served, 1e-12), weights @ service_s), 1e-9)
    waits = np.maximum(np.arange(top) - servers[:, None] + 1, 0)
    fee = wait_cost_per_s * waits * (mean_s / servers)[:, None]
    departures = np.minimum(np.arange(top + 1), servers[:, None]) / mean_s[:, None]
    if kernels.available():
        cost, chance, births, price, displaced = kernels.occupancy_costs(
            scores,
            service_s,
            weights=weights,
            unserved=unserved,
            mean_s=mean_s,
            mean_price=mean_price,
            arrivals_per_s=rate_per_s / unit,
            servers=servers,
            full=full,
            wait_cost_per_s=wait_cost_per_s,
            rounds=rounds,
            displaced=alternatives,
        )
    else:
        fleet = _Fleet(mean_s, fee, (rate_per_s / unit)[:, None], departures, full)
        cost, chance, births, price = _coupled(
            scores, service_s, weights, unserved, mean_price, fleet, rounds
        )
        displaced = None
    table = np.maximum.accumulate(cost + fee, axis=1) / mean_s[:, None]
    limit = np.where(open_models, real + queue, 0)
    other = None
    if alternatives:
        if displaced is None:
            flow = (chance[:, :top] * births).sum(axis=1)
            displaced = np.minimum(_relative_costs(flow, births, births, departures, full), 1.0)
        taken = _service_elsewhere(scores, service_s, price, unserved, weights, shares)
        other = Alternatives(_spread(displaced, unit, real, limit, full), taken / mean_s[:, None], price)
    return OccupancyPrices(_spread(table, unit, real, limit, full), other)


class _Fleet(NamedTuple):
    """Birth-death processes: mean service (m,), fees (m, F), arrivals (m, 1), departures (m, F + 1), states (m,)."""

    mean_s: NDArray[np.float64]
    fee: NDArray[np.float64]
    arrivals: NDArray[np.float64]
    departures: NDArray[np.float64]
    full: NDArray[np.int64]


def _coupled(
    scores: NDArray[np.float64],
    service_s: NDArray[np.float64],
    weights: NDArray[np.float64],
    unserved: NDArray[np.float64],
    mean_price: NDArray[np.float64],
    fleet: _Fleet,
    rounds: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return costs, distribution, admission rates and the mean prices they were computed at."""
    mean_s, fee, arrivals, departures, full = fleet
    relative = np.ascontiguousarray((service_s / mean_s).T)
    price = mean_price.copy()
    cost = np.repeat((price * mean_s)[:, None], fee.shape[1], axis=1)
    for last in [False] * (rounds - 1) + [True]:
        advantage = _Advantage.of(_over_others(scores, service_s * price, unserved), relative, weights)
        cost, chance, births = _policy_iteration(advantage, cost, fee, arrivals, departures, full)
        if not last:
            charged = np.concatenate([cost + fee, np.zeros((len(full), 1))], axis=1)
            charged[np.arange(len(full)), full] = charged[np.arange(len(full)), full - 1]
            price = (chance * charged).sum(axis=1) / mean_s
    return cost, chance, births, price


def _service_elsewhere(
    scores: NDArray[np.float64],
    service_s: NDArray[np.float64],
    price: NDArray[np.float64],
    unserved: NDArray[np.float64],
    weights: NDArray[np.float64],
    shares: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return (m, m), seconds of service that an agent displaced from j takes of its next best model k."""
    net = scores - service_s * price
    n, m = net.shape
    rows = np.arange(n)
    served = weights[:, None] * shares
    total = np.maximum(served.sum(axis=0), 1e-12)
    best = net.argmax(axis=1)
    to_best = np.zeros((n, m))
    to_best[rows, best] = np.where(net[rows, best] > unserved, service_s[rows, best], 0.0)
    taken: NDArray[np.float64] = served.T @ to_best
    np.fill_diagonal(taken, 0.0)
    net[rows, best] = -np.inf
    second = net.argmax(axis=1)
    worth_it = net[rows, second] > unserved
    moved = served[rows, best] * service_s[rows, second] * worth_it
    np.add.at(taken, (best, second), moved)
    taken /= total[:, None]
    return taken


def _over_others(
    scores: NDArray[np.float64], charge: NDArray[np.float64], unserved: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return (m, n), what model j is worth to agent i, free of charge, over its best choice elsewhere."""
    net = scores - charge
    n, m = net.shape
    best = net.argmax(axis=1)
    rows = np.arange(n)
    highest = np.maximum(net[rows, best], unserved)
    net[rows, best] = -np.inf
    second = np.maximum(net.max(axis=1), unserved) if m > 1 else unserved
    value: NDArray[np.float64] = scores.T - highest
    value[best, rows] = scores[rows, best] - second
    return value


def _policy_iteration(
    advantage: _Advantage,
    cost: NDArray[np.float64],
    fee: NDArray[np.float64],
    arrivals: NDArray[np.float64],
    departures: NDArray[np.float64],
    full: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return D, (m, F), the stationary distribution, (m, F + 1), and admissions a second, (m, F), of every model."""
    top = cost.shape[1]
    inside = np.arange(top) < full[:, None]
    before: NDArray[np.intp] | None = None
    chance, births = np.empty((len(cost), top + 1)), np.empty_like(cost)
    for _ in range(_MAX_ITERATIONS):
        position, value, service = advantage.admitted(cost + fee)
        if before is not None and (position == before)[inside].all():
            break
        before = position
        births = np.where(inside, np.maximum(arrivals * service, _MIN_RATE), 0.0)
        reward = np.where(inside, arrivals * (value - fee * service), 0.0)
        with np.errstate(divide="ignore"):
            steps = np.log(births) - np.log(departures[:, 1:])
        chance[:, 0] = 0.0
        np.cumsum(steps, axis=1, out=chance[:, 1:])
        chance -= chance.max(axis=1, keepdims=True)
        np.exp(chance, out=chance)
        chance /= chance.sum(axis=1, keepdims=True)
        gain = (chance[:, :top] * reward).sum(axis=1)
        cost = np.maximum.accumulate(_relative_costs(gain, births, reward, departures, full), axis=1)
    return cost, chance, births


def _relative_costs(
    gain: NDArray[np.float64],
    births: NDArray[np.float64],
    reward: NDArray[np.float64],
    departures: NDArray[np.float64],
    full: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return D of a policy: upwards while births outnumber departures, downwards from the last state.

    Both directions are first-order recurrences; those of all models are one tridiagonal system, in which every row
    has the larger of its two rates on the diagonal. O(m F).
    """
    from scipy.linalg import solve_banded  # imported with the first prices, not with the package

    m, top = births.shape
    last = (full - 1)[:, None]
    level = departures[:, :top]
    turn = np.argmax(np.concatenate([births <= level, np.ones((m, 1), np.bool_)], axis=1), axis=1)
    state, total = np.arange(top), gain[:, None]
    rising = state < np.clip(turn, 1, full)[:, None]
    falling = ~rising & (state <= last)
    next_births, next_reward = np.zeros_like(births), np.zeros_like(reward)
    next_births[:, :-1], next_reward[:, :-1] = births[:, 1:], reward[:, 1:]
    before_last = falling & (state < last)
    diagonal = np.where(rising, births, np.where(falling, departures[:, 1:], 1.0))
    lower = np.where(rising & (state > 0), -level, 0.0).ravel()
    upper = np.where(before_last, -next_births, 0.0).ravel()
    right = np.where(rising, reward - total, np.where(falling, total - next_reward * before_last, 0.0))
    bands = np.zeros((3, m * top))
    bands[0, 1:], bands[1], bands[2, :-1] = upper[:-1], diagonal.ravel(), lower[1:]
    cost = solve_banded((1, 1), bands, right.ravel(), overwrite_ab=True, overwrite_b=True, check_finite=False)
    return np.maximum(cost.reshape(m, top), 0.0)


def _spread(
    table: NDArray[np.float64],
    unit: NDArray[np.float64],
    real: NDArray[np.int64],
    limit: NDArray[np.int64],
    full: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return the table by real slots, ``inf`` from the limit of each model on."""
    occupancy = np.arange(int(limit.max()) + 1)
    state = np.minimum((occupancy / unit[:, None]).astype(np.int64), full[:, None] - 1)
    spread = np.take_along_axis(table, state, axis=1)
    return np.where(occupancy < limit[:, None], spread, np.inf)
