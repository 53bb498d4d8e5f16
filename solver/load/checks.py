"""Rules for plain values given to the live side, each answered with the violations it finds."""

from __future__ import annotations

import math
import numbers
from typing import Any

__all__ = ["amount_problems", "name_problems", "positive_problems", "whole_problems"]


def whole_problems(path: str, value: Any, *, low: int | None = 0) -> list[str]:
    """Return the violations of a whole number >= ``low``: none or one. Booleans are not numbers."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if whole and (low is None or int(value) >= low):
        return []
    rule = "a whole number" if low is None else f"a whole number >= {low}"
    return [f"{path}: expected {rule}, got {value!r}"]


def amount_problems(path: str, value: Any) -> list[str]:
    """Return the violations of a finite number >= 0: none or one."""
    if _is_real(value) and 0 <= float(value) < math.inf:
        return []
    return [f"{path}: expected a finite number >= 0, got {value!r}"]


def positive_problems(path: str, value: Any) -> list[str]:
    """Return the violations of a finite number > 0: none or one."""
    if _is_real(value) and 0 < float(value) < math.inf:
        return []
    return [f"{path}: expected a finite number > 0, got {value!r}"]


def name_problems(path: str, value: Any) -> list[str]:
    """Return the violations of text that is not empty: none or one."""
    if isinstance(value, str) and value:
        return []
    return [f"{path}: expected text that is not empty, got {value!r}"]


def _is_real(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
