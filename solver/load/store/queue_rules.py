"""In which order requests that wait for one model start."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from solver.errors import SpecError, Violation
from solver.load.checks import amount_problems, positive_problems

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRules:
    """In which order waiting requests start.

    Parameters
    ----------
    aging_s : float
        Seconds of waiting that count as much as one unit of priority, > 0: however urgent the others are, a
        request waits behind later ones of its tenant for no longer than this times the difference.
    passes : float
        Slots that may pass a waiting request that does not fit yet, for each slot of its own; after that,
        slots are kept free for it. 0: no request passes.
    weights : mapping of str to float
        Share of each tenant relative to the others, > 0; 1 for a tenant that is not named.

    Raises
    ------
    SpecError
        If a value is out of range.
    """

    aging_s: float = 30.0
    passes: float = 4.0
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems: list[Violation] = positive_problems("rules.aging_s", self.aging_s)
        problems += amount_problems("rules.passes", self.passes)
        for tenant, weight in self.weights.items():
            problems += positive_problems(f"rules.weights[{tenant!r}]", weight)
        if problems:
            raise SpecError(*problems)
        object.__setattr__(self, "weights", MappingProxyType(dict(self.weights)))
