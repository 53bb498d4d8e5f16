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
from solver.engines.lagrangian.chain_state import LARGEST_LOSS
from solver.engines.lagrangian.ejection_chains import IMPROVEMENT, EjectionChains
from solver.engines.lagrangian.params import SearchParams
from solver.engines.lagrangian.row_prices import RowPrices
from solver.engines.lagrangian.weak_duality import reduced_losses

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.engines.lagrangian.ejection_chains import Move
    from solver.engines.lagrangian.interior_point import Relaxation
    from solver.engines.standard_form import StandardForm


class Search:
    """The incumbent, the current assignment and the penalties between them.

    Parameters
    ----------
    form : StandardForm
        The problem.
    relaxation : Relaxation
        Its dual prices guide every move.
    rng : numpy.random.Generator
        Source of all randomness.
    params : SearchParams, optional
        Tuning constants.
    """

    def __init__(
        self,
        form: StandardForm,
        relaxation: Relaxation,
        *,
        rng: np.random.Generator,
        params: SearchParams | None = None,
    ) -> None:
        self.form, self.rng, self.params = form, rng, params or SearchParams()
        reduced = reduced_losses(form, relaxation.price, relaxation.row_price)
        reduced -= reduced.min(axis=0)
        self.reduced = reduced
        few = form.n <= self.params.few_agents
        self.chains = chains = EjectionChains(
            form,
            reduced,
            relaxation.price,
            nearest=self.params.near_models if few else self.params.near_models_many,
            width=self.params.chain_width,
            depth=self.params.chain_depth,
            rng=rng,
        )
        near = np.take_along_axis(reduced, chains.near[:-1].T, 0)
        spread = float(near[np.isfinite(near)].mean()) / chains.unit
        typical = np.maximum(form.demand[:, : form.models].mean(axis=(1, 2)), 1e-12)[:, None]
        self.typical, self.spread = typical, spread
        price = chains.price
        pull = spread / typical
        start = np.maximum(1.5 * np.maximum(price, 0.3 * price.mean(axis=1, keepdims=True)), 2 * pull + 1e-9)
        self.start_penalty = np.minimum(start, LARGEST_LOSS).astype(np.float32)
        self.most_penalty = np.minimum(8 * start + 50 * pull, LARGEST_LOSS).astype(np.float32)
        cheapest = reduced.argmin(axis=0)
        agents = np.arange(form.n)
        paid = (price[:, cheapest] * form.demand[:, cheapest, agents]).sum(axis=0)
        chains.temperature = self.params.key_temperature * float(paid.mean()) or 1e-3 * spread
        self.rows = RowPrices(form, relaxation.row_price, chains, pull=spread) if form.rows else None
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
        size = 1 + (0.0 if self.best is None else abs(self.best_loss))
        if not loss < self.best_loss - self.params.loss_tolerance * size:
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
        ``feasible_stop_s``, the deadline and the number of rounds end it, otherwise ``stop_s`` (readings of the
        deadline's clock).

        Returns
        -------
        tuple
            Loss and columns of the best feasible assignment met on this way; (inf, None) without one.
        """
        chains, form, rows = self.chains, self.form, self.rows
        tolerance = self.params.loss_tolerance
        chains.place(columns)
        no_incumbent = self.best is None
        base = self.start_penalty * (3 if no_incumbent else 1)
        chains.penalty = base.copy()
        if rows is not None:
            rows.restart()
            rows.refresh()
        idle, crossed = 0, False
        local, found = np.inf, None
        clock = _StepClock(self, deadline)
        for _ in range(self.params.most_rounds):
            if idle >= patience and self.best is not None:
                break
            ends_s = min(deadline.ends_s, feasible_stop_s if self.best is None else stop_s)
            if not clock.has_time_until(ends_s):
                break
            if self.compiled:
                until_s = clock.monotonic_end(ends_s)
                stop, crossed = chains.improve(
                    crossed=crossed, local=local, tolerance=tolerance, until_s=until_s
                )
                clock.note_compiled_steps()
                if stop is kernels.Stop.OUT_OF_TIME:
                    break
                improved = stop is kernels.Stop.BETTER
            else:
                improved = self._improve(crossed=crossed)
                crossed = crossed or (improved and self._within())
            if not improved:
                idle += 1
                self._swing_penalties(base, idle, crossed=crossed)
                crossed = False
                continue
            current = chains.column[:-1]
            loss = form.value(current) if self._within() else np.inf
            if loss < local - tolerance * loss and form.feasible(current):
                local, found, idle = loss, current.copy(), 0
                if self._take(loss, found) and no_incumbent:
                    no_incumbent = False
                    base = self.start_penalty.copy()
                    chains.penalty = base.copy()
            elif self.compiled:  # within capacity by float32 loads alone
                local = min(local, loss)
        return local, found

    def _take(self, loss: float, columns: NDArray[np.int64]) -> bool:
        """Take a feasible assignment of a descent as the incumbent if it is better, and report it."""
        if not loss < self.best_loss - self.params.loss_tolerance * loss:
            return False
        self.best_loss, self.best = loss, columns
        if self.on_better is not None:
            self.on_better()
        return True

    def _swing_penalties(self, base: NDArray[np.float32], idle: int, *, crossed: bool) -> None:
        """Raise the penalties of overloaded columns at a local optimum, lower all once the border was crossed.

        Parameters
        ----------
        base : (r, c) float32
            Penalties without noise; updated.
        idle : int
            Local optima since the last improvement.
        crossed : bool
            Whether an assignment without overload was seen since the last local optimum.
        """
        params, chains, rows = self.params, self.chains, self.rows
        chains.refresh()
        overloaded = chains.use > chains.room
        rise = params.infeasible_rise if self.best is None else params.rise
        fall = params.fall if crossed or self._within() else 1.0
        base[overloaded] *= rise
        base *= fall
        np.clip(base, 0.3 * self.start_penalty, self.most_penalty, out=base)
        noise = params.penalty_jitter * self.rng.standard_normal(base.shape)
        chains.penalty = base * np.exp(noise).astype(np.float32)
        excess = chains.use - chains.room
        tiny = overloaded & (excess < params.tiny_overload_share * self.typical)
        # While nothing feasible is known a tiny overload costs more at every local optimum it survives.
        rises = min(idle, params.most_toll_rises) if self.best is None else 0
        toll = self.spread * params.infeasible_rise**rises
        chains.penalty[tiny] = np.maximum(chains.penalty, toll / np.maximum(excess, 1e-30))[tiny]
        if rows is not None:
            rows.refresh()
            row_noise = params.penalty_jitter * self.rng.standard_normal(self.form.rows)
            rows.swing(rise=rise, fall=fall, noise=row_noise)

    def _within(self) -> bool:
        """Whether the current assignment exceeds nothing, as far as float32 loads tell."""
        if (self.chains.use > self.chains.room).any():
            return False
        return self.rows is None or not self.rows.broken.any()

    def _improve(self, *, crossed: bool) -> bool:
        """Make the best move, and while still far from feasible all that do not touch each other."""
        chains, rows = self.chains, self.rows
        most = self.params.few_moves if crossed or self.best is not None else self.params.many_moves
        if rows is None:
            moves = chains.moves(most)
            touched: set[int] = set()
            for move in moves:
                if touched and crossed:
                    break
                if touched.isdisjoint(move.columns):
                    touched |= move.columns
                    chains.apply(move)
            return bool(moves)
        rows.reprice()
        # Few proposals are cheap to value; if none of them holds, more are looked at before giving up.
        return self._improve_exactly(chains.moves(self.params.few_moves), crossed) or self._improve_exactly(
            chains.moves(self.params.many_moves), crossed
        )

    def _improve_exactly(self, moves: list[Move], crossed: bool) -> bool:
        """Make the moves that hold when limit rows are paid for exactly."""
        chains, rows = self.chains, self.rows
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
            chains.apply(move)
            rows.use += deltas[at]
        return bool(touched)


class _StepClock:
    """Whether another step of a search can end in time, judged by the longest of its last steps.

    Parameters
    ----------
    search : Search
        Its ``step_s`` is kept up to date.
    deadline : Deadline
        Of the descent.
    """

    def __init__(self, search: Search, deadline: Deadline) -> None:
        self._search, self._now = search, deadline.clock.now
        self._entered_s = self._now()
        self._steps = search.chains.steps
        self._longest_s = search.params.longest_step_share * (deadline.ends_s - deadline.started_s)

    def has_time_until(self, ends_s: float) -> bool:
        """Whether a step that begins now ends by then. The step before has ended now, if it was not compiled."""
        search, entered_s = self._search, self._now()
        in_time = entered_s + search.step_s <= ends_s
        if not search.compiled:
            self._note(entered_s - self._entered_s)
        self._entered_s, self._steps = entered_s, search.chains.steps
        return in_time

    def monotonic_end(self, ends_s: float) -> float:
        """Return when compiled steps must end, a step before ``ends_s``, as the system's clock has it."""
        return time.monotonic() + ends_s - self._search.step_s - self._entered_s

    def note_compiled_steps(self) -> None:
        """Note that one call of the kernel has made some steps."""
        self._note((self._now() - self._entered_s) / max(1, self._search.chains.steps - self._steps))

    def _note(self, spent_s: float) -> None:
        self._search.step_s = min(max(0.9 * self._search.step_s, spent_s), self._longest_s)
