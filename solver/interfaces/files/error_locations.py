"""Where violations stand: the file and line of what a path such as ``agents[3].tokens`` names."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from solver.errors import SpecError, Violation

if TYPE_CHECKING:
    from pathlib import Path

    from solver.interfaces.files.columns import Table
    from solver.interfaces.files.documents import DocumentLines

_INDEX_DIGITS = 10
"""Digits up to which a number in brackets is an index; longer ones are part of a name."""

_PATH_STEP = re.compile(r"\[(\d+)(?:, *\d+)*\]|\.?([^.\[\]]+)")
"""One step of a violation's path: an index in brackets, or a field."""

_PLACED = 1000
"""Violations that get their line; a file with more is not mended one by one."""

_MADE_OF = {
    "unassigned_penalty": ("objective", "unassigned_penalty"),
    **dict.fromkeys(("copies", "count", "priority"), ("agents",)),
    **dict.fromkeys(("capacity", "min_load", "opening_cost", "load_cost"), ("models",)),
}
"""Part of a problem that an array is made of."""

Locate = Callable[[list[str | int]], str]
"""Turns the steps to a value, below its part of the problem, into ``file:line: ``."""


class PlacedError(SpecError):
    """Violations whose lines already name their file."""


def in_document(path: Path, lines: DocumentLines, steps: list[str | int]) -> str:
    """Return ``file:line: `` of the value at some steps in a document."""
    line = lines.line_of(steps)
    return f"{path}: " if line is None else f"{path}:{line}: "


@dataclass
class Places:
    """Where the parts of a problem are: in the document, or in files of their own.

    Parameters
    ----------
    locate : dict of str to callable
        By part: what names the place of a value in it; ``""`` is the document itself.
    tables : dict of str to Table
        Parts that are tables.
    """

    locate: dict[str, Locate] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)

    def of_all(self, found: Iterable[Violation]) -> list[Violation]:
        """Return violations with file and line in front of those that can be shown; O(1) for each of the others."""
        return [self.of(one) if k < _PLACED else one for k, one in enumerate(found)]

    def of(self, found: Violation) -> Violation:
        """Return a violation with its file and line in front."""
        path = found.path
        steps = steps_of(path)
        part = steps[0]
        if not path:  # a key without a name, at the top of the document
            where = self.locate[""]([""]).removesuffix(": ")
            return found.at(where) if where else found
        if not isinstance(part, str):
            return found
        table = self.tables.get(part)
        if table is not None:
            if len(steps) > 1 and isinstance(steps[1], int) and steps[1] < table.rows:
                rest = path[len(part) :].partition("]")[2].lstrip(".")
                return found.at(f"{table.where(steps[1])}: {rest}" if rest else table.where(steps[1]))
            if part == "scores" and len(steps) > 2 and isinstance(steps[2], int):  # labels of a wide table
                row = steps[2] if steps[1] == "agents" else -1
                return found.at(f"{table.where(row)}: {str(steps[1]).removesuffix('s')}")
            column = path[len(part) :].lstrip(".")
            return found.at(f"{table.where_column(column) if column else table.where(-1)}: {path}")
        if part in self.locate:
            return found.at(self.locate[part](steps[1:]) + path)
        return found.at(self.locate[""](steps) + path)

    def of_arrays(self, found: Violation, parts: Collection[str]) -> Violation:
        """Return a violation of the arrays made of a problem with file and line of what they were made of.

        Parameters
        ----------
        found : Violation
            With the path of a part, or of an array such as ``copies``.
        parts : collection of str
            The parts that the document has.
        """
        name = steps_of(found.path)[0]
        if name in parts or name in self.tables:
            return self.of(found)
        steps = _MADE_OF.get(str(name))
        if steps is None or not (steps[0] in parts or steps[0] in self.tables):
            return found
        return found.at(f"{self.of(found.at('.'.join(steps))).path.rpartition(': ')[0]}: {found.path}")

    @contextmanager
    def naming(self, part: str, path: Path) -> Iterator[None]:
        """Mark what is raised inside as lines that name their file; faults of the whole file say who names it.

        Parameters
        ----------
        part : str
            The part of the problem that is in the file.
        path : Path
            The file.

        Raises
        ------
        PlacedError
            For every :class:`~solver.errors.SpecError`.
        """
        try:
            yield
        except SpecError as error:
            where = self.locate[""]([part, "path"]).removesuffix(": ")
            whole = f"{path}: "
            raise PlacedError(
                *(
                    line.noted(f"; {where} names it") if where and line.startswith(whole) else line
                    for line in error.violations
                )
            ) from None


def steps_of(path: str) -> list[str | int]:
    """Return the steps of a path such as ``agents[3].tokens``; at least one, empty for an empty path."""
    steps: list[str | int] = [
        int(index) if index else name
        for index, name in _PATH_STEP.findall(path)
        if len(index) < _INDEX_DIGITS
    ]
    return steps or [""]
