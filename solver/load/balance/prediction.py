"""How long a request will take on each model, learned from finished ones, with honest errors."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.clock import Clock, MonotonicClock
from solver.errors import SpecError
from solver.load.balance.latency_line import LatencyLine
from solver.load.checks import positive_problems
from solver.load.fork import renewed_after_fork

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from solver.load.balance.latency_line import Coefficients
    from solver.load.request_outcome import Outcome
    from solver.problem.spec import Model


_TOKENS_PER_UNIT = 1000.0
"""Tokens in one unit of a regressor: in thousands the normal matrix is well conditioned."""

_TOKEN_SCALE = np.array([1.0, _TOKENS_PER_UNIT, _TOKENS_PER_UNIT])
"""Units of the regressors: requests, and tokens in and out."""

_MIN_DURATION_MS = 1e-9
"""Duration of a request that takes no time: others are divided by it."""

_DEFAULT_LINE: Coefficients = (500.0, 20.0, 20_000.0)
_DEFAULT_MS = np.array(_DEFAULT_LINE)
"""Coefficients before anything is known: half a second to the first token, then 50 tokens a second."""

_FEW_ANSWERS = 8
"""Answers from which the longest of them tells what is long."""

_CACHED_TABLES = 4
"""Tuples of models whose tables are kept: those of one router and a few balancers."""

_PATCHED_MODELS = 16
"""Models observed since the last prediction up to which a table is patched instead of made anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How good the predictions for a model have been, each made before its outcome was learned from.

    Parameters
    ----------
    requests : float
        Predictions judged, decayed with time.
    mean_ms, absolute_error_ms, bias_ms : float
        Mean latency, mean absolute error, and mean of predicted minus actual, milliseconds.
    relative_error : float
        Absolute error over mean latency.
    """

    requests: float
    mean_ms: float
    absolute_error_ms: float
    bias_ms: float
    relative_error: float


class _Fleet:
    """Where the models of one fleet stand in the arrays of what was learned."""

    __slots__ = ("average", "column", "lines", "models", "row", "stated", "unknown")

    def __init__(self, models: tuple[Model, ...]) -> None:
        self.models = models
        self.column = {model.id: j for j, model in enumerate(models)}
        self.stated = np.array([_stated(model) for model in models], np.float64).reshape(-1, 3)
        self.lines = -1
        self.row = np.zeros(len(models), np.intp)
        self.unknown = np.ones(len(models), np.bool_)
        self.average: tuple[NDArray[np.intp], ...] = ()  # by coefficient: columns the average stands for

    def assumed(self, name: str) -> Coefficients:
        """Return what a model states, and the usual where it does not."""
        stated = self.stated[self.column[name]]
        a, b, c = np.where(stated == stated, stated, _DEFAULT_MS).tolist()
        return a, b, c

    def find(self, lines: dict[str, LatencyLine]) -> bool:
        """Look the models up again where lines are new, or were dropped; return whether any were."""
        if len(lines) == self.lines:
            return False
        found = [lines.get(model.id) for model in self.models]
        self.row = np.array([0 if line is None else line.row for line in found], np.intp)
        self.unknown = np.array([line is None for line in found], np.bool_)
        guessed = self.unknown[:, None] & (self.stated != self.stated)  # neither observed nor stated
        self.average = tuple(np.flatnonzero(guessed[:, k]) for k in range(3))
        self.lines = len(lines)
        return True


class _Table:
    """What is known of the models of a fleet, and who was observed since.

    Attributes
    ----------
    fleet : _Fleet
        The models.
    per_unit : (3, m) float64
        Milliseconds a request, an input token, an output token. Replaced, never changed.
    observed : set of str
        Models with observations that ``per_unit`` does not contain.
    """

    __slots__ = ("fleet", "observed", "per_unit")

    def __init__(self, models: tuple[Model, ...]) -> None:
        self.fleet = _Fleet(models)
        self.per_unit: NDArray[np.float64] = np.empty((3, 0))
        self.observed: set[str] = set()


class CompletionPredictor:
    """Predicts completion times from tokens in and out and the observed speed of each model.

    Exponentially decayed least squares of latency on (1, input tokens, output tokens), coefficients kept at
    or above zero; O(1) memory a model. A model without observations is predicted from the facts it states
    (``latency_s``, ``output_tokens_per_second``), or else like the average of the others. Feed it with
    ``tracker.listen(predictor.observe)``. Thread-safe.

    Parameters
    ----------
    half_life_s : float
        Seconds after which an observation weighs half.
    clock : Clock, optional
        Default: the machine's monotonic clock.
    """

    def __init__(self, *, half_life_s: float = 300.0, clock: Clock | None = None) -> None:
        if problems := positive_problems("half_life_s", half_life_s):
            raise SpecError(*problems)
        self._half_life_s = half_life_s
        self._clock = clock or MonotonicClock()
        # A finalizer may record while its own thread is in here:
        self._lock = renewed_after_fork(self, "_lock", threading.RLock)
        self._lines: dict[str, LatencyLine] = {}
        self._unsolved: set[str] = set()
        self._learned = np.zeros((8, 3))  # coefficients by row of a line
        self._errors = np.zeros(8)  # standard deviation of the errors likewise, NaN before the first
        self._tables: dict[int, _Table] = {}
        self._answers = self._longest = 0

    def observe(self, outcome: Outcome) -> None:
        """Learn from one finished request; failed ones say nothing about completion times."""
        if not outcome.success:
            return
        with self._lock:
            now = self._clock.now()
            self._answers += 1
            self._longest = max(self._longest, outcome.output_tokens or 0)
            line = self._lines.get(outcome.model)
            if line is None:
                line = LatencyLine(len(self._lines), now, self._assumed(outcome.model))
                self._lines[outcome.model] = line
            x, y = line.sizes(outcome.input_tokens, outcome.output_tokens)
            if now > line.at_s:
                line.age(0.5 ** ((now - line.at_s) / self._half_life_s), now)
            if line.count > 0:  # judge the prediction before learning the answer
                a, b, c = line.coefficients()
                line.judge(a + b * x + c * y - outcome.latency_ms)
            line.learn(x, y, outcome.latency_ms)
            self._unsolved.add(outcome.model)
            for table in self._tables.values():
                table.observed.add(outcome.model)

    def forget(self, model: str) -> None:
        """Forget the requests of a model. O(models)."""
        with self._lock:
            line = self._lines.pop(model, None)
            if line is None:
                return
            self._unsolved.discard(model)
            last = max(self._lines.values(), key=lambda other: other.row, default=line)
            if last.row > line.row:  # rows stay without gaps
                self._learned[line.row] = self._learned[last.row]
                self._errors[line.row] = self._errors[last.row]
                last.row = line.row
            for table in self._tables.values():
                table.fleet.lines = -1
                table.observed.discard(model)

    @property
    def longest_answer(self) -> float:
        """Most tokens seen in an answer; infinite before there were a few that told."""
        return self._longest if self._longest and self._answers >= _FEW_ANSWERS else math.inf

    def error_ms(self, model: str) -> float:
        """Return the standard deviation of the errors of a model's predictions, milliseconds.

        Where none has been judged yet, the mean of the other models'; 0 where no model has any. O(1) for a model
        with errors, else O(models).
        """
        with self._lock:
            line = self._lines.get(model)
            if line is not None and line.judged > 0:
                return line.error_ms
            if not self._lines:
                return 0.0
            self._solve()
            errors = self._errors[: len(self._lines)]
            judged = errors[errors == errors]  # not NaN
            return float(np.add.reduce(judged)) / len(judged) if len(judged) else 0.0

    def _table(self, models: tuple[Model, ...]) -> _Table:
        """Return what is remembered of a fleet, which is the same as long as the tuple is. Under the lock."""
        table = self._tables.get(id(models))
        if table is None or table.fleet.models is not models:
            while len(self._tables) >= _CACHED_TABLES and id(models) not in self._tables:
                del self._tables[next(iter(self._tables))]
            table = self._tables[id(models)] = _Table(models)
            for name in table.fleet.column.keys() & self._lines.keys():
                line = self._lines[name]
                line.assumed, line.solved = table.fleet.assumed(name), None
                self._unsolved.add(name)
                for other in self._tables.values():
                    other.observed.add(name)
        return table

    def _assumed(self, name: str) -> Coefficients:
        """Return the line that a model's stated facts imply, where a fleet with it is known. Under the lock."""
        for table in self._tables.values():
            if name in table.fleet.column:
                return table.fleet.assumed(name)
        return _DEFAULT_LINE

    def _estimates(self, fleet: _Fleet) -> NDArray[np.float64]:
        """Return the coefficients of every model, (m, 3). O(m), under the lock."""
        self._solve()
        known = self._learned[: len(self._lines)]
        if not len(known):
            return np.where(fleet.stated == fleet.stated, fleet.stated, _DEFAULT_MS)
        average = np.add.reduce(known) / len(known)
        guessed = np.where(fleet.stated == fleet.stated, fleet.stated, average)
        return np.where(fleet.unknown[:, None], guessed, known[fleet.row])

    def _per_unit(self, models: tuple[Model, ...]) -> NDArray[np.float64]:
        """Return the present coefficients a request and a token, (3, m). O(1) for each model observed since."""
        table = self._tables.get(id(models))
        if (
            table is not None
            and table.fleet.models is models
            and not table.observed
            and table.fleet.lines >= 0
        ):
            return table.per_unit
        with self._lock:
            table = self._table(models)
            fleet, observed = table.fleet, table.observed
            if fleet.find(self._lines) or len(observed) > _PATCHED_MODELS:
                per_unit: NDArray[np.float64] = (self._estimates(fleet) / _TOKEN_SCALE).T.copy()
                np.maximum(per_unit[0], _MIN_DURATION_MS, out=per_unit[0])
            else:
                per_unit = table.per_unit.copy()
                self._patch(per_unit, fleet, observed)
            table.per_unit = per_unit
            observed.clear()
        return per_unit

    def _patch(self, per_unit: NDArray[np.float64], fleet: _Fleet, observed: set[str]) -> None:
        """Bring coefficients up to date for a few models, and for those the average stands for."""
        per_request, per_input, per_output = per_unit
        for name in observed & fleet.column.keys():
            column = fleet.column[name]
            request_ms, input_ms, output_ms = self._lines[name].coefficients()
            per_request[column] = max(request_ms, _MIN_DURATION_MS)
            per_input[column] = input_ms / _TOKENS_PER_UNIT
            per_output[column] = output_ms / _TOKENS_PER_UNIT
        if self._lines and any(map(len, fleet.average)):
            self._solve()
            average = (np.add.reduce(self._learned[: len(self._lines)]) / len(self._lines)).tolist()
            per_request[fleet.average[0]] = max(average[0], _MIN_DURATION_MS)
            per_input[fleet.average[1]] = average[1] / _TOKENS_PER_UNIT
            per_output[fleet.average[2]] = average[2] / _TOKENS_PER_UNIT

    def _solve(self) -> None:
        """Bring the arrays up to date with what was observed. Under the lock."""
        while len(self._learned) < len(self._lines):
            self._learned = np.concatenate([self._learned, np.zeros_like(self._learned)])
            self._errors = np.concatenate([self._errors, np.zeros_like(self._errors)])
        for name in self._unsolved:
            line = self._lines[name]
            self._learned[line.row] = line.coefficients()
            self._errors[line.row] = line.error_ms
        self._unsolved.clear()

    def predict_ms(
        self,
        models: tuple[Model, ...],
        input_tokens: Sequence[float] | NDArray[np.float64],
        output_tokens: Sequence[float] | NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Return predicted service times, (n, m) float64, milliseconds, above zero.

        Parameters
        ----------
        models : tuple of Model
            The m columns.
        input_tokens, output_tokens : sequence of n float
            Expected sizes.
        """
        size = np.array([[1.0] * len(input_tokens), input_tokens, output_tokens], np.float64)
        predicted: NDArray[np.float64] = np.dot(size.T, self._per_unit(models))
        return predicted

    def calibration(self) -> dict[str, Calibration]:
        """Return how good the predictions have been, for every model with at least two outcomes."""
        with self._lock:
            report = {}
            for name, line in self._lines.items():
                if line.judged <= 0:
                    continue
                mean, off = line.right[0] / line.left[0], line.absolute / line.judged
                report[name] = Calibration(
                    requests=line.judged,
                    mean_ms=mean,
                    absolute_error_ms=off,
                    bias_ms=line.signed / line.judged,
                    relative_error=off / mean if mean > 0 else 0.0,
                )
            return report


def _stated(model: Model) -> tuple[float, float, float]:
    """Return the coefficients that a model's stated facts imply, NaN where it states none."""
    request_ms = math.nan if model.latency_s is None else 1000.0 * model.latency_s
    speed = model.output_tokens_per_second
    return request_ms, math.nan, math.nan if speed is None else 1e6 / speed
