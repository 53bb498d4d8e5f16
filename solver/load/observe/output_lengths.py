"""How long answers are, learned per model and kind of task, so that limits on tokens can be reserved beforehand."""

from __future__ import annotations

import math
import threading
from bisect import bisect_left, insort
from collections import OrderedDict, deque
from dataclasses import dataclass

from solver.errors import SpecError, Violation
from solver.load.checks import whole_problems
from solver.load.fork import renewed_after_fork


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthParameters:
    """How much is reserved for answers whose length is not known in advance.

    Parameters
    ----------
    quantile : float
        Share of answers that a reservation covers, in (0, 1): the higher, the rarer an overspend, and the more
        of a limit is held back while requests run. ``benchmarks/unknown_tokens.py`` measures both sides.
    remembered : int
        Latest answers of each model and kind of task that count.
    enough : int
        Answers from which on a model's own count for a kind of task; before, those of all models do.

    Raises
    ------
    SpecError
        If a value is out of range.
    """

    quantile: float = 0.96
    remembered: int = 256
    enough: int = 8

    def __post_init__(self) -> None:
        problems = whole_problems("remembered", self.remembered, low=1)
        problems += whole_problems("enough", self.enough, low=1)
        if not 0.0 < self.quantile < 1.0:
            problems.append(Violation("quantile", "expected between 0 and 1", self.quantile))
        if problems:
            raise SpecError(*problems)


_MAX_PADDED_ANSWERS = 16
"""Answers up to which a reservation is larger than any of them: by as much as one more answer may add."""

_REMEMBERED_KINDS = 4096
"""Pairs of model and kind of task whose answers are remembered."""


class _Sample:
    """The latest lengths, in order of time and of size."""

    def __init__(self, remembered: int) -> None:
        self._latest: deque[int] = deque()
        self._sorted: list[int] = []
        self._remembered = remembered
        self.reserve = 0

    def __len__(self) -> int:
        return len(self._sorted)

    def add(self, length: int, quantile: float) -> None:
        """Note one more; O(remembered)."""
        if len(self._latest) == self._remembered:
            del self._sorted[bisect_left(self._sorted, self._latest.popleft())]
        self._latest.append(length)
        insort(self._sorted, length)
        n = len(self._sorted)
        rank = math.ceil(quantile * n + math.sqrt(n * quantile * (1.0 - quantile)))  # one deviation above it
        covered = self._sorted[min(rank, n) - 1]
        self.reserve = max(1, math.ceil(covered * (1.0 + 1.0 / n if n < _MAX_PADDED_ANSWERS else 1.0)))


class OutputLengths:
    """Learns output lengths from answers, and says how many tokens to reserve for the next one. Thread-safe.

    What is reserved is a quantile of the latest answers of the same model and kind of task, one standard
    deviation of its estimate higher; where there are few, of the same kind of task on any model, or of all.

    Parameters
    ----------
    parameters : LengthParameters, optional
        Quantile and memory.
    """

    def __init__(self, parameters: LengthParameters | None = None) -> None:
        self._parameters = parameters or LengthParameters()
        # A finalizer may release a lease while its own thread is in here:
        self._lock = renewed_after_fork(self, "_lock", threading.RLock)
        self._samples: OrderedDict[tuple[str | None, str | None], _Sample] = OrderedDict()
        self._unsettled: set[str] = set()
        """Models whose requests end without saying what they used: there is nothing to learn from."""

    def observe(self, model: str, task_type: str | None, tokens: int) -> None:
        """Note the length of an answer."""
        parameters = self._parameters
        with self._lock:
            for key in {(model, task_type), (None, task_type), (None, None)}:
                sample = self._samples.get(key)
                if sample is None:
                    sample = self._samples[key] = _Sample(parameters.remembered)
                sample.add(tokens, parameters.quantile)
                self._samples.move_to_end(key)
            while len(self._samples) > _REMEMBERED_KINDS:
                self._samples.popitem(last=False)

    def reserve(self, model: str | None, task_type: str | None) -> int | None:
        """Return the output tokens to reserve for a request, None while nothing is known. O(1)."""
        enough = self._parameters.enough
        best: _Sample | None = None
        for key in ((model, task_type), (None, task_type), (None, None)):
            sample = self._samples.get(key)
            if sample is not None and (best is None or len(best) < min(enough, len(sample))):
                best = sample
        if best is None:
            return 0 if model in self._unsettled else None
        return best.reserve

    def unsettled(self, model: str) -> None:
        """Note that a request has ended without saying what it used."""
        with self._lock:
            self._unsettled.add(model)

    def forget(self, model: str) -> None:
        """Forget the answers of a model."""
        with self._lock:
            self._unsettled.discard(model)
            for key in [key for key in self._samples if key[0] == model]:
                del self._samples[key]
