"""One iterate of the primal-dual interior point method, and the Newton step that leads to the next.

References
----------
S. Mehrotra, "On the implementation of a primal-dual interior point method", SIAM J. Optim. 2 (1992).
J. Gondzio, "Multiple centrality corrections in a primal-dual method", Comput. Optim. Appl. 6 (1996).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from solver.engines.lagrangian.row_algebra import RowAlgebra

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.engines.standard_form import StandardForm

_LEAST_ROW_SCALE = 1e-100
"""Size of a limit row below which it is taken as nothing: its multiplier would be no number."""

_MIN_SPREAD = 0.05
"""Least weight of a column at the start, relative to the mean."""

_SHORT_STEP = 0.4
"""Step length below which a second correction pays for itself."""

_SHORT_STEP_LIMITS = 0.9
"""Step length below which a second correction pays for itself where there are limit rows."""

_BOUNDARY_SHARE = 0.99
"""Share of the way to the boundary that a step goes."""

_MIN_SLACK = 0.1
"""First slack of a row at least, in units of the row's scale."""


class _System(NamedTuple):
    """The Newton system, the assignment rows eliminated."""

    ratio: NDArray[Any]  # (c, n) x over z
    per_agent: NDArray[Any]  # (n,) its sums
    tall: NDArray[Any]  # (K, n) coupling rows weighted by it
    inverse: NDArray[Any]  # (K, K) inverse of the Schur complement


class _Direction(NamedTuple):
    """A step of every part of the point."""

    x: NDArray[Any]
    slack: NDArray[Any]
    price: NDArray[Any]
    level: NDArray[Any]
    z: NDArray[Any]
    charge: NDArray[Any]


