"""Sheets of Excel workbooks."""

from __future__ import annotations

import datetime
import io
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

from solver.errors import MissingExtraError, SpecError
from solver.interfaces.files.columns import ColumnKinds, Table
from solver.interfaces.files.headers import named_columns
from solver.interfaces.files.sources import read_bytes
from solver.problem.values import describe, did_you_mean

if TYPE_CHECKING:
    from pathlib import Path

    from solver.interfaces.files.sources import Reading

EXCEL_SUFFIXES = (".xlsx", ".xlsm")
"""File endings of workbooks."""

_MB = 1_000_000
_EXPLAINED_MB = 2
"""Megabytes up to which a workbook is read a second time to say why cells are empty."""

_EXPLAINED_CELLS = 200_000
"""Cells, empty ones between others included, up to which this is done."""

_NAMED_CELLS = 5
"""Cells named in an error."""

_LARGEST_RATIO = 200
"""Ratio of decompressed to compressed size from which a file is refused as a decompression bomb."""


def read_excel(path: Path, reading: Reading, kinds: ColumnKinds, first_name: str | None) -> Table:
    """Return the columns of a sheet; the first row that holds anything names them.

    Raises
    ------
    SpecError
        When the file cannot be read, is no workbook, or lacks the sheet.
    MissingExtraError
        Without openpyxl.
    """
    data = read_bytes(path, reading)
    title, rows = _filled_rows(path, data, reading)
    if not rows:
        msg = f"{path}: sheet {describe(title)}: expected a row with the names of the columns, got nothing"
        raise SpecError(msg)
    if any(value is None for _, row in rows for value in row) and len(data) <= _EXPLAINED_MB * _MB:
        _note_lost_values(path, data, title, reading)
    first, header = rows[0]
    body = rows[1:]
    width = max(len(row) for _, row in rows)
    columns = [[row[k] if k < len(row) else None for _, row in body] for k in range(width)]
    written = [str(header[k]) if k < len(header) and header[k] is not None else "" for k in range(width)]
    names = named_columns(
        written,
        lambda position: [value for value in columns[position] if value not in (None, "")],
        where=f"{path} row {first}",
        reading=reading,
        first_name=first_name,
    )
    table = {
        name: [_as_text(value) for value in columns[position]] if kinds.is_text(name) else columns[position]
        for position, name in names.items()
    }
    return Table(table, len(body), lambda row: f"{path} row {body[row][0] if row >= 0 else first}")


def _filled_rows(path: Path, data: bytes, reading: Reading) -> tuple[str, list[tuple[int, tuple[Any, ...]]]]:
    """Return the title of the sheet, and its rows that hold anything, by number."""
    try:
        import openpyxl  # an extra
    except ImportError:
        package = "openpyxl"
        raise MissingExtraError(package, "excel") from None
    _check_archive(path, data, reading)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about styles and extensions, which are not read
        try:
            book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
            sheet = _sheet(path, book, reading)
            sheet.reset_dimensions()  # the size written in the file may be any
            rows = enumerate(sheet.iter_rows(values_only=True), 1)
            return sheet.title, [(number, row) for number, row in rows if _filled(row)]
        except SpecError:
            raise
        except Exception as error:  # openpyxl raises whatever a broken part of the archive makes it raise
            reason = describe(str(error).partition("\n")[0])[1:-1]
            msg = f"{path}: not a readable Excel workbook ({reason}); save it as CSV, or with cells alone"
            raise SpecError(msg) from error


def _note_lost_values(path: Path, data: bytes, title: str, reading: Reading) -> None:
    """Say which cells look filled to whoever opens the workbook and are read as empty."""
    import openpyxl  # an extra

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        formulas = openpyxl.load_workbook(io.BytesIO(data))[title]
        if formulas.max_row * formulas.max_column > _EXPLAINED_CELLS:
            return
        values = openpyxl.load_workbook(io.BytesIO(data), data_only=True)[title]
    lost = [
        cell.coordinate
        for row in formulas.iter_rows()
        for cell in row
        if cell.data_type == "f" and values[cell.coordinate].value is None
    ]
    if lost:
        reading.note(
            f"{path}: {_cells(lost)}: formulas without a value, read as empty; open the workbook in a spreadsheet "
            "program and save it again"
        )
    merged = sorted(str(area) for area in formulas.merged_cells.ranges)
    if merged:
        reading.note(
            f"{path}: merged cells {_cells(merged)}: only the first cell of each holds a value, the others are empty"
        )


def _cells(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED_CELLS:,} more" if len(names) > _NAMED_CELLS else ""
    return ", ".join(names[:_NAMED_CELLS]) + more


def _check_archive(path: Path, data: bytes, reading: Reading) -> None:
    """Refuse what is no archive, and what would grow beyond the limit."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, OSError):
        msg = f"{path}: not a readable Excel workbook; save it as .xlsx or as CSV"
        raise SpecError(msg) from None
    if size > reading.max_mb * _MB or size > max(50 * _MB, _LARGEST_RATIO * len(data)):
        msg = f"{path}: expected a workbook, got {len(data):,} bytes that grow to {size:,}; save it as CSV"
        raise SpecError(msg)


def _sheet(path: Path, book: Any, reading: Reading) -> Any:
    sheets = {sheet.title: sheet for sheet in book.worksheets}
    if reading.sheet is not None:
        if reading.sheet not in sheets:
            hint = did_you_mean(reading.sheet, sheets)
            msg = f"{path}: no sheet {describe(reading.sheet)}{hint}; there are {describe(list(sheets))}"
            raise SpecError(msg)
        return sheets[reading.sheet]
    if not sheets:
        msg = f"{path}: expected a sheet of cells, got none"
        raise SpecError(msg)
    name = next(iter(sheets))
    if len(sheets) > 1:
        reading.note(f"{path}: sheet {describe(name)} of {len(sheets)} is read; --sheet names another")
    return sheets[name]


def _filled(row: tuple[Any, ...]) -> bool:
    return any(value not in (None, "") for value in row)


def _as_text(value: Any) -> Any:
    """Return numbers and dates in a column of text as they are shown."""
    if isinstance(value, datetime.datetime):
        return value.date().isoformat() if value.time() == datetime.time() else value.isoformat(" ")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value) if isinstance(value, int) else value
