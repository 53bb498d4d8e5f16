"""What a table's columns hold, and a table of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def _never(_name: str) -> bool:
    return False


@dataclass(frozen=True, kw_only=True)
class ColumnKinds:
    """What the columns of a table hold, by name.

    Parameters
    ----------
    coded : frozenset of str
        Text with few distinct values.
    text : frozenset of str
        Text with many, such as ids.
    number : callable
        Whether a column of neither kind holds numbers; cells that are none are kept as text, for an error
        to show.
    """

    coded: frozenset[str] = frozenset()
    text: frozenset[str] = frozenset()
    number: Callable[[str], bool] = field(default=_never)

    def is_coded(self, name: str) -> bool:
        """Return whether a column is text with few distinct values."""
        return name in self.coded

    def is_text(self, name: str) -> bool:
        """Return whether a column is text."""
        return name in self.coded or name in self.text

    def is_number(self, name: str) -> bool:
        """Return whether a column holds numbers."""
        return not self.is_text(name) and self.number(name)


@dataclass(frozen=True, eq=False)
class Table:
    """Equally long columns of a file.

    Parameters
    ----------
    columns : dict of str to column
        :class:`~solver.problem.column_values.Coded`, masked arrays, arrays or lists.
    rows : int
        Their length.
    where : callable
        Names row i for an error: ``batch.csv:5`` or ``batch.parquet row 4``; -1 is the header, or the file
        where there is none.
    column_at : callable, optional
        Names the place where a column has its name; None: the header.
    """

    columns: dict[str, Any]
    rows: int
    where: Callable[[int], str]
    column_at: Callable[[str], str] | None = None

    def where_column(self, name: str) -> str:
        """Return the place where a column has its name."""
        return self.where(-1) if self.column_at is None else self.column_at(name)
