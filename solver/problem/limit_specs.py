"""Limits across models by id: names of agents, models, tenants and providers, and amounts with their unit.

A problem's ``limits`` are values of these classes, or mappings with a ``kind`` and the fields of that kind.
:mod:`solver.problem.limit_arrays` turns them into the array limits of :mod:`solver.problem.limit_kinds`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, PlainSerializer, PlainValidator

from solver.errors import SpecError, Violation, missing_value, wrong_type
from solver.problem.values import Count, Frozen, Identifier, Real, Text, unknown_name

UNITS = ("agents", "tokens", "usd", "quality", "latency_s")
"""What limits count besides resources. Tokens are input and output tokens; quality is the objective's, before load."""

DEMAND = "demand"
"""The resource that a problem's ``demand`` states: slots taken."""

Unit = str
"""One of :data:`UNITS`, or the name of a resource that agents take."""

Amount = Annotated[Real, Field(ge=0)]
Fraction = Annotated[Real, Field(ge=0, le=1)]


class LimitSpec(Frozen):
    """Base class of all limits: a name, and the agents and models that the limit concerns.

    Parameters
    ----------
    name : str
        Unique in its problem; appears in prices, violations and reasons.
    agents, tenants : sequence of str, optional
        Agents by id and by tenant; those that meet both where both are given, all where neither is.
    models, providers, regions : sequence of str, optional
        Models by id, provider and region, likewise.
    """

    name: Text
    agents: tuple[Identifier, ...] | None = None
    tenants: tuple[Text, ...] | None = None
    models: tuple[Identifier, ...] | None = None
    providers: tuple[Text, ...] | None = None
    regions: tuple[Text, ...] | None = None

    def amounts(self) -> dict[str, tuple[Unit, str]]:
        """Return the amounts given: field name to unit and ``at_most`` or ``at_least``."""
        given = {
            f"{side}_{unit}": (unit, side)
            for side in ("at_most", "at_least")
            for unit in UNITS
            if getattr(self, f"{side}_{unit}", None) is not None
        }
        resource = getattr(self, "resource", None) or DEMAND
        sides = [side for side in ("at_most", "at_least") if getattr(self, side, None) is not None]
        return given | {side: (resource, side) for side in sides}

    def amount(self, side: str) -> float | None:
        """Return the amount of ``at_most`` or ``at_least``, None where that side is open."""
        for field, (_, where) in self.amounts().items():
            if where == side:
                return float(getattr(self, field))
        return None

    @property
    def unit(self) -> Unit:
        """What the limit counts."""
        return next((unit for unit, _ in self.amounts().values()), "agents")

    def broken_by_itself(self) -> list[Violation]:
        """Return what is wrong with the amounts among themselves, ``field: rule, value``."""
        given = self.amounts()
        resource = getattr(self, "resource", None)
        sides = [side for side in ("at_most", "at_least") if side in given]
        if sides and resource is None:
            return [
                Violation(
                    f"{sides[0]}", "expected a resource beside it, or the unit in the name of the field"
                )
            ]
        if resource is not None and not sides:
            return [Violation("resource", "expected at_most or at_least beside it", shown="neither")]
        fields = [name for name in type(self).model_fields if name.startswith(("at_most_", "at_least_"))]
        if len(fields) == 1 and not given:
            return [missing_value(f"{fields[0]}")]
        if fields and not given:
            return [Violation(f"{fields[0]}", f"expected {' or '.join(fields)}", shown="none of them")]
        if len({unit for unit, _ in given.values()}) > 1:
            return [
                Violation(f"{next(iter(given))}", "expected amounts in one unit", shown=" and ".join(given))
            ]
        low, high = self.amount("at_least"), self.amount("at_most")
        if low is not None and high is not None and low > high:
            field = next(name for name in given if name.startswith("at_least"))
            return [
                Violation(
                    field,
                    f"expected no more than {field.replace('least', 'most')} ({high:g})",
                    low,
                    shown=f"{low:g}",
                )
            ]
        return []


class RowLimitSpec(LimitSpec):
    """A limit on a sum, which may be hard or soft.

    Parameters
    ----------
    violation_price : float, optional
        What each unit beyond the limit takes off the objective, in score: a US dollar too much, an agent too few. A
        unit of a share is one of its whole (an agent too many), a unit of a mean is one of its own times agents.
        None: the limit must hold.
    """

    violation_price: Amount | None = None


class BudgetSpec(RowLimitSpec):
    """Spend at most ``at_most_usd`` US dollars, at list price; or ``at_most`` of another resource.

    Parameters
    ----------
    at_most_usd : float, optional
        US dollars.
    resource : str, optional
        A resource that agents take, such as hours, or ``demand``.
    at_most : float, optional
        Units of the resource.
    """

    kind: Literal["budget"] = "budget"
    at_most_usd: Amount | None = None
    resource: Text | None = None
    at_most: Amount | None = None


