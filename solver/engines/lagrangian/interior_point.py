"""The dual bound, exactly: a primal-dual interior point method with one multiplier per coupling row.

The linear relaxation ``min loss·x, Σ_columns x = 1 for every agent, coupling·x + s = bound, x, s >= 0`` is
solved by Mehrotra's predictor-corrector method. The n assignment rows are eliminated elementwise, which
leaves one symmetric system with a row per coupling: (models × resources + limit rows) unknowns, whatever n.
Any multipliers >= 0 give a valid bound by weak duality, so the method may be stopped at any time.

References
----------
S. Mehrotra, "On the implementation of a primal-dual interior point method", SIAM J. Optim. 2 (1992).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.engines.lagrangian.row_algebra import RowAlgebra
from solver.engines.lagrangian.row_selection import (
    RowSelectionParameters,
    broken_rows,
    first_rows,
    with_rows,
)
from solver.engines.lagrangian.weak_duality import dual_bound

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.engines.standard_form import Form

__all__ = ["Relaxation", "relax"]

_STEP_S_PER_PAIR = 1e-8
"""Seconds of a step for each pass over all pairs."""

_PAIR_TERMS = 12
"""Such passes of a step."""

_LAYER_PASSES = 2
"""Additional passes for each layer of limit rows."""

_SECONDS_PER_PRODUCT = 2e-10
"""Seconds of a step for each product in the dense algebra of the coupling rows."""

_ROW_GROWTH = 1.5
"""Factor on the time of the last relaxation, as an estimate for one with more rows."""

_LEAST_SPREAD = 0.05
"""Least weight of a column at the start, relative to the mean."""

_SHORT_STEP = 0.4
"""Step length below which a second correction pays for itself."""

_SHORT_STEP_LIMITS = 0.9
"""The same with limit rows."""

_PATIENT_STEPS = 35
"""Steps in float32 before a standstill is taken for the end."""

_BOUNDARY_SHARE = 0.99
"""Share of the way to the boundary that a step goes."""

_ROUNDABLE = 1e-3
"""Complementarity, relative to the largest loss, from which rounding pays."""

_LEAST_SLACK = 0.1
"""First slack of a row at least, in units of the row's scale."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Relaxation:
    """The solved relaxation of a :class:`Form`.

    Parameters
    ----------
    price : (r, c) float64
        Multiplier of each capacity, loss per unit, >= 0.
    row_price : (g,) float64
        Multiplier of each limit row, >= 0.
    bound : float
        No choice of columns loses less.
    weight : (c, n) float
        Primal solution: how much of each agent goes to each column. Near a vertex, so that at most as many
        agents as there are coupling rows are split.
    infeasible : bool
        The bound exceeds the largest loss there is: no choice exists.
    iterations : int
        Newton systems factorised.
    converged : bool
        The weights are near enough to a vertex to be rounded; False where time cut the iteration short.
    price_change, row_price_change : (r, c) and (g,) float64, or None
        How fast the multipliers change with the losses, where a change of these was given.
    """

    price: NDArray[np.float64]
    row_price: NDArray[np.float64]
    bound: float
    weight: NDArray[Any]
    infeasible: bool
    iterations: int
    converged: bool = True
    price_change: NDArray[np.float64] | None = None
    row_price_change: NDArray[np.float64] | None = None


def relax(
    form: Form,
    *,
    deadline: Deadline,
    share: float = 0.5,
    tolerance: float = 1e-6,
    jitter: float = 2e-4,
    rng: np.random.Generator,
    single: bool = False,
    most_iterations: int = 60,
    change: NDArray[np.float64] | None = None,
    rows: RowSelectionParameters | None = None,
) -> Relaxation:
    """Solve the linear relaxation. O(c n K) a step with K coupling rows, 10 to 25 steps.

    Parameters
    ----------
    form : Form
        The problem.
    deadline : Deadline
        Checked before every step.
    share : float
        Part of the time left that may be spent here.
    tolerance : float
        Complementarity at which to stop, relative to the bound.
    jitter : float
        Random noise added to the losses, relative to their mean, which breaks ties so that the primal
        solution comes close to a vertex; the bound is evaluated without it.
    rng : numpy.random.Generator
        Source of the noise.
    single : bool
        Iterate in float32: half the time on large arrays; the bound is still float64.
    most_iterations : int
        Upper limit of steps.
    change : (c, n) float64, optional
        A direction of the losses, in which the multipliers are differentiated at the end: another step's work.
    rows : RowSelectionParameters, optional
        Which limit rows are looked at where they are many.
    """
    rows = RowSelectionParameters() if rows is None else rows
    kept = first_rows(form, rows)
    now = deadline.clock.now()
    stop_s = now + share * max(0.0, deadline.remaining_s())
    options = _Options(tolerance, jitter, single, most_iterations, change)
    if kept is None:
        return _solved(form, deadline, now, stop_s, rng, options)
    found = _solved(with_rows(form, kept), deadline, now, stop_s, rng, options)
    for _ in range(rows.rounds):
        began, now = now, deadline.clock.now()
        missing = np.setdiff1d(broken_rows(form, found.weight, rows.added), kept)
        if found.infeasible or not len(missing) or now + _ROW_GROWTH * (now - began) > stop_s:
            break
        if not found.converged:
            break
        grown = np.union1d(kept, missing)
        better = _solved(with_rows(form, grown), deadline, now, stop_s, rng, options)
        if not better.converged and not better.infeasible:
            break
        found, kept = better, grown
    return replace(
        found,
        row_price=_spread(found.row_price, kept, form.rows),
        row_price_change=None
        if found.row_price_change is None
        else _spread(found.row_price_change, kept, form.rows),
    )


