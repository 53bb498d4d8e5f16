"""Expected lengths of answers, learned from those that have ended."""

from __future__ import annotations

_PRIOR_TOKENS = 256.0
_PRIOR_WEIGHT = 10.0  # answers that the prior counts for
_MEMORY = 1000.0  # answers over which the mean forgets


class AnswerSize:
    """Mean number of tokens of the answers seen so far: nothing of the traffic to come is known.

    Forgets over a thousand answers.

    Parameters
    ----------
    expected : float
        Tokens to begin with; they count like ten answers.
    """

    __slots__ = ("_count", "tokens")

    def __init__(self, expected: float = _PRIOR_TOKENS) -> None:
        self.tokens = float(expected)
        self._count = _PRIOR_WEIGHT

    def learn(self, output_tokens: int) -> None:
        """Take one more answer into the mean."""
        self._count = min(self._count + 1.0, _MEMORY)
        self.tokens += (output_tokens - self.tokens) / self._count
