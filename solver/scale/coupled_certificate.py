"""The certificate of a batch with resources and budgets: weak duality, every term recomputed in float64.

For prices ``p >= 0`` no plan exceeds ``Σ_i max(outside_i, max_j s_ij − a_i·q_j) + p·b``. What a plan falls short of
that is what its agents forgo at the charges q, and what is left of the bounds b at the prices.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.certificate import relative_gap
from solver.problem.blocks import row_maxima
from solver.problem.tolerances import EXCESS_TOLERANCE, GAP_ROUNDING, OPTIMALITY_TOLERANCE
from solver.scale.certificate import BlockTerms, PieceCertificate, PlanCertificate, summed_terms
from solver.scale.held_arcs import net_scores

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from solver.scale.coupling import Couplings
    from solver.scale.held_arcs import PayingAgents


def paying_terms(
    agents: PayingAgents, choice: NDArray[np.int64], charge: NDArray[np.float64], *, may_leave: bool
) -> BlockTerms:
    """Return the terms of some agents. O(k m c).

    Parameters
    ----------
    agents : PayingAgents
        With their numbers.
    choice : (k,) int64
        Their models, m for unassigned.
    charge : (m, c) float64
        What they pay.
    may_leave : bool
        Whether staying unassigned is compared with.
    """
    m, c = charge.shape
    served = choice < m
    at = np.minimum(choice, m - 1)
    rows = np.arange(len(choice))
    own = np.where(served, agents.score[rows, at], 0.0).astype(np.float64)
    left = np.where(served, 0.0, agents.outside)
    net = net_scores(agents.score, agents.amount, charge)
    best = row_maxima(net)
    if may_leave:
        best = np.maximum(best, agents.outside)
    earned = np.where(served, net[rows, at], agents.outside)
    taken = np.stack([np.bincount(choice, agents.amount[:, k], m + 1)[:m] for k in range(c)], axis=1).astype(
        np.float64
    )
    return replace(summed_terms(choice, own, left, best, earned, m), taken=taken)


def conclude_coupled(
    parts: Iterable[PieceCertificate],
    couplings: Couplings,
    prices: NDArray[np.float64],
    *,
    serve_first: bool,
    sense: str,
) -> PlanCertificate:
    """Return the certificate of all pieces together.

    Parameters
    ----------
    parts : iterable of PieceCertificate
        Of all pieces.
    couplings : Couplings
        The rows.
    prices : (K,) float64
        Of the rows, those of the parts.
    serve_first : bool
        Whether serving more agents comes before any score.
    sense : {"maximize", "minimize"}
        The caller's.
    """
    m, c = couplings.weight.shape[1:]
    total = PieceCertificate.empty(m)
    for part in parts:
        total.add(part)
    used = couplings.usage(np.zeros((m, c)) if total.taken is None else total.taken)
    over = np.flatnonzero(used > couplings.bound * (1 + EXCESS_TOLERANCE)).tolist()
    violations = [
        f"{couplings.names[k]}: {used[k]:.12g} used exceeds the bound of {couplings.bound[k]:.12g}"
        for k in over
    ]
    if total.ineligible:
        violations.append(f"{total.ineligible:,} agents: not eligible for their model")
    if total.unserved:
        violations.append(f"{total.unserved:,} agents: must be served, but are unassigned")
    objective = total.own + (0.0 if serve_first else total.left)
    spare = math.fsum((prices * (couplings.bound - used)).tolist())
    slack = math.inf if violations else max(0.0, total.forgone + spare)
    bound = objective + slack
    sign = -1.0 if sense == "minimize" else 1.0
    tolerance = OPTIMALITY_TOLERANCE * max(abs(objective), abs(bound)) if math.isfinite(bound) else 0.0
    load = total.load[:-1]
    return PlanCertificate(
        objective=sign * objective + 0.0,
        bound=sign * bound + 0.0,
        gap=relative_gap(objective, bound),
        optimal=not violations and slack <= max(tolerance, GAP_ROUNDING * total.magnitude),
        agents=int(total.load.sum()),
        served=int(load.sum()),
        load=tuple(load.tolist()),
        violations=tuple(violations),
        usage=tuple(zip(couplings.names, used.tolist(), couplings.bound.tolist(), strict=True)),
    )
