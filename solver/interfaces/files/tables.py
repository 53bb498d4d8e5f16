"""Tables in CSV, JSON Lines, Parquet and Excel, read as columns."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from solver.errors import SpecError
from solver.interfaces.files.arrow_tables import PARQUET_SUFFIXES, read_parquet
from solver.interfaces.files.columns import ColumnKinds, Table
from solver.interfaces.files.csv_tables import CSV_SUFFIXES, read_csv
from solver.interfaces.files.documents import check_plain, parse_json
from solver.interfaces.files.excel_tables import EXCEL_SUFFIXES, read_excel
from solver.interfaces.files.library_errors import located_errors
from solver.interfaces.files.sources import Reading, content_suffix, read_text

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["TABLE_SUFFIXES", "Table", "conversion_hint", "is_table", "read_table"]

_JSON_LINES = (".jsonl", ".ndjson")
TABLE_SUFFIXES = (*CSV_SUFFIXES, *_JSON_LINES, *PARQUET_SUFFIXES, *EXCEL_SUFFIXES)
"""File endings of tables; those of text may be followed by ``.gz`` or ``.zst``."""

_ALIENS = (
    dict.fromkeys(
        (".xls", ".xlsb", ".ods", ".fods", ".numbers", ".html", ".htm", ".xml"), "save it as .xlsx or CSV"
    )
    | dict.fromkeys((".zip", ".tar", ".tgz", ".7z", ".bz2", ".xz"), "unpack it first")
    | dict.fromkeys(
        (".feather", ".arrow", ".orc", ".avro", ".pkl", ".rds", ".dta", ".sav"), "save it as Parquet or CSV"
    )
)
_REPEATABLE = re.compile(r'"(?:[^"\\]|\\.)*"\s*:')
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_NESTED_FIELD = "resources"
"""Field of an agent in JSON that holds a mapping; a table has one column for each of its keys."""


def is_table(path: Path) -> bool:
    """Return whether a file is a table, by the ending of its name."""
    return content_suffix(path) in TABLE_SUFFIXES


def conversion_hint(path: Path) -> str:
    """Return how to convert a file of a kind that is not read, or nothing."""
    suffix = path.suffix.lower()
    return f"; {_ALIENS[suffix]}" if suffix in _ALIENS else ""


def read_table(
    path: Path,
    kinds: ColumnKinds | None = None,
    *,
    reading: Reading | None = None,
    first_name: str | None = None,
) -> Table:
    """Return the columns of a table, by the ending of its name.

    Parameters
    ----------
    path : Path
        One of :data:`TABLE_SUFFIXES`.
    kinds : ColumnKinds, optional
        What the columns hold.
    reading : Reading, optional
        Encoding and dialect where they are known, limits, and where notes go.
    first_name : str, optional
        Name of a first column without one that does not number the rows.

    Raises
    ------
    SpecError
        When the file cannot be read or is broken, with the line where there is one.
    MissingExtraError
        For Parquet without pyarrow, and workbooks without openpyxl.
    """
    reading = Reading() if reading is None else reading
    kinds = ColumnKinds() if kinds is None else kinds
    suffix = content_suffix(path)
    with located_errors(path):
        if suffix in CSV_SUFFIXES:
            return Table(*read_csv(path, reading, kinds, first_name))
        if suffix in _JSON_LINES:
            return _read_json_lines(path, reading)
        if suffix in PARQUET_SUFFIXES:
            return read_parquet(path, reading, kinds, first_name)
        if suffix in EXCEL_SUFFIXES:
            return read_excel(path, reading, kinds, first_name)
    expected = f"expected a table ({', '.join(TABLE_SUFFIXES)})"
    msg = f"{path}: {expected}, got {suffix or 'no ending'!r}{conversion_hint(path)}"
    raise SpecError(msg)


def _read_json_lines(path: Path, reading: Reading) -> Table:
    records: list[dict[str, Any]] = []
    numbers: list[int] = []
    faults: list[str] = []
    for number, line in enumerate(read_text(path, reading).split("\n"), start=1):
        if not line or line.isspace():
            continue
        try:
            record = _record(line, path, number)
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

    def where(row: int) -> str:
        return f"{path}:{numbers[row] if row >= 0 else (numbers or [1])[0]}"

    def column_at(name: str) -> str:
        key = name.partition(".")[0] if name.startswith(f"{_NESTED_FIELD}.") else name
        return where(next((row for row, record in enumerate(records) if key in record), -1))

    return Table(_columns_of(records), len(records), where, column_at)


def _record(line: str, path: Path, number: int) -> Any:
    """Return the value of one line; the careful parser runs only where a quick look cannot vouch for it."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return parse_json(line, path, line=number)
    if _SURROGATE.search(line) or (type(record) is dict and _might_repeat(record, line)):
        return parse_json(line, path, line=number)
    if type(record) is dict and any(type(value) in (dict, list) for value in record.values()):
        check_plain(record, f"{path}:{number}")
    return record


def _might_repeat(record: dict[str, Any], line: str) -> bool:
    """Return whether a line may name a key twice: it has more quoted names before colons than keys were kept."""
    return line.count(":") > len(record) and len(_REPEATABLE.findall(line)) > len(record)


def _columns_of(records: list[dict[str, Any]]) -> dict[str, Any]:
    if any(type(record.get(_NESTED_FIELD)) is dict for record in records):
        records = [_flattened(record) for record in records]
    names: Iterable[str] = dict.fromkeys(name for keys in dict.fromkeys(map(tuple, records)) for name in keys)
    return {name: [record.get(name) for record in records] for name in names}


def _flattened(record: dict[str, Any]) -> dict[str, Any]:
    inner = record.get(_NESTED_FIELD)
    if type(inner) is not dict:
        return record
    rest = {name: value for name, value in record.items() if name != _NESTED_FIELD}
    return rest | {f"{_NESTED_FIELD}.{name}": value for name, value in inner.items()}
