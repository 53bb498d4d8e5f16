"""How load and latency have been over the last minute, five minutes and hour, in bounded memory."""

from __future__ import annotations

import sys
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ddsketch import LogCollapsingLowestDenseDDSketch

from solver.clock import Clock, MonotonicClock
from solver.errors import SpecError, Violation, ViolationKind
from solver.load.fork import renewed_after_fork

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.load.request_outcome import Outcome
    from solver.load.snapshot import LoadSnapshot

WINDOWS_S = (60.0, 300.0, 3600.0)
"""Lengths of the windows, seconds."""

_PARTS_PER_WINDOW = 12
"""Steps of a window; a summary covers between 11/12 of a window and all of it."""

_RELATIVE_ACCURACY = 0.01
"""Relative error of a percentile (DDSketch; Masson, Rim and Lee 2019)."""

_MAX_BINS = 1024
"""Bins of a sketch: a factor of 7e8 between the lowest and the highest latency before bins are merged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencySummary:
    """Latencies of one model over one window.

    Parameters
    ----------
    requests : int
        Requests recorded.
    success_rate : float or None
        Share that succeeded; None without requests.
    mean_ms, p50_ms, p95_ms, p99_ms : float or None
        Milliseconds; percentiles within 1 %. None without requests.
    """

    requests: int
    success_rate: float | None
    mean_ms: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UtilizationSummary:
    """Utilization of one model over one window, weighted with time.

    Parameters
    ----------
    covered_s : float
        Seconds of the window that samples speak for.
    mean, highest : float or None
        0 to 1; None where nothing was sampled.
    """

    covered_s: float
    mean: float | None
    highest: float | None


class _Step:
    """Latencies of one model in one step of a window."""

    __slots__ = ("number", "requests", "sketch", "successes", "total_ms")

    def __init__(self, number: int) -> None:
        self.number = number
        self.requests = 0
        self.successes = 0
        self.total_ms = 0.0
        self.sketch = LogCollapsingLowestDenseDDSketch(
            relative_accuracy=_RELATIVE_ACCURACY, bin_limit=_MAX_BINS
        )


class Trends:
    """Keeps latencies and utilization of every model over three windows.

    Feed it with ``tracker.listen(trends.observe, forget=trends.forget)``, and with
    ``trends.sample(tracker.snapshot())`` every few seconds. Memory is bounded by models × windows × steps,
    whatever the traffic. Thread-safe.

    Parameters
    ----------
    clock : Clock, optional
        Default: the machine's monotonic clock.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or MonotonicClock()
        # A finalizer may record while its own thread is in here:
        self._lock = renewed_after_fork(self, "_lock", threading.RLock)
        self._latency: dict[str, tuple[deque[_Step], ...]] = {}
        self._summaries: dict[tuple[str, int], tuple[int, int, LatencySummary]] = {}
        self._columns: dict[str, int] = {}
        self._free: list[int] = []  # columns of models that were forgotten
        self._last: tuple[float, NDArray[np.float64]] | None = None
        self._use = tuple(_UtilizationRing(window_s) for window_s in WINDOWS_S)

    def observe(self, outcome: Outcome) -> None:
        """Add one finished request. O(1)."""
        with self._lock:
            now = self._clock.now()
            rings = self._latency.get(outcome.model)
            if rings is None:
                rings = self._latency[outcome.model] = tuple(
                    deque(maxlen=_PARTS_PER_WINDOW) for _ in WINDOWS_S
                )
            for ring, window_s in zip(rings, WINDOWS_S, strict=True):
                number = int(now // (window_s / _PARTS_PER_WINDOW))
                if not ring or ring[-1].number < number:
                    ring.append(_Step(number))
                step = ring[-1]
                step.requests += 1
                step.successes += outcome.success
                step.total_ms += outcome.latency_ms
                step.sketch.add(outcome.latency_ms)

    def sample(self, snapshot: LoadSnapshot) -> None:
        """Add the utilization of every model; it counts until the next sample. O(m)."""
        with self._lock:
            now = self._clock.now()
            if self._last is not None:
                since, busy = self._last
                now = max(now, since)  # a clock that steps back must not take time off the windows
                for ring in self._use:
                    ring.add(since, now, busy)
            for name in snapshot.models:
                if name not in self._columns:
                    self._columns[name] = self._free.pop() if self._free else len(self._columns)
            busy = np.full(len(self._columns) + len(self._free), np.nan)
            busy[[self._columns[name] for name in snapshot.models]] = snapshot.utilization
            self._last = (now, busy)

    def forget(self, model: str) -> None:
        """Forget a model."""
        with self._lock:
            self._latency.pop(model, None)
            for place in range(len(WINDOWS_S)):
                self._summaries.pop((model, place), None)
            column = self._columns.pop(model, None)
            if column is not None:
                self._free.append(column)
                for ring in self._use:
                    ring.clear(column)
                if self._last is not None and column < len(self._last[1]):
                    self._last[1][column] = np.nan

    def latency(self, model: str, *, window_s: float = 60.0) -> LatencySummary:
        """Return the latencies of a model over a window of ``WINDOWS_S``."""
        place = _window(window_s)
        with self._lock:
            rings = self._latency.get(model)
            oldest = int(self._clock.now() // (window_s / _PARTS_PER_WINDOW)) - _PARTS_PER_WINDOW
            steps = [step for step in rings[place] if step.number > oldest] if rings else []
            requests = sum(step.requests for step in steps)
            if not requests:
                return LatencySummary(
                    requests=0, success_rate=None, mean_ms=None, p50_ms=None, p95_ms=None, p99_ms=None
                )
            first, seen, summary = self._summaries.get((model, place), (0, 0, None))
            if summary is not None and (first, seen) == (steps[0].number, requests):
                return summary  # nothing has come or gone since: rules and pages ask for the same figures
            merged = LogCollapsingLowestDenseDDSketch(
                relative_accuracy=_RELATIVE_ACCURACY, bin_limit=_MAX_BINS
            )
            for step in steps:
                merged.merge(step.sketch)
            summary = LatencySummary(
                requests=requests,
                success_rate=sum(step.successes for step in steps) / requests,
                mean_ms=sum(step.total_ms for step in steps) / requests,
                p50_ms=_quantile(merged, 0.50),
                p95_ms=_quantile(merged, 0.95),
                p99_ms=_quantile(merged, 0.99),
            )
            self._summaries[model, place] = (steps[0].number, requests, summary)
            return summary

    def utilization(self, model: str, *, window_s: float = 60.0) -> UtilizationSummary:
        """Return the utilization of a model over a window of ``WINDOWS_S``, up to the last sample."""
        place = _window(window_s)
        with self._lock:
            column = self._columns.get(model)
            if column is None:
                return UtilizationSummary(covered_s=0.0, mean=None, highest=None)
            return self._use[place].summary(column, self._clock.now())


class _UtilizationRing:
    """Time-weighted sums of every model's utilization, one row a step."""

    def __init__(self, window_s: float) -> None:
        self._step_s = window_s / _PARTS_PER_WINDOW
        self._number = np.full(_PARTS_PER_WINDOW, -1, np.int64)
        self._weighted = np.zeros((_PARTS_PER_WINDOW, 0))
        self._seconds = np.zeros((_PARTS_PER_WINDOW, 0))
        self._highest = np.zeros((_PARTS_PER_WINDOW, 0))

    def add(self, start_s: float, end_s: float, busy: NDArray[np.float64]) -> None:
        """Count utilizations, NaN for unknown, as lasting from one moment to another."""
        missing = len(busy) - self._weighted.shape[1]
        if missing > 0:
            self._weighted, self._seconds, self._highest = (
                np.pad(part, ((0, 0), (0, missing)))
                for part in (self._weighted, self._seconds, self._highest)
            )
        known = ~np.isnan(busy)
        value = np.where(known, busy, 0.0)
        last = int(end_s // self._step_s)
        for number in range(max(int(start_s // self._step_s), last - _PARTS_PER_WINDOW + 1), last + 1):
            row = number % _PARTS_PER_WINDOW
            if self._number[row] != number:
                self._number[row] = number
                self._weighted[row], self._seconds[row], self._highest[row] = 0.0, 0.0, 0.0
            lasted = min(end_s, (number + 1) * self._step_s) - max(start_s, number * self._step_s)
            self._weighted[row, : len(value)] += value * lasted
            self._seconds[row, : len(value)] += known * lasted
            if lasted > 0:
                np.maximum(self._highest[row, : len(value)], value, out=self._highest[row, : len(value)])

    def clear(self, column: int) -> None:
        """Forget one model."""
        if column < self._seconds.shape[1]:
            for part in (self._weighted, self._seconds, self._highest):
                part[:, column] = 0.0

    def summary(self, column: int, now_s: float) -> UtilizationSummary:
        """Return what is known of one model in the window that ends now."""
        recent = self._number > int(now_s // self._step_s) - _PARTS_PER_WINDOW
        if column >= self._seconds.shape[1]:
            return UtilizationSummary(covered_s=0.0, mean=None, highest=None)
        covered = float(self._seconds[recent, column].sum())
        if covered <= 0:
            return UtilizationSummary(covered_s=0.0, mean=None, highest=None)
        return UtilizationSummary(
            covered_s=covered,
            mean=float(self._weighted[recent, column].sum() / covered),
            highest=float(self._highest[recent, column].max()),
        )


def _quantile(sketch: LogCollapsingLowestDenseDDSketch, quantile: float) -> float:
    try:
        return float(sketch.get_quantile_value(quantile))
    except OverflowError:  # the bin of the largest floats reaches beyond them
        return sys.float_info.max


def _window(window_s: float) -> int:
    if window_s not in WINDOWS_S:
        raise SpecError(
            Violation(
                "window_s",
                f"expected one of {', '.join(f'{w:g}' for w in WINDOWS_S)}",
                window_s,
                kind=ViolationKind.UNKNOWN,
            )
        )
    return WINDOWS_S.index(window_s)
