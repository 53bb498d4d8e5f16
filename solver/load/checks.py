"""Rules for plain values given to the live side, each answered with the violations it finds."""

from __future__ import annotations

import math
import numbers
from typing import Any

from solver.errors import Violation, wrong_type
from solver.problem.instance import MAX_CAPACITY

LARGEST_WHOLE = MAX_CAPACITY
"""Largest whole number: what every store, in this process or in Lua on a server, counts exactly."""

LARGEST_USD = LARGEST_WHOLE // 10**9
"""Largest sum of money: money is counted in billionths of a dollar."""


def whole_problems(path: str, value: Any, *, low: int | None = 0) -> list[Violation]:
    """Return the violations of a whole number >= ``low`` and within ``LARGEST_WHOLE``: none or one.

    Booleans are not numbers.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        rule = "a whole number" if low is None else f"a whole number >= {low}"
    elif low is not None and int(value) < low:
        rule = f"a whole number >= {low}"
    elif abs(int(value)) > LARGEST_WHOLE:
        rule = f"a whole number of at most {LARGEST_WHOLE}"
    else:
        return []
    return [Violation(path, f"expected {rule}", value)]


def amount_problems(path: str, value: Any) -> list[Violation]:
    """Return the violations of a finite number >= 0: none or one."""
    if 0 <= _float_of(value) < math.inf:
        return []
    return [Violation(path, "expected a finite number >= 0", value)]


def money_problems(path: str, value: Any) -> list[Violation]:
    """Return the violations of US dollars, 0 to ``LARGEST_USD``: none or one."""
    problems = amount_problems(path, value)
    if not problems and float(value) > LARGEST_USD:
        problems = [Violation(path, f"expected at most {LARGEST_USD} US dollars", value)]
    return problems


def positive_problems(path: str, value: Any) -> list[Violation]:
    """Return the violations of a finite number > 0: none or one."""
    if 0 < _float_of(value) < math.inf:
        return []
    return [Violation(path, "expected a finite number > 0", value)]


def name_problems(path: str, value: Any) -> list[Violation]:
    """Return the violations of text that is not empty: none or one."""
    if isinstance(value, str) and value:
        return text_problems(path, value)
    return [wrong_type(path, "expected text that is not empty", value)]


def text_problems(path: str, value: Any) -> list[Violation]:
    """Return the violations of text that can be sent and stored: half a surrogate pair cannot."""
    if not isinstance(value, str):
        return [wrong_type(path, "expected text", value)]
    try:
        value.encode()
    except UnicodeEncodeError:
        return [Violation(path, "expected text without halves of surrogate pairs", value)]
    return []


def names_problems(path: str, value: Any) -> list[Violation]:
    """Return the violations of a sequence of names: a single text is none."""
    if isinstance(value, str):
        return [wrong_type(path, "expected a sequence of names", value)]
    return [problem for k, name in enumerate(value) for problem in name_problems(f"{path}[{k}]", name)]


def _float_of(value: Any) -> float:
    """Return a number as float, NaN for what is none and infinity for one that no float can hold."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _shown(value: Any) -> str:
    """Return a value as text that fits a message."""
    if isinstance(value, numbers.Integral) and int(value).bit_length() > 256:
        return f"a number of {int(value).bit_length()} bits"
    return repr(value)
