"""Changes of a fleet to try on the same traffic: ``slots.gpt-4o=+10``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from solver.errors import SpecError, Violation
from solver.problem.instance import MAX_CAPACITY
from solver.problem.values import unknown_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from solver.problem.spec import Model

CHANGES = {
    "slots": "requests served at once",
    "queue": "queue places",
    "latency_s": "seconds to the first token",
    "output_tokens_per_second": "speed",
}
"""What can be changed of a model."""

_WHOLE = ("slots", "queue")
_ALL = "*"


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of one model, or of all.

    Parameters
    ----------
    figure : str
        One of :data:`CHANGES`.
    model : str
        Id, or ``*``.
    operation : {"=", "+", "-", "*"}
        Set, add, subtract or multiply.
    amount : float
        By how much.
    text : str
        As it was written.
    """

    figure: str
    model: str
    operation: str
    amount: float
    text: str

    def applied(self, before: float) -> float:
        """Return the figure after the change."""
        return {
            "=": self.amount,
            "+": before + self.amount,
            "-": before - self.amount,
            "*": before * self.amount,
        }[self.operation]


def parse_change(text: str) -> Change:
    """Return a change written as ``figure.model=+amount``; also ``-``, ``*`` for times, or the plain new value.

    Raises
    ------
    SpecError
        If it is not written like that.
    """
    target, equals, value = text.partition("=")
    figure, dot, model = target.partition(".")
    path = f"what_if: {text}"
    if not (equals and dot and model):
        raise SpecError(Violation(path, "expected FIGURE.MODEL=+AMOUNT, such as slots.gpt-4o=+10", text))
    if figure not in CHANGES:
        raise SpecError(unknown_name(path, f"expected one of {', '.join(CHANGES)}", figure, CHANGES))
    operation, number = (value[0], value[1:]) if value[:1] in ("+", "-", "*") else ("=", value)
    try:
        amount = float(number)
    except ValueError:
        amount = math.nan
    if not math.isfinite(amount):
        raise SpecError(Violation(path, "expected a number after =, such as +10, -2, *1.5 or 20", value))
    return Change(figure, model, operation, amount, text)


def changed_fleet(
    models: Sequence[Model], changes: Sequence[Change], defaults: dict[str, float]
) -> list[Model]:
    """Return models with changes applied, in their order.

    Parameters
    ----------
    models : sequence of Model
        Before.
    changes : sequence of Change
        Applied one after the other.
    defaults : dict
        ``latency_s`` and ``output_tokens_per_second`` of models that do not state them.

    Raises
    ------
    SpecError
        For a model that is not there, or a figure that ends below zero or is no whole number of slots.
    """
    result = list(models)
    ids = [model.id for model in models]
    for change in changes:
        path = f"what_if: {change.text}"
        if change.model != _ALL and change.model not in ids:
            rule = f"expected a model of the fleet: {', '.join(ids)}"
            raise SpecError(unknown_name(path, rule, change.model, ids))
        for j, model in enumerate(result):
            if change.model in (_ALL, model.id):
                result[j] = _changed(model, change, path, defaults)
    return result


def _changed(model: Model, change: Change, path: str, defaults: dict[str, float]) -> Model:
    figure = change.figure
    update: dict[str, Any] = {}
    if figure in _WHOLE:
        field = "max_concurrent" if figure == "slots" else "max_queue"
        after = round(change.applied(getattr(model.capacity, field)), 9)
        if figure in _WHOLE and change.operation == "*":
            after = float(round(after))
        if not (0 <= after <= MAX_CAPACITY and after == math.floor(after)):
            raise SpecError(Violation(path, f"expected a whole number from 0 to 2**53 of {model.id}", after))
        update["capacity"] = model.capacity.model_copy(update={field: int(after)})
    else:
        stated = getattr(model, figure)
        after = change.applied(defaults[figure] if stated is None else stated)
        if not 0 <= after < math.inf or (after == 0 and figure == "output_tokens_per_second"):
            raise SpecError(Violation(path, f"expected a number > 0 of {model.id}", after))
        update[figure] = after
    return model.model_copy(update=update)
