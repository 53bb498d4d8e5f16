"""The completion time of one model as a line in tokens, from the facts it states and from what was observed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    Coefficients = tuple[float, float, float]
    Sums = tuple[float, float, float, float, float, float]

_ASSUMED_WEIGHT = 3.0
"""Requests that the assumed line counts for, once it is scaled to the observed times."""

_RIDGE_WEIGHT = 1e-3
"""Least weight of the assumed coefficients, for regressors that have been zero so far."""


class LatencyLine:
    """Decayed normal equations of ``latency = a + b·input + c·output`` for one model, and its past errors.

    Plain floats: three unknowns are solved for several times faster than numpy's calls begin.

    Parameters
    ----------
    row : int
        Where its coefficients are kept.
    at_s : float
        Reading of a clock, for its age.
    assumed : tuple of float
        Milliseconds a request and a thousand tokens in and out, of which the proportions matter.
    """

    __slots__ = (
        "absolute",
        "assumed",
        "at_s",
        "count",
        "judged",
        "left",
        "right",
        "row",
        "signed",
        "solved",
        "squared",
    )

    def __init__(self, row: int, at_s: float, assumed: Coefficients) -> None:
        self.row, self.at_s, self.assumed = row, at_s, assumed
        self.left: Sums = (0.0,) * 6  # of 1, x, y, x², xy, y²: tokens in and out, thousands
        self.right: Coefficients = (0.0, 0.0, 0.0)  # sums of latency times 1, x, y
        self.count = 0.0
        self.judged = self.absolute = self.signed = self.squared = 0.0  # predictions, sums of their errors
        self.solved: Coefficients | None = None

    def sizes(self, input_tokens: int | None, output_tokens: int | None) -> tuple[float, float]:
        """Return thousands of tokens in and out; the mean so far of what is not known."""
        one, x, y = self.left[:3]
        count = max(one, 1e-12)
        return (
            x / count if input_tokens is None else input_tokens / 1000.0,
            y / count if output_tokens is None else output_tokens / 1000.0,
        )

    def age(self, factor: float, now_s: float) -> None:
        """Let everything so far count for a share of what it did."""
        self.left = tuple([factor * value for value in self.left])  # type: ignore[assignment]  # six floats
        self.right = tuple([factor * value for value in self.right])  # type: ignore[assignment]  # three
        self.count *= factor
        self.judged *= factor
        self.absolute *= factor
        self.signed *= factor
        self.squared *= factor
        self.at_s = now_s

    def judge(self, error_ms: float) -> None:
        """Note by how much a prediction was off, before its outcome is learned from."""
        self.judged += 1.0
        self.absolute += abs(error_ms)
        self.signed += error_ms
        self.squared += error_ms * error_ms

    def learn(self, x: float, y: float, latency_ms: float) -> None:
        """Take one more request: thousands of tokens in and out, milliseconds."""
        one, to_x, to_y, xx, xy, yy = self.left
        self.left = (one + 1.0, to_x + x, to_y + y, xx + x * x, xy + x * y, yy + y * y)
        by_one, by_x, by_y = self.right
        self.right = (by_one + latency_ms, by_x + x * latency_ms, by_y + y * latency_ms)
        self.count += 1.0
        self.solved = None

    @property
    def error_ms(self) -> float:
        """Standard deviation of the errors of the predictions, milliseconds; NaN before the first was judged."""
        return math.sqrt(self.squared / self.judged) if self.judged > 0 else math.nan

    def coefficients(self) -> Coefficients:
        """Return milliseconds a request and a thousand tokens in and out, none below zero."""
        if self.solved is None:
            left, right = self._with_assumed()
            free = [True, True, True]
            answer = _solved(left, right, free)
            while (lowest := min(answer)) < 0.0:  # leave out the most negative until none is left
                free[answer.index(lowest)] = False
                answer = _solved(left, right, free)
            self.solved = answer
        return self.solved

    def _with_assumed(self) -> tuple[Sums, Coefficients]:
        """Return the normal equations with a prior: the assumed line, scaled to the observed total of times.

        The first answers tell how fast a model is, not how its time depends on the tokens: a line through them alone
        would take a long answer for as quick as a short one. The prior weighs as much as a few requests of the
        observed sizes do.
        """
        one, x, y, xx, xy, yy = self.left
        a, b, c = self.assumed
        if x <= 0.0:
            b = 0.0
        if y <= 0.0:  # nobody has told how long answers were: they are all alike
            c = 0.0
        assumed_total = a * one + b * x + c * y
        if assumed_total <= 0.0:  # nothing that is known depends on tokens: the mean
            a, b, c, assumed_total = 1.0, 0.0, 0.0, one
        scale = self.right[0] / max(assumed_total, 1e-12)
        weight = _ASSUMED_WEIGHT / max(one, _ASSUMED_WEIGHT * 1e-6)
        of_one, of_x, of_y = _ASSUMED_WEIGHT, weight * xx + _RIDGE_WEIGHT, weight * yy + _RIDGE_WEIGHT
        by_one, by_x, by_y = self.right
        return (one + of_one, x, y, xx + of_x, xy, yy + of_y), (
            by_one + of_one * scale * a,
            by_x + of_x * scale * b,
            by_y + of_y * scale * c,
        )


def _solved(left: Sums, right: Coefficients, free: Sequence[bool]) -> Coefficients:
    """Solve positive definite normal equations for the free coefficients, those left out being 0.

    Elimination without pivoting.
    """
    one, x, y, xx, xy, yy = left
    a, b, c = (one, x, y) if free[0] else (1.0, 0.0, 0.0)
    d, e = (xx, xy) if free[1] else (1.0, 0.0)
    f = yy if free[2] else 1.0
    r, s, t = (value if use else 0.0 for value, use in zip(right, free, strict=True))
    if not free[1]:
        b = e = 0.0
    if not free[2]:
        c = e = 0.0
    by, cy = b / a, c / a
    d, e, f = d - by * b, e - by * c, f - cy * c
    s, t = s - by * r, t - cy * r
    ey = e / d
    third = (t - ey * s) / (f - ey * e)
    second = (s - e * third) / d
    return ((r - b * second - c * third) / a, second, third)
