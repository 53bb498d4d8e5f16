"""A better bound, and where it points: capacities kept whole, the agents' own rows priced instead.

The linear relaxation prices capacities and splits agents. Here every column takes a set of agents that fits, and what
is relaxed is that each agent is in exactly one set, at a multiplier per agent. The bound is that of column generation,
which is much closer to the optimum where a column holds few agents. Multipliers are found by the volume algorithm:
steps along the violation of a running average of the sets. This average is a fractional assignment, close to the
convex hull of the sets that fit. A dive fixes the agents whose average is closest to whole, and goes on with the rest.

References
----------
F. Barahona, R. Anbil, "The volume algorithm: producing primal solutions with a subgradient method", Math. Programming
87 (2000). R. Sadykov, F. Vanderbeck, A. Pessoa, I. Tahiri, E. Uchoa, "Primal heuristics for branch and price: the
assets of diving methods", INFORMS J. Comput. 31 (2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.lagrangian.params import KnapsackParams

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.engines.lagrangian.knapsacks import Knapsacks


@dataclass(slots=True, eq=False)
class _Point:
    """Multipliers, their bound and the average of the sets.

    Parameters
    ----------
    multiplier : (n,) float64
        Of the best bound so far.
    bound : float
        That bound.
    average : (c, n) float64
        Share of each agent in each column.
    """

    multiplier: NDArray[np.float64]
    bound: float
    average: NDArray[np.float64]


class KnapsackDual:
    """The Lagrangian bound with whole knapsacks of one form.

    Parameters
    ----------
    knapsacks : Knapsacks
        The columns.
    multiplier : (n,) float64
        Where to start: what each agent pays at the prices of the linear relaxation.
    rng : numpy.random.Generator
        Varies the dives.
    params : KnapsackParams, optional
        Tuning constants.

    Attributes
    ----------
    bound : float
        No assignment loses less.
    """

    def __init__(
        self,
        knapsacks: Knapsacks,
        multiplier: NDArray[np.float64],
        *,
        rng: np.random.Generator,
        params: KnapsackParams | None = None,
    ) -> None:
        self.params, self.rng = params or KnapsackParams(), rng
        self._knapsacks = knapsacks
        bound, chosen = knapsacks.solve(knapsacks.capacity, knapsacks.open, knapsacks.steps(multiplier))
        self._point = _Point(multiplier, bound, chosen.astype(float))

    @property
    def bound(self) -> float:
        """Best bound so far."""
        return self._point.bound

    @property
    def average(self) -> NDArray[np.float64]:
        """Share of each agent in each column, (c, n); columns hold no more than they have room for."""
        return self._point.average

    def tighten(self, target: float, *, deadline: Deadline, stop_s: float) -> None:
        """Improve the multipliers until it hardly pays any more.

        Parameters
        ----------
        target : float
            Loss of a known assignment, or an estimate: scales the steps.
        deadline : Deadline
            Whose clock is read.
        stop_s : float
            Reading at which to stop.
        """
        knapsacks = self._knapsacks
        self._climb(
            self._point,
            target,
            capacity=knapsacks.capacity,
            open_=knapsacks.open,
            live=np.ones(len(self._point.multiplier)),
            most=self.params.iterations,
            scale=self.params.first_scale,
            deadline=deadline,
            stop_s=stop_s,
        )

    def increase(self) -> NDArray[np.float64]:
        """Return a bound on the loss of any assignment that uses a pair, (c, n)."""
        knapsacks = self._knapsacks
        steps = knapsacks.steps(self._point.multiplier)
        return self._point.bound + knapsacks.forced(knapsacks.capacity, knapsacks.open, steps)

    def dive(self, target: float, *, deadline: Deadline, stop_s: float) -> NDArray[np.int64]:
        """Return an assignment, (n,), in which most agents are where the average has them; capacities may be exceeded.

        Parameters
        ----------
        target : float
            Loss of the best assignment known.
        deadline : Deadline
            Whose clock is read.
        stop_s : float
            Reading at which the agents left are placed at once.
        """
        params, knapsacks, rng = self.params, self._knapsacks, self.rng
        n = len(self._point.multiplier)
        agents = np.arange(n)
        capacity, open_ = knapsacks.capacity.copy(), knapsacks.open.copy()
        columns, live = np.full(n, -1), np.ones(n, bool)
        point = _Point(self._point.multiplier.copy(), -np.inf, self._point.average.copy())
        settled = 0.0
        while live.any() and deadline.clock.now() < stop_s:
            noise = np.exp(params.noise * rng.standard_normal(point.average.shape))
            share = np.where(open_, point.average * noise, 0.0)
            likeliest, most = share.argmax(axis=0), np.where(live, share.max(axis=0), -1.0)
            order = np.argsort(-most)[: int(live.sum())]
            fixed = self._fix(order[: max(1, int(params.fixed_share * len(order)))], likeliest, capacity)
            if not len(fixed):
                break
            columns[fixed], live[fixed] = likeliest[fixed], False
            settled += knapsacks.step * float(knapsacks.loss[likeliest[fixed], fixed].sum())
            open_[:, fixed] = False
            open_ &= knapsacks.weight <= capacity[:, None]
            point.average[:, fixed] = 0.0
            if not live.any() or not open_[:, live].any(axis=0).all():
                break
            point.multiplier[fixed] = 0.0
            point.bound = -np.inf
            self._climb(
                point,
                target - settled,
                capacity=capacity,
                open_=open_,
                live=live.astype(float),
                most=params.dive_iterations,
                scale=params.dive_scale,
                deadline=deadline,
                stop_s=stop_s,
            )
            if settled + point.bound > target + params.hopeless * (target - self.bound):
                break
        left = np.flatnonzero(live)
        fits = np.where(knapsacks.open, (knapsacks.weight <= capacity[:, None]) + 1e-3, 0.0)
        columns[left] = (point.average * knapsacks.open + 1e-3 * fits)[:, left].argmax(axis=0)
        columns[agents] = np.where(knapsacks.open[columns, agents], columns, self.average.argmax(axis=0))
        return columns

    def _fix(
        self, order: NDArray[np.intp], likeliest: NDArray[np.intp], capacity: NDArray[np.int64]
    ) -> NDArray[np.intp]:
        """Put agents into their likeliest columns in turn while they fit; ``capacity`` is reduced."""
        fixed = []
        weight = self._knapsacks.weight
        for i in order.tolist():
            j = int(likeliest[i])
            if weight[j, i] <= capacity[j]:
                capacity[j] -= weight[j, i]
                fixed.append(i)
        return np.array(fixed, np.intp)

    def _climb(
        self,
        point: _Point,
        target: float,
        *,
        capacity: NDArray[np.int64],
        open_: NDArray[np.bool_],
        live: NDArray[np.float64],
        most: int,
        scale: float,
        deadline: Deadline,
        stop_s: float,
    ) -> None:
        """Take steps of the volume algorithm from a point, which is updated."""
        params, knapsacks = self.params, self._knapsacks
        multiplier, average = point.multiplier, point.average
        idle = since = 0
        told = point.bound
        for round_ in range(most):
            if round_ % params.rounds_between_looks == 0 and deadline.clock.now() >= stop_s:
                break
            if np.abs(multiplier).sum() > knapsacks.most_multiplier:
                break
            bound, chosen = knapsacks.solve(capacity, open_, knapsacks.steps(multiplier))
            here = live * (1.0 - chosen.sum(axis=0))
            mean = live * (1.0 - average.sum(axis=0))
            turn = here - mean
            length = float(turn @ turn)
            best_share = -float(mean @ turn) / length if length > 1e-12 else params.largest_share
            share = min(max(best_share, 0.1 * params.largest_share), params.largest_share)
            average *= 1.0 - share
            average[chosen] += share
            direction = mean + share * turn
            if bound > point.bound:
                point.bound, point.multiplier = bound, multiplier
                idle = 0
                if float(direction @ here) > 0:
                    scale = min(2.0, 1.1 * scale)
            else:
                idle += 1
                if idle == params.patience:
                    scale, idle = max(1e-4, params.shrink * scale), 0
            since += 1
            if since == params.window:
                if point.bound - told < params.least_progress * (target - point.bound):
                    break
                since, told = 0, point.bound
            size = float(direction @ direction)
            if size < 1e-10:
                break
            multiplier = (
                point.multiplier + scale * max(target - point.bound, knapsacks.step) / size * direction
            )