class Newton:
    """State of the iteration, everything scaled: losses by their mean, rows by their bound."""

    def __init__(self, form: StandardForm, *, rng: np.random.Generator, jitter: float, dtype: type) -> None:
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
        weight = np.clip(weight / weight[:models].mean(), _MIN_SPREAD, 1 / _MIN_SPREAD)
        if form.leave:
            weight[-1] = 1.0
        self.x = ones * weight[:, None].astype(dtype)
        self.x /= self.x.sum(axis=0)
        self.price: NDArray[Any] = np.ones(len(self.bound), dtype)
        self.slack = np.maximum(dtype(_MIN_SLACK), self.bound - self.act(self.x))
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
        return np.where(scale > _LEAST_ROW_SCALE, scale, 1.0)

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

    def converged(self, tolerance: float, residual: float, *, least: float = 0.0) -> bool:
        """Return whether complementarity and the assignment rows are within tolerance.

        Complementarity is measured against the bound, or against ``least``, a loss, where that is larger.
        """
        if not np.isfinite(self.complementarity):
            return True
        small = self.complementarity < tolerance * max(abs(self.best_bound), least / self.unit, 1e-9)
        return bool(small and np.abs(self.primal).max() < residual)

    def advance(self) -> bool:
        """Take one predictor-corrector step; False when the system cannot be solved any more.

        In float32 the products of a badly scaled inverse may overflow. Such a step raises no bound: the best
        multipliers met so far are kept.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            return self._advance()

    def _advance(self) -> bool:
        system = self._factorised()
        if system is None:
            return False
        target, row_target, centring = self._corrected(
            self._direction(system, -self.x, -self.slack * self.price)
        )
        move = self._direction(system, target, row_target)
        primal, dual = self._steps(move)
        if min(primal, dual) < (_SHORT_STEP if self.limits is None else _SHORT_STEP_LIMITS):
            reach = min(1.0, primal + 0.1), min(1.0, dual + 0.1)
            pull, row_pull = self._outlying(reach, centring, move)
            better = self._direction(system, target + pull, row_target + row_pull)
            longer = self._steps(better)
            if sum(longer) > primal + dual + 0.01:
                move, (primal, dual) = better, longer
        self._go(move, self.dtype(primal), self.dtype(dual))
        self._measure()
        return True

    def _factorised(self) -> _System | None:
        """Return the Newton system at the current point, None when it cannot be solved any more."""
        ratio = self.x / self.z
        per_agent = ratio.sum(axis=0)
        tall = self._tall(ratio)
        try:
            inverse: NDArray[Any] = np.linalg.inv(self._system(ratio, tall, per_agent)).astype(self.dtype)
        except np.linalg.LinAlgError:
            return None
        return _System(ratio, per_agent, tall, inverse) if np.isfinite(inverse).all() else None

    def _direction(self, system: _System, target: NDArray[Any], row_target: NDArray[Any]) -> _Direction:
        """Return the Newton direction that brings the complementarity products to their targets."""
        moved = target - system.ratio * self.dual
        agent_part = self.primal - moved.sum(axis=0)
        row_part = self.row_residual - self.act(moved) - row_target / self.price
        d_price = system.inverse @ (system.tall @ (agent_part / system.per_agent) - row_part)
        d_level = (agent_part + d_price @ system.tall) / system.per_agent
        d_z = self.charge(d_price)
        d_charge = d_z.copy()
        d_z += self.dual
        d_z -= d_level
        if self.mask is not None:
            d_z *= self.mask
        d_x = target - system.ratio * d_z
        d_slack = (row_target - self.slack * d_price) / self.price
        return _Direction(d_x, d_slack, d_price, d_level, d_z, d_charge)

    def _corrected(self, affine: _Direction) -> tuple[NDArray[Any], NDArray[Any], Any]:
        """Return the targets of the corrector, pairs and rows, and what products are to be (Mehrotra 1992).

        The direction's ``x`` is used up.
        """
        primal, dual = self._steps(affine, share=1.0)
        reached = float(
            np.vdot(self.x + primal * affine.x, self.z + dual * affine.z)
            + (self.slack + primal * affine.slack) @ (self.price + dual * affine.price)
        )
        mean = self.complementarity / self.count
        centring = self.dtype((max(reached, 0.0) / self.complementarity) ** 3 * mean)
        target = affine.x
        target *= affine.z
        np.subtract(centring, target, out=target)
        target /= self.z
        target -= self.x
        if self.mask is not None:
            target *= self.mask
        return target, centring - self.slack * self.price - affine.slack * affine.price, centring

    def _go(self, move: _Direction, primal: Any, dual: Any) -> None:
        """Take a step; the arrays of the direction become those of the point."""
        for step, change, value in (
            (primal, move.x, self.x),
            (dual, move.z, self.z),
            (dual, move.charge, self.reduced),
        ):
            change *= step
            change += value
        self.x, self.z, self.reduced = move.x, move.z, move.charge
        self.slack = self.slack + primal * move.slack
        self.price = self.price + dual * move.price
        self.level = self.level + dual * move.level

    def _steps(self, move: _Direction, *, share: float = _BOUNDARY_SHARE) -> tuple[float, float]:
        """Return the primal and the dual step length: a share of the way to the boundary, at most 1."""
        primal = min(self._longest(self.x, move.x), self._longest_flat(self.slack, move.slack))
        dual = min(self._longest(self.z, move.z), self._longest_flat(self.price, move.price))
        return min(1.0, share * primal), min(1.0, share * dual)

    def _outlying(
        self,
        reach: tuple[float, float],
        centring: Any,
        move: _Direction,
    ) -> tuple[Any, Any]:
        """Return by how much outlying complementarity products are to be pulled back (Gondzio 1996).

        Parameters
        ----------
        reach : (float, float)
            Primal and dual step lengths at which the products are taken.
        centring : float
            What the products are to be.
        move : _Direction
            The direction.
        """
        product = (self.x + self.dtype(reach[0]) * move.x) * (self.z + self.dtype(reach[1]) * move.z)
        row_product = (self.slack + reach[0] * move.slack) * (self.price + reach[1] * move.price)
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
