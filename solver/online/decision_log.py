"""A log of decisions as JSON Lines: written by a thread of its own, rotated, bounded in memory and on disk."""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
import queue
import secrets
import threading
import weakref
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import SpecError, Violation
from solver.load.checks import whole_problems

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.online.decision import Decision
    from solver.online.window import AgentRow
    from solver.problem.spec import Agent

LOG_VERSION = 1
"""Version of the lines; a later one adds fields and keeps the meaning of these."""

_LONGEST_CLOSE_S = 10.0


class DecisionLog:
    """Writes what a router decided, and what became of it, one JSON object a line.

    A decision only puts a record into a bounded buffer; when the disk is too slow, records are dropped and
    counted, and routing goes on. One process writes to one file. Fields: :doc:`/how-to/decision-log`.

    Parameters
    ----------
    path : str or Path
        The file written to. Full files are renamed to ``path.1``, ``path.2``, ..., older ones removed.
    max_bytes : int
        Size at which a file is full, bytes.
    files : int
        Files kept, the present one included, at least 2. Together they never exceed ``files × max_bytes``.
    buffer : int
        Records that may wait to be written.
    shared : bool
        Whether several routers on one clock may write to it, such as those of a fleet that changes. They leave
        it open when they are closed.

    Raises
    ------
    SpecError
        If a number is out of range or the file cannot be opened.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        max_bytes: int = 64 * 1024 * 1024,
        files: int = 4,
        buffer: int = 10_000,
        shared: bool = False,
    ) -> None:
        problems = whole_problems("max_bytes", max_bytes, low=4096)
        problems += whole_problems("files", files, low=2) + whole_problems("buffer", buffer, low=1)
        if problems:
            raise SpecError(*problems)
        self.path, self.shared = Path(path), shared
        self._limits = (max_bytes, files, buffer)
        self._models: tuple[str, ...] = ()
        self._now_s = 0.0
        self._began = datetime.now(UTC)
        self._start()

    def _start(self) -> None:
        """Open the file and start the thread; again in a process made by a fork."""
        max_bytes, files, buffer = self._limits
        try:
            _drop_unfinished_line(self.path)
            self._file = _RotatingLines(self.path, maxBytes=max_bytes, backupCount=files - 1)
        except OSError as error:
            problem = Violation("decision_log", "expected a file that can be written", shown=str(error))
            raise SpecError(problem) from None
        self._pid = os.getpid()
        self._prefix, self._count = secrets.token_hex(4), itertools.count()
        self._buffer: queue.Queue[dict[str, Any] | None] = queue.Queue(buffer)
        thread = threading.Thread(
            target=_write, args=(self._buffer, self._file), name="solver-decision-log", daemon=True
        )
        thread.start()
        self._finish = weakref.finalize(self, _finish, self._buffer, self._file, thread, self._pid)

    def attach(self, models: tuple[str, ...], now_s: float) -> None:
        """Learn the models of a router that will write, and the reading of its clock at this moment."""
        if self._models and self.shared:
            return
        if self._models and self._models != models:
            raise SpecError(Violation("decision_log", "expected a log of its own for each router"))
        self._models, self._now_s, self._began = models, now_s, datetime.now(UTC)

    @property
    def dropped(self) -> int:
        """Records lost because the buffer was full, a line too long, or the file not writable."""
        return self._file.dropped

    @property
    def last_error(self) -> str | None:
        """Of the last record that could not be written."""
        return self._file.last_error

    def decided(
        self,
        at_s: float,
        agent: Agent | None,
        row: AgentRow,
        net: NDArray[np.float64],
        decision: Decision,
        models: tuple[str, ...],
    ) -> None:
        """Note a decision among models, the columns of its arrays, which must not change afterwards. O(1)."""
        self._begin_in_child()
        identity = f"{self._prefix}-{next(self._count)}"
        self._put({"at_s": at_s, "of": (identity, models, agent, row, net, decision)})

    def released(self, at_s: float, lease_id: str, facts: dict[str, Any]) -> None:
        """Note what became of a decision's request. O(1)."""
        self._begin_in_child()
        self._put({"event": "release", "version": LOG_VERSION, "at_s": at_s, "lease": lease_id, **facts})

    def _begin_in_child(self) -> None:
        """Start anew in a process made by a fork, which has neither the thread nor ids of its own."""
        if self._pid != os.getpid():
            self._finish.detach()
            self._start()

    def _put(self, record: dict[str, Any]) -> None:
        record["time"] = (self._began + timedelta(seconds=record["at_s"] - self._now_s)).isoformat()
        if not self._finish.alive:
            self._file.drop("the log is closed")
            return
        try:
            self._buffer.put_nowait(record)
        except queue.Full:
            self._file.drop("the buffer is full")

    def flush(self) -> None:
        """Wait until everything noted so far is written."""
        if self._finish.alive:
            self._buffer.join()

    def close(self) -> None:
        """Write what waits, and end the thread. Later records are dropped and counted."""
        self._finish()


