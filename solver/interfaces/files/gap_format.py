"""The OR-Library's formats of assignment problems: whitespace-separated numbers.

Generalized assignment: m n, the m × n costs row by row (a row is a model), the m × n resource use, the m
capacities. The library's own files hold several such sets, their number in front; some copies add the optimum
behind each set. Assignment: n, then the n × n costs, or ``row column cost`` of the pairs there are. Every
agent must be assigned. Costs are minimised unless the caller says that they are values to be maximised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from solver.errors import SpecError
from solver.interfaces.files.library_errors import located_errors
from solver.interfaces.files.sources import Reading, read_text
from solver.problem.agents import AgentTable
from solver.problem.instance import MAX_CAPACITY
from solver.problem.numbers import LARGEST
from solver.problem.spec import Capacity, Model, Objective, Problem, ScoreTable
from solver.problem.values import describe

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

Sense = Literal["minimize", "maximize"]

_NAMED_NUMBERS = 20
"""Numbers that break a rule, spelled out at most."""

_MAX_SETS = 1000
"""Problem sets of one file at most; the library's own files hold five."""


def read_gap(
    path: Path, *, chosen: int | None = None, sense: Sense = "minimize", reading: Reading | None = None
) -> Problem:
    """Return the problem of an OR-Library file.

    Agents are called ``a1 … an`` and models ``m1 … mm``. Scores are the costs, to be minimised, or the
    values where they are maximised; demand is the resource use, and the unassigned penalty is infinite.

    Parameters
    ----------
    path : Path
        The file.
    chosen : int, optional
        Which problem set of several, from 1.
    sense : {"minimize", "maximize"}
        Whether the numbers are costs or values. The library's ``gap1`` to ``gap12`` hold values.
    reading : Reading, optional
        Encoding and limits.

    Raises
    ------
    SpecError
        When the file cannot be read, holds something else than numbers, or too few or too many of them.
    """
    with located_errors(path):
        file = _NumbersFile(path, read_text(path, reading))
        numbers = file.numbers
        if len(numbers) < 2:
            msg = f"{file.at(0)}: expected the numbers of models and agents, got {_count(len(numbers))}"
            raise SpecError(msg)
        for read in (_one_set, _many_sets, _assignment):
            found = read(numbers)
            if found is not None:
                return _problem(file, found, chosen, sense)
        raise SpecError(_miscounted(file))


@dataclass(frozen=True, eq=False)
class _Set:
    """One problem set.

    Parameters
    ----------
    numbers : (2 + 2 m n + m,) float64
        m, n, the costs, the resource use and the capacities.
    start : int, optional
        Which number of the file is the first of them; None where the file has another format.
    """

    numbers: NDArray[np.float64]
    start: int | None


class _NumbersFile:
    """The numbers of a file, and the lines they stand on.

    Raises
    ------
    SpecError
        When one is none, or beyond what a score or a capacity may be, with its line.
    """

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self._text = text
        self.numbers = self._parsed()

    def at(self, position: int) -> str:
        """Return ``file:line`` of a number, of the last line for a position behind all of them. O(file)."""
        number, seen, last = 0, 0, 1
        for number, line in enumerate(self._text.split("\n"), start=1):
            tokens = len(line.split())
            seen += tokens
            if seen > position:
                return f"{self.path}:{number}"
            last = number if tokens else last
        return f"{self.path}:{last}"

    def _parsed(self) -> NDArray[np.float64]:
        try:
            numbers = np.array(self._text.split(), dtype=np.float64)
            if (np.abs(numbers) <= LARGEST).all():
                return numbers
        except ValueError:
            pass  # the loop below finds and names the first culprit
        for number, line in enumerate(self._text.split("\n"), start=1):
            for token in line.split():
                rule = "finite numbers only"
                try:
                    value = float(token)
                    good = abs(value) <= LARGEST
                    rule = f"at most {LARGEST:g} in size" if np.isfinite(value) else rule
                except ValueError:
                    good = False
                if not good:
                    msg = f"{self.path}:{number}: expected {rule}, got {describe(token)}"
                    raise SpecError(msg)
        raise AssertionError(self.path)  # numpy and float() read the same numbers


def _sizes(numbers: NDArray[np.float64], at: int) -> tuple[int, int] | None:
    """Return the models and agents of the set that begins at a position, None where there can be none."""
    if at + 2 > len(numbers):
        return None
    m, n = numbers[at], numbers[at + 1]
    if not (m >= 1 and n >= 1 and m == np.floor(m) and n == np.floor(n) and m * n <= len(numbers)):
        return None
    return int(m), int(n)


def _one_set(numbers: NDArray[np.float64]) -> list[_Set] | None:
    """Return the only set of a file, with or without its optimum behind it."""
    sizes = _sizes(numbers, 0)
    if sizes is None:
        return None
    m, n = sizes
    length = 2 + 2 * m * n + m
    return [_Set(numbers[:length], 0)] if len(numbers) in (length, length + 1) else None


