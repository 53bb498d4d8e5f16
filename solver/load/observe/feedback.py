"""AdaptiveScorer: capability scores corrected by what was observed, forgetting with time."""

from __future__ import annotations

import json
import math
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.clock import Clock, MonotonicClock
from solver.errors import SpecError, Violation
from solver.load.checks import amount_problems, positive_problems
from solver.load.fork import renewed_after_fork
from solver.problem.score_formulas import AdaptiveWeights, Feedback, adaptive_score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from solver.load.request_outcome import Outcome

_LARGEST_SUM = 1e300
"""Largest sum that is kept, so that every mean stays finite whatever is recorded."""

_FORMAT = 1
_RECENT_KEPT = 64


class _Decayed:
    """Sums over requests, each request weighing half as much after every half-life.

    ``observed`` counts whole requests, so that ten requests in a row are ten; it falls back to the decayed
    number once that is below half of what makes statistics count.
    """

    __slots__ = ("at_s", "latency_ms", "observed", "requests", "successes")

    def __init__(
        self,
        at_s: float,
        requests: float = 0.0,
        successes: float = 0.0,
        latency_ms: float = 0.0,
        observed: float = 0.0,
    ) -> None:
        self.at_s = at_s
        self.requests = requests
        self.successes = successes
        self.latency_ms = latency_ms
        self.observed = observed

    def age(self, now_s: float, half_life_s: float, min_requests: float) -> None:
        if now_s > self.at_s:
            factor = 0.5 ** ((now_s - self.at_s) / half_life_s)
            self.requests *= factor
            self.successes *= factor
            self.latency_ms *= factor
            self.at_s = now_s
            if self.observed >= min_requests and self.requests < min_requests / 2:
                self.observed = self.requests


