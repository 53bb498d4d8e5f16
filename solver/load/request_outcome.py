"""The outcome of one request: the only input from which feedback, trends and predictions learn."""

from __future__ import annotations

from dataclasses import dataclass

from solver.errors import SpecError, wrong_type
from solver.load.checks import amount_problems, name_problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One finished request.

    Parameters
    ----------
    model : str
        Who served it.
    latency_ms : float
        From sending to the end of the answer, milliseconds.
    success : bool
        Whether the answer was usable.
    input_tokens, output_tokens : int or None
        Sizes, where known.
    cost_usd : float or None
        What it cost, where known.
    task_type : str or None
        What kind of work it was, where known.
    at_s : float
        Reading of the recorder's clock, seconds.

    Raises
    ------
    SpecError
        Naming each figure that is not finite or negative.
    """

    model: str
    latency_ms: float
    success: bool = True
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    task_type: str | None = None
    at_s: float = 0.0

    def __post_init__(self) -> None:
        problems = amount_problems("latency_ms", self.latency_ms) + name_problems("model", self.model)
        for name in ("input_tokens", "output_tokens", "cost_usd"):
            value = getattr(self, name)
            if value is not None:
                problems += amount_problems(name, value)
        if not isinstance(self.success, bool):
            problems.append(wrong_type("success", "expected true or false", self.success))
        if problems:
            raise SpecError(*problems)
