"""The certificate over pieces: every term is recomputed in float64, block by block, and summed exactly.

The formulas are those of :mod:`solver.engines.certificate`. Blocks and their order depend on the files alone, and
``math.fsum`` on nothing but the terms, so that any number of workers proves the same numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.engines.certificate import relative_gap
from solver.engines.slot_supply import Supply
from solver.problem.blocks import row_maxima
from solver.problem.tolerances import GAP_ROUNDING, OPTIMALITY_TOLERANCE
from solver.scale.floors import with_floors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from solver.problem.instance import Instance


@dataclass(slots=True, kw_only=True, eq=False)
class BlockTerms:
    """What a block adds to the certificate.

    Parameters
    ----------
    own : float
        Scores of the served.
    left : float
        Value of staying unassigned, of those who do.
    magnitude : float
        Sum of the absolute values of both.
    forgone : float
        By how much the choices fall short of every agent's best at the prices.
    load : (m + 1,) int64
        Agents by choice, the last entry the unassigned.
    ineligible : int
        Agents with a model that may not serve them.
    unserved : int
        Unassigned agents who must be served.
    worth : (m,) float64
        The most that any agent would pay for a first slot of a closed model; ``-inf`` for open ones.
    taken : (m, c) float64 or None
        Amounts that models serve, where agents pay for amounts.
    rows, whole : int
        Where rows take units, of which ``load`` tells: rows, and those of which no unit is unassigned.
    excess : int
        Where they do: pairs and rows with more units than they may have.
    """

    own: float
    left: float
    magnitude: float
    forgone: float
    load: NDArray[np.int64]
    ineligible: int
    unserved: int
    worth: NDArray[np.float64]
    taken: NDArray[np.float64] | None = None
    rows: int = 0
    whole: int = 0
    excess: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class PieceCertificate(BlockTerms):
    """The terms of some blocks, added up exactly."""

    _blocks: list[tuple[float, float, float, float]] = field(default_factory=list, repr=False)

    @classmethod
    def empty(cls, m: int) -> PieceCertificate:
        """Return the certificate of no agents."""
        return cls(
            own=0.0,
            left=0.0,
            magnitude=0.0,
            forgone=0.0,
            load=np.zeros(m + 1, np.int64),
            ineligible=0,
            unserved=0,
            worth=np.full(m, -np.inf),
        )

    def add(self, terms: BlockTerms) -> None:
        """Take further agents into account."""
        self._blocks.append((terms.own, terms.left, terms.magnitude, terms.forgone))
        self.own, self.left, self.magnitude, self.forgone = (
            _sum(block[k] for block in self._blocks) for k in range(4)
        )
        self.load = self.load + terms.load
        self.ineligible += terms.ineligible
        self.unserved += terms.unserved
        self.rows += terms.rows
        self.whole += terms.whole
        self.excess += terms.excess
        self.worth = np.maximum(self.worth, terms.worth)
        if terms.taken is not None:
            self.taken = terms.taken if self.taken is None else self.taken + terms.taken


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanCertificate:
    """What is proven about a plan, in the caller's sense.

    Parameters
    ----------
    objective, bound : float
        Recomputed objective, and what no other plan exceeds (where service comes first: none that serves as many).
    gap : float
        Relative distance between the two.
    optimal : bool
        Feasible, and the gap is within ``OPTIMALITY_TOLERANCE`` or float64 rounding.
    agents, served : int
        All agents, and those with a model.
    load : tuple of int
        Agents of each model, or units.
    violations : tuple of str
        Constraints broken.
    usage : tuple of (str, float, float)
        Rows of slots, resources and budgets where a batch has any but slots: name, what is used, bound.
    units : tuple of (int, int) or None
        Where rows take units, those served and those asked for; ``served`` counts rows that have all of theirs then.
    """

    objective: float
    bound: float
    gap: float
    optimal: bool
    agents: int
    served: int
    load: tuple[int, ...]
    violations: tuple[str, ...]
    usage: tuple[tuple[str, float, float], ...] = ()
    units: tuple[int, int] | None = None


def block_terms(
    score: NDArray[Any],
    choice: NDArray[np.int64],
    prices: NDArray[np.float64],
    closed: NDArray[np.bool_],
    outside: NDArray[np.float64],
    may_leave: bool,
) -> BlockTerms:
    """Return the terms of some agents. O(k m).

    Parameters
    ----------
    score : (k, m) float32 or float64
        To be maximised.
    choice : (k,) int64
        Their models, m for unassigned.
    prices : (m,) float64
        Shadow prices, >= 0.
    closed : (m,) bool
        Models without slots.
    outside : (k,) float64
        What staying unassigned is worth; ``-inf`` where that is no option.
    may_leave : bool
        Whether that is compared with.
    """
    m = score.shape[1]
    served = choice < m
    at = np.minimum(choice, m - 1)
    own = np.where(served, score[np.arange(len(score)), at], 0.0).astype(np.float64)
    best = row_maxima(np.subtract(score, np.where(closed, np.inf, prices), dtype=np.float64))
    if may_leave:
        best = np.maximum(best, outside)
    earned = np.where(served, own - prices[at], outside)
    terms = summed_terms(choice, own, np.where(served, 0.0, outside), best, earned, m)
    if closed.any() and terms.forgone < math.inf:
        terms.worth[closed] = (score[:, closed] - earned[:, None]).max(axis=0)
    return terms


def summed_terms(
    choice: NDArray[np.int64],
    own: NDArray[np.float64],
    left: NDArray[np.float64],
    best: NDArray[np.float64],
    earned: NDArray[np.float64],
    m: int,
) -> BlockTerms:
    """Return the sums of a block: scores, values of the unassigned, and the best and the earned value at the prices."""
    ineligible, unserved = np.isneginf(own), np.isneginf(left)
    fine = not (ineligible.any() or unserved.any())
    return BlockTerms(
        own=float(own.sum()),
        left=float(left.sum()),
        magnitude=float(np.abs(own).sum() + np.abs(left).sum()),
        forgone=float((best - earned).sum()) if fine else math.inf,
        load=np.bincount(choice, minlength=m + 1),
        ineligible=int(ineligible.sum()),
        unserved=int(unserved.sum()),
        worth=np.full(m, -np.inf),
    )


def conclude(
    parts: Iterable[PieceCertificate],
    shape: Instance,
    prices: NDArray[np.float64],
    model_ids: tuple[str, ...],
    floor: NDArray[np.int64] | None = None,
) -> PlanCertificate:
    """Return the certificate of all pieces together.

    Parameters
    ----------
    parts : iterable of PieceCertificate
        Of all pieces.
    shape : Instance
        Slots and their costs, see :meth:`solver.scale.first_pass.Survey.shape`.
    prices : (m,) float64
        The prices of the parts.
    model_ids : tuple of str
        Names in violations.
    floor : (m,) int64, optional
        Agents that each model has to serve.
    """
    total = PieceCertificate.empty(shape.m)
    for part in parts:
        total.add(part)
    load, capacity = total.load[:-1], shape.capacity[:, 0]
    violations = [
        f"{model_ids[j]}: load {load[j]} exceeds its capacity of {capacity[j]:g}"
        for j in np.flatnonzero(load > capacity).tolist()
    ]
    if floor is not None:
        violations += [
            f"{model_ids[j]}: load {load[j]} is below its floor of {floor[j]}"
            for j in np.flatnonzero(load < floor).tolist()
        ]
    if total.ineligible:
        violations.append(f"{total.ineligible:,} agents: not eligible for their model")
    if total.excess:
        violations.append(f"{total.excess:,} agents: more units than they ask for, or of one model")
    if total.unserved:
        violations.append(f"{total.unserved:,} agents: must be served, but are unassigned")
    objective = total.own - float(shape.load_charge(load.astype(np.float64)).sum())
    if not shape.serve_first:
        objective += total.left
    slack = math.inf if violations else total.forgone + _supply_slack(shape, load, prices, floor)
    bound = objective + slack
    rounding = GAP_ROUNDING * total.magnitude
    tolerance = OPTIMALITY_TOLERANCE * max(abs(objective), abs(bound)) if math.isfinite(bound) else 0.0
    return PlanCertificate(
        objective=shape.sign * objective + 0.0,
        bound=shape.sign * bound + 0.0,
        gap=relative_gap(objective, bound),
        optimal=not violations and slack <= max(tolerance, rounding),
        agents=total.rows or int(total.load.sum()),
        served=total.whole if total.rows else int(load.sum()),
        load=tuple(load.tolist()),
        violations=tuple(violations),
        units=(int(load.sum()), int(total.load.sum())) if total.rows else None,
    )


def _supply_slack(
    shape: Instance,
    load: NDArray[np.int64],
    prices: NDArray[np.float64],
    floor: NDArray[np.int64] | None = None,
) -> float:
    """Return what the slots would earn at these prices less what they do, tier by tier.

    Prices below zero are those of floors: slots up to the floor are sold at any price.
    """
    if floor is not None:
        whole = Supply.of(shape)
        reward = max(0.0, float(whole.cost.max() - prices.min()))  # the floors are sold at any price
        supply = with_floors(whole, floor, reward)
        first = np.flatnonzero(np.diff(supply.model, prepend=-1))
        start = np.cumsum(supply.slots) - supply.slots
        sold_before = start - np.repeat(start[first], np.diff(np.append(first, len(supply.model))))
        taken = np.clip(load[supply.model] - sold_before, 0, supply.slots)
        gain = prices[supply.model] + reward - supply.cost
        return math.fsum((supply.slots * np.maximum(gain, 0.0) - taken * gain).tolist())
    model, cost, slots = shape.tiers
    if shape.load_cost is None:
        return math.fsum((prices * (shape.capacity[:, 0] - load)).tolist())
    t = shape.load_cost.shape[1]
    before = (np.cumsum(slots.reshape(-1, t), axis=1) - slots.reshape(-1, t)).ravel()
    used = np.clip(load[model] - before, 0, slots)
    margin = prices[model] - cost
    return math.fsum((slots * np.maximum(margin, 0.0) - used * margin).tolist())


def _sum(terms: Iterable[float]) -> float:
    values = list(terms)
    return math.fsum(values) if all(map(math.isfinite, values)) else math.inf
