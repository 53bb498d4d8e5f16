"""Reading a log of decisions back: for an explanation of one of them, and as a trace of traffic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import ConfigDict, Field

from solver.errors import SpecError, describe
from solver.online.decision_log import LOG_VERSION
from solver.problem.spec import Frozen

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Record(Frozen):
    model_config = ConfigDict(extra="ignore")  # later versions may add fields

    version: int = Field(ge=1)
    time: str
    at_s: float


class DecisionRecord(_Record):
    """One decision. Fields: :doc:`/how-to/decision-log`."""

    event: Literal["decision"]
    id: str
    agent: str | None = None
    task_type: str | None = None
    tenant: str | None = None
    priority: float = 1.0
    input_tokens: int | None = None
    output_tokens: int | None = None
    tokens: float = 0.0
    features: str
    scores: dict[str, float]
    prices: dict[str, float]
    service_s: dict[str, float] | None = None
    expected_usd: dict[str, float] | None = None
    chosen: str | None
    score: float | None
    price: float | None
    propensity: float
    runner_up: str | None = None
    margin: float | None = None
    reason: str
    retry_after_s: float | None = None
    lease: str | None


class ReleaseRecord(_Record):
    """What became of a decision's request. Fields: :doc:`/how-to/decision-log`."""

    event: Literal["release"]
    lease: str
    latency_ms: float | None = None
    tokens: int | None = None
    cost_usd: float | None = None
    success: bool
    outcome: str


_RECORD_KINDS: dict[object, type[DecisionRecord | ReleaseRecord]] = {
    "decision": DecisionRecord,
    "release": ReleaseRecord,
}


def read_decisions(path: str | Path) -> Iterator[DecisionRecord | ReleaseRecord]:
    """Yield the records of a log, oldest first, the files it was rotated to included.

    Parameters
    ----------
    path : str or Path
        As the log was given.

    Raises
    ------
    SpecError
        If there is no such file, or a line is not a record; with file and line number.
    """
    newest = Path(path)
    files = [newest] if newest.is_file() else []
    older = newest
    while (older := newest.with_name(f"{newest.name}.{len(files) + (not newest.is_file())}")).is_file():
        files.append(older)
    if not files:
        msg = f"{newest}: no such log of decisions"
        raise SpecError(msg)
    for file in reversed(files):
        try:
            with file.open(encoding="utf-8") as lines:
                for number, line in enumerate(lines, 1):
                    if line.endswith("\n"):  # the last line may be being written
                        yield _record(line, f"{file}:{number}")
        except (OSError, UnicodeDecodeError) as error:
            msg = f"{file}: cannot be read: {error}"
            raise SpecError(msg) from None


def _record(line: str, where: str) -> DecisionRecord | ReleaseRecord:
    try:
        given = json.loads(line)
    except (ValueError, RecursionError) as error:
        msg = f"{where}: expected a JSON object: {error}"
        raise SpecError(msg) from None
    event = given.get("event") if isinstance(given, dict) else None
    kind = _RECORD_KINDS.get(event) if isinstance(event, str) else None
    if kind is None:
        msg = f"{where}: expected a record with the event 'decision' or 'release'"
        raise SpecError(msg)
    version = given.get("version")
    if isinstance(version, int) and version > LOG_VERSION:
        msg = f"{where}: expected version {LOG_VERSION} or less, got {version}; a newer release wrote it"
        raise SpecError(msg)
    try:
        return kind.model_validate(given)
    except SpecError as error:
        raise SpecError(*(f"{where}: {violation}" for violation in error.violations)) from None


def find_decision(path: str | Path, name: str) -> tuple[DecisionRecord, ReleaseRecord | None]:
    """Return the newest decision of that agent, lease or id, and its release where it was noted.

    Raises
    ------
    SpecError
        As :func:`solver.read_decisions`, or if there is none.
    """
    found: DecisionRecord | None = None
    released: ReleaseRecord | None = None
    for record in read_decisions(path):
        if isinstance(record, DecisionRecord):
            if name in (record.agent, record.lease, record.id):
                found, released = record, None
        elif found is not None and record.lease == found.lease:
            released = record
    if found is None:
        msg = f"{path}: no decision on an agent, lease or id {describe(name)}"
        raise SpecError(msg)
    return found, released
