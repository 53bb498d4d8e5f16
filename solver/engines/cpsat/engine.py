"""OR-Tools CP-SAT: small instances of any kind, all limits included, with a proof.

Everything becomes an integer, see :mod:`solver.engines.pair_model`: exactly where a power of ten makes it one,
else as finely as 64 bits allow; the claimed bound carries the rounding loss.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.base import Claim
from solver.engines.cpsat.openings import OpeningModel
from solver.engines.duals import minimal_prices
from solver.engines.integer_scaling import soft_rows
from solver.engines.network_terms import claimed_flow, principal_choice
from solver.engines.pair_model import Outcome, PairModel, is_loaded
from solver.engines.standard_form import StandardForm, build_form
from solver.problem.instance import UNASSIGNED, Instance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.problem.network import NetworkShape

_MAX_CPSAT_ARCS = 200_000
"""Allowed pairs at most."""

_BUILDING_S_PER_ARC = 15e-6
"""Seconds per pair to build the model in Python and hand it over."""

_OPENINGS_LIMIT_S = 10.0
"""Seconds of search for models that are opened at a cost, where no deadline ends it; the gap shows what is left."""

_LIBRARY_LOADING_S = 0.4
"""Seconds to load the library, once in a process."""

_FINE_ENOUGH = 1e-10
"""Rounding relative to the objective that does not stand in the way of a proof."""

_MAX_ROUNDING_SHARE = 1e-12
"""Largest share of the worst loss that rounding takes off once the steps are as fine as 42 bits allow."""

_MIN_SEARCH_S = 0.05
"""Seconds of search at least: CP-SAT overruns shorter limits."""


class CpSatEngine:
    """Lazy clause generation over one Boolean per allowed pair (Perron and Furnon, OR-Tools)."""

    name = "cpsat"

    def unsupported_reason(self, instance: Instance, *, remaining_s: float) -> str | None:
        """Return why not: too many pairs to build a model of in the time left."""
        if instance.load_cost is not None:
            return "cpsat: slots must not cost by load"
        if instance.network is not None and not instance.network.has_openings:
            return "cpsat: does not know floors, copies or counts, unless models are opened at a cost"
        arcs = instance.n * instance.m
        if arcs > _MAX_CPSAT_ARCS:
            return f"cpsat: up to {arcs:,} pairs, at most {_MAX_CPSAT_ARCS:,}"
        estimate = arcs * _BUILDING_S_PER_ARC + _MIN_SEARCH_S + (0.0 if is_loaded() else _LIBRARY_LOADING_S)
        if estimate > remaining_s:
            left_ms = max(remaining_s, 0) * 1e3
            return f"cpsat: its model needs about {estimate * 1e3:.0f} ms, {left_ms:.0f} ms left"
        return None

    def solve(
        self,
        instance: Instance,
        *,
        deadline: Deadline,
        hint: Claim | None = None,
        seed: int = 0,
        threads: int = 1,
    ) -> Claim | None:
        """Return the best choice found, with the bound CP-SAT proved, or prices where slots allow them."""
        if instance.network is not None:
            return _open_models(instance, instance.network, deadline, hint, seed, threads)
        all_unassigned = np.full(instance.n, UNASSIGNED, np.int64)
        may_leave = instance.serve_first or bool(np.isfinite(instance.unserved).any())
        form = build_form(instance, leave=may_leave)
        if instance.penalty is not None and np.isposinf(instance.penalty[form.unservable]).any():
            return Claim(choice=all_unassigned, infeasible=True)
        if form.n == 0:
            nothing = np.zeros(0, np.int64)
            bound = form.objective_and_bound(nothing, form.value(nothing))[1]
            return Claim(choice=all_unassigned, bound=bound, infeasible=form.empty_violates_limits)
        pairs = _Pairs(form)
        given = None if hint is None else form.columns_of(hint.choice)
        found = pairs.best(given, deadline, seed=seed, threads=threads)
        if found.columns is None:
            # Nothing feasible is lost in a relaxed model: no plan there is a proof.
            return Claim(choice=all_unassigned, infeasible=True) if found.complete else None
        if pairs.is_coarse(found):
            found = pairs.refined(found, deadline, seed=seed, threads=threads)
        columns, least = found.columns, found.least_loss
        assert columns is not None
        proves = least > -np.inf
        choice = form.choice(columns)
        proven = float(form.objective_and_bound(columns, least)[1]) if proves else None
        prices = minimal_prices(instance, choice) if instance.is_slots else None
        # With plain slots the weights of service are large enough for one weighted problem.
        most = instance.is_slots and proves and found.complete
        return Claim(choice=choice, prices=prices, bound=proven, serves_most=most)


@dataclass(frozen=True, slots=True)
class _Found:
    """CP-SAT's answer for a standard form.

    Parameters
    ----------
    columns : (n,) int64 or None
        A feasible choice of columns; None when nothing was found.
    complete : bool
        It searched everything.
    least_loss : float
        No feasible choice loses less; ``-inf`` when that is not proven.
    rounding : float
        Most that rounding to integers may have taken off ``least_loss``.
    """

    columns: NDArray[np.int64] | None
    complete: bool
    least_loss: float
    rounding: float


class _Pairs:
    """The pairs of a form as models for CP-SAT.

    Parameters
    ----------
    form : StandardForm
        The problem.
    most_loss : float
        Pairs and excesses that lose more by themselves are left out: no choice that loses at most so much has them.
    """

    def __init__(self, form: StandardForm, most_loss: float = np.inf) -> None:
        self.form, self.most_loss = form, most_loss
        loss = form.loss.T
        self.agent, self.column = np.nonzero(np.isfinite(loss) & (loss <= most_loss))

    def best(self, given: NDArray[np.int64] | None, deadline: Deadline, *, seed: int, threads: int) -> _Found:
        """Return the best choice found, starting from an (n,) choice of columns if there is one."""
        model, outcome = self._solved(given, deadline, seed=seed, threads=threads, outer=True)
        if outcome.picked is None:
            return _Found(None, outcome.complete, -np.inf, model.rounding)
        least = outcome.bound - model.rounding
        columns = self._columns(outcome.picked)
        if model.relaxed and not self.form.feasible(columns):
            # It breaks a row by less than the rounding of that row: its loss is a bound, but another plan is needed.
            _, inner = self._solved(given, deadline, seed=seed, threads=threads, outer=False)
            if inner.picked is None:
                return _Found(None, False, -np.inf, model.rounding)
            columns = self._columns(inner.picked)
        return _Found(columns, outcome.complete, least, model.rounding)

    def is_coarse(self, found: _Found) -> bool:
        """Whether rounding alone keeps a choice from being proven, and leaving out hopeless pairs would make it finer.

        Large penalties make steps coarse: 42 bits hold the worst loss of all agents together.
        """
        form, columns = self.form, found.columns
        if columns is None or not found.complete or found.least_loss == -np.inf:
            return False
        objective, _ = form.objective_and_bound(columns, found.least_loss)
        if found.rounding <= _FINE_ENOUGH * abs(objective):
            return False
        most = form.value(columns) * (form.n + len(form.soft))
        return most < found.rounding / _MAX_ROUNDING_SHARE

    def refined(self, found: _Found, deadline: Deadline, *, seed: int, threads: int) -> _Found:
        """Return the best choice once more, among those that lose no more than one that was found."""
        columns = found.columns
        assert columns is not None
        most_loss = self.form.value(columns) * (1 + _FINE_ENOUGH)
        closer = _Pairs(self.form, most_loss)
        again = closer.best(columns, deadline, seed=seed, threads=threads)
        if again.columns is None or again.rounding >= found.rounding:
            return found
        better = self.form.value(again.columns) <= self.form.value(columns)
        return replace(
            again,
            columns=again.columns if better else columns,
            complete=True,
            least_loss=max(again.least_loss, found.least_loss),
        )

    def _solved(
        self,
        given: NDArray[np.int64] | None,
        deadline: Deadline,
        *,
        seed: int,
        threads: int,
        outer: bool,
    ) -> tuple[PairModel, Outcome]:
        form, agent, column = self.form, self.agent, self.column
        soft = soft_rows(form, agent, column, most_loss=self.most_loss)
        model = PairModel(agent, form.loss[column, agent], soft, outer=outer)
        model.couple(form, agent, column)
        if given is not None:
            model.hint(column == given[agent])
        left_s = max(0.01, 0.9 * deadline.remaining_s() - 0.01) if deadline.limited else None
        return model, model.solve(limit_s=left_s, seed=seed, threads=threads, confirm=outer)

    def _columns(self, picked: NDArray[np.bool_]) -> NDArray[np.int64]:
        columns = np.empty(self.form.n, np.int64)
        columns[self.agent[picked]] = self.column[picked]
        return columns


def _open_models(
    instance: Instance,
    shape: NetworkShape,
    deadline: Deadline,
    hint: Claim | None,
    seed: int,
    threads: int,
) -> Claim | None:
    """Return the best flow found where models are opened at a cost, with the bound CP-SAT proved."""
    model = OpeningModel(instance, shape)
    if hint is not None and hint.choice.shape == (instance.n,):
        model.hint(claimed_flow(hint))
    now = deadline.clock.now()
    patience_s = max(0.01, 0.9 * deadline.remaining_s() - 0.01)
    outcome = model.solve(
        ends_s=now + min(patience_s, _OPENINGS_LIMIT_S), deadline=deadline, seed=seed, threads=threads
    )
    if outcome.infeasible:
        return Claim(choice=np.full(instance.n, UNASSIGNED, np.int64), infeasible=True)
    if outcome.flow is None:
        return None
    return Claim(
        choice=principal_choice(instance, outcome.flow),
        prices=None if hint is None else hint.prices,
        bound=outcome.bound,
        flow=None if shape.is_single else outcome.flow,
    )
