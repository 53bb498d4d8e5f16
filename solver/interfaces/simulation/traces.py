"""Traces of traffic: Azure and BurstGPT CSV, Mooncake and OpenAI batch JSON Lines, any table by its columns."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import SpecError, Violation
from solver.interfaces.files.columns import ColumnKinds
from solver.interfaces.files.sources import Reading
from solver.interfaces.files.tables import is_table, read_table
from solver.interfaces.simulation.cells import cells_of, numbers_of
from solver.interfaces.simulation.decision_trace import is_decision_log, read_decision_trace
from solver.problem.values import describe
from solver.simulate.traffic import LONG_GAP_S, Traffic

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from solver.interfaces.files.tables import Table

TIME_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
"""Seconds in each unit of time."""

_TIME = (
    "timestamp",
    "arrivaltimestamp",
    "arrivaltime",
    "arrivedat",
    "arrival",
    "time",
    "ts",
    "ats",
    "t",
    "at",
    "requesttime",
    "starttime",
    "createdat",
    "datetime",
    "when",
)
_INPUT = (
    "contexttokens",
    "inputtokens",
    "prompttokens",
    "requesttokens",
    "prefilltokens",
    "inputlength",
    "promptlength",
    "contextlength",
    "inputlen",
    "promptlen",
    "inputtokencount",
    "prompttokencount",
    "tokensin",
)
_OUTPUT = (
    "generatedtokens",
    "outputtokens",
    "completiontokens",
    "responsetokens",
    "decodetokens",
    "outputlength",
    "completionlength",
    "responselength",
    "generatedlength",
    "outputlen",
    "outputtokencount",
    "completiontokencount",
    "tokensout",
)
_ZONE = r"(?:[Zz]|[+-]\d\d:?\d\d)\s*$"
"""What a date and time with a zone ends in."""
_LEADING_COUNT = re.compile(r"^(num|number_of|n)_")
"""Words before the name of a count, as in ``num_prefill_tokens``."""
_TASK = ("task_type", "category", "task")
_UNIT_NAMES = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("ms", "msec", "millis", "millisecond", "milliseconds"), "ms"),
    **dict.fromkeys(("us", "µs", "μs", "usec", "micros", "microsecond", "microseconds"), "us"),
    **dict.fromkeys(("ns", "nsec", "nanos", "nanosecond", "nanoseconds"), "ns"),
}
"""Units as the last word of a column's name: ``arrival_ms``, ``Time (µs)``, ``timestampMs``."""
_EPOCHS = (
    (1e17, "ns"),
    (1e14, "us"),
    (1e11, "ms"),
    (1e8, "s"),
)  # seconds since 1970 are above 1e8 since 1973
_CHARS_PER_TOKEN = 4
_BATCH_ANSWER_TOKENS = 256
"""Output tokens of a batch request that states no `max_tokens`."""

_PROMPTS = ("messages", "input", "prompt", "instructions")
_LIMITS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
"""What holds the prompt, and the most tokens of the answer, in requests to OpenAI's several endpoints."""

_NAMED_FAULTS = 3
"""Faulty rows spelled out for each rule."""


_MAX_TOKENS = 10**9
"""Tokens of a prompt or an answer at most."""


@dataclass(frozen=True, kw_only=True)
class TraceColumns:
    """Columns of a trace and the unit of its times; None: found by the usual names.

    Parameters
    ----------
    time, input_tokens, output_tokens : str, optional
        Names of columns.
    time_unit : {"s", "ms", "us", "ns"}, optional
        Of times that are numbers.
    task_type : str, optional
        Column of task types.
    """

    time: str | None = None
    input_tokens: str | None = None
    output_tokens: str | None = None
    time_unit: str | None = None
    task_type: str | None = None

    def __post_init__(self) -> None:
        if self.time_unit is not None and self.time_unit not in TIME_UNITS:
            raise SpecError(Violation("time_unit", f"expected {', '.join(TIME_UNITS)}", self.time_unit))


def read_trace(path: Path, columns: TraceColumns | None = None, *, reading: Reading | None = None) -> Traffic:
    """Return the traffic in a file.

    Parameters
    ----------
    path : Path
        CSV, JSON Lines, Parquet or Excel; or a router's log of decisions.
    columns : TraceColumns, optional
        Where its columns have other names than the usual ones.
    reading : Reading, optional
        Encoding and dialect, and where notes go: the unit of time found, rows that had to be sorted, long gaps.

    Raises
    ------
    SpecError
        When the file cannot be read, is empty, lacks a column, or holds negative or missing values.
    """
    columns = columns or TraceColumns()
    reading = Reading() if reading is None else reading
    if not is_table(path):
        raise SpecError(f"{path}: expected a trace in CSV, JSON Lines, Parquet or Excel, got {path.suffix!r}")
    if is_decision_log(path):
        return read_decision_trace(path, reading)
    return trace_of(
        path, read_table(path, ColumnKinds(number=lambda _: False), reading=reading), columns, reading
    )


