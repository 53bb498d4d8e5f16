"""How long a request will take on each model, learned from finished ones, with honest errors."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.clock import Clock, MonotonicClock
from solver.errors import SpecError
from solver.load.checks import positive_problems

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from solver.load.outcome import Outcome
    from solver.problem.spec import Model

__all__ = ["Calibration", "CompletionPredictor"]

_RIDGE = 1e-3  # requests' worth of belief that a coefficient is what it was assumed to be
_SCALE = np.array([1.0, 1000.0, 1000.0])  # tokens enter in thousands: a well-conditioned normal matrix
_INSTANT_MS = 1e-9  # of a request that takes no time: others are compared with it by division
_DEFAULT_MS = np.array([500.0, 20.0, 20_000.0])  # nothing known at all: half a second and 50 tokens a second


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


class _Line:
    """Decayed normal equations of ``latency = a + b·input + c·output`` for one model, and its past errors."""

    __slots__ = ("at_s", "count", "error", "matrix", "solved", "vector")

    def __init__(self, at_s: float) -> None:
        self.at_s = at_s
        self.matrix = np.zeros((3, 3))
        self.vector = np.zeros(3)
        self.count = 0.0
        self.error = np.zeros(4)  # predictions, sum of |error|, of error, of error²; and the mean via vector
        self.solved: NDArray[np.float64] | None = None

    def age(self, factor: float, now_s: float) -> None:
        self.matrix *= factor
        self.vector *= factor
        self.error *= factor
        self.count *= factor
        self.at_s = now_s


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """What is known of the models of a fleet, as arrays."""

    version: int
    models: tuple[Model, ...]
    coefficients: NDArray[np.float64]
    deviation: NDArray[np.float64]
    per_unit: NDArray[np.float64]
    """(3, m), milliseconds a request, an input token, an output token."""


class CompletionPredictor:
    """Predicts completion times from tokens in and out and the observed speed of each model.

    Exponentially decayed least squares of latency on (1, input tokens, output tokens), coefficients kept at
    or above zero; O(1) memory a model. A model nobody has observed is predicted from the facts it states
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
        self._lock = threading.Lock()
        self._lines: dict[str, _Line] = {}
        self._version = 0
        self._table: _Table | None = None

    def observe(self, outcome: Outcome) -> None:
        """Learn from one finished request; failed ones say nothing about completion times."""
        if not outcome.success:
            return
        size = np.array([1.0, outcome.input_tokens or 0, outcome.output_tokens or 0]) / _SCALE
        with self._lock:
            now = self._clock.now()
            line = self._lines.setdefault(outcome.model, _Line(now))
            if now > line.at_s:
                line.age(0.5 ** ((now - line.at_s) / self._half_life_s), now)
            if line.count > 0:  # judge the prediction before learning the answer
                error = float(self._solved(line) @ size) - outcome.latency_ms
                line.error += (1.0, abs(error), error, error * error)
            line.matrix += np.outer(size, size)
            line.vector += size * outcome.latency_ms
            line.count += 1.0
            line.solved = None
            self._version += 1

    def _solved(self, line: _Line, prior: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Return the coefficients of a line, ms and ms per thousand tokens, none below zero."""
        if line.solved is None:
            mean = line.vector[0] / max(line.matrix[0, 0], 1e-12)
            belief = np.array([mean, 0.0, 0.0]) if prior is None else prior
            free = np.ones(3, np.bool_)
            for _ in range(3):  # drop the most negative coefficient until none is left
                matrix = line.matrix[np.ix_(free, free)] + _RIDGE * np.eye(int(free.sum()))
                answer = np.zeros(3)
                answer[free] = np.linalg.solve(matrix, line.vector[free] + _RIDGE * belief[free])
                if (answer >= 0).all():
                    break
                free[int(np.argmin(answer))] = False
            line.solved = np.maximum(answer, 0.0)
        return line.solved

    def coefficients(self, models: tuple[Model, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the coefficients of each model and the spread of its errors.

        Milliseconds of (request, thousand input tokens, thousand output tokens), (m, 3), and the
        standard deviation of the errors of a prediction, (m,), milliseconds.
        """
        table = self._current(models)
        return table.coefficients, table.deviation

    def _current(self, models: tuple[Model, ...]) -> _Table:
        """Return what is known now, the same object until something is observed."""
        cached = self._table
        if cached is not None and cached.version == self._version and cached.models is models:
            return cached
        version = self._version
        with self._lock:
            known = {name: self._solved(line) for name, line in self._lines.items() if line.count > 0}
            spread = {
                name: math.sqrt(line.error[3] / line.error[0])
                for name, line in self._lines.items()
                if line.error[0] > 0
            }
        average = np.mean(list(known.values()), axis=0) if known else _DEFAULT_MS
        coefficients = np.array([known.get(model.id, _stated(model, average)) for model in models])
        typical = float(np.mean(list(spread.values()))) if spread else 0.0
        deviation = np.array([spread.get(model.id, typical) for model in models])
        per_unit = np.ascontiguousarray((coefficients / _SCALE).T)
        np.maximum(per_unit[0], _INSTANT_MS, out=per_unit[0])
        table = _Table(version, models, coefficients, deviation, per_unit)
        self._table = table
        return table

    def predict_ms(
        self,
        models: tuple[Model, ...],
        input_tokens: Sequence[float],
        output_tokens: Sequence[float],
    ) -> NDArray[np.float64]:
        """Return predicted service times, (n, m) float64, milliseconds, above zero.

        Parameters
        ----------
        models : tuple of Model
            The m columns.
        input_tokens, output_tokens : sequence of n float
            Expected sizes.
        """
        size = np.array([[1.0] * len(input_tokens), input_tokens, output_tokens])
        predicted: NDArray[np.float64] = np.dot(size.T, self._current(models).per_unit)
        return predicted

    def calibration(self) -> dict[str, Calibration]:
        """Return how good the predictions have been, for every model with at least two outcomes."""
        with self._lock:
            report = {}
            for name, line in self._lines.items():
                judged, absolute, signed, _ = line.error.tolist()
                if judged <= 0:
                    continue
                mean = float(line.vector[0] / line.matrix[0, 0])
                report[name] = Calibration(
                    requests=judged,
                    mean_ms=mean,
                    absolute_error_ms=absolute / judged,
                    bias_ms=signed / judged,
                    relative_error=absolute / judged / mean if mean > 0 else 0.0,
                )
            return report


def _stated(model: Model, otherwise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the coefficients that a model's stated facts imply, ``otherwise`` filling the gaps."""
    request_ms = otherwise[0] if model.latency_s is None else 1000.0 * model.latency_s
    speed = model.output_tokens_per_second
    return np.array([request_ms, otherwise[1], otherwise[2] if speed is None else 1e6 / speed])
