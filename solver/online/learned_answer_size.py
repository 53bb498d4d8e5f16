"""Expected lengths of answers, learned from those that have ended."""

from __future__ import annotations

_PRIOR_TOKENS = 256.0
_GUESS_WEIGHT = 0.1  # answers that it counts for: one answer tells more than a guess
_PRIOR_WEIGHT = 10.0  # answers that the mean of all counts for against that of one class
_MEMORY = 1000.0  # answers over which a mean forgets


class AnswerSize:
    """Mean number of tokens of the answers seen so far: nothing of the traffic to come is known.

    Prompts of about the same size often come from the same application, and its answers from the same template. So
    each class of prompt sizes, half an octave wide, has a mean of its own, which counts for as much as it has answers;
    the mean of all counts like ten of them (credibility, Bühlmann 1967). Forgets over a thousand answers.

    Parameters
    ----------
    expected : float
        Tokens to begin with, until there are answers.

    Attributes
    ----------
    tokens : float
        Mean of all answers.
    """

    __slots__ = ("_classes", "_count", "tokens")

    def __init__(self, expected: float = _PRIOR_TOKENS) -> None:
        self.tokens = float(expected)
        self._count = _GUESS_WEIGHT
        self._classes: dict[int, tuple[float, float]] = {}

    def expected(self, input_tokens: int) -> float:
        """Return the expected tokens of the answer to a prompt of so many tokens."""
        count, mean = self._classes.get(prompt_class(input_tokens), (0.0, 0.0))
        return (_PRIOR_WEIGHT * self.tokens + count * mean) / (_PRIOR_WEIGHT + count)

    def learn(self, input_tokens: int, output_tokens: int) -> None:
        """Take one more answer into the means."""
        self._count = min(self._count + 1.0, _MEMORY)
        self.tokens += (output_tokens - self.tokens) / self._count
        kind = prompt_class(input_tokens)
        count, mean = self._classes.get(kind, (0.0, 0.0))
        count = min(count + 1.0, _MEMORY)
        self._classes[kind] = (count, mean + (output_tokens - mean) / count)


def prompt_class(input_tokens: int) -> int:
    """Return the class of a prompt: its size in half octaves, since squares double twice as fast."""
    return (input_tokens * input_tokens).bit_length()