class AdaptiveScorer:
    """Learns success rate and latency of each model, and of each model on each task type if asked to.

    Give it to a :class:`~solver.load.balance.balancer.LoadBalancer`, or let it listen to a tracker:
    ``tracker.listen(scorer.observe, forget=scorer.forget)``. Thread-safe.

    Parameters
    ----------
    weights : AdaptiveWeights, optional
        The formula's parameters, see :func:`solver.problem.score_formulas.adaptive_score`.
    half_life_s : float
        Seconds after which an observation weighs half. A failing model recovers as its past fades: once
        less than half of ``weights.min_requests`` remains, its capability score counts alone again.
    by_task_type : bool
        Also learn per task type; where a type has too few observations, the model's total counts.
    exploration : float
        Score points added to a model without observations; the bonus falls with the square root of the
        number of observations (UCB1; Auer et al. 2002). 0: none.
    clock : Clock, optional
        Default: the machine's monotonic clock.

    Raises
    ------
    SpecError
        If a parameter is out of range.
    """

    def __init__(
        self,
        weights: AdaptiveWeights | None = None,
        *,
        half_life_s: float = 900.0,
        by_task_type: bool = False,
        exploration: float = 0.0,
        clock: Clock | None = None,
    ) -> None:
        problems = positive_problems("half_life_s", half_life_s) + amount_problems("exploration", exploration)
        if problems:
            raise SpecError(*problems)
        self.weights = weights or AdaptiveWeights()
        self._half_life_s = half_life_s
        self._by_task_type = by_task_type
        self._exploration = exploration
        self._clock = clock or MonotonicClock()
        # A finalizer may record while its own thread is in here:
        self._lock = renewed_after_fork(self, "_lock", threading.RLock)
        self._seen: dict[tuple[str, str | None], _Decayed] = {}
        self._recent: dict[tuple[tuple[str, ...], str | None], tuple[float, Feedback]] = {}

    def observe(self, outcome: Outcome) -> None:
        """Learn from one finished request."""
        with self._lock:
            now = self._clock.now()
            keys = [(outcome.model, None)]
            if self._by_task_type and outcome.task_type is not None:
                keys.append((outcome.model, outcome.task_type))  # type: ignore[arg-type]  # checked above
            for key in keys:
                sums = self._seen.setdefault(key, _Decayed(now))
                sums.age(now, self._half_life_s, self.weights.min_requests)
                sums.requests += 1.0
                sums.observed += 1.0
                sums.successes += outcome.success
                sums.latency_ms = min(sums.latency_ms + outcome.latency_ms, _LARGEST_SUM)

    def forget(self, model: str) -> None:
        """Forget what was observed of a model."""
        with self._lock:
            for key in [key for key in self._seen if key[0] == model]:
                del self._seen[key]
            self._recent = {}

    def feedback(
        self, models: Sequence[str], *, task_type: str | None = None, max_age_s: float = 0.0
    ) -> Feedback:
        """Return what is known of some models, as arrays in their order. O(m), or O(1) from a recent answer.

        Parameters
        ----------
        models : sequence of str
            Their ids.
        task_type : str, optional
            Kind of work; read only by a scorer that learns per task type.
        max_age_s : float
            How old a repeated answer may be, seconds.
        """
        if max_age_s > 0:
            key = (tuple(models), task_type)
            recent = self._recent.get(key)
            if recent is not None and self._clock.now() - recent[0] <= max_age_s:
                return recent[1]
            if len(self._recent) >= _RECENT_KEPT:
                self._recent = {}
            fresh = self.feedback(models, task_type=task_type)
            self._recent[key] = (self._clock.now(), fresh)
            return fresh
        requests, success, latency = np.zeros(len(models)), np.ones(len(models)), np.zeros(len(models))
        with self._lock:
            now = self._clock.now()
            for j, model in enumerate(models):
                sums = self._known(model, task_type, now)
                if sums is not None and sums.requests > 0:
                    requests[j] = sums.observed
                    success[j] = min(1.0, sums.successes / sums.requests)
                    latency[j] = sums.latency_ms / sums.requests
        return Feedback(
            requests=requests,
            success_rate=success,
            latency_ms=latency,
            weights=self.weights,
            bonus=self._bonus(requests),
        )

    def _known(self, model: str, task_type: str | None, now: float) -> _Decayed | None:
        if self._by_task_type and task_type is not None:
            sums = self._seen.get((model, task_type))
            if sums is not None:
                sums.age(now, self._half_life_s, self.weights.min_requests)
                if sums.observed >= self.weights.min_requests:
                    return sums
        sums = self._seen.get((model, None))
        if sums is not None:
            sums.age(now, self._half_life_s, self.weights.min_requests)
        return sums

    def score(
        self,
        capability: ArrayLike,
        models: Sequence[str],
        *,
        task_types: Sequence[str | None] | None = None,
        max_age_s: float = 0.0,
    ) -> NDArray[np.float64]:
        """Return adaptive scores.

        Parameters
        ----------
        capability : (n, m) or (m,) array_like
            Capability scores, 0 to 100.
        models : sequence of str
            Ids of the m columns.
        task_types : sequence of str or None, optional
            Of the n rows; read only by a scorer that learns per task type.
        max_age_s : float
            How old the statistics may be, seconds; 0: as of now.

        Returns
        -------
        (n, m) or (m,) float64

        Notes
        -----
        One array pass per distinct task type.
        """
        return adaptive_score(capability, self.feedback_of(task_types, models, max_age_s=max_age_s))

    def feedback_of(
        self, task_types: Sequence[str | None] | None, models: Sequence[str], *, max_age_s: float = 0.0
    ) -> Feedback:
        """Return what is known for agents of some task types: a row each, or one row where types do not matter.

        One pass per distinct task type. Parameters as in :meth:`score`.
        """
        if not self._by_task_type or not task_types:
            return self.feedback(models, max_age_s=max_age_s)
        places: dict[str | None, int] = {}
        codes = [places.setdefault(kind, len(places)) for kind in task_types]
        seen = [self.feedback(models, task_type=kind, max_age_s=max_age_s) for kind in places]
        return Feedback(
            requests=np.array([one.requests for one in seen])[codes],
            success_rate=np.array([one.success_rate for one in seen])[codes],
            latency_ms=np.array([one.latency_ms for one in seen])[codes],
            weights=self.weights,
            bonus=0.0 if self._exploration <= 0 else np.array([one.bonus for one in seen])[codes],
        )

    def _bonus(self, requests: NDArray[np.float64]) -> NDArray[np.float64] | float:
        """Return the score points of exploration, (m,), or 0."""
        if self._exploration <= 0:
            return 0.0
        total = math.log1p(float(requests.sum()))
        bonus: NDArray[np.float64] = self._exploration * np.sqrt((1.0 + total) / (1.0 + requests))
        return bonus

    def to_json(self) -> str:
        """Return all that was learned, to be read by :meth:`load_json` in this or another process."""
        with self._lock:
            now = self._clock.now()
            rows = []
            for (model, kind), sums in list(self._seen.items()):
                sums.age(now, self._half_life_s, self.weights.min_requests)
                rows.append([model, kind, sums.requests, sums.successes, sums.latency_ms, sums.observed])
            return json.dumps({"format": _FORMAT, "half_life_s": self._half_life_s, "models": rows})

    def load_json(self, text: str) -> None:
        """Replace what was learned by saved state; time that passed in between does not count.

        Raises
        ------
        SpecError
            If the text is not such state, or of another format version; nothing is changed then.
        """
        try:
            state: Any = json.loads(text)
            version = state["format"]
            rows: list[tuple[Any, ...]] = [
                (str(row[0]), None if row[1] is None else str(row[1]), *(float(value) for value in row[2:6]))
                for row in state["models"]
            ]
        except (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
            raise SpecError(Violation("state", "expected saved feedback as JSON", error)) from error
        if version != _FORMAT:
            raise SpecError(Violation("state.format", f"expected {_FORMAT}", version))
        bad = [
            Violation(
                f"state.models[{k}]", "expected finite sums >= 0, successes at most requests", list(row[2:])
            )
            for k, row in enumerate(rows)
            if len(row) != 6
            or not all(0 <= value < math.inf for value in row[2:])
            or row[3] > row[2] * (1 + 1e-9)
        ]
        if bad:
            raise SpecError(*bad)
        with self._lock:
            now = self._clock.now()
            self._seen = {(row[0], row[1]): _Decayed(now, *row[2:]) for row in rows}
