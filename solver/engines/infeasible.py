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

from solver.engines.form import Form, build_form

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray

    from solver.problem.instance import Instance

__all__ = ["Conflict", "Relief", "explain_infeasibility"]

_IRREDUCIBLE_ROWS = 60  # conflicts up to this size are reduced until nothing can be left out
_NOISE = 1e-7  # of a row's scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Relief:
    """A change that, with the others of its conflict, makes the relaxation feasible.

    Parameters
    ----------
    what : str
        ``capacity[j, k]`` or ``limit NAME``.
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
    """

    agents: tuple[int, ...]
    rows: tuple[str, ...]
    irreducible: bool
    reliefs: tuple[Relief, ...]

    def sentences(self) -> tuple[str, ...]:
        """Return the explanation in words."""
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


def explain_infeasibility(instance: Instance) -> Conflict:
    """Explain why no assignment satisfies every constraint. One linear program, a few more when small.

    Parameters
    ----------
    instance : Instance
        Proven infeasible, or suspected to be.

    Returns
    -------
    Conflict
    """
    may_leave = instance.serve_first or bool(np.isfinite(instance.unserved).any())
    form = build_form(instance, leave=may_leave)
    stranded: tuple[int, ...] = ()
    if instance.penalty is not None:
        stranded = tuple(form.stranded[np.isposinf(instance.penalty[form.stranded])].tolist())
    if not form.n:
        broken = np.flatnonzero(form.row_bound < 0)
        names = _names(instance, form)[form.capacity[:, : form.models].size :]
        return Conflict(
            agents=stranded,
            rows=tuple(names[g] for g in broken),
            irreducible=len(broken) == 1,
            reliefs=tuple(Relief(what=names[g], amount=float(-form.row_bound[g])) for g in broken),
        )
    program = _Program(form)
    names = _names(instance, form)
    excess, in_conflict = program.closest(np.arange(program.rows))
    reliefs = tuple(
        Relief(what=names[k], amount=float(excess[k]))
        for k in np.flatnonzero(excess > _NOISE * program.scale)
    )
    if not reliefs:
        return Conflict(agents=stranded, rows=(), irreducible=False, reliefs=())
    irreducible = len(in_conflict) <= _IRREDUCIBLE_ROWS
    if irreducible:
        in_conflict = program.reduce(in_conflict)
    return Conflict(
        agents=stranded,
        rows=tuple(names[k] for k in in_conflict),
        irreducible=irreducible,
        reliefs=reliefs,
    )


def _names(instance: Instance, form: Form) -> list[str]:
    names = [f"capacity[{j}, {k}]" for k in range(form.resources) for j in range(form.models)]
    if instance.limits is not None:
        names += [f"limit {name}" for name in instance.limits.names]
    return names


class _Program:
    """The relaxation with elastic rows: ``matrix x <= right + excess``, every agent assigned once."""

    def __init__(self, form: Form) -> None:
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
        self.rows = first + form.rows
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

    def closest(self, rows: NDArray[np.intp]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        """Return the (rows,) least scaled excess with only some rows in force, and the rows that need it."""
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
        )
        assert solved.x is not None  # elastic rows always have room
        excess = np.zeros(self.rows)
        excess[rows] = solved.x[pairs:]
        priced = np.abs(solved.ineqlin.marginals) * self.scale[rows] > _NOISE
        return excess, rows[priced]

    def reduce(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Drop rows one by one as long as the rest still conflicts."""
        kept: Sequence[int] = rows.tolist()
        for row in list(kept):
            rest = np.array([other for other in kept if other != row], dtype=np.intp)
            if not len(rest):
                continue
            excess, _ = self.closest(rest)
            if (excess > _NOISE * self.scale).any():
                kept = rest.tolist()
        return np.array(kept, dtype=np.intp)