def _spread(value: NDArray[np.float64], kept: NDArray[np.intp], rows: int) -> NDArray[np.float64]:
    """Return values of some limit rows as those of all, zero for the others."""
    spread = np.zeros(rows)
    spread[kept] = value
    return spread


@dataclass(frozen=True, slots=True)
class _Options:
    tolerance: float
    jitter: float
    single: bool
    most_iterations: int
    change: NDArray[np.float64] | None


def _seconds_per_step(form: Form) -> float:
    """Return about how long a Newton step takes."""
    layers = len(form.row)
    unknowns = form.capacity.size + form.rows
    pairs = form.loss.size * (form.resources + _PAIR_TERMS + _LAYER_PASSES * layers * (layers + 1))
    cross = form.n * float(unknowns) ** 2
    return pairs * _STEP_S_PER_PAIR + (cross + float(unknowns) ** 3) * _SECONDS_PER_PRODUCT


def _unsolved(form: Form) -> Relaxation:
    """Return a relaxation that took no time: free capacities, everybody mostly where it loses least."""
    price, row_price = np.zeros(form.capacity.shape), np.zeros(form.rows)
    finite = np.isfinite(form.loss)
    unit = float(form.loss[finite].mean()) if finite.any() else 0.0
    weight = np.where(finite, 1.0 / (1.0 + form.loss / (unit or 1.0)), 0.0)
    weight /= weight.sum(axis=0)
    return Relaxation(
        price=price,
        row_price=row_price,
        bound=dual_bound(form, price, row_price),
        weight=weight,
        infeasible=False,
        iterations=0,
        converged=False,
    )


def _solved(
    form: Form,
    deadline: Deadline,
    before: float,
    stop_s: float,
    rng: np.random.Generator,
    options: _Options,
) -> Relaxation:
    """Solve the relaxation with all limit rows of a form."""
    tolerance, jitter, single = options.tolerance, options.jitter, options.single
    most_iterations, change = options.most_iterations, options.change
    if deadline.limited and before + 2 * _seconds_per_step(form) > stop_s:
        return _unsolved(form)
    newton = _Newton(form, rng=rng, jitter=jitter, dtype=np.float32 if single else np.float64)
    iterations, history = 0, [newton.complementarity]
    step_s = 0.0  # the longest of the last steps: on a busy machine another may take as long
    while iterations < most_iterations and not newton.converged(tolerance, 1e-3 if single else 1e-5):
        now = deadline.clock.now()
        step_s, before = max(0.7 * step_s, now - before), now
        if now + step_s > stop_s and iterations:
            break
        if newton.best_bound * newton.unit > form.worst * (1 + 1e-6) + 1e-6:
            break
        if not newton.advance():
            break
        iterations += 1
        history.append(newton.complementarity)
        converged = float(np.abs(newton.row_residual).max()) < 1e-4
        if single and converged and iterations > _PATIENT_STEPS and history[-1] > 0.7 * history[-4]:
            break  # float32 has given what it can
    price, row_price = newton.multipliers()
    bound = dual_bound(form, price, row_price)
    changes = (None, None) if change is None else newton.response(change)
    return Relaxation(
        price=price,
        row_price=row_price,
        bound=bound,
        weight=newton.weight,
        infeasible=bound > form.worst * (1 + 1e-9) + 1e-9,
        iterations=iterations,
        price_change=changes[0],
        row_price_change=changes[1],
        converged=newton.complementarity * newton.unit < _ROUNDABLE * form.worst,
    )


