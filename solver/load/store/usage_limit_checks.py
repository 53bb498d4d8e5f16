"""The usual limits on usage as they are given: checked, and as a store enforces them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from solver.load.checks import money_problems, positive_problems, whole_problems
from solver.load.store.base import Limits, nano_usd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from solver.errors import Violation
    from solver.load.store.usage_limits import UsageLimit


def usage_problems(
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    budget_usd: float | None,
    budget_period_s: float | None,
) -> list[Violation]:
    """Return the violations of the usual limits: one line each."""
    problems: list[Violation] = []
    if requests_per_minute is not None:
        problems += whole_problems("requests_per_minute", requests_per_minute)
    if tokens_per_minute is not None:
        problems += whole_problems("tokens_per_minute", tokens_per_minute)
    if budget_usd is not None:
        problems += money_problems("budget_usd", budget_usd)
    if budget_period_s is not None:
        problems += positive_problems("budget_period_s", budget_period_s)
    return problems


def usage_limits(
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    budget_usd: float | None,
    budget_period_s: float | None,
    further: Sequence[UsageLimit],
) -> Limits:
    """Return checked limits on usage as a store enforces them, without slots."""
    return Limits(
        max_concurrent=0,
        requests=None if requests_per_minute is None else int(requests_per_minute),
        tokens=None if tokens_per_minute is None else int(tokens_per_minute),
        budget_nano_usd=None if budget_usd is None else nano_usd(budget_usd),
        budget_period_s=budget_period_s if budget_usd is not None else None,
        further=tuple(further),
    )
