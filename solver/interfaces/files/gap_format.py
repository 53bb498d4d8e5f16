"""The OR-Library's format of generalized assignment problems.

Whitespace-separated: m n, the m × n costs row by row (a row is a model), the m × n resource use, the m
capacities. Cost is minimised and every agent must be assigned, so the score is minus the cost and an
unassigned agent is infeasible.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.errors import SpecError
from solver.interfaces.files.documents import read_text
from solver.problem.agents import AgentTable
from solver.problem.instance import MAX_CAPACITY
from solver.problem.spec import Capacity, Model, Objective, Problem, ScoreTable

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["format_gap", "read_gap"]


def read_gap(path: Path) -> Problem:
    """Return the problem of an OR-Library file.

    Agents are called ``a1 … an`` and models ``m1 … mm``. Scores are minus the costs, demand is the resource
    use, and the unassigned penalty is infinite.

    Raises
    ------
    SpecError
        When the file cannot be read, holds something else than numbers, or too few or too many of them.
    """
    text = read_text(path)
    numbers = _numbers(text, path)
    if len(numbers) < 2:
        msg = f"{path}: expected the numbers of models and agents, got {len(numbers)} numbers"
        raise SpecError(msg)
    for name, count in (("models", numbers[0]), ("agents", numbers[1])):
        if not (count >= 1 and count == np.floor(count) and count <= MAX_CAPACITY):
            msg = f"{path}: expected at least 1 of {name}, got {count:g}"
            raise SpecError(msg)
    m, n = int(numbers[0]), int(numbers[1])
    expected = 2 + 2 * m * n + m
    if len(numbers) != expected:
        msg = f"{path}: expected {expected} numbers for {m} models and {n} agents, got {len(numbers)}"
        raise SpecError(msg)
    cost, use, capacity = np.split(numbers[2:], [m * n, 2 * m * n])
    lines = [
        f"{path}: capacity of model {j + 1}: expected a whole number from 0 to 2**53, got {units:g}"
        for j, units in enumerate(capacity)
        if not (0 <= units <= MAX_CAPACITY and units == np.floor(units))
    ]
    lines += [f"{path}: resource use: expected >= 0, got {least:g}" for least in [use.min()] if least < 0]
    if lines:
        raise SpecError(*lines)
    return Problem(
        agents=AgentTable.of_ids(f"a{i + 1}" for i in range(n)),
        models=tuple(
            Model(id=f"m{j + 1}", capacity=Capacity(max_concurrent=int(units)))
            for j, units in enumerate(capacity)
        ),
        objective=Objective(unassigned_penalty=np.inf),
        scores=ScoreTable(values=np.ascontiguousarray(-cost.reshape(m, n).T)),
        demand=np.ascontiguousarray(use.reshape(m, n).T),
    )


def format_gap(cost: NDArray[np.int64], use: NDArray[np.int64], capacity: NDArray[np.int64]) -> str:
    """Return an instance in the OR-Library's format.

    Parameters
    ----------
    cost, use : (m, n) int64
        Cost and resource use of each agent (column) on each model (row).
    capacity : (m,) int64
        Units of each model.
    """
    m, n = cost.shape
    rows = [[m, n], *cost.tolist(), *use.tolist(), capacity.tolist()]
    return "".join(" ".join(map(str, row)) + "\n" for row in rows)


def _numbers(text: str, path: Path) -> NDArray[np.float64]:
    try:
        numbers = np.array(text.split(), dtype=np.float64)
        if np.isfinite(numbers).all():
            return numbers
    except ValueError:
        pass  # the loop below finds and names the first culprit
    for number, line in enumerate(text.split("\n"), start=1):
        for token in line.split():
            try:
                finite = np.isfinite(float(token))
            except ValueError:
                finite = False
            if not finite:
                msg = f"{path}:{number}: expected finite numbers only, got {token[:40]!r}"
                raise SpecError(msg)
    raise AssertionError(path)  # numpy and float() read the same numbers
