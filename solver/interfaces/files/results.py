"""Writing results, whole or not at all, and reading assignments back."""

from __future__ import annotations

import json
import math
import os
import secrets
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import MissingExtraError, SpecError
from solver.interfaces.files.documents import read_document
from solver.interfaces.files.tables import read_table
from solver.problem.agent_columns import Coded
from solver.problem.values import describe, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = [
    "RESULT_SUFFIXES",
    "check_output",
    "read_assignments",
    "write_columns",
    "write_results",
    "write_text",
]

RESULT_SUFFIXES = (".csv", ".json", ".parquet")
"""File endings of assignment files."""

_BLOCK = 50_000  # rows turned into JSON text at a time


def check_output(path: str | Path, *, suffixes: Sequence[str] | None = RESULT_SUFFIXES) -> Path:
    """Return the path when a file could be written there: to be asked before the work, not after it.

    Parameters
    ----------
    path : str or Path
        The file.
    suffixes : sequence of str, optional
        Endings it may have; None for any.

    Raises
    ------
    SpecError
        When its folder is missing or cannot be written to, it is a folder, or its ending is unknown.
    """
    path = Path(path)
    folder = path.parent
    if not folder.exists():
        msg = f"{path}: no such folder: {folder}"
        raise SpecError(msg)
    if not folder.is_dir():
        msg = f"{path}: expected a folder, got a file: {folder}"
        raise SpecError(msg)
    if path.is_dir():
        msg = f"{path}: expected the name of a file, got a folder"
        raise SpecError(msg)
    if not os.access(folder, os.W_OK | os.X_OK):
        msg = f"{path}: folder cannot be written to: {folder}"
        raise SpecError(msg)
    if suffixes is not None and path.suffix.lower() not in suffixes:
        msg = f"{path}: expected one of {', '.join(suffixes)}, got {path.suffix or 'no ending'!r}"
        raise SpecError(msg)
    return path


