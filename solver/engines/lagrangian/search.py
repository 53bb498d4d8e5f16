"""Strategic oscillation: descend by compound moves, let penalties swing around feasibility, keep the best.

Overload is allowed and paid for. At every local optimum the penalties of overloaded columns rise, and all
of them fall once a feasible assignment has been seen, so that the search keeps crossing the border
where the good assignments are. Limit rows, which many agents share, are priced instead: their multiplier is
added to the losses, rises while the row is broken and falls back to its dual price when it is not.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from solver.engines import kernels
from solver.engines.lagrangian.ejection_chains import IMPROVEMENT, Beam
from solver.engines.lagrangian.row_prices import RowPrices
from solver.engines.lagrangian.weak_duality import reduced_losses

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.engines.lagrangian.ejection_chains import Move
    from solver.engines.lagrangian.interior_point import Relaxation
    from solver.engines.standard_form import Form

__all__ = ["Search"]

_FEW, _MANY = 16, 64  # moves looked at per level, with and without a feasible assignment at hand
_RISE, _INFEASIBLE_RISE, _FALL = 1.2, 1.5, 0.8
_JITTER = 0.1  # of the logarithm of the penalties, drawn anew at every local optimum
_TEMPERATURE = 0.01  # noise of the beam's keys, of the mean price an agent pays
_MOST_RISES = 20  # of the toll on a tiny overload
_TINY = 0.05  # an overload below this part of a typical demand is made to cost as much as a real one
_PAUSE = 0.12  # of the whole time: a longer step is a pause of the process, and is not expected to recur at the end
_SAME = 1e-9  # relative: losses closer than this are equal


class Search:
    """The incumbent, the current assignment and the penalties between them.

    Parameters
    ----------
    form : Form
        The problem.
    relaxation : Relaxation
        Its dual prices guide every move.
    rng : numpy.random.Generator
        Source of all randomness.
    """

    def __init__(self, form: Form, relaxation: Relaxation, *, rng: np.random.Generator) -> None:
        self.form, self.rng = form, rng
        reduced = reduced_losses(form, relaxation.price, relaxation.row_price)
        reduced -= reduced.min(axis=0)
        self.reduced = reduced
        self.beam = Beam(form, reduced, relaxation.price, nearest=8 if form.n <= 200 else 5, rng=rng)
        beam = self.beam
        near = np.take_along_axis(reduced, beam.near[:-1].T, 0)
        spread = float(near[np.isfinite(near)].mean()) / beam.unit
        typical = np.maximum(form.demand[:, : form.models].mean(axis=(1, 2)), 1e-12)[:, None]
        self.typical, self.spread = typical, spread
        price = beam.price
        pull = spread / typical
        self.start_penalty = np.maximum(
            1.5 * np.maximum(price, 0.3 * price.mean(axis=1, keepdims=True)), 2 * pull + 1e-9
        ).astype(np.float32)
        self.most_penalty = (8 * self.start_penalty + 50 * pull).astype(np.float32)
        cheapest = reduced.argmin(axis=0)
        agents = np.arange(form.n)
        paid = (price[:, cheapest] * form.demand[:, cheapest, agents]).sum(axis=0)
        beam.temperature = _TEMPERATURE * float(paid.mean()) or 1e-3 * spread
        self.rows = RowPrices(form, relaxation.row_price, beam, pull=spread) if form.rows else None
        self.compiled = self.rows is None and kernels.available()
        self.step_s = 0.0  # longest of the last steps: another one is begun only if it can end in time
        self.best_loss = np.inf
        self.best: NDArray[np.int64] | None = None
        self.on_better: Callable[[], None] | None = None  # told of every incumbent that a descent finds

    def keep(self, columns: NDArray[np.int64]) -> bool:
        """Take an assignment as the incumbent if it is feasible and better."""
        if not self.form.feasible(columns):
            return False
        loss = self.form.value(columns)
        if not loss < self.best_loss - _SAME * (1 + abs(self.best_loss if self.best is not None else 0.0)):
            return False
        self.best_loss, self.best = loss, columns.copy()
        return True

    def descend(
        self,
        columns: NDArray[np.int64],
        *,
        deadline: Deadline,
        stop_s: float = np.inf,
        feasible_stop_s: float = np.inf,
        patience: int,
    ) -> tuple[float, NDArray[np.int64] | None]:
        """Oscillate from an assignment until ``patience`` local optima brought nothing new.

        Never gives up for lack of patience while no feasible assignment is known: then only
        ``feasible_stop_s`` and the deadline end it, otherwise ``stop_s`` (readings of the deadline's clock).

        Returns
        -------
        tuple
            Loss and columns of the best feasible assignment met on this way; (inf, None) without one.
        """
        beam, form, rows = self.beam, self.form, self.rows
        beam.place(columns)
        no_incumbent = self.best is None
        base = self.start_penalty * (3 if no_incumbent else 1)
        beam.penalty = base.copy()
        if rows is not None:
            rows.restart()
            rows.refresh()
        idle, crossed = 0, False
        local, found = np.inf, None
        now = deadline.clock.now
        before = now()
        limit = min(stop_s, deadline.ends_s)
        longest_s = _PAUSE * (deadline.ends_s - deadline.started_s)
        while idle < patience or self.best is None:
            entered = now()
            feasible_limit = min(deadline.ends_s, feasible_stop_s)
            if entered + self.step_s > (limit if self.best is not None else feasible_limit):
                break
            if self.compiled:
                made = beam.steps
                end_s = (limit if self.best is not None else feasible_limit) - self.step_s
                stop, crossed = beam.improve(
                    crossed=crossed, local=local, tolerance=_SAME, until_s=time.monotonic() + end_s - entered
                )
                before, spent_s = entered, now() - entered
                self.step_s = min(max(0.9 * self.step_s, spent_s / max(1, beam.steps - made)), longest_s)
                if stop is kernels.Stop.OUT_OF_TIME:
                    break
                improved = stop is kernels.Stop.BETTER
            else:
                self.step_s = min(max(0.9 * self.step_s, entered - before), longest_s)
                before = entered
                improved = self._improve(crossed=crossed)
                crossed = crossed or (improved and self._within())
            if improved:
                current = beam.column[:-1]
                loss = form.value(current) if self._within() else np.inf
                if loss < local - _SAME * loss and form.feasible(current):
                    local, found, idle = loss, current.copy(), 0
                    if loss < self.best_loss - _SAME * loss:
                        self.best_loss, self.best = loss, found
                        if self.on_better is not None:
                            self.on_better()
                        if no_incumbent:
                            no_incumbent = False
                            base = self.start_penalty.copy()
                            beam.penalty = base.copy()
                elif self.compiled:  # within by float32 loads alone
                    local = min(local, loss)
                continue
            idle += 1
            beam.refresh()
            overloaded = beam.use > beam.room
            rise = _INFEASIBLE_RISE if self.best is None else _RISE
            fall = _FALL if crossed or self._within() else 1.0
            crossed = False
            base[overloaded] *= rise
            base *= fall
            np.clip(base, 0.3 * self.start_penalty, self.most_penalty, out=base)
            noise = _JITTER * self.rng.standard_normal(base.shape)
            beam.penalty = base * np.exp(noise).astype(np.float32)
            tiny = overloaded & (beam.use - beam.room < _TINY * self.typical)
            # While nothing feasible is known a tiny overload costs more at every local optimum it survives.
            toll = self.spread * (_INFEASIBLE_RISE ** min(idle, _MOST_RISES) if self.best is None else 1.0)
            beam.penalty[tiny] = np.maximum(beam.penalty, toll / np.maximum(beam.use - beam.room, 1e-30))[
                tiny
            ]
            if rows is not None:
                rows.refresh()
                rows.swing(rise=rise, fall=fall, noise=_JITTER * self.rng.standard_normal(form.rows))
        return local, found

    def _within(self) -> bool:
        """Whether the current assignment exceeds nothing, as far as float32 loads tell."""
        if (self.beam.use > self.beam.room).any():
            return False
        return self.rows is None or not self.rows.broken.any()

    def _improve(self, *, crossed: bool) -> bool:
        """Make the best move, and while still far from feasible all that do not touch each other."""
        beam, rows = self.beam, self.rows
        most = _FEW if crossed or self.best is not None else _MANY
        if rows is None:
            moves = beam.moves(most)
            touched: set[int] = set()
            for move in moves:
                if touched and crossed:
                    break
                if touched.isdisjoint(move.columns):
                    touched |= move.columns
                    beam.apply(move)
            return bool(moves)
        rows.reprice()
        # Few proposals are cheap to value; if none of them holds, more are looked at before giving up.
        return self._improve_exactly(beam.moves(_FEW), crossed) or self._improve_exactly(
            beam.moves(_MANY), crossed
        )

    def _improve_exactly(self, moves: list[Move], crossed: bool) -> bool:
        """Make the moves that hold when limit rows are paid for exactly."""
        beam, rows = self.beam, self.rows
        if not moves or rows is None:
            return False
        deltas = rows.deltas(moves)
        values = rows.exact(moves, deltas)
        touched: set[int] = set()
        for at in np.argsort(values, kind="stable"):
            if values[at] >= IMPROVEMENT or (touched and crossed):
                break
            move = moves[at]
            if not touched.isdisjoint(move.columns):
                continue
            if touched and rows.exact([move], deltas[at : at + 1])[0] >= IMPROVEMENT:
                continue
            touched |= move.columns
            beam.apply(move)
            rows.use += deltas[at]
        return bool(touched)