def _many_sets(numbers: NDArray[np.float64]) -> list[_Set] | None:
    """Return the sets of a file that begins with their number, with or without an optimum behind each."""
    count = numbers[0]
    if not (1 <= count <= _MAX_SETS and count == np.floor(count)):
        return None
    for between in (0, 1):
        at = 1
        sets: list[_Set] = []
        while (sizes := _sizes(numbers, at)) is not None and len(sets) < count:
            m, n = sizes
            length = 2 + 2 * m * n + m
            sets.append(_Set(numbers[at : at + length], at))
            at += length + between
        if len(sets) == count and at == len(numbers):
            return sets
    return None


def _assignment(numbers: NDArray[np.float64]) -> list[_Set] | None:
    """Return a square assignment problem as a set in which every agent takes the one slot of a model."""
    n = numbers[0]
    if not (1 <= n == np.floor(n)):
        return None
    size, rest = int(n), numbers[1:]
    if len(rest) == size * size:  # rows are items to be assigned, so that columns of a set are
        cost = rest.reshape(size, size).T
    elif len(rest) % 3 == 0 and size * size <= MAX_PAIRS:
        pairs = rest.reshape(-1, 3)
        ends = pairs[:, :2]
        if not (((ends >= 1) & (ends <= n) & (ends == np.floor(ends))).all()):
            return None
        cost = np.full((size, size), np.nan)
        cost[ends[:, 1].astype(np.int64) - 1, ends[:, 0].astype(np.int64) - 1] = pairs[:, 2]
    else:
        return None
    ones = np.ones(size * size)
    return [_Set(np.concatenate([[n, n], cost.ravel(), ones, np.ones(size)]), None)]


MAX_PAIRS = 50_000_000
"""Pairs of a sparse assignment file that are spread out at most."""


def _problem(file: _NumbersFile, sets: list[_Set], chosen: int | None, sense: Sense) -> Problem:
    """Return the problem of one of the sets."""
    if chosen is None and len(sets) > 1:
        msg = (
            f"{file.at(0)}: expected one problem set, got {len(sets)}; --set 1 to --set {len(sets)} picks one"
        )
        raise SpecError(msg)
    place = 1 if chosen is None else chosen
    if not 1 <= place <= len(sets):
        msg = f"{file.at(0)}: set: expected a number from 1 to {len(sets)}, got {place}"
        raise SpecError(msg)
    numbers, start = sets[place - 1].numbers, sets[place - 1].start or 0
    m, n = int(numbers[0]), int(numbers[1])
    cost, use, capacity = np.split(numbers[2:], [m * n, 2 * m * n])
    rule = "expected a whole number from 0 to 2**53"
    lines = [
        f"{file.at(start + 2 + 2 * m * n + j)}: capacity of model {j + 1}: {rule}, got {units:g}"
        for j, units in enumerate(capacity)
        if not (0 <= units <= MAX_CAPACITY and units == np.floor(units))
    ]
    lines += [
        f"{file.at(start + 2 + m * n + int(k))}: resource use: expected >= 0, got {use[k]:g}"
        for k in np.flatnonzero(use < 0)[:_NAMED_NUMBERS]
    ]
    if lines:
        raise SpecError(*lines)
    score = np.where(np.isnan(cost), -np.inf, cost)
    return Problem(
        agents=AgentTable.of_ids(f"a{i + 1}" for i in range(n)),
        models=tuple(
            Model(id=f"m{j + 1}", capacity=Capacity(max_concurrent=int(units)))
            for j, units in enumerate(capacity)
        ),
        objective=Objective(unassigned_penalty=np.inf, sense=sense),
        scores=ScoreTable(values=np.ascontiguousarray(score.reshape(m, n).T)),
        demand=None if (use == 1).all() else np.ascontiguousarray(use.reshape(m, n).T),
    )


def _miscounted(file: _NumbersFile) -> str:
    """Return why numbers are no problem of any of the formats, and from where on."""
    numbers = file.numbers
    for k, name in enumerate(("models", "agents")):
        if not (1 <= numbers[k] <= MAX_CAPACITY and numbers[k] == np.floor(numbers[k])):
            return f"{file.at(k)}: expected at least 1 of {name}, got {numbers[k]:g}"
    m, n = int(numbers[0]), int(numbers[1])
    expected = 2 + 2 * m * n + m
    place = f"line {file.at(0).rpartition(':')[2]}"
    there = "the file ends here" if len(numbers) < expected else "the first that is too many is here"
    return (
        f"{file.at(expected)}: expected {expected} numbers for {m} models and {n} agents, as {place} says, got "
        f"{len(numbers)}; {there}; nor are they {m} problem sets, or the costs of {m} agents and as many models"
    )


def _count(numbers: int) -> str:
    return "1 number" if numbers == 1 else f"{numbers} numbers"


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
