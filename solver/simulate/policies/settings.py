"""Settings of this package's own policies, as they are written behind a policy's name."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from solver.errors import SpecError, Violation
from solver.problem.values import unknown_name


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
    """What a policy weighs; None: its default.

    Parameters
    ----------
    load_weight : float, optional
        How much a model's utilization lowers its score, 0 to 1.
    latency_weight : float, optional
        Score points a second of service costs, >= 0.
    tail_weight : float, optional
        Score points a second of the mean latency of the slowest twentieth costs, >= 0; ``optimal-router`` only.
        Default: a twentieth of the range of predicted scores. 0: seconds count alike, whoever waits them.
    cost_weight : float, optional
        Score points a US dollar costs, >= 0.
    wait_cost : float, optional
        Score points a second of waiting costs, >= 0; ``optimal-router`` only. Default: the latency weight where
        there is one, else a tenth of the range of predicted scores.
    """

    load_weight: float | None = None
    latency_weight: float | None = None
    tail_weight: float | None = None
    cost_weight: float | None = None
    wait_cost: float | None = None

    def __post_init__(self) -> None:
        problems = []
        for field in fields(self):
            value = getattr(self, field.name)
            most = 1.0 if field.name == "load_weight" else math.inf
            if value is not None and not (0 <= value <= most and math.isfinite(value)):
                rule = "expected between 0 and 1" if most == 1.0 else "expected a number >= 0"
                problems.append(Violation(field.name, rule, value))
        if problems:
            raise SpecError(*problems)

    @classmethod
    def parse(cls, parts: list[str], where: str) -> PolicySettings:
        """Return settings written as ``name=value``.

        Raises
        ------
        SpecError
            Naming every part that is none.
        """
        known = [field.name for field in fields(cls)]
        values: dict[str, float] = {}
        problems = []
        for part in parts:
            name, equals, text = part.partition("=")
            try:
                number = float(text)
            except ValueError:
                number = math.nan
            if name not in known:
                problems.append(unknown_name(where, f"expected a setting: {', '.join(known)}", name, known))
            elif not equals or math.isnan(number):
                problems.append(Violation(f"{where}: {name}", "expected a number", text))
            else:
                values[name] = number
        if problems:
            raise SpecError(*problems)
        return cls(**values)
