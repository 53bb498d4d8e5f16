"""Writing results, whole or not at all."""

from __future__ import annotations

import json
import math
import os
import secrets
import stat
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import MissingExtraError, SpecError
from solver.interfaces.files.atomic_files import UNFINISHED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import IO

RESULT_SUFFIXES = (".csv", ".json", ".parquet")
"""File endings of assignment files."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a cell begins with that a spreadsheet takes for a formula."""

_LONGEST_NAME_BYTES = 240
"""Bytes of a file's name at most, so that the name of a temporary file still fits."""

_ROWS_PER_BLOCK = 50_000
"""Rows turned into JSON text at a time."""


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
    if "\0" in str(path) or len(os.fsencode(path.name)) > _LONGEST_NAME_BYTES:
        msg = f"{str(path)[:60]!r}: expected the name of a file"
        raise SpecError(msg)
    try:
        path.stat()
    except FileNotFoundError:
        pass
    except OSError as error:  # links that lead in a circle, a name that is too long, a folder that is a file
        if not isinstance(error, NotADirectoryError):
            msg = f"{path}: cannot be written: {error.strerror or error}"
            raise SpecError(msg) from None
    try:
        folder.stat()
    except FileNotFoundError:
        pass
    except OSError as error:
        msg = f"{path}: cannot be written: {error.strerror or error}"
        raise SpecError(msg) from None
    if not folder.exists():
        msg = f"{path}: no such folder: {folder}"
        raise SpecError(msg)
    if path.exists() and not path.is_dir() and not path.is_file():
        msg = f"{path}: expected a file, got a pipe or a device"
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
    excel_safe: bool = False,
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
    excel_safe : bool
        In CSV, put an apostrophe before text that a spreadsheet would take for a formula. The text is another
        one then: such a file is for reading, not for reading back.

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
    if final.suffix.lower() == ".csv":
        columns = _one_value_a_cell(columns)
        columns = _without_formulas(columns) if excel_safe else columns
    writers: dict[Path, Callable[[IO[bytes]], None]] = {
        final: lambda target: _WRITERS[final.suffix.lower()](target, columns)
    }
    if summary is not None:
        beside = summary_of(final) if summary_path is None else Path(summary_path)
        text = json.dumps(_plain(summary), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        writers[check_output(beside, suffixes=(".json",))] = lambda target: _write_text(target, text)
    return _write_all(writers)


def summary_of(path: Path) -> Path:
    """Return the name of the summary beside a file of assignments."""
    return path.with_suffix(".summary.json")


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


def _write_all(writers: Mapping[Path, Callable[[IO[bytes]], None]]) -> list[Path]:
    """Write every file under another name, and rename them only when all are complete."""
    finals = {final: final.resolve() if final.is_symlink() else final for final in writers}
    with ExitStack() as stack:
        ready = []
        for final, write in writers.items():
            with _writing(final):
                temporary, file = stack.enter_context(_temporary(finals[final]))
                write(file)
                file.flush()
                os.fsync(file.fileno())
            ready.append((temporary, finals[final]))
        with _writing(next(iter(writers))):
            UNFINISHED.finish(ready)
    return list(writers)


@contextmanager
def _writing(final: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        msg = f"{final}: cannot be written: {error.strerror or error}"
        raise SpecError(msg) from None
    except UnicodeEncodeError as error:
        msg = f"{final}: cannot be written: {error.object[error.start]!r} is half a character"
        raise SpecError(msg) from None


@contextmanager
def _temporary(final: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """Yield a new file in the folder of another, with its permissions; it is gone at the end if not renamed."""
    temporary = final.with_name(f".{final.name}.{secrets.token_hex(4)}.tmp")
    mode = stat.S_IMODE(final.stat().st_mode) if final.exists() else None
    with os.fdopen(UNFINISHED.create(temporary, mode=mode), "wb") as file:
        try:
            yield temporary, file
        finally:
            UNFINISHED.remove(temporary)


def _write_text(target: IO[bytes], text: str) -> None:
    target.write(text.encode())


def _one_value_a_cell(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return columns in which rows with several models stand once for each; an unassigned agent keeps one."""
    models = columns.get("model")
    if models is None or not any(isinstance(entry, list) for entry in models):
        return dict(columns)
    lengths = np.array([max(1, len(entry)) for entry in models])
    result: dict[str, Any] = {}
    for name, column in columns.items():
        if any(isinstance(entry, list) for entry in column):
            flat = [one for entry in column for one in (entry or [None])]
            array = np.empty(len(flat), dtype=object)
            array[:] = flat
            result[name] = array
        else:
            result[name] = np.repeat(np.asarray(column, dtype=getattr(column, "dtype", object)), lengths)
    return result


def _without_formulas(columns: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: [
            f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
            for value in column
        ]
        if not isinstance(column, np.ndarray) or column.dtype == object
        else column
        for name, column in columns.items()
    }


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


def _write_csv(target: IO[bytes], columns: Mapping[str, Any]) -> None:
    import pandas as pd  # half a second to import; only needed here

    frame = pd.DataFrame({name: _finite(column) for name, column in columns.items()})
    frame.to_csv(target, index=False, lineterminator="\n", encoding="utf-8")


def _write_json(target: IO[bytes], columns: Mapping[str, Any]) -> None:
    """Write ``{"assignments": [{agent, model, ...}, ...]}``, one assignment a line."""
    names = list(columns)
    n = len(columns[names[0]]) if names else 0
    target.write(b'{"assignments": [\n')
    for start in range(0, n, _ROWS_PER_BLOCK):
        block = [_plain(_finite(columns[name])[start : start + _ROWS_PER_BLOCK]) for name in names]
        rows = [
            json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False, allow_nan=False)
            for row in zip(*block, strict=True)
        ]
        target.write((("" if start == 0 else ",\n") + ",\n".join(rows)).encode())
    target.write(b"\n]}\n")


def _write_parquet(target: IO[bytes], columns: Mapping[str, Any]) -> None:
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


_WRITERS: dict[str, Callable[[IO[bytes], Mapping[str, Any]], None]] = {
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
