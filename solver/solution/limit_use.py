"""The use that a plan makes of each limit of its problem, in the names and units of the problem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.problem.blocks import chunks
from solver.problem.instance import UNASSIGNED
from solver.problem.limit_arrays import LimitArrays
from solver.problem.limit_members import concerned_agents, concerned_models
from solver.problem.limit_rows import NO_ROW
from solver.problem.limit_specs import ApartSpec, AverageSpec, ChangesSpec, QuotaSpec, ShareSpec
from solver.problem.resources import resource_titles
from solver.problem.tolerances import EXCESS_TOLERANCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from solver.problem.instance import Instance
    from solver.problem.limit_specs import LimitSpec
    from solver.problem.pair_scorer import PairScorer
    from solver.problem.spec import Problem
    from solver.solution.infeasibility import Conflict
    from solver.solution.solution import Solution

_NAMED_AGENTS = 5
"""Agents spelled out in a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitReport:
    """How one limit comes out of a plan.

    Parameters
    ----------
    name : str
        Name of the limit; with the model in brackets where it holds for each model by itself.
    side : {"at_most", "at_least"}
        Which way it binds.
    unit : str
        What it counts: agents, tokens, usd, quality, latency_s, share or moves.
    used : float
        What the plan reaches, in ``unit``; NaN for a mean or a share of nothing.
    bound : float
        What the limit allows or asks for, in ``unit``.
    price : float
        What loosening the bound by one unit adds to the objective, in score, >= 0: a rate, as one agent
        more or less moves several units at once. In score alone, also where as many as possible are served
        first and one unit more would serve another agent.
    violation_price : float or None
        What the limit says a unit beyond it costs; None where it must hold.
    charge : float
        What the plan pays for exceeding it, in score, >= 0.
    """

    name: str
    side: str
    unit: str
    used: float
    bound: float
    price: float
    violation_price: float | None = None
    charge: float = 0.0

    @property
    def is_exceeded(self) -> bool:
        """Whether the plan goes beyond a bound that may be exceeded at a price."""
        beyond = self.used - self.bound if self.side == "at_most" else self.bound - self.used
        return self.violation_price is not None and beyond > EXCESS_TOLERANCE * max(1.0, abs(self.bound))

    @property
    def is_tight(self) -> bool:
        """Whether nothing is left of it, to rounding."""
        return bool(abs(self.used - self.bound) <= EXCESS_TOLERANCE * max(1.0, abs(self.bound)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """The name and title of one limit row of the instance."""

    limit: LimitSpec
    side: str
    bound: float
    model: int | None = None


def _rows(problem: Problem) -> list[_Row]:
    """Return what each limit row of the compiled instance stands for, in its order."""
    rows: list[_Row] = []
    for limit in problem.limits:
        if isinstance(limit, ApartSpec):
            rows += [
                _Row(limit=limit, side="at_most", bound=float(limit.at_most_agents), model=int(j))
                for j in np.flatnonzero(concerned_models(problem.models, limit))
            ]
            continue
        sides = {side: float(getattr(limit, field)) for field, (_, side) in limit.amounts().items()}
        rows += [
            _Row(limit=limit, side=side, bound=sides[side])
            for side in ("at_most", "at_least")
            if side in sides
        ]
    return rows + _floor_rows(problem)


def _floor_rows(problem: Problem) -> list[_Row]:
    """Return the floors of models where they are limit rows: together with a demand, resources or other limits."""
    floors = {model.id: model.capacity.min_slots for model in problem.models if model.capacity.min_slots}
    return [
        _Row(
            limit=QuotaSpec(name=f"min_slots of {name}", models=(name,), at_least_agents=float(floor)),
            side="at_least",
            bound=float(floor),
        )
        for name, floor in floors.items()
    ]


def limit_titles(problem: Problem) -> list[str]:
    """Return the name of each limit row as people read it, in the order of the instance's rows."""
    rows = _rows(problem)
    both = {
        row.limit.name for row in rows if row.side == "at_most" and row.limit.amount("at_least") is not None
    }
    titles = []
    for row in rows:
        title = row.limit.name
        if row.model is not None:
            title += f" ({problem.model_ids[row.model]})"
        elif title in both:
            title += f" ({row.side.replace('_', ' ')})"
        titles.append(title)
    return titles


def limit_reports(
    problem: Problem, instance: Instance, solution: Solution, scorer: PairScorer
) -> tuple[LimitReport, ...]:
    """Return one report per limit row; limits that tie agents or charge moves have none. O(n m)."""
    if instance.limits is None:
        return ()
    arrays = LimitArrays(problem, scorer)
    choice = solution.choice
    reports = []
    charges = instance.limits.violation_charges(solution.limit_load)
    rows = zip(
        _rows(problem),
        limit_titles(problem),
        solution.limit_load,
        solution.limit_prices,
        charges,
        strict=True,
    )
    for row, title, load, price, charge in rows:
        limit, sign = row.limit, 1.0 if row.side == "at_most" else -1.0
        used, rate, unit = sign * float(load), float(price), str(limit.unit)
        if isinstance(limit, AverageSpec | ShareSpec):
            # Such a row is a sum of distances from the bound over all it counts: back to a mean or a share.
            count = _counted(problem, limit, arrays, choice)
            used = row.bound + used / count if count else float("nan")
            rate *= count
            unit = "share" if isinstance(limit, ShareSpec) else unit
        elif isinstance(limit, ChangesSpec):
            unit = "moves"
        reports.append(
            LimitReport(
                name=title,
                side=row.side,
                unit=unit,
                used=used + 0.0,
                bound=row.bound,
                price=rate,
                violation_price=getattr(limit, "violation_price", None),
                charge=float(charge),
            )
        )
    return tuple(reports)


def _counted(problem: Problem, limit: LimitSpec, arrays: LimitArrays, choice: NDArray[np.int64]) -> float:
    """Return what a mean or a share is taken of: agents served, or everything that is counted."""
    served = np.flatnonzero(choice != UNASSIGNED)
    if isinstance(limit, ShareSpec):
        table = np.broadcast_to(arrays.counted(limit.unit), (len(choice), len(problem.models)))
        return float(table[served, choice[served]].sum())
    concerned = np.zeros(len(choice), bool)
    concerned[concerned_agents(problem.agents, limit)] = True
    return float((concerned[served] & concerned_models(problem.models, limit)[choice[served]]).sum())


def limits_in_the_way(
    problem: Problem, instance: Instance, solution: Solution, left: NDArray[np.intp]
) -> NDArray[np.object_]:
    """Return, for each unassigned agent, which limits keep it off the models that have room for it.

    Empty where no eligible model has room: capacity keeps it out then. O(len(left) · m) per layer.
    """
    why = np.full(len(left), "", object)
    limits = instance.limits
    if limits is None:
        return why
    titles, hard = np.array(limit_titles(problem), object), limits.hard
    capacity_left = instance.capacity - solution.load.reshape(instance.capacity.shape)
    limit_left = limits.bound - solution.limit_load
    limit_left += EXCESS_TOLERANCE * limits.magnitude(solution.choice)
    group = {
        int(i): name
        for name, members in zip(limits.together_names, limits.together, strict=True)
        for i in members
    }
    for block in chunks(len(left), instance.m):
        rows = left[block]
        demand = 1.0 if instance.demand is None else instance.demand[rows]
        room = np.isfinite(instance.score[rows])
        room &= (
            (demand <= capacity_left * (1 + EXCESS_TOLERANCE) + EXCESS_TOLERANCE).all(axis=2)
            if np.ndim(demand)
            else (capacity_left[:, 0] >= 1)
        )
        stopped = np.zeros((len(rows), limits.count), bool)
        for layer in limits.layers:
            row, coefficient = layer.row[rows], layer.coefficient[rows]
            over = room & (row != NO_ROW) & (coefficient > np.maximum(limit_left[np.maximum(row, 0)], 0.0))
            agent, model = np.nonzero(over)
            stopped[agent, row[agent, model]] = True
        patterns, which = np.unique(np.packbits(stopped, axis=1), axis=0, return_inverse=True)
        rows_of = [np.flatnonzero(np.unpackbits(pattern, count=limits.count)) for pattern in patterns]
        texts = np.array(
            [
                _stopped_text(titles[found[hard[found]]].tolist(), titles[found[~hard[found]]].tolist())
                for found in rows_of
            ],
            object,
        )[which.ravel()]
        texts[~room.any(axis=1)] = ""
        for k in np.flatnonzero(np.isin(rows, list(group))):
            texts[k] = f"its group {group[int(rows[k])]!r} finds no model for all of it"
        why[block] = texts
    return why


def _stopped_text(names: Sequence[str], priced: Sequence[str]) -> str:
    """Return what stands in the way: limits that must hold, else those that may be exceeded at a price."""
    if not names and not priced:
        return "no place found before the search ended"
    shown = names or priced
    noun = "limit" if len(shown) == 1 else "limits"
    what = "would be broken" if names else "would be exceeded, which costs more than its place is worth"
    return f"{noun} {', '.join(map(repr, shown))} {what}"


def conflict_sentences(conflict: Conflict, problem: Problem, instance: Instance) -> tuple[str, ...]:
    """Return why nothing is feasible, in the problem's ids."""
    if conflict.cut_short:
        return conflict.sentences()
    titles = _capacity_titles(problem)
    sums: set[str] = set()
    if instance.limits is not None:
        words = zip(instance.limits.names, limit_titles(problem), _rows(problem), strict=True)
        for name, title, row in words:
            titles[f"limit {name}"] = f"limit {title!r}"
            if isinstance(row.limit, AverageSpec | ShareSpec):
                sums.add(f"limit {name}")
    lines = []
    if conflict.agents:
        ids = [str(problem.agents.ids[i]) for i in conflict.agents[:_NAMED_AGENTS]]
        more = len(conflict.agents) - len(ids)
        named = ", ".join(ids) + (f" and {more:,} more" if more else "")
        noun = "agent" if len(conflict.agents) == 1 else "agents"
        lines.append(f"no model can take {noun} {named}: not eligible, or larger than any capacity")
    if conflict.rows:
        named = "; ".join(titles.get(row, row) for row in conflict.rows)
        lines.append(f"cannot all hold: {named}")
    for relief in conflict.reliefs:
        what = titles.get(relief.what, relief.what)
        # The row of a mean or a share is a sum: its amount is none that a reader could add to the bound.
        amount = "" if relief.what in sums else f" by {relief.amount:g}"
        change = (
            "smallest change" if instance.network is not None else "smallest change in fractions of agents"
        )
        lines.append(f"{change}: loosen {what}{amount}")
    return tuple(lines) or conflict.sentences()


def _capacity_titles(problem: Problem) -> dict[str, str]:
    """Return what the names of capacities and floors in a conflict stand for, in ids."""
    titles: dict[str, str] = {}
    for j, model in enumerate(problem.model_ids):
        for k, resource in enumerate(resource_titles(problem.models)):
            titles[f"capacity[{j}, {k}]"] = f"{resource} of {model}" if k else f"capacity of {model}"
        titles[f"min_load[{j}]"] = f"min_slots of {model}"
        titles[f"min_load_if_open[{j}]"] = f"min_slots_if_open of {model}"
    return titles