def trace_of(path: Path, table: Table, columns: TraceColumns, reading: Reading) -> Traffic:
    """Return the traffic in a table; see :func:`read_trace`."""
    if not table.rows:
        raise SpecError(f"{table.where(-1)}: expected at least one request, got none")
    if "body" in table.columns and "custom_id" in table.columns:
        return _batch(path, table, reading)
    time = _column(table, columns.time, _TIME, "time")
    inputs = _column(table, columns.input_tokens, _INPUT, "input_tokens")
    outputs = _column(table, columns.output_tokens, _OUTPUT, "output_tokens")
    arrival, *sizes = _all_or_errors(
        lambda: _seconds(table, time, columns.time_unit, inputs, reading),
        lambda: _tokens(table, inputs),
        lambda: _tokens(table, outputs),
    )
    order = np.arange(len(arrival))
    if (np.diff(arrival) < 0).any():
        reading.note(f"{path.name}: times are not in order; sorted")
        order = np.argsort(arrival, kind="stable")
    arrival = arrival[order] - arrival[order[0]]
    gap = float(np.diff(arrival).max(initial=0.0))
    if gap >= LONG_GAP_S:
        reading.note(
            f"{path.name}: no request for {gap / 86_400:.1f} days; averages over time include the pause"
        )
    task_type = _task_types(table, columns.task_type)
    deadline = _deadlines(table)
    return Traffic(
        name=path.name,
        arrival_s=arrival,
        input_tokens=sizes[0][order],
        output_tokens=sizes[1][order],
        task_type=None if task_type is None else task_type[order],
        deadline_s=None if deadline is None else deadline[order],
    )


def _all_or_errors(*reads: Callable[[], NDArray[Any]]) -> list[NDArray[Any]]:
    """Return what every call returns, or raise one error with those of all that fail."""
    found: list[NDArray[Any]] = []
    problems: list[str | Violation] = []
    for read in reads:
        try:
            found.append(read())
        except SpecError as error:
            problems.extend(error.violations)
    if problems:
        raise SpecError(*problems)
    return found


def _there(table: Table) -> str:
    """Return which columns there are, as the end of an error."""
    return f"there are {describe(list(table.columns))}"


def _task_types(table: Table, given: str | None) -> NDArray[np.object_] | None:
    """Return the task types, where there is a column of them."""
    if given is not None and given not in table.columns:
        raise SpecError(f"{table.where(-1)}: no column {describe(given)} for task types; {_there(table)}")
    name = given or next((name for name in _TASK if name in table.columns), None)
    if name is None:
        return None
    return np.array(["" if cell is None else str(cell) for cell in cells_of(table.columns[name])], np.object_)


def _deadlines(table: Table) -> NDArray[np.float64] | None:
    """Return the deadlines in seconds from arrival, where there is a column of them; blank means none."""
    for name, seconds in (("deadline_s", 1.0), ("deadline_ms", 1e-3)):
        if name in table.columns:
            numbers = numbers_of(table.columns[name])
            blank = np.array([cell in (None, "") for cell in cells_of(table.columns[name])])
            _complain(table, name, "expected a number > 0", ~blank & ~(np.isfinite(numbers) & (numbers > 0)))
            return numbers * seconds
    return None


def _column(table: Table, given: str | None, usual: tuple[str, ...], what: str) -> str:
    if given is not None:
        if given not in table.columns:
            raise SpecError(f"{table.where(-1)}: no column {describe(given)} for {what}; {_there(table)}")
        return given
    plain = {_plain(name): name for name in table.columns}
    for name in usual:
        if name in plain:
            return plain[name]
    option = "--" + what.replace("_", "-") + "-column"
    msg = f"{table.where(-1)}: no column found for {what}; name it with {option}; {_there(table)}"
    raise SpecError(msg)