class _Newton:
    """State of the iteration, everything scaled: losses by their mean, rows by their bound."""

    def __init__(self, form: Form, *, rng: np.random.Generator, jitter: float, dtype: type) -> None:
        n = form.n
        self.form = form
        self.dtype: Any = dtype
        allowed = form.allowed
        loss = form.loss if allowed is None else np.where(allowed, form.loss, 0.0)
        models = form.models
        pairs = n * models if allowed is None else int(allowed[:models].sum())
        self.unit = float(loss[:models].sum()) / max(pairs, 1) or 1.0
        self.mask: NDArray[Any] | None = None if allowed is None else allowed.astype(dtype)
        self.scale = np.maximum(form.capacity, 1e-12 + form.demand.mean(axis=2))
        self.demand = (form.demand / self.scale[:, :, None]).astype(dtype, copy=False)
        self.row_scale = self._row_scale()
        self.limits = RowAlgebra(form, self.row_scale, dtype) if form.rows else None
        self.bound: NDArray[Any] = np.concatenate(
            [(form.capacity / self.scale).ravel(), form.row_bound / self.row_scale]
        ).astype(dtype)
        scaled = loss / self.unit
        if jitter > 0:
            scaled += jitter * rng.random(scaled.shape)
        self.loss: NDArray[Any] = scaled.astype(dtype, copy=False)
        ones = np.ones(loss.shape, dtype) if self.mask is None else self.mask
        # Spread every agent in proportion to the room of the columns: skewed capacities start nearly feasible.
        weight = (self.scale / np.maximum(form.demand.mean(axis=2), 1e-12)).min(axis=0)
        weight = np.clip(weight / weight[:models].mean(), _LEAST_SPREAD, 1 / _LEAST_SPREAD)
        if form.leave:
            weight[-1] = 1.0
        self.x = ones * weight[:, None].astype(dtype)
        self.x /= self.x.sum(axis=0)
        self.price: NDArray[Any] = np.ones(len(self.bound), dtype)
        self.slack = np.maximum(dtype(_LEAST_SLACK), self.bound - self.act(self.x))
        self.reduced = self.loss + self.charge(self.price)
        self.level = self._least(self.reduced) - dtype(1)
        self.z = self.reduced - self.level
        if self.mask is not None:
            self.z = np.where(self.mask > 0, self.z, dtype(1))
        self.count = (loss.size if allowed is None else int(allowed.sum())) + len(self.bound)
        self.best_bound, self.best_price = -np.inf, self.price
        self.weight = self.x
        self._measure()

    def _row_scale(self) -> NDArray[np.float64]:
        """Return a typical size of each limit row: its bound, or what an even spread would use."""
        form = self.form
        typical = np.zeros(form.rows + 1)
        for row, coefficient in zip(form.row, form.coefficient, strict=True):
            typical += np.bincount(row.ravel(), weights=np.abs(coefficient).ravel(), minlength=form.rows + 1)
        typical = typical[:-1] / max(1, form.columns)
        scale: NDArray[np.float64] = np.maximum(np.abs(form.row_bound), 0.1 * typical)
        return np.where(scale > 0, scale, 1.0)

    def act(self, x: NDArray[Any]) -> Any:
        """Return the (K,) left-hand sides of every coupling row."""
        local = np.einsum("kcn,cn->kc", self.demand, x).ravel()
        if self.limits is None:
            return local
        return np.concatenate([local, self.limits.act(x)])

    def charge(self, price: NDArray[Any]) -> Any:
        """Return the (c, n) price of every pair."""
        local = price[: self.scale.size].reshape(self.scale.shape)
        total = local[0][:, None] * self.demand[0]
        for k in range(1, len(local)):
            total += local[k][:, None] * self.demand[k]
        if self.limits is not None:
            self.limits.charge(price[self.scale.size :], total)
        return total

    def _least(self, reduced: NDArray[Any]) -> Any:
        if self.mask is None:
            return reduced.min(axis=0)
        return np.where(self.mask > 0, reduced, np.inf).min(axis=0).astype(self.dtype)

    def _measure(self) -> None:
        """Compute residuals, complementarity and the bound at the current point; remember the best."""
        self.complementarity = float(np.vdot(self.x, self.z) + self.slack @ self.price)
        if self.mask is None:
            self.primal = 1 - self.x.sum(axis=0)
            self.dual = self.reduced - self.level
            self.dual -= self.z
        else:
            self.primal = 1 - self.x.sum(axis=0)
            self.dual = (self.reduced - self.level - self.z) * self.mask
        self.row_residual = self.bound - self.act(self.x) - self.slack
        bound = float(self._least(self.reduced).sum(dtype=np.float64) - self.price @ self.bound)
        if np.isfinite(self.complementarity) and bound > self.best_bound:
            self.best_bound, self.best_price = bound, self.price
        if np.isfinite(self.complementarity):
            self.weight = self.x

    def converged(self, tolerance: float, residual: float) -> bool:
        """Return whether complementarity and the assignment rows are within tolerance."""
        if not np.isfinite(self.complementarity):
            return True
        small = self.complementarity < tolerance * max(abs(self.best_bound), 1e-9)
        return bool(small and np.abs(self.primal).max() < residual)

    def advance(self) -> bool:
        """Take one predictor-corrector step; False when the system cannot be solved any more.

        In float32 the products of a badly scaled inverse may overflow. Such a step raises no bound: the best
        multipliers met so far are kept.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            return self._advance()

    def _advance(self) -> bool:
        x, z, slack, price = self.x, self.z, self.slack, self.price
        ratio = x / z
        per_agent = ratio.sum(axis=0)
        tall = self._tall(ratio)
        system = self._system(ratio, tall, per_agent)
        try:
            inverse: NDArray[Any] = np.linalg.inv(system).astype(self.dtype)
        except np.linalg.LinAlgError:
            return False
        if not np.isfinite(inverse).all():
            return False
        weighted_dual = ratio * self.dual
        mean = self.complementarity / self.count

        def direction(target: NDArray[Any], row_target: NDArray[Any]) -> tuple[NDArray[Any], ...]:
            moved = target - weighted_dual
            agent_part = self.primal - moved.sum(axis=0)
            row_part = self.row_residual - self.act(moved) - row_target / price
            d_price = inverse @ (tall @ (agent_part / per_agent) - row_part)
            d_level = (agent_part + d_price @ tall) / per_agent
            d_z = self.charge(d_price)
            d_charge = d_z.copy()
            d_z += self.dual
            d_z -= d_level
            if self.mask is not None:
                d_z *= self.mask
            d_x = target - ratio * d_z
            d_slack = (row_target - slack * d_price) / price
            return d_x, d_slack, d_price, d_level, d_z, d_charge

        d_x, d_slack, d_price, _, d_z, _ = direction(-x, -slack * price)
        primal_step, dual_step = self._steps(d_x, d_slack, d_price, d_z, share=1.0)
        affine = float(
            np.vdot(x + primal_step * d_x, z + dual_step * d_z)
            + (slack + primal_step * d_slack) @ (price + dual_step * d_price)
        )
        centring = self.dtype((max(affine, 0.0) / self.complementarity) ** 3 * mean)
        d_x *= d_z
        np.subtract(centring, d_x, out=d_x)
        d_x /= z
        d_x -= x
        if self.mask is not None:
            d_x *= self.mask
        row_target = centring - slack * price - d_slack * d_price
        target = d_x
        d_x, d_slack, d_price, d_level, d_z, d_charge = direction(target, row_target)
        primal_step, dual_step = self._steps(d_x, d_slack, d_price, d_z)
        if min(primal_step, dual_step) < (_SHORT_STEP if self.limits is None else _SHORT_STEP_LIMITS):
            reach = min(1.0, primal_step + 0.1), min(1.0, dual_step + 0.1)
            pull, row_pull = self._outlying(reach, centring, d_x, d_slack, d_price, d_z)
            better = direction(target + pull, row_target + row_pull)
            longer_x, longer_z = self._steps(better[0], better[1], better[2], better[4])
            if longer_x + longer_z > primal_step + dual_step + 0.01:
                d_x, d_slack, d_price, d_level, d_z, d_charge = better
                primal_step, dual_step = longer_x, longer_z
        primal_step, dual_step = self.dtype(primal_step), self.dtype(dual_step)
        d_x *= primal_step
        d_x += x
        d_z *= dual_step
        d_z += z
        d_charge *= dual_step
        d_charge += self.reduced
        self.x, self.z, self.reduced = d_x, d_z, d_charge
        self.slack = slack + primal_step * d_slack
        self.price = price + dual_step * d_price
        self.level = self.level + dual_step * d_level
        self._measure()
        return True

    def _steps(
        self,
        d_x: NDArray[Any],
        d_slack: NDArray[Any],
        d_price: NDArray[Any],
        d_z: NDArray[Any],
        *,
        share: float = _BOUNDARY_SHARE,
    ) -> tuple[float, float]:
        """Return the primal and the dual step length: a share of the way to the boundary, at most 1."""
        primal = min(self._longest(self.x, d_x), self._longest_flat(self.slack, d_slack))
        dual = min(self._longest(self.z, d_z), self._longest_flat(self.price, d_price))
        return min(1.0, share * primal), min(1.0, share * dual)

    def _outlying(
        self,
        reach: tuple[float, float],
        centring: Any,
        d_x: NDArray[Any],
        d_slack: NDArray[Any],
        d_price: NDArray[Any],
        d_z: NDArray[Any],
    ) -> tuple[Any, Any]:
        """Return by how much outlying complementarity products are to be pulled back (Gondzio 1996).

        Parameters
        ----------
        reach : (float, float)
            Primal and dual step lengths at which the products are taken.
        centring : float
            What the products are to be.
        d_x, d_slack, d_price, d_z
            The direction.
        """
        product = (self.x + self.dtype(reach[0]) * d_x) * (self.z + self.dtype(reach[1]) * d_z)
        row_product = (self.slack + reach[0] * d_slack) * (self.price + reach[1] * d_price)
        low, high = 0.1 * centring, 10 * centring
        pull = np.maximum(np.clip(product, low, high) - product, -high)
        row_pull = np.maximum(np.clip(row_product, low, high) - row_product, -high)
        pull /= self.z
        if self.mask is not None:
            pull *= self.mask
        return pull, row_pull

    def _tall(self, ratio: NDArray[Any]) -> Any:
        """Return the (K, n) matrix of every coupling row summed over columns, weighted by ``ratio``."""
        local = (ratio * self.demand).reshape(-1, ratio.shape[1])
        if self.limits is None:
            return local
        return np.concatenate([local, self.limits.tall(ratio)])

    def _system(self, ratio: NDArray[Any], tall: NDArray[Any], per_agent: NDArray[Any]) -> Any:
        """Return the (K, K) Schur complement."""
        root = tall / np.sqrt(per_agent)
        system = -(root @ root.T).astype(np.float64)
        resources, columns = self.scale.shape
        local = tall[: resources * columns].reshape(resources, columns, -1)
        column = np.arange(columns)
        for a in range(resources):
            for b in range(a, resources):
                sums = np.einsum("cn,cn->c", local[a], self.demand[b])
                system[a * columns + column, b * columns + column] += sums
                if a != b:
                    system[b * columns + column, a * columns + column] += sums
        if self.limits is not None:
            self.limits.add_products(system, ratio, self.demand)
        diagonal = np.arange(len(system))
        system[diagonal, diagonal] += self.slack / self.price
        system[diagonal, diagonal] *= 1 + 1e-12
        return system

    def _longest(self, value: NDArray[Any], step: NDArray[Any]) -> float:
        """Return how far a (c, n) step can go before an entry becomes negative."""
        if self.mask is None:
            worst = float((step / value).min())
        else:
            worst = float(np.divide(step, value, out=np.zeros_like(step), where=self.mask > 0).min())
        return -1.0 / worst if worst < 0 else np.inf

    @staticmethod
    def _longest_flat(value: NDArray[Any], step: NDArray[Any]) -> float:
        worst = float((step / value).min())
        return -1.0 / worst if worst < 0 else np.inf

    def multipliers(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the best multipliers seen, in loss per natural unit."""
        return self._natural(np.maximum(self.best_price.astype(np.float64), 0.0))

    def _natural(self, price: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return scaled multipliers in loss per natural unit, by capacity and by limit row."""
        price = price * self.unit
        local = price[: self.scale.size].reshape(self.scale.shape) / self.scale
        if self.form.leave:
            local[:, -1] = 0.0
        return local, price[self.scale.size :] / self.row_scale

    def response(
        self, change: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]] | tuple[None, None]:
        """Return the derivative of the multipliers as the losses change, on the central path; None without one."""
        mean = self.complementarity / self.count
        # The last step leaves the path; put the smaller of each pair back on it.
        ratio = np.where(self.x < self.z, mean / self.z**2, self.x**2 / mean).astype(self.dtype)
        if self.mask is not None:
            ratio *= self.mask
        self.slack = np.where(self.slack < self.price, mean / self.price, self.slack)
        per_agent = ratio.sum(axis=0)
        tall = self._tall(ratio)
        moved = ratio * (change / self.unit).astype(self.dtype)
        right = tall @ (moved.sum(axis=0) / per_agent) - self.act(moved)
        try:
            price = np.linalg.solve(self._system(ratio, tall, per_agent), right.astype(np.float64))
        except np.linalg.LinAlgError:
            return None, None
        return self._natural(price) if np.isfinite(price).all() else (None, None)