class _RotatingLines(RotatingFileHandler):
    """Lines in files that are renamed when full; errors are kept, never raised."""

    def __init__(self, path: Path, *, maxBytes: int, backupCount: int) -> None:
        super().__init__(path, maxBytes=maxBytes, backupCount=backupCount, encoding="ascii")
        self.dropped = 0
        self.last_error: str | None = None
        self._counting = threading.Lock()

    def drop(self, why: str) -> None:
        with self._counting:
            self.dropped += 1
            self.last_error = why

    def line(self, text: str) -> None:
        if len(text) + 1 >= self.maxBytes:
            self.drop(f"a record of {len(text)} bytes is longer than a file may be")
            return
        self.handle(logging.makeLogRecord({"msg": text}))

    def handleError(self, record: logging.LogRecord) -> None:
        import sys

        error = sys.exception()
        self.drop(f"{type(error).__name__}: {error}")


def _drop_unfinished_line(path: Path) -> None:
    """Remove what a process that was killed, or a full disk, left after the last line end."""
    if not path.is_file():
        return
    with path.open("r+b") as file:
        end = size = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(end - 65_536, 0)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            end = start if found < 0 else start + found + 1
            if found >= 0:
                break
        if end < size:
            file.truncate(end)


def _write(waiting: queue.Queue[dict[str, Any] | None], file: _RotatingLines) -> None:
    """Write records until a None comes. Holds no reference to the log itself."""
    while True:
        record = waiting.get()
        try:
            if record is None:
                return
            of = record.pop("of", None)
            if of is not None:
                record = _decision_line(*of, at_s=record["at_s"], time=record["time"])
            file.line(json.dumps(record, allow_nan=False, separators=(",", ":")))
        except (TypeError, ValueError) as error:
            file.drop(f"{type(error).__name__}: {error}")
        finally:
            waiting.task_done()


def _finish(
    waiting: queue.Queue[dict[str, Any] | None], file: _RotatingLines, thread: threading.Thread, pid: int
) -> None:
    if pid != os.getpid() or thread is threading.current_thread():
        return
    try:
        waiting.put(None, timeout=_LONGEST_CLOSE_S)
    except queue.Full:
        file.drop("the file could not be written before closing")
        return
    thread.join(_LONGEST_CLOSE_S)
    file.close()


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _by_model(models: tuple[str, ...], values: NDArray[np.float64]) -> dict[str, float]:
    """Return finite values by model id."""
    return {
        model: value
        for model, value in zip(models, values.tolist(), strict=True)
        if value == value and abs(value) != math.inf
    }


def _features(row: AgentRow) -> str:
    """Return a hash of everything the choice was made from except the live load."""
    digest = blake2b(row.scores.tobytes(), digest_size=8)
    for array in (row.service_s, row.cost_usd):
        digest.update(b"-" if array is None else array.tobytes())
    digest.update(repr((row.unserved, row.tokens, row.tenant)).encode())
    return digest.hexdigest()


def _decision_line(
    identity: str,
    models: tuple[str, ...],
    agent: Agent | None,
    row: AgentRow,
    net: NDArray[np.float64],
    decision: Decision,
    *,
    at_s: float,
    time: str,
) -> dict[str, Any]:
    line: dict[str, Any] = {
        "event": "decision",
        "version": LOG_VERSION,
        "id": identity,
        "time": time,
        "at_s": at_s,
        "agent": None if agent is None else agent.id,
        "tokens": row.tokens,
        "features": _features(row),
    }
    if agent is not None:
        line |= {
            "task_type": agent.task_type,
            "tenant": agent.tenant,
            "priority": agent.priority,
            "input_tokens": agent.input_tokens,
            "output_tokens": agent.output_tokens,
        }
    line["scores"] = _by_model(models, row.scores)
    line["prices"] = _by_model(models, row.scores - np.where(np.isfinite(net), net, np.nan))
    if row.service_s is not None:
        line["service_s"] = _by_model(models, row.service_s)
    if row.cost_usd is not None:
        line["expected_usd"] = _by_model(models, row.cost_usd)
    refusal = decision.refusal
    return line | {
        "chosen": decision.model,
        "score": decision.score if decision else None,
        "price": _finite(decision.price) if decision else None,
        "propensity": 1.0,
        "runner_up": decision.runner_up,
        "margin": _finite(decision.margin) if decision else None,
        "reason": decision.reason,
        "retry_after_s": None if refusal is None else _finite(refusal.retry_after_s),
        "lease": None if decision.lease is None else decision.lease.lease_id,
    }
