"""Tables in CSV, JSON Lines and Parquet, read as columns."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import MissingExtraError, SpecError
from solver.interfaces.files.documents import parse_json, read_text
from solver.problem.agent_columns import Coded

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from pathlib import Path

__all__ = ["TABLE_SUFFIXES", "Table", "read_table"]

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".pq")
"""File endings of tables."""


@dataclass(frozen=True, eq=False)
class Table:
    """Equally long columns of a file.

    Parameters
    ----------
    columns : dict of str to column
        :class:`~solver.problem.agent_columns.Coded`, masked arrays, arrays or lists.
    rows : int
        Their length.
    where : callable
        Names row i for an error: ``batch.csv:5`` or ``batch.parquet row 4``.
    """

    columns: dict[str, Any]
    rows: int
    where: Callable[[int], str]


def read_table(
    path: Path,
    *,
    coded: Collection[str] = (),
    text: Collection[str] = (),
    numbers: Collection[str] | None = (),
) -> Table:
    """Return the columns of a table, by the ending of its name.

    Parameters
    ----------
    path : Path
        ``.csv``, ``.tsv``, ``.jsonl``, ``.ndjson``, ``.parquet`` or ``.pq``.
    coded : collection of str
        Columns of text with few distinct values.
    text : collection of str
        Columns of text with many, such as ids.
    numbers : collection of str or None
        Columns of numbers, None for all others; cells that hold none are kept as text, for an error to
        show.

    Raises
    ------
    SpecError
        When the file cannot be read or is broken, with the line where there is one.
    MissingExtraError
        For Parquet without pyarrow.
    """
    suffix = path.suffix.lower()
    if suffix in {".csv", ".tsv"}:
        return _read_csv(path, "\t" if suffix == ".tsv" else ",", coded, text, numbers)
    if suffix in {".jsonl", ".ndjson"}:
        return _read_json_lines(path)
    if suffix in {".parquet", ".pq"}:
        return _read_parquet(path, coded)
    msg = f"{path}: expected a table ({', '.join(TABLE_SUFFIXES)}), got {suffix or 'no ending'!r}"
    raise SpecError(msg)


def _read_csv(
    path: Path, separator: str, coded: Collection[str], text: Collection[str], numbers: Collection[str] | None
) -> Table:
    import pandas as pd  # half a second to import; only needed here

    content = read_text(path)
    header = next(csv.reader(io.StringIO(content[: content.find("\n") + 1 or None]), delimiter=separator), [])
    if not any(header):
        msg = f"{path}:1: expected a header line with the names of the columns, got nothing"
        raise SpecError(msg)
    if repeated := sorted({name for name in header if header.count(name) > 1}):
        raise SpecError(*(f"{path}:1: column {name!r} is given twice" for name in repeated))
    # Text stays as it is written: "category" would read 007 as a number.
    kinds: dict[str, Any] = dict.fromkeys((*coded, *text), str)
    try:
        frame = pd.read_csv(
            io.StringIO(content),
            sep=separator,
            dtype={name: kind for name, kind in kinds.items() if name in header},
            keep_default_na=False,
            na_values=[""],
            low_memory=False,  # whole columns get one type
            skip_blank_lines=True,
        )
    except pd.errors.ParserError as error:
        raise SpecError(_csv_fault(content, path, separator) or f"{path}: broken CSV: {error}") from None
    fault = not isinstance(frame.index, pd.RangeIndex) or (len(frame) > 0 and frame.iloc[:, -1].isna().any())
    if fault and (line := _csv_fault(content, path, separator)):
        raise SpecError(line)
    columns: dict[str, Any] = {}
    for name in header:
        series = frame[name]
        if name in coded:
            codes, values = pd.factorize(series)
            columns[name] = Coded(codes, values.tolist())
        elif series.dtype.kind in "iub":
            columns[name] = series.to_numpy()
        elif series.dtype.kind == "f":
            columns[name] = np.ma.array(series.to_numpy(), mask=series.isna().to_numpy())
        else:
            is_number = name not in text and (numbers is None or name in numbers)
            columns[name] = _loose(series, pd) if is_number else _objects(series)
    return Table(columns, len(frame), _csv_where(path, content, separator, len(frame)))


def _objects(series: Any) -> Any:
    """Return a text column as objects, None where a cell is blank."""
    objects = series.to_numpy(dtype=object)
    blank = series.isna().to_numpy()
    if blank.any():
        objects = objects.copy()
        objects[blank] = None
    return objects


def _loose(series: Any, pd: Any) -> Any:
    """Return a column that should hold numbers as numbers, with the cells that do not as they are."""
    objects = _objects(series)
    numbers = pd.to_numeric(series, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    good = ~np.isnan(numbers)
    loose = objects.copy()
    loose[good] = numbers[good]
    return loose


def _csv_fault(content: str, path: Path, separator: str) -> str | None:
    """Return what is wrong with the first row that does not have as many fields as the header."""
    reader = csv.reader(io.StringIO(content), delimiter=separator, strict=True)
    width = None
    try:
        for row in reader:
            if width is None:
                width = len(row)
            elif row and len(row) != width:
                return f"{path}:{reader.line_num}: broken CSV: expected {width} fields, got {len(row)}"
    except csv.Error as error:
        return f"{path}:{reader.line_num}: broken CSV: {error}"
    return None


def _csv_where(path: Path, content: str, separator: str, rows: int) -> Callable[[int], str]:
    def where(row: int) -> str:
        reader = csv.reader(io.StringIO(content), delimiter=separator)
        seen = -1  # the header
        for cells in reader:
            if cells:
                if seen == row:
                    return f"{path}:{reader.line_num}"
                seen += 1
        return f"{path} row {row + 1}"

    lines = content.count("\n") + (not content.endswith("\n"))
    if lines == rows + 1:  # one line each: no blank lines, no line breaks inside quotes
        return lambda row: f"{path}:{row + 2}"
    return where


def _read_json_lines(path: Path) -> Table:
    records: list[dict[str, Any]] = []
    numbers: list[int] = []
    faults: list[str] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line or line.isspace():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            try:
                parse_json(line, path, line=number)
            except SpecError as error:
                faults.extend(error.violations)
            continue
        if type(record) is not dict:
            faults.append(f"{path}:{number}: expected an object, got {type(record).__name__}")
            continue
        records.append(record)
        numbers.append(number)
    if faults:
        raise SpecError(*faults)
    return Table(_columns_of(records), len(records), lambda row: f"{path}:{numbers[row]}")


def _columns_of(records: list[dict[str, Any]]) -> dict[str, Any]:
    names: Iterable[str] = dict.fromkeys(name for keys in dict.fromkeys(map(tuple, records)) for name in keys)
    return {name: [record.get(name) for record in records] for name in names}


def _read_parquet(path: Path, coded: Collection[str]) -> Table:
    try:
        import pyarrow as pa  # an extra, and heavy
        import pyarrow.parquet as pq
    except ImportError:
        package = "pyarrow"
        raise MissingExtraError(package, "parquet") from None
    if not path.exists():
        msg = f"{path}: no such file"
        raise SpecError(msg)
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        msg = f"{path}: not a readable Parquet file: {reason}"
        raise SpecError(msg) from None
    if repeated := sorted({name for name in table.column_names if table.column_names.count(name) > 1}):
        raise SpecError(*(f"{path}: column {name!r} is given twice" for name in repeated))
    columns = {name: _arrow_column(table.column(name), pa, name in coded) for name in table.column_names}
    return Table(columns, table.num_rows, lambda row: f"{path} row {row + 1}")


def _arrow_column(column: Any, pa: Any, is_coded: bool) -> Any:
    """Return an Arrow column as numpy: codes where asked, else numbers with a mask, else objects."""
    kind = column.type
    if pa.types.is_dictionary(kind) or (is_coded and not pa.types.is_nested(kind)):
        encoded = column if pa.types.is_dictionary(kind) else column.dictionary_encode()
        encoded = encoded.unify_dictionaries().combine_chunks()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.chunk(0) if encoded.num_chunks else pa.array([], type=encoded.type)
        codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        return Coded(codes, encoded.dictionary.to_pylist())
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        missing = column.is_null().to_numpy() if column.null_count else None
        values = (
            column.fill_null(False if pa.types.is_boolean(kind) else 0) if column.null_count else column
        ).to_numpy()
        return values if missing is None else np.ma.array(values, mask=missing)
    if pa.types.is_nested(kind):
        return column.to_pylist()
    return column.to_numpy()
