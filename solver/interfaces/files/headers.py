"""Names of columns: without surrounding blanks, unique, and none for what exports add by themselves."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from solver.errors import SpecError
from solver.problem.values import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from solver.interfaces.files.sources import Reading

_INDEX = re.compile(r"(?:Unnamed: \d+|__index_level_\d+__)?")


def named_columns(
    header: Sequence[str],
    values: Callable[[int], Sequence[object]],
    *,
    where: str,
    reading: Reading,
    first_name: str | None = None,
) -> dict[int, str]:
    """Return the name of each column worth reading, by position.

    Columns without a name are skipped with a note where they are empty, as spreadsheets leave them behind,
    or number the rows, as pandas and R write them.

    Parameters
    ----------
    header : sequence of str
        Names as written.
    values : callable
        The values of the column at a position that are not blank; asked for nameless columns only.
    where : str
        The file and line of the header, for errors.
    reading : Reading
        Takes the notes.
    first_name : str, optional
        What the first column is called where it has no name and does not number the rows.

    Raises
    ------
    SpecError
        When a nameless column holds values, or two columns share a name.
    """
    names: dict[int, str] = {}
    lines: list[str] = []
    path = where.rpartition(":")[0] or where
    for position, written in enumerate(header):
        name = written.strip()
        if not _INDEX.fullmatch(name):
            names[position] = name
            continue
        filled = values(position)
        label = f"column {position + 1}" + (f" ({name})" if name else "")
        if not len(filled):
            reading.note(
                f"{path}: {label} has no {'values' if name else 'name and no values'} and is skipped"
            )
        elif position == 0 and _number_rows(filled):
            reading.note(f"{path}: {label} numbers the rows and is skipped")
        elif name:
            names[position] = name
        elif position == 0 and first_name is not None:
            names[0] = first_name
            reading.note(f"{path}: column 1 has no name and is taken for {first_name!r}")
        else:
            lines.append(f"{where}: {label} has no name, but holds {describe(filled[0])}")
    if lines and len(names) == 1:
        lines.append(
            f"{where}: expected the names of the columns; if they stand further down, delete what is above them"
        )
    if not names and not lines:
        lines.append(f"{where}: expected a header line with the names of the columns, got nothing")
    seen: set[str] = set()
    for name in names.values():
        if name in seen:
            lines.append(f"{where}: column {describe(name)} is given twice")
        seen.add(name)
    if lines:
        raise SpecError(*dict.fromkeys(lines))
    return names


def _number_rows(values: Sequence[object]) -> bool:
    """Return whether all values are different whole numbers, as indices of frames are."""
    try:
        numbers = [int(str(value)) for value in values]
    except ValueError:
        return False
    return len(set(numbers)) == len(numbers)
