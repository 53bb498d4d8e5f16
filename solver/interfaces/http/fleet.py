"""The fleet file of a service: read whole and checked, then in place of the one before, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from solver.errors import SpecError, Violation, ViolationKind
from solver.interfaces.files.documents import read_document
from solver.problem.spec import Model, Objective
from solver.problem.values import Frozen, Real, Text

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Fleet", "read_fleet"]


class Fleet(Frozen):
    """What a service routes to.

    Parameters
    ----------
    models : sequence of Model
        At least one, with unique ids.
    objective : Objective
        What decisions maximise.
    budget_usd, budget_period_s : float, optional
        Most US dollars in each period of so many seconds.
    tenant_shares : mapping of str to float
        Most of the slot time that a tenant should get, 0 to 1.
    task_types : mapping of str to sequence of str
        Required capabilities of own task types.
    """

    models: Annotated[tuple[Model, ...], Field(min_length=1)]
    objective: Objective = Field(default_factory=Objective)
    budget_usd: Annotated[Real, Field(gt=0)] | None = None
    budget_period_s: Annotated[Real, Field(gt=0)] | None = None
    tenant_shares: dict[Text, Annotated[Real, Field(gt=0, le=1)]] = Field(default_factory=dict)
    task_types: dict[Text, tuple[Text, ...]] = Field(default_factory=dict)

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the models."""
        return tuple(model.id for model in self.models)


def read_fleet(path: Path) -> Fleet:
    """Return the fleet a YAML or JSON file describes: a list of models, or a mapping with ``models`` and more.

    Raises
    ------
    SpecError
        One line per violation, with the file's name.
    """
    document = read_document(path)
    if isinstance(document, list):
        document = {"models": document}
    if not isinstance(document, dict):
        raise SpecError(Violation(str(path), "expected a list of models", kind=ViolationKind.TYPE))
    try:
        fleet = Fleet.model_validate(document)
        seen: dict[str, int] = {}
        for j, model in enumerate(fleet.ids):
            if seen.setdefault(model, j) != j:
                raise SpecError(
                    Violation(f"models[{j}].id", "expected unique ids", model, kind=ViolationKind.DUPLICATE)
                )
    except SpecError as error:
        raise SpecError(*(one.at(f"{path}: {one.path}") for one in error.violations)) from None
    return fleet
