"""The fleet file of a service: read whole and checked, then in place of the one before, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from solver.errors import SpecError, Violation, ViolationKind
from solver.interfaces.files.documents import read_document
from solver.interfaces.http.periodic_checks import ALERT_RULES
from solver.load.control.alerts import AlertRule
from solver.load.control.scaling_rules import ScalingAction, ScalingRule
from solver.problem.spec import Model, Objective
from solver.problem.values import Count, Frozen, Real, Text, unknown_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

_ACTIONS = Literal["alert_only", "scale_out", "redistribute", "reject_new"]
_METRICS = Literal["utilization", "p50_ms", "p95_ms", "p99_ms", "mean_ms", "failure_rate"]


class AlertSpec(Frozen):
    """An alert rule as a fleet file states it; fields as in :class:`~solver.AlertRule`."""

    name: Text
    metric: _METRICS
    threshold: Real
    clear: Real | None = None
    window_s: Real = 60.0
    hold_s: Real = 0.0
    min_requests: Count = 1

    def rule(self) -> AlertRule:
        """Return the rule.

        Raises
        ------
        SpecError
            If a figure is out of range.
        """
        return AlertRule(**self.model_dump())


class ScalingSpec(Frozen):
    """A scaling rule as a fleet file states it; fields as in :class:`~solver.ScalingRule`."""

    threshold_utilization: Real
    threshold_duration_ms: Real
    action: _ACTIONS
    clear_utilization: Real | None = None
    cooldown_ms: Real = 30_000.0
    model: Text | None = None

    def rule(self) -> ScalingRule:
        """Return the rule.

        Raises
        ------
        SpecError
            If a figure is out of range.
        """
        return ScalingRule(**self.model_dump(exclude={"action"}), action=ScalingAction(self.action))


class Fleet(Frozen):
    """What a service routes to, and the rules that it watches.

    Parameters
    ----------
    models : sequence of Model
        At least one, with unique ids.
    objective : Objective
        What decisions and batches maximise.
    budget_usd, budget_period_s : float, optional
        Most US dollars in each period of so many seconds.
    tenant_shares : mapping of str to float
        Most of the slot time that a tenant should get, 0 to 1.
    task_types : mapping of str to sequence of str
        Required capabilities of own task types.
    alerts : sequence of AlertSpec, optional
        Alert rules with unique names; default: ``ALERT_RULES``. An empty list: none.
    scaling : sequence of ScalingSpec
        What is done about models that are too busy for too long.
    """

    models: Annotated[tuple[Model, ...], Field(min_length=1)]
    objective: Objective = Field(default_factory=Objective)
    budget_usd: Annotated[Real, Field(gt=0)] | None = None
    budget_period_s: Annotated[Real, Field(gt=0)] | None = None
    tenant_shares: dict[Text, Annotated[Real, Field(gt=0, le=1)]] = Field(default_factory=dict)
    task_types: dict[Text, tuple[Text, ...]] = Field(default_factory=dict)
    alerts: tuple[AlertSpec, ...] | None = None
    scaling: tuple[ScalingSpec, ...] = ()

    @model_validator(mode="after")
    def _rules_hold(self) -> Fleet:
        problems = _repeated("models", "id", self.ids)
        problems += _repeated("alerts", "name", [alert.name for alert in self.alerts or ()])
        for k, alert in enumerate(self.alerts or ()):
            problems += _broken(alert.rule, f"alerts[{k}]")
        for k, scaling in enumerate(self.scaling):
            problems += _broken(scaling.rule, f"scaling[{k}]")
            if scaling.model is not None and scaling.model not in self.ids:
                problems.append(
                    unknown_name(
                        f"scaling[{k}].model", "expected a model of the fleet", scaling.model, self.ids
                    )
                )
        if problems:
            raise SpecError(*problems)
        return self

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the models."""
        return tuple(model.id for model in self.models)

    @property
    def alert_rules(self) -> tuple[AlertRule, ...]:
        """Alert rules to watch."""
        return ALERT_RULES if self.alerts is None else tuple(alert.rule() for alert in self.alerts)

    @property
    def scaling_rules(self) -> tuple[ScalingRule, ...]:
        """Scaling rules to carry out."""
        return tuple(scaling.rule() for scaling in self.scaling)


def _repeated(name: str, field: str, values: Iterable[str]) -> list[Violation]:
    seen: set[str] = set()
    problems = []
    for k, value in enumerate(values):
        if value in seen:
            where = f"{name}[{k}].{field}"
            problems.append(
                Violation(where, f"expected unique {field}s", value, kind=ViolationKind.DUPLICATE)
            )
        seen.add(value)
    return problems


def _broken(make: Callable[[], Any], path: str) -> list[Violation]:
    """Return what is wrong with a rule, by its place in the file."""
    try:
        make()
    except SpecError as error:
        return [one.within(path) for one in error.violations]
    return []


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
        return Fleet.model_validate(document)
    except SpecError as error:
        raise SpecError(*(one.at(f"{path}: {one.path}") for one in error.violations)) from None
