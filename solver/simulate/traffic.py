"""Traffic as arrays: who arrives when, and how much there is to read and to write."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from solver.errors import SpecError, Violation

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

LONG_GAP_S = 86_400.0
"""A pause between two arrivals that is worth a warning, seconds: it dominates every average over time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RecordedScores:
    """Scores that were known when recorded requests were decided.

    Parameters
    ----------
    models : tuple of str
        Columns.
    scores : (n, k) float64
        NaN where a model had none, because it was not eligible.
    """

    models: tuple[str, ...]
    scores: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Traffic:
    """Requests in the order of their arrival.

    Parameters
    ----------
    name : str
        For reports.
    arrival_s : (n,) float64
        Seconds since the first arrival, not decreasing.
    input_tokens, output_tokens : (n,) int64
        Prompt size, and what the answer turns out to have; policies do not know the latter in advance.
    task_type : (n,) object, optional
        Task type of each request, a string.
    deadline_s : (n,) float64, optional
        Seconds from arrival within which the answer has to be there, NaN for none.
    recorded : RecordedScores, optional
        Scores by model, where the trace has them.
    """

    name: str
    arrival_s: NDArray[np.float64]
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    task_type: NDArray[np.object_] | None = None
    deadline_s: NDArray[np.float64] | None = None
    recorded: RecordedScores | None = None

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def span_s(self) -> float:
        """Seconds from the first to the last arrival."""
        return float(self.arrival_s[-1] - self.arrival_s[0]) if len(self) else 0.0

    @property
    def rate_per_s(self) -> float:
        """Arrivals a second."""
        return (len(self) - 1) / self.span_s if self.span_s > 0 else math.inf

    def scaled_in_time(self, factor: float) -> Traffic:
        """Return the same requests ``factor`` times as dense, the pattern of arrivals kept; deadlines stay."""
        return replace(self, arrival_s=self.arrival_s / factor)

    def with_deadline(self, deadline_s: float) -> Traffic:
        """Return the same requests, each to be answered within so many seconds.

        Raises
        ------
        SpecError
            If that is no positive number.
        """
        if not 0 < deadline_s < math.inf:
            raise SpecError(Violation("deadline_s", "expected a number > 0", deadline_s))
        return replace(self, deadline_s=np.full(len(self), deadline_s))

    def thinned(self, share: float, *, seed: int) -> Traffic:
        """Return each request with probability ``share``, as of a randomly chosen part of the users.

        Raises
        ------
        SpecError
            If the share is not in (0, 1], or leaves no request.
        """
        if not 0 < share <= 1:
            raise SpecError(Violation("thin", "expected > 0 and <= 1", share))
        kept = np.random.default_rng(seed).random(len(self)) < share
        if not kept.any():
            raise SpecError(Violation("thin", "expected a share that leaves at least one request", share))
        return self._taken(kept)

    def first(self, count: int) -> Traffic:
        """Return the first requests."""
        return self._taken(slice(count))

    def _taken(self, rows: NDArray[np.bool_] | slice) -> Traffic:
        changed: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                changed[field.name] = value[rows]
            elif isinstance(value, RecordedScores):
                changed[field.name] = replace(value, scores=value.scores[rows])
        changed["arrival_s"] = changed["arrival_s"] - changed["arrival_s"][0]
        return replace(self, **changed)
