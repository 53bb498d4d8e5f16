"""CSV in the dialects that people export: separators, decimal marks, line ends and headers found in the file."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import SpecError
from solver.interfaces.files.headers import named_columns
from solver.interfaces.files.sources import content_suffix, read_text
from solver.problem.column_values import Coded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from solver.interfaces.files.columns import ColumnKinds
    from solver.interfaces.files.sources import Reading

_SEPARATOR_OF = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".psv": "|", ".txt": "\t"}
CSV_SUFFIXES = tuple(_SEPARATOR_OF)
"""File endings of text tables."""

_SEPARATORS = (",", ";", "\t", "|")
"""Separators that are recognised without being named."""

_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_SAMPLE_ROWS = 20
"""Rows read to recognise the separator."""

_EXCEL_LINE = re.compile(r'"?sep=(.)"?\r?\n', re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d*,\d+(?:[eE][+-]?\d+)?\s*")
_THOUSANDS_LIKE = re.compile(r"\s*[+-]?[1-9]\d{0,2},\d{3}\s*")


@dataclass(frozen=True, eq=False)
class _Text:
    """A table as text, its dialect known.

    Parameters
    ----------
    path : Path
        Its file.
    content : str
        From the header on.
    first_line : int
        Line of the file on which ``content`` begins.
    separator : str
        Between fields.
    skips_blanks : bool
        Whether blanks after a separator mean nothing.
    header : list of str
        Names of the columns as written.
    body : int
        Position in ``content`` behind the header.
    header_lines : int
        Lines the header takes.
    """

    path: Path
    content: str
    first_line: int
    separator: str
    skips_blanks: bool
    header: list[str]
    body: int
    header_lines: int

    def records(self, *, strict: bool = False) -> Any:
        """Return a reader over header and rows, with the field ``line_num``."""
        lines = io.StringIO(self.content, newline="")
        return csv.reader(lines, delimiter=self.separator, strict=strict, skipinitialspace=self.skips_blanks)


def read_csv(
    path: Path, reading: Reading, kinds: ColumnKinds, first_name: str | None
) -> tuple[dict[str, Any], int, Callable[[int], str]]:
    """Return columns by name, their length, and what names row i for an error.

    Parameters
    ----------
    path : Path
        The file.
    reading : Reading
        Dialect where it is given; takes notes about what was found.
    kinds : ColumnKinds
        What the columns hold.
    first_name : str or None
        Name of a first column without one that does not number the rows.

    Raises
    ------
    SpecError
        When the file cannot be read or is no table, with the line.
    """
    text = _text(path, reading)
    decimal = reading.decimal or "."
    frame = _frame(text, reading, kinds, decimal)
    if reading.decimal is None and text.separator != "," and _has_decimal_commas(text, frame, kinds):
        decimal = ","
        reading.note(f"{path}: numbers are read with a decimal comma")
        frame = _frame(text, reading, kinds, decimal)
    names = named_columns(
        text.header,
        lambda position: frame[position].dropna().tolist(),
        where=f"{path}:{text.first_line}",
        reading=reading,
        first_name=first_name,
    )
    frame, rows = _without_blank_rows(frame, path, reading)
    columns = {name: _column(frame[position], name, kinds, decimal) for position, name in names.items()}
    return columns, len(frame), _where(text, rows)


def _text(path: Path, reading: Reading) -> _Text:
    content = read_text(path, reading)
    if "\r" in content and "\n" not in content:  # line ends of the first Macs
        content = content.replace("\r", "\n")
    separator, first_line = reading.separator, 1
    if marked := _EXCEL_LINE.match(content):  # the line that Excel writes and reads
        separator = separator or marked[1]
        content, first_line = content[marked.end() :], 2
    default = _SEPARATOR_OF.get(content_suffix(path), ",")
    if separator is None:
        separator = _found_separator(content, default)
        if separator != default:
            reading.note(f"{path}: fields are separated by {_NAMES[separator]}")
    taken = 0

    def lines() -> Iterator[str]:
        nonlocal taken
        for line in io.StringIO(content, newline=""):
            taken += len(line)
            yield line

    reader = csv.reader(lines(), delimiter=separator)
    try:
        header = next(reader, [])
    except csv.Error as error:
        msg = f"{path}:{first_line}: broken CSV: {error}"
        raise SpecError(msg) from None
    if not any(name.strip() for name in header):
        msg = f"{path}:{first_line}: expected a header line with the names of the columns, got nothing"
        raise SpecError(msg)
    spaced = len(header) > 1 and all(name.startswith(" ") for name in header[1:])
    return _Text(path, content, first_line, separator, spaced, header, taken, reader.line_num)


def _found_separator(content: str, default: str) -> str:
    """Return the separator that splits the header into most fields, and the rows into as many."""

    def merit(separator: str) -> tuple[int, int, bool]:
        reader = csv.reader(io.StringIO(content, newline=""), delimiter=separator)
        try:
            rows = [row for row, _ in zip(reader, range(_SAMPLE_ROWS), strict=False)]
        except csv.Error:
            return (0, 0, separator == default)
        width = len(rows[0]) if rows else 0
        same = sum(len(row) == width for row in rows)
        return (width, same if width > 1 else 0, separator == default)

    return max(_SEPARATORS, key=merit)


def _frame(text: _Text, reading: Reading, kinds: ColumnKinds, decimal: str) -> Any:
    """Return the rows as a frame whose columns are numbered from 0."""
    import pandas as pd  # half a second to import; only needed here

    width = len(text.header)
    as_text = {
        position: str
        for position, name in enumerate(map(str.strip, text.header))
        if kinds.is_text(name) or (decimal == "," and kinds.is_number(name))
    }
    body = text.content[text.body :]
    if not body.strip("\r\n"):
        return pd.DataFrame({position: pd.Series([], dtype=object) for position in range(width)})
    try:
        frame = pd.read_csv(
            io.StringIO(body),
            sep=text.separator,
            header=None,
            names=range(width),
            dtype=as_text,
            keep_default_na=False,
            na_values=[""],
            low_memory=False,  # whole columns get one type
            skip_blank_lines=True,
            skipinitialspace=text.skips_blanks,
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, OverflowError, ValueError) as error:
        raise SpecError(_fault(text) or f"{text.path}: broken CSV: {error}") from None
    if not isinstance(frame.index, pd.RangeIndex):
        if not _numbers_rows(frame):
            raise SpecError(_fault(text) or f"{text.path}: broken CSV: rows have more fields than the header")
        reading.note(f"{text.path}: rows begin with their number, which the header has no name for")
        frame = frame.reset_index(drop=True)
    elif len(frame) and frame.iloc[:, -1].isna().any() and (fault := _fault(text)):
        raise SpecError(fault)
    return frame


def _numbers_rows(frame: Any) -> bool:
    """Return whether every row has one field more than the header, its number in front, as R writes tables."""
    index = frame.index
    if index.nlevels > 1 or frame.iloc[:, -1].isna().all():
        return False
    return list(index.astype(str)) == [str(number + 1) for number in range(len(index))]


def _fault(text: _Text) -> str | None:
    """Return what is wrong with the first row that does not have as many fields as the header."""
    reader = text.records(strict=True)
    width = None
    try:
        for row in reader:
            if width is None:
                width = len(row)
            elif row and len(row) != width:
                line = text.first_line + reader.line_num - 1
                hint = "; is the header one name short?" if len(row) == width + 1 > 2 else ""
                if width == 1:
                    hint = "; if the names of the columns stand further down, delete what is above them"
                return f"{text.path}:{line}: broken CSV: expected {width} fields, got {len(row)}{hint}"
    except csv.Error as error:
        return f"{text.path}:{text.first_line + reader.line_num - 1}: broken CSV: {error}"
    return None


def _has_decimal_commas(text: _Text, frame: Any, kinds: ColumnKinds) -> bool:
    """Return whether what is no number in the columns of numbers would be with a decimal comma.

    ``1,234`` alone may be thousands as well and decides nothing.
    """
    found = False
    for position, name in enumerate(map(str.strip, text.header)):
        if not kinds.is_number(name) or frame[position].dtype.kind in "iufb":
            continue
        for value in frame[position].dropna():
            if isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value):
                found = found or not _THOUSANDS_LIKE.fullmatch(value)
    return found


def _without_blank_rows(frame: Any, path: Path, reading: Reading) -> tuple[Any, np.ndarray[Any, Any] | None]:
    """Return the rows that hold something, and where they were, None where all do."""
    if not len(frame) or not frame.iloc[:, 0].isna().any():
        return frame, None
    blank = frame.isna().all(axis=1).to_numpy()
    if not blank.any():
        return frame, None
    count = int(blank.sum())
    reading.note(f"{path}: {count:,} {'row' if count == 1 else 'rows'} without any value skipped")
    return frame[~blank].reset_index(drop=True), np.flatnonzero(~blank)


def _column(series: Any, name: str, kinds: ColumnKinds, decimal: str) -> Any:
    """Return one column as codes, numbers with a mask, or objects."""
    import pandas as pd

    if kinds.is_coded(name):
        codes, values = pd.factorize(series)
        return Coded(codes, values.tolist())
    if series.dtype.kind in "iub":
        return series.to_numpy()
    if series.dtype.kind == "f":
        return np.ma.array(series.to_numpy(), mask=series.isna().to_numpy())
    objects = series.to_numpy(dtype=object)
    blank = series.isna().to_numpy()
    if blank.any():
        objects = objects.copy()
        objects[blank] = None
    if not kinds.is_number(name):
        return objects
    if decimal == ",":
        texts = series.astype(str)
        series = texts.str.replace(",", ".", regex=False).mask(texts.str.contains(".", regex=False) | blank)
    numbers = _numbers(series)
    good = ~np.isnan(numbers)
    loose = objects.copy()
    loose[good] = numbers[good]
    return loose


def _numbers(series: Any) -> np.ndarray[Any, Any]:
    """Return a column as float64, NaN where a cell is no number, infinite where it is out of range."""
    import pandas as pd

    try:
        return np.asarray(
            pd.to_numeric(series, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan), np.float64
        )
    except OverflowError:  # whole numbers beyond float64
        return np.array([_number(value) for value in series], dtype=np.float64)


def _number(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return np.inf if value > 0 else -np.inf
    except (TypeError, ValueError):
        return np.nan


def _where(text: _Text, rows: np.ndarray[Any, Any] | None) -> Callable[[int], str]:
    """Return what names a row by its line; -1 is the header."""
    count = text.content.count("\n") + (not text.content.endswith("\n"))
    blank_lines = re.search(r"(?:\r?\n){2,}|\A\r?\n|\r(?!\n)", text.content.rstrip("\r\n"))
    one_line_each = not blank_lines and '"' not in text.content and count > 0

    def where(row: int) -> str:
        row = row if rows is None or row < 0 else int(rows[row])
        if one_line_each:
            return f"{text.path}:{text.first_line + row + 1}"
        reader = text.records()
        seen = -1  # the header
        try:
            for cells in reader:
                if cells:
                    if seen == row:
                        return f"{text.path}:{text.first_line + reader.line_num - 1}"
                    seen += 1
        except csv.Error:  # pandas reads on where this reader gives up
            pass
        return f"{text.path} row {row + 1}"

    return where