class QuotaSpec(RowLimitSpec):
    """Bound how many agents, tokens or units of a resource some agents take from some models.

    Parameters
    ----------
    at_most_agents, at_least_agents, at_most_tokens, at_least_tokens : float, optional
        Amounts, in one unit; at least one.
    resource : str, optional
        A resource that agents take, such as memory, or ``demand``: what ``at_most`` and ``at_least`` count.
    at_most, at_least : float, optional
        Units of the resource.
    """

    kind: Literal["quota"] = "quota"
    resource: Text | None = None
    at_most: Amount | None = None
    at_least: Amount | None = None
    at_most_agents: Amount | None = None
    at_least_agents: Amount | None = None
    at_most_tokens: Amount | None = None
    at_least_tokens: Amount | None = None


class ShareSpec(RowLimitSpec):
    """Bound the part that some agents on some models have in all that is served, 0 to 1.

    Parameters
    ----------
    at_most_share, at_least_share : float, optional
        Fractions; at least one of them.
    of : str
        What the share is taken of: agents, tokens, usd, demand, or a resource that agents take.
    """

    kind: Literal["share"] = "share"
    at_most_share: Fraction | None = None
    at_least_share: Fraction | None = None
    of: Text = "agents"

    def amounts(self) -> dict[str, tuple[Unit, str]]:
        """Return the fractions given: field name to unit of the whole and side."""
        fields = {"at_most_share": "at_most", "at_least_share": "at_least"}
        return {name: (self.of, side) for name, side in fields.items() if getattr(self, name) is not None}


class CommitmentSpec(RowLimitSpec):
    """Send at least so many agents, tokens, US dollars or units of a resource to some models. One amount."""

    kind: Literal["commitment"] = "commitment"
    resource: Text | None = None
    at_least: Amount | None = None
    at_least_agents: Amount | None = None
    at_least_tokens: Amount | None = None
    at_least_usd: Amount | None = None


class AverageSpec(RowLimitSpec):
    """Bound a mean over the agents served: quality, cost in US dollars, latency in seconds, or a resource."""

    kind: Literal["average"] = "average"
    resource: Text | None = None
    at_most: Amount | None = None
    at_least: Amount | None = None
    at_least_quality: Real | None = None
    at_most_quality: Real | None = None
    at_most_usd: Amount | None = None
    at_least_usd: Amount | None = None
    at_most_latency_s: Amount | None = None


class TogetherSpec(LimitSpec):
    """Agents that share a model: all on the same one, or all unassigned."""

    kind: Literal["together"] = "together"


class ApartSpec(RowLimitSpec):
    """Agents of which one model serves at most ``at_most_agents``."""

    kind: Literal["apart"] = "apart"
    at_most_agents: Count = 1


class ChangesSpec(RowLimitSpec):
    """Move at most ``at_most_agents`` agents away from where they were.

    Parameters
    ----------
    previous : mapping of str to str
        Model of each agent before, by id; agents that are not named may go anywhere.
    at_most_agents : int
        Number of moves.
    """

    kind: Literal["changes"] = "changes"
    previous: dict[Identifier, Identifier]
    at_most_agents: Count


class StayPutSpec(LimitSpec):
    """Charge every agent that leaves the model it had.

    Parameters
    ----------
    previous : mapping of str to str
        Model of each agent before, by id; agents that are not named go anywhere free of charge.
    cost_per_move : float
        In score, >= 0.
    """

    kind: Literal["stay_put"] = "stay_put"
    previous: dict[Identifier, Identifier]
    cost_per_move: Amount


_SPEC_OF_KIND: dict[str, type[LimitSpec]] = {
    str(spec.model_fields["kind"].default): spec
    for spec in (
        BudgetSpec,
        QuotaSpec,
        ShareSpec,
        CommitmentSpec,
        AverageSpec,
        TogetherSpec,
        ApartSpec,
        ChangesSpec,
        StayPutSpec,
    )
}


def _read(value: object) -> tuple[LimitSpec, ...]:
    """Return the limits of a list of specs or mappings, or raise every violation in it."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        msg = wrong_type("limits", "expected a list", value)
        raise SpecError(msg)
    specs: list[LimitSpec] = []
    lines: list[Violation] = []
    for position, entry in enumerate(value):
        path = f"limits[{position}]"
        if isinstance(entry, LimitSpec):
            specs.append(entry)
            continue
        if not isinstance(entry, Mapping):
            lines.append(wrong_type(path, "expected a mapping of field names to values", entry))
            continue
        kind = entry.get("kind")
        if "kind" not in entry:
            lines.append(
                missing_value(f"{path}.kind", f"required, one of {', '.join(_SPEC_OF_KIND)}, but missing")
            )
        elif not isinstance(kind, str) or kind not in _SPEC_OF_KIND:
            lines.append(
                unknown_name(
                    f"{path}.kind", f"expected one of {', '.join(_SPEC_OF_KIND)}", kind, _SPEC_OF_KIND
                )
            )
        else:
            try:
                specs.append(_SPEC_OF_KIND[kind].model_validate(dict(entry)))
            except SpecError as error:
                lines.extend(found.within(path) for found in error.violations)
    if lines:
        raise SpecError(*lines)
    return tuple(specs)


LimitSpecs = Annotated[
    Any,
    PlainValidator(_read),
    PlainSerializer(lambda specs: [spec.model_dump(exclude_none=True) for spec in specs]),
]
"""A tuple of limits, read from specs or mappings."""
