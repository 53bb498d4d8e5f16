"""The core of a large instance: the few thousand agents that prices do not decide, solved together.

All other agents stay where they are, and the core has exactly the capacity that the others leave. The smoothed dual
of the core is minimised once more, at a temperature so low that only about as many agents stay divided between
models as there are coupling rows. Rounding those at random overloads a few models by an agent or two, which
compound moves repair.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.lagrangian.candidate_models import NearArcs, survey, typical_prices
from solver.engines.lagrangian.interior_point import Relaxation
from solver.engines.lagrangian.params import CoreParams
from solver.engines.lagrangian.rounding import drop_to_fit, insert_unassigned
from solver.engines.lagrangian.search import Search
from solver.engines.lagrangian.smoothed_dual import minimise_smoothed_dual
from solver.engines.standard_form import build_form
from solver.problem.instance import Instance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.engines.lagrangian.params import SearchParams


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CoreAnswer:
    """What solving a core brought.

    Parameters
    ----------
    choice : (a,) int64 or None
        Of the core's agents; None where nothing feasible was found.
    price : (K,) float64
        Prices of all coupling rows at which the core's loads balance.
    """

    choice: NDArray[np.int64] | None
    price: NDArray[np.float64]


def restrict(
    instance: Instance,
    agents: NDArray[np.int64],
    capacity: NDArray[np.float64],
    bound: NDArray[np.float64],
) -> Instance:
    """Return the instance of some agents.

    Parameters
    ----------
    instance : Instance
        Without agents that move together.
    agents : (a,) int64
        Rows to keep.
    capacity : (m, r) float64
        What they may use.
    bound : (g,) float64
        Right-hand sides left for them.
    """
    limits = instance.limits
    if limits is not None:
        layers = tuple(
            replace(layer, row=layer.row[agents], coefficient=layer.coefficient[agents])
            for layer in limits.layers
        )
        limits = replace(limits, bound=bound, layers=layers)
    return Instance(
        score=instance.score[agents],
        capacity=capacity,
        demand=None if instance.demand is None else instance.demand[agents],
        penalty=-instance.unserved[agents],
        limits=limits,
    )


def solve_core(
    core: Instance,
    given: NDArray[np.int64],
    price: NDArray[np.float64],
    *,
    leave: bool,
    slack: float,
    patience: int,
    deadline: Deadline,
    stop_s: float,
    rng: np.random.Generator,
    params: CoreParams | None = None,
    search_params: SearchParams | None = None,
) -> CoreAnswer | None:
    """Balance the loads of a core by prices, round, and search. Milliseconds, then as long as the search pays.

    Parameters
    ----------
    core : Instance
        See :func:`restrict`.
    given : (a,) int64
        A choice to fall back on, and to beat.
    price : (K,) float64
        Prices that are about right.
    leave : bool
        Whether agents may stay unassigned.
    slack : float
        Typical demands kept free of every capacity while rounding; the search may use them.
    patience : int
        Local optima without improvement before the search ends.
    deadline : Deadline
        When to stop looking for a first feasible choice.
    stop_s : float
        Reading of its clock at which to stop improving.
    rng : numpy.random.Generator
        Source of all randomness.
    params, search_params
        Tuning constants.

    Returns
    -------
    CoreAnswer or None
        None where some agent that must be served fits nowhere.
    """
    params = params or CoreParams()
    form = build_form(core, leave=leave)
    cells = core.capacity.size
    seen = survey(
        core,
        price[:cells].reshape(core.capacity.shape),
        price[cells:],
        nearest=params.near_models,
        leave=leave,
    )
    if not form.n or (not leave and len(form.unservable)):
        return None
    scale = typical_prices(core, seen)
    arcs = NearArcs(core, seen, scale=scale, reach=np.inf)
    arcs.perturb(params.jitter, rng)
    arcs.tighten(slack)
    optimum = minimise_smoothed_dual(
        arcs,
        temperature=params.hottest,
        coldest=params.coldest,
        scale=scale,
        trust_radius=params.trust_radius,
        deadline=deadline,
        stop_s=deadline.clock.now() + params.pricing_share * max(0.0, deadline.remaining_s()),
        rng=rng,
    )
    start = form.columns_of(arcs.drawn(optimum.weight, float(rng.random())))
    if start is None:
        return None
    local = np.zeros_like(form.capacity)
    local[:, : form.models] = optimum.price[:cells].reshape(core.capacity.shape).T
    relaxation = Relaxation(
        price=local,
        row_price=optimum.price[cells:],
        bound=-np.inf,
        weight=optimum.weight,
        infeasible=False,
        iterations=optimum.steps,
    )
    search = Search(form, relaxation, rng=rng, params=search_params)
    if leave:
        search.keep(insert_unassigned(form, drop_to_fit(form, start), deadline))
    columns = form.columns_of(given)
    if columns is not None:
        search.keep(columns)
    now = deadline.clock.now()
    search.descend(
        start,
        deadline=deadline,
        stop_s=stop_s,
        feasible_stop_s=now + params.first_feasible_share * max(0.0, deadline.remaining_s()),
        patience=patience,
    )
    choice = None if search.best is None else form.choice(search.best)
    return CoreAnswer(choice=choice, price=optimum.price)
