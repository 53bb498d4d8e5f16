"""Logs of decisions as traces: arrivals, sizes and scores as they were when requests were decided."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from solver.errors import SpecError
from solver.interfaces.files.sources import Reading, open_file
from solver.online.decision_records import DecisionRecord, ReleaseRecord, read_decisions
from solver.simulate.traffic import RecordedScores, Traffic

if TYPE_CHECKING:
    from pathlib import Path

_LONGEST_RECORD = 1_000_000  # bytes of the first line that are looked at
_UNKNOWN_ANSWER = 256  # tokens of an answer that nothing is recorded about
_UNKNOWN_PROMPT = 500


def is_decision_log(path: Path) -> bool:
    """Return whether a file is a log of decisions: JSON Lines whose first record has a known event."""
    try:
        with open_file(path, Reading()) as lines:
            first = json.loads(lines.readline(_LONGEST_RECORD))
    except (SpecError, OSError, ValueError, RecursionError):  # what is wrong with it is said when it is read
        return False
    return isinstance(first, dict) and first.get("event") in ("decision", "release")


def read_decision_trace(path: Path, reading: Reading) -> Traffic:
    """Return the requests of a log of decisions.

    A request arrives when it was decided. Its answer has the tokens of its release less those of its prompt, else
    the expected ones of the decision, else 256. Its scores are what is known of every model.

    Raises
    ------
    SpecError
        When the log cannot be read, or has no decision.
    """
    decisions: list[DecisionRecord] = []
    released: dict[str, ReleaseRecord] = {}
    for record in read_decisions(path):
        if isinstance(record, DecisionRecord):
            decisions.append(record)
        else:
            released[record.lease] = record
    if not decisions:
        raise SpecError(f"{path}: expected at least one request, got none")
    decisions.sort(key=lambda record: record.at_s)
    models = tuple(dict.fromkeys(name for record in decisions for name in record.scores))
    column = {name: j for j, name in enumerate(models)}
    scores = np.full((len(decisions), len(models)), np.nan)
    inputs, outputs, measured = [], [], 0
    for row, record in enumerate(decisions):
        for name, score in record.scores.items():
            scores[row, column[name]] = score
        prompt = _UNKNOWN_PROMPT if record.input_tokens is None else record.input_tokens
        end = None if record.lease is None else released.get(record.lease)
        if end is not None and end.tokens is not None:
            measured += 1
            answer = end.tokens - prompt if end.tokens > prompt else end.tokens
        else:
            answer = record.output_tokens or _UNKNOWN_ANSWER
        inputs.append(prompt)
        outputs.append(answer)
    reading.note(
        f"{path.name}: a log of {len(decisions):,} decisions; {measured:,} have measured answers, the others expected "
        f"ones; scores are as they were known then"
    )
    task_type = np.array([record.task_type or "" for record in decisions], np.object_)
    arrival = np.array([record.at_s for record in decisions])
    return Traffic(
        name=path.name,
        arrival_s=arrival - arrival[0],
        input_tokens=np.array(inputs, np.int64),
        output_tokens=np.array(outputs, np.int64),
        task_type=task_type if any(task_type) else None,
        recorded=RecordedScores(models=models, scores=scores) if models else None,
    )
