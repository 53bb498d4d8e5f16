"""The base of parameter classes: frozen dataclasses of documented numbers, checked when they are made.

A tuning constant is a field of such a class, with unit, meaning and the benchmark that chose its value. Callers that
need another value pass an instance with that field changed; nothing patches a module.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from solver.errors import SpecError, Violation


@dataclass(frozen=True, kw_only=True)
class Params:
    """Numbers that must be finite and >= 0; those whose name ends in ``_share`` are at most 1.

    Raises
    ------
    SpecError
        Naming each field out of range.

    Examples
    --------
    >>> @dataclass(frozen=True, kw_only=True)
    ... class CoolingParams(Params):
    ...     steps: int = 8
    ...     kept_share: float = 0.25
    >>> CoolingParams(kept_share=2.0)
    Traceback (most recent call last):
    solver.errors.SpecError: CoolingParams.kept_share: expected a number from 0 to 1, got 2.0
    """

    def __post_init__(self) -> None:
        broken = []
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Params):  # a stage, checked when it was made
                continue
            most = 1.0 if field.name.endswith("_share") else math.inf
            numbers = value if isinstance(value, tuple) else (value,)
            if not all(
                isinstance(one, int | float) and 0 <= one <= most and one != math.inf for one in numbers
            ):
                rule = "expected a number from 0 to 1" if most == 1.0 else "expected a finite number >= 0"
                broken.append(Violation(f"{type(self).__name__}.{field.name}", rule, value))
        if broken:
            raise SpecError(*broken)