def _words(name: str) -> list[str]:
    """Return a column's name as words: ``arrivalTime (ms)`` is arrival, time, ms."""
    return re.findall(r"[a-zµμ]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())


def _plain(name: str) -> str:
    """Return a column's name without case, separators, unit and leading count."""
    words = _words(
        _LEADING_COUNT.sub("", name.strip().lower()) if _LEADING_COUNT.match(name.strip().lower()) else name
    )
    if len(words) > 1 and words[-1] in _UNIT_NAMES:
        words = words[:-1]
    return "".join(words)


def _complain(table: Table, name: str, rule: str, bad: NDArray[np.bool_]) -> None:
    """Raise an error of the first rows that break a rule."""
    rows = np.flatnonzero(bad)
    if not len(rows):
        return
    values = cells_of(table.columns[name])
    lines = [
        Violation(f"{table.where(int(i))}: {name}", rule, values[i])
        if values[i] not in (None, "")
        else Violation(f"{table.where(int(i))}: {name}", rule, shown="an empty cell")
        for i in rows[:_NAMED_FAULTS]
    ]
    if len(rows) > _NAMED_FAULTS:
        lines.append(
            Violation(
                f"{table.where(-1)}: {name}", rule, shown=f"{len(rows) - _NAMED_FAULTS} more rows like these"
            )
        )
    raise SpecError(*lines)


def _tokens(table: Table, name: str) -> NDArray[np.int64]:
    numbers = numbers_of(table.columns[name])
    bad = ~(np.isfinite(numbers) & (numbers >= 0) & (numbers <= _MAX_TOKENS) & (numbers == np.floor(numbers)))
    _complain(table, name, f"expected a whole number from 0 to {_MAX_TOKENS:,}", bad)
    return numbers.astype(np.int64)


def _seconds(table: Table, name: str, unit: str | None, inputs: str, reading: Reading) -> NDArray[np.float64]:
    """Return times in seconds, and note the unit that was taken."""
    values = cells_of(table.columns[name])
    numbers = numbers_of(table.columns[name])
    if np.isnan(numbers).sum() * 2 <= len(numbers):
        _complain(table, name, "expected a time >= 0", ~(np.isfinite(numbers) & (numbers >= 0)))
        if unit is None:
            unit = _unit_of(name, inputs, numbers)
            reading.note(f"{name}: taken as {unit}; --time-unit says otherwise")
        seconds: NDArray[np.float64] = (numbers - numbers.min()) * TIME_UNITS[unit]
        return seconds
    import pandas as pd

    stamps = pd.to_datetime(pd.Series(values), errors="coerce", utc=True, format="ISO8601")
    _complain(table, name, "expected a date and time", np.asarray(stamps.isna()))
    zoned = pd.Series(values).astype(str).str.contains(_ZONE)
    if zoned.any() and not zoned.all():
        reading.note(f"{name}: times without a zone are taken as UTC")
    return np.asarray((stamps - stamps.min()).dt.total_seconds(), np.float64)


def _unit_of(name: str, inputs: str, numbers: NDArray[np.float64]) -> str:
    """Return the unit by the column's name, by the size of epochs, or as Mooncake writes it; else seconds."""
    words = _words(name)
    if len(words) > 1 and words[-1] in _UNIT_NAMES:
        return _UNIT_NAMES[words[-1]]
    for least, unit in _EPOCHS:
        if numbers.min() >= least:
            return unit
    return "ms" if inputs.strip().lower() == "input_length" else "s"


def _batch(path: Path, table: Table, reading: Reading) -> Traffic:
    """Return the requests of an OpenAI batch file: all at once, prompts measured in characters."""
    inputs, outputs = [], []
    for row, body in enumerate(table.columns["body"]):
        if not isinstance(body, dict):
            raise SpecError(f"{table.where(row)}: body: expected an object, got {type(body).__name__}")
        inputs.append(max(1, _characters([body.get(name, "") for name in _PROMPTS]) // _CHARS_PER_TOKEN))
        limit = next((body[name] for name in _LIMITS if body.get(name) is not None), None)
        if limit is not None and not (type(limit) is int and 0 <= limit <= _MAX_TOKENS):
            rule = f"expected a whole number from 0 to {_MAX_TOKENS:,}"
            raise SpecError(Violation(f"{table.where(row)}: body.max_tokens", rule, limit))
        outputs.append(_BATCH_ANSWER_TOKENS if limit is None else limit)
    reading.note(
        f"{path.name}: an OpenAI batch: all requests arrive at once, {_CHARS_PER_TOKEN} characters a token, answers "
        f"of max_tokens, or {_BATCH_ANSWER_TOKENS}"
    )
    return Traffic(
        name=path.name,
        arrival_s=np.zeros(len(inputs)),
        input_tokens=np.array(inputs, np.int64),
        output_tokens=np.array(outputs, np.int64),
    )


def _characters(value: Any) -> int:
    """Return how much text there is in messages, however they are nested."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(_characters(part) for key, part in value.items() if key != "role")
    return sum(map(_characters, value)) if isinstance(value, list) else 0