def write_results(
    path: str | Path,
    columns: Mapping[str, Sequence[Any] | np.ndarray[Any, Any]],
    *,
    summary: Mapping[str, Any] | None = None,
    summary_path: str | Path | None = None,
) -> list[Path]:
    """Write assignments, and a summary beside them; either every file is there in full, or none has changed.

    Parameters
    ----------
    path : str or Path
        ``.csv``, ``.json`` or ``.parquet``.
    columns : mapping of str to (n,) sequence
        Equally long columns, such as ``agent``, ``model``, ``score`` and ``reason``. None, NaN and infinite
        values are written as blanks.
    summary : mapping, optional
        What goes into the summary file, as JSON.
    summary_path : str or Path, optional
        Its name; by default that of the assignments with the ending ``.summary.json``.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    SpecError
        When a file cannot be written.
    MissingExtraError
        For Parquet without pyarrow.
    """
    final = check_output(path)
    writers: dict[Path, Callable[[Path], None]] = {
        final: lambda target: _WRITERS[final.suffix.lower()](target, columns)
    }
    if summary is not None:
        beside = final.with_suffix(".summary.json") if summary_path is None else Path(summary_path)
        text = json.dumps(_plain(summary), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        writers[check_output(beside, suffixes=(".json",))] = lambda target: _write_text(target, text)
    return _write_all(writers)


def write_columns(path: str | Path, columns: Mapping[str, Any]) -> Path:
    """Write equally long columns as CSV, JSON or Parquet, whole or not at all; see :func:`write_results`."""
    return write_results(path, columns)[0]


def write_text(path: str | Path, text: str) -> Path:
    """Write text in UTF-8, whole or not at all.

    Raises
    ------
    SpecError
        When it cannot be written.
    """
    final = check_output(path, suffixes=None)
    return _write_all({final: lambda target: _write_text(target, text)})[0]


def _write_all(writers: Mapping[Path, Callable[[Path], None]]) -> list[Path]:
    """Write every file under another name, and rename them only when all are complete."""
    with ExitStack() as stack:
        ready = [(stack.enter_context(_temporary(final)), final) for final in writers]
        for temporary, final in ready:
            with _writing(final):
                writers[final](temporary)
        for temporary, final in ready:
            with _writing(final):
                temporary.replace(final)
    return list(writers)


@contextmanager
def _writing(final: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        msg = f"{final}: cannot be written: {error.strerror or error}"
        raise SpecError(msg) from None


@contextmanager
def _temporary(final: Path) -> Iterator[Path]:
    """Yield an unused name in the folder of a file, and leave nothing under it, whatever happens."""
    temporary = final.with_name(f".{final.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _write_text(target: Path, text: str) -> None:
    with target.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        _to_disk(file)


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _finite(column: Any) -> Any:
    """Return a column with None for what is no number in JSON or a spreadsheet."""
    array = column if isinstance(column, np.ndarray) else None
    if array is not None and array.dtype.kind == "f":
        if np.isfinite(array).all():
            return array
        values = array.astype(object)
        values[~np.isfinite(array)] = None
        return values
    return column


def _write_csv(target: Path, columns: Mapping[str, Any]) -> None:
    import pandas as pd  # half a second to import; only needed here

    frame = pd.DataFrame({name: _finite(column) for name, column in columns.items()})
    with target.open("w", encoding="utf-8", newline="") as file:
        frame.to_csv(file, index=False, lineterminator="\n")
        _to_disk(file)


def _write_json(target: Path, columns: Mapping[str, Any]) -> None:
    """Write ``{"assignments": [{agent, model, ...}, ...]}``, one assignment a line."""
    names = list(columns)
    n = len(columns[names[0]]) if names else 0
    with target.open("w", encoding="utf-8", newline="\n") as file:
        file.write('{"assignments": [\n')
        for start in range(0, n, _BLOCK):
            block = [_plain(_finite(columns[name])[start : start + _BLOCK]) for name in names]
            rows = [
                json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False, allow_nan=False)
                for row in zip(*block, strict=True)
            ]
            file.write(("" if start == 0 else ",\n") + ",\n".join(rows))
        file.write("\n]}\n")
        _to_disk(file)


def _write_parquet(target: Path, columns: Mapping[str, Any]) -> None:
    try:
        import pyarrow as pa  # an extra, and heavy
        import pyarrow.parquet as pq
    except ImportError:
        package = "pyarrow"
        raise MissingExtraError(package, "parquet") from None
    arrays = {}
    for name, column in columns.items():
        finite = _finite(column)
        kind = pa.float64() if isinstance(column, np.ndarray) and column.dtype.kind == "f" else None
        arrays[name] = pa.array(finite, type=kind, from_pandas=True)
    pq.write_table(pa.table(arrays), target)


_WRITERS: dict[str, Callable[[Path, Mapping[str, Any]], None]] = {
    ".csv": _write_csv,
    ".json": _write_json,
    ".parquet": _write_parquet,
}


def _plain(value: Any) -> Any:
    """Return a value as JSON knows it; what is not finite becomes None."""
    if isinstance(value, dict) or hasattr(value, "items"):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def read_assignments(path: str | Path) -> dict[str, str | None]:
    """Return the model of each agent in an assignment file, None for the unassigned.

    Parameters
    ----------
    path : str or Path
        As :func:`write_results` writes it; JSON Lines are read too. Columns ``agent`` and ``model`` are
        needed, others are skipped.

    Raises
    ------
    SpecError
        When the file cannot be read or is broken, lacks a column, or names an agent twice.
    MissingExtraError
        For Parquet without pyarrow.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        columns, where = _json_columns(path)
    else:
        table = read_table(path, coded=["model"], text=["agent"])
        columns, where = table.columns, table.where
    if missing := [name for name in ("agent", "model") if name not in columns]:
        raise SpecError(*(f"{path}: no column {name!r}{did_you_mean(name, columns)}" for name in missing))
    agents, models = (_texts(columns[name]) for name in ("agent", "model"))
    result: dict[str, str | None] = dict(zip(agents, models, strict=True))
    lines = [
        f"{where(row)}: {name}: expected an id, got {describe(value)}"
        for name, column in (("agent", agents), ("model", models))
        for row, value in enumerate(column)
        if not isinstance(value, str) and (name == "agent" or value is not None)
    ]
    if len(result) < len(agents):
        seen: set[Any] = set()
        for row, name in enumerate(agents):
            if name in seen:
                lines.append(f"{where(row)}: agent: expected one row an agent, got {name!r} again")
            seen.add(name)
    if lines:
        raise SpecError(*lines)
    return result


def _texts(column: Any) -> list[Any]:
    """Return a column of ids as text, None where there is none."""
    if isinstance(column, Coded):
        values = np.array([*column.values, None], dtype=object)[np.asarray(column.codes)].tolist()
    else:
        values = column.tolist() if hasattr(column, "tolist") else column
    return [str(value) if type(value) is int else (None if value == "" else value) for value in values]


def _json_columns(path: Path) -> tuple[dict[str, Any], Callable[[int], str]]:
    document = read_document(path)
    rows = document.get("assignments") if isinstance(document, dict) else document
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        msg = f"{path}: expected a list of assignments, or an object with one as 'assignments'"
        raise SpecError(msg)
    named = dict.fromkeys(name for row in rows for name in row) or {"agent": None, "model": None}
    return {name: [row.get(name) for row in rows] for name in named}, lambda i: f"{path}: assignments[{i}]"
