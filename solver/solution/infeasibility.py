"""Why nothing is feasible: which capacities and limits conflict, and what would have to give.

The closest relaxation allows every capacity and every limit row to be exceeded at a price, with all agents
served that must be. What it exceeds is what is missing, and by how much: capacities and bounds raised
by these amounts admit a fractional assignment. Small conflicts are then reduced, one row after another, to a set
from which nothing can be left out (an irreducible infeasible subsystem of the relaxation; Chinneck 2008).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_matrix, csr_matrix, hstack, identity

from solver.clock import Deadline
from solver.engines.flow.least_relaxation import closest_flow
from solver.engines.standard_form import StandardForm, build_form

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray

    from solver.problem.instance import Instance

_IRREDUCIBLE_ROWS = 60
"""Rows up to which a conflict is reduced until nothing can be left out."""

_ROW_TOLERANCE = 1e-7
"""Amount relative to a row's scale that is rounding of the linear program."""

_PAIRS_PER_SECOND = 1e6
"""Lower estimate of how fast a linear program is set up; none is begun with less time than that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relief:
    """A change that, with the others of its conflict, makes the relaxation feasible.

    Parameters
    ----------
    what : str
        ``capacity[j, k]``, ``min_load[j]``, ``min_load_if_open[j]`` or ``limit NAME``.
    amount : float
        How much more of it is needed, in its own unit.
    """

    what: str
    amount: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """Why an instance has no feasible assignment.

    Parameters
    ----------
    agents : tuple of int
        Agents that must be served and that no model can take, by themselves or with those they are tied to.
    rows : tuple of str
        Capacities and limits that cannot all hold; empty when only ``agents`` stand in the way, or when
        fractions of agents would fit and whole ones do not.
    irreducible : bool
        Leaving out any one of ``rows`` would resolve the conflict.
    reliefs : tuple of Relief
        Smallest total relaxation, each row measured in parts of its own size.
    cut_short : bool
        Time ran out before a conflict was found; the rest is empty then.
    """

    agents: tuple[int, ...]
    rows: tuple[str, ...]
    irreducible: bool
    reliefs: tuple[Relief, ...]
    cut_short: bool = False

    def sentences(self) -> tuple[str, ...]:
        """Return the explanation as text."""
        if self.cut_short:
            return ("what conflicts was not found out in the time left",)
        lines = []
        if self.agents:
            shown = ", ".join(map(str, self.agents[:5])) + (", ..." if len(self.agents) > 5 else "")
            lines.append(f"no model can take agents {shown}: not eligible, or larger than any capacity")
        if self.rows:
            lines.append(f"cannot all hold: {'; '.join(self.rows)}")
        lines += [f"relax {relief.what} by {relief.amount:g}" for relief in self.reliefs]
        if not lines:
            lines.append("fractions of agents would fit, whole agents do not")
        return tuple(lines)


def explain_infeasibility(instance: Instance, *, deadline: Deadline | None = None) -> Conflict:
    """Explain why no assignment satisfies every constraint. One linear program, a few more when small.

    Parameters
    ----------
    instance : Instance
        Proven infeasible, or suspected to be.
    deadline : Deadline, optional
        When to stop. A conflict that is known by then is returned, perhaps not reduced as far as it could be.

    Returns
    -------
    Conflict
    """
    deadline = Deadline.after(None) if deadline is None else deadline
    cut_short = Conflict(agents=(), rows=(), irreducible=False, reliefs=(), cut_short=True)
    if deadline.remaining_s() < instance.n * instance.m / _PAIRS_PER_SECOND:
        return cut_short
    if instance.network is not None:
        agents, lacks, rows = closest_flow(instance, instance.network)
        return Conflict(
            agents=tuple(agents.tolist()),
            rows=tuple(rows),
            irreducible=False,
            reliefs=tuple(Relief(what=what, amount=float(amount)) for what, amount in lacks.items()),
        )
    may_leave = instance.serve_first or bool(np.isfinite(instance.unserved).any())
    form = build_form(instance, leave=may_leave)
    unservable: tuple[int, ...] = ()
    if instance.penalty is not None:
        unservable = tuple(form.unservable[np.isposinf(instance.penalty[form.unservable])].tolist())
    if not form.n:
        broken = np.flatnonzero((form.row_bound < 0) & np.isposinf(form.violation_price))
        names = _names(instance, form)[form.capacity[:, : form.models].size :]
        return Conflict(
            agents=unservable,
            rows=tuple(names[g] for g in broken),
            irreducible=len(broken) == 1,
            reliefs=tuple(Relief(what=names[g], amount=float(-form.row_bound[g])) for g in broken),
        )
    program = _Program(form, deadline)
    names = _names(instance, form)
    closest = program.closest(np.delete(np.arange(program.rows), program.soft))
    if closest is None:
        return cut_short
    excess, in_conflict = closest
    reliefs = tuple(
        Relief(what=names[k], amount=float(excess[k]))
        for k in np.flatnonzero(excess > _ROW_TOLERANCE * program.scale)
    )
    if not reliefs:
        return Conflict(agents=unservable, rows=(), irreducible=False, reliefs=())
    irreducible = len(in_conflict) <= _IRREDUCIBLE_ROWS
    if irreducible:
        in_conflict, irreducible = program.reduce(in_conflict)
    return Conflict(
        agents=unservable,
        rows=tuple(names[k] for k in in_conflict),
        irreducible=irreducible,
        reliefs=reliefs,
    )


def _names(instance: Instance, form: StandardForm) -> list[str]:
    names = [f"capacity[{j}, {k}]" for k in range(form.resources) for j in range(form.models)]
    if instance.limits is not None:
        names += [f"limit {name}" for name in instance.limits.names]
    return names


class _Program:
    """The relaxation with elastic rows: ``matrix x <= right + excess``, every agent assigned once."""

    def __init__(self, form: StandardForm, deadline: Deadline) -> None:
        self.deadline = deadline
        column, agent = np.nonzero(np.isfinite(form.loss))
        pairs = len(agent)
        index = np.arange(pairs)
        models = form.models
        real = column < models
        blocks: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = [
            (k * models + column[real], index[real], form.demand[k, column[real], agent[real]])
            for k in range(form.resources)
        ]
        first = form.resources * models
        for row, coefficient in zip(form.row, form.coefficient, strict=True):
            touched = row[column, agent] < form.rows
            blocks.append(
                (
                    first + row[column, agent][touched],
                    index[touched],
                    coefficient[column, agent][touched],
                )
            )
        self.rows, self.soft = first + form.rows, first + form.soft
        matrix = coo_matrix(
            (
                np.concatenate([block[2] for block in blocks]),
                (
                    np.concatenate([block[0] for block in blocks]),
                    np.concatenate([block[1] for block in blocks]),
                ),
            ),
            shape=(self.rows, pairs),
        )
        self.matrix = csr_matrix(matrix)
        self.right = np.concatenate([form.capacity[:, :models].ravel(), form.row_bound])
        typical = np.asarray(abs(self.matrix).sum(axis=1)).ravel() / max(1, form.columns)
        self.scale = np.maximum(np.maximum(np.abs(self.right), typical), 1e-12)
        self.once = csr_matrix((np.ones(pairs), (agent, index)), shape=(form.n, pairs))

    def closest(self, rows: NDArray[np.intp]) -> tuple[NDArray[np.float64], NDArray[np.intp]] | None:
        """Return the (rows,) least scaled excess with only some rows in force, and the rows that need it.

        None when it could not be found in time.
        """
        remaining = self.deadline.remaining_s()
        if remaining <= 0:
            return None
        part = hstack([self.matrix[rows], -identity(len(rows))], format="csr")
        pairs = self.matrix.shape[1]
        once = hstack([self.once, csr_matrix((self.once.shape[0], len(rows)))], format="csr")
        cost = np.concatenate([np.zeros(pairs), 1.0 / self.scale[rows]])
        solved = linprog(
            cost,
            A_ub=part,
            b_ub=self.right[rows],
            A_eq=once,
            b_eq=np.ones(self.once.shape[0]),
            bounds=(0, None),
            method="highs",
            options={"time_limit": remaining} if np.isfinite(remaining) else {},
        )
        # Elastic rows always have room: what stops the program short is the time, or its arithmetic.
        if solved.status != 0 or solved.x is None:
            return None
        excess = np.zeros(self.rows)
        excess[rows] = solved.x[pairs:]
        priced = np.abs(solved.ineqlin.marginals) * self.scale[rows] > _ROW_TOLERANCE
        return excess, rows[priced]

    def reduce(self, rows: NDArray[np.intp]) -> tuple[NDArray[np.intp], bool]:
        """Drop rows one by one as long as the rest still conflicts; False when time is up before the end."""
        kept: Sequence[int] = rows.tolist()
        for row in list(kept):
            rest = np.array([other for other in kept if other != row], dtype=np.intp)
            if not len(rest):
                continue
            closest = self.closest(rest)
            if closest is None:
                return np.array(kept, dtype=np.intp), False
            rest_excess, _ = closest
            if (rest_excess > _ROW_TOLERANCE * self.scale).any():
                kept = rest.tolist()
        return np.array(kept, dtype=np.intp), True
