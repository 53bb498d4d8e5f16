"""What a model adds to the slowest latencies: the expected excess of a request over a high quantile.

The mean of the slowest share ``1 − q`` of all latencies (the conditional value at risk, CVaR) is ``min over t of
t + E (T − t)⁺ / (1 − q)``, and the best t is the q-quantile (Rockafellar and Uryasev, 2000). So with t at the
quantile of recent latencies, ``E (T − t)⁺ / (1 − q)`` is what one request adds to that mean, and a linear price on it
trades the tail for quality as a price on seconds trades the mean. It differs from a price on seconds where some
prompts tell that a long answer is likely: those go to fast models, while short answers, which cannot reach the
quantile, are free to go where they are answered best.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from solver.load.fork import renewed_after_fork
from solver.online.learned_answer_size import prompt_class

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from solver.load.balance.prediction import CompletionPredictor
    from solver.load.request_outcome import Outcome
    from solver.problem.spec import Model

_TOKENS = np.exp2(np.arange(34) / 2.0)
"""Answer lengths, tokens: half octaves, up to 92,682."""

_PRIOR_ANSWERS = 10.0
"""Answers that the lengths of all prompts count for against those of one class of prompts."""

_FORGETTING = 1.0 - 1.0 / 1000.0
"""Weight that each answer leaves to those before it."""

_REMEMBERED_LATENCIES = 1000
_LEAST_LATENCIES = 20  # below that, no quantile
_QUANTILE_EVERY = 10  # latencies between two computations of the quantile


class TailLatency:
    """Lengths of answers by class of prompt, and the quantile of recent latencies.

    Parameters
    ----------
    quantile : float
        Where the tail begins, between 0 and 1.

    Attributes
    ----------
    threshold_s : float
        Quantile of the last thousand latencies; infinite before the first twenty.
    """

    __slots__ = ("_all", "_classes", "_latencies", "_learned", "_quantile", "threshold_s")

    def __init__(self, quantile: float = 0.95) -> None:
        self._quantile = quantile
        self._all = np.zeros(len(_TOKENS))
        self._classes: dict[int, NDArray[np.float64]] = {}
        self._latencies: deque[float] = deque(maxlen=_REMEMBERED_LATENCIES)
        self._learned = 0
        self.threshold_s = np.inf

    def learn(self, input_tokens: int, output_tokens: int, latency_s: float) -> None:
        """Take one more answer, and the seconds from its arrival to its end."""
        position = min(max(round(2.0 * math.log2(max(output_tokens, 1))), 0), len(_TOKENS) - 1)
        own = self._classes.setdefault(prompt_class(input_tokens), np.zeros(len(_TOKENS)))
        for counts in (self._all, own):
            counts *= _FORGETTING
            counts[position] += 1.0
        self._latencies.append(latency_s)
        self._learned += 1
        if self._learned >= _LEAST_LATENCIES and self._learned % _QUANTILE_EVERY == 0:
            self.threshold_s = float(np.quantile(np.fromiter(self._latencies, np.float64), self._quantile))

    def excess_s(
        self,
        input_tokens: Sequence[int],
        fixed_s: NDArray[np.float64],
        s_per_token: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Return what requests add to the mean latency of the tail, (n, m) seconds.

        Parameters
        ----------
        input_tokens : sequence of n int
            Of the prompts.
        fixed_s : (n, m) float64
            Seconds that do not depend on the answer: the wait for a turn, the prompt.
        s_per_token : (m,) float64
            Seconds an answer token takes, above zero.

        Notes
        -----
        O(n m log b + k b) for b lengths and k classes of prompts.
        """
        if not np.isfinite(self.threshold_s):
            return np.zeros_like(fixed_s)
        left_s = self.threshold_s - fixed_s
        first = np.searchsorted(
            _TOKENS, left_s / s_per_token
        )  # the shortest answer that is beyond the threshold
        kinds = [prompt_class(tokens) for tokens in input_tokens]
        of_kind = {kind: k for k, kind in enumerate(dict.fromkeys(kinds))}
        chance = np.array([self._chances(kind) for kind in of_kind])
        longer, tokens_of_longer = np.zeros((2, len(chance), len(_TOKENS) + 1))
        longer[:, :-1] = np.cumsum(chance[:, ::-1], axis=1)[:, ::-1]
        tokens_of_longer[:, :-1] = np.cumsum((chance * _TOKENS)[:, ::-1], axis=1)[:, ::-1]
        row = np.array([of_kind[kind] for kind in kinds])[:, None]
        excess: NDArray[np.float64] = s_per_token * tokens_of_longer[row, first] - left_s * longer[row, first]
        return excess / (1.0 - self._quantile)

    def _chances(self, kind: int) -> NDArray[np.float64]:
        """Return the distribution of the answers to a class of prompts, which counts as it has answers."""
        every = self._all * (_PRIOR_ANSWERS / self._all.sum())
        own = self._classes.get(kind)
        counts = every if own is None else every + own
        chances: NDArray[np.float64] = counts / counts.sum()
        return chances


class LatencyParts(NamedTuple):
    """Predicted latencies, apart from what each token of the answer adds.

    Attributes
    ----------
    prompt_s : (n, m) float64
        Seconds before the answer begins.
    start_s : (m,) float64
        Seconds of an empty prompt.
    s_per_token : (m,) float64
        Seconds an answer token takes, above zero.
    """

    prompt_s: NDArray[np.float64]
    start_s: NDArray[np.float64]
    s_per_token: NDArray[np.float64]

    @classmethod
    def of(
        cls, predictor: CompletionPredictor, models: tuple[Model, ...], input_tokens: Sequence[int]
    ) -> LatencyParts:
        """Return what is predicted for prompts of so many tokens. O(n m)."""
        answers = [0.0] * (len(input_tokens) + 1) + [1000.0]
        seconds = predictor.predict_ms(models, [*input_tokens, 0.0, 0.0], answers) / 1000.0
        return cls(seconds[:-2], seconds[-2], np.maximum(seconds[-1] - seconds[-2], 1e-6) / 1000.0)


class TailPrice:
    """What a request costs for the time that it adds to the slowest latencies. Thread-safe.

    Parameters
    ----------
    weight : float
        Score lost per second of the mean latency of the slowest twentieth, >= 0.
    predictor : CompletionPredictor
        Of service times.
    """

    def __init__(self, weight: float, predictor: CompletionPredictor) -> None:
        self._weight, self._predictor = weight, predictor
        self._tail = TailLatency()
        self._lock = renewed_after_fork(self, "_lock", threading.Lock)

    def observe(self, outcome: Outcome) -> None:
        """Learn from a successful request whose answer was counted."""
        if outcome.success and outcome.output_tokens:
            with self._lock:
                self._tail.learn(
                    outcome.input_tokens or 0, outcome.output_tokens, outcome.latency_ms / 1000.0
                )

    def costs(self, models: tuple[Model, ...], input_tokens: Sequence[int]) -> NDArray[np.float64]:
        """Return the score that requests lose, (n, m); zeros before the first twenty answers."""
        parts = LatencyParts.of(self._predictor, models, input_tokens)
        with self._lock:
            excess = self._tail.excess_s(input_tokens, parts.prompt_s, parts.s_per_token)
        return self._weight * excess
