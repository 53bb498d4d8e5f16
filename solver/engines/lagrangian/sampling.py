"""Rough prices of large instances: the relaxation of a few agents with their share of all capacities and limits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.lagrangian.core_problem import restrict
from solver.engines.lagrangian.interior_point import relax
from solver.engines.standard_form import build_form

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.engines.lagrangian.params import LargeParams
    from solver.problem.instance import Instance


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SamplePrices:
    """What the relaxation of a sample says about the whole.

    Parameters
    ----------
    prices : (m, r) float64
        Of capacities.
    limit_prices : (g,) float64
        Of limit rows.
    infeasible : bool
        The sample by itself has no solution: prices are those at which that was found.
    """

    prices: NDArray[np.float64]
    limit_prices: NDArray[np.float64]
    infeasible: bool


def sample_prices(
    instance: Instance,
    *,
    ease: float,
    leave: bool,
    deadline: Deadline,
    rng: np.random.Generator,
    params: LargeParams,
) -> SamplePrices | None:
    """Return prices at which the loads of a sample balance roughly, or None where it has no agent that can be served.

    Parameters
    ----------
    instance : Instance
        The problem; groups that share a model are taken as single agents.
    ease : float
        Part of every bound that is added to the sample's share of it.
    leave : bool
        Whether agents may be left unassigned.
    deadline : Deadline
        Checked before every step of the relaxation.
    rng : numpy.random.Generator
        Draws the agents.
    params : LargeParams
        Size of the sample and what may be spent on it.
    """
    form = build_form(drawn(instance, params.sample_agents, rng, params, ease), leave=leave)
    if not form.n:
        return None
    relaxation = relax(
        form,
        deadline=deadline,
        share=params.sample_share,
        tolerance=params.sample_tolerance,
        jitter=params.sample_jitter,
        rng=rng,
        single=True,
        most_iterations=params.sample_iterations,
    )
    # No agent of the sample can use a model that is closed or too small: its price means nothing.
    local = np.where(form.demand.any(axis=2), relaxation.price, 0.0)
    return SamplePrices(
        prices=np.ascontiguousarray(local[:, : form.models].T),
        limit_prices=relaxation.row_price,
        infeasible=relaxation.infeasible,
    )


def drawn(
    instance: Instance, size: int, rng: np.random.Generator, params: LargeParams, ease: float = 0.0
) -> Instance:
    """Return some agents, drawn by lot, with their share of all capacities and bounds, eased by a part of it.

    Their share is measured by what they ask for, which varies much less than by their number.
    """
    agents = np.sort(rng.permutation(instance.n)[:size])
    columns = slice(None, None, max(1, instance.m // params.measured_models))
    share = np.full(instance.r, len(agents) / instance.n)
    if instance.demand is not None:
        part = instance.demand[agents, columns].sum(axis=(0, 1))
        whole = instance.demand[:, columns].sum(axis=(0, 1))
        share = np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), share)
    capacity = instance.capacity * share * (1 + max(ease, 0.0))
    limits = instance.limits
    if limits is None:
        return restrict(instance, agents, capacity, np.zeros(0))
    bound = np.empty(limits.count)
    bound[:] = limits.bound * (len(agents) / instance.n)
    for layer in limits.layers:
        measured = float(np.abs(layer.coefficient[agents, columns]).sum())
        total = float(np.abs(layer.coefficient[:, columns]).sum())
        rows = np.unique(layer.row[agents, columns])
        rows = rows[rows >= 0]
        bound[rows] = limits.bound[rows] * (measured / total if total > 0 else 0.0)
    apart = replace(instance, limits=replace(limits, together=(), together_names=()))
    return restrict(apart, agents, capacity, bound + ease * np.abs(bound))
