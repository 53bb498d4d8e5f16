"""Consistency checks between a problem's limits and its agents and models."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from solver.errors import Violation, ViolationKind, missing_value, repeated_value
from solver.problem.limit_members import concerned_agents, concerned_models
from solver.problem.limit_specs import (
    DEMAND,
    UNITS,
    ApartSpec,
    ChangesSpec,
    ShareSpec,
    StayPutSpec,
    TogetherSpec,
)
from solver.problem.resources import units_taken
from solver.problem.values import unknown_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from solver.problem.agents import AgentTable
    from solver.problem.limit_specs import LimitSpec
    from solver.problem.models import Model
    from solver.problem.resources import Demand

_MAX_NAMED_ROWS = 20
"""Offending names spelled out for each field."""

_FACTS = {
    "usd": ("usd_per_million_input_tokens", "usd_per_million_output_tokens"),
    "latency_s": ("latency_s", "output_tokens_per_second"),
}


def limit_rules(
    agents: AgentTable, models: Sequence[Model], demand: Demand, limits: Sequence[LimitSpec]
) -> Iterator[Violation]:
    """Yield the rules that limits break, such as ``limits[2].models[0]: rule, value``."""
    first: dict[str, int] = {}
    grouped: dict[str, str] = {}
    for position, limit in enumerate(limits):
        path = f"limits[{position}]"
        if first.setdefault(limit.name, position) != position:
            yield repeated_value(
                f"{path}.name", "expected unique names", limit.name, first=f"limits[{first[limit.name]}]"
            )
        yield from (found.within(path) for found in limit.broken_by_itself())
        unknown = list(_unknown_names(agents, models, limit))
        yield from (found.within(path) for found in unknown)
        if not unknown:
            yield from (found.within(path) for found in _concerns(agents, models, demand, limit))
        if isinstance(limit, TogetherSpec):
            for k, name in enumerate(limit.agents or ()):
                if grouped.setdefault(name, limit.name) != limit.name:
                    yield Violation(
                        f"{path}.agents[{k}]",
                        "expected an agent of no other group",
                        name,
                        shown=f"{name!r} of {grouped[name]!r}",
                    )


def _unknown_names(agents: AgentTable, models: Sequence[Model], limit: LimitSpec) -> Iterator[Violation]:
    ids = [model.id for model in models]
    tenants = [name for name in agents.tenants if name is not None]
    providers = [model.provider for model in models if model.provider]
    regions = [model.region for model in models if model.region]
    yield from _names("agents", "the id of an agent", limit.agents, agents.positions)
    yield from _names("tenants", "the tenant of an agent", limit.tenants, tenants)
    yield from _names("models", "the id of a model", limit.models, ids)
    yield from _names("providers", "the provider of a model", limit.providers, providers)
    yield from _names("regions", "the region of a model", limit.regions, regions)
    if isinstance(limit, ChangesSpec | StayPutSpec):
        columns = set(ids)
        bad = [
            line
            for agent, model in limit.previous.items()
            for line in (
                *_previous("the id of an agent", agent, agent, agents.positions),
                *_previous("the id of a model", agent, model, columns),
            )
        ]
        yield from bad[:_MAX_NAMED_ROWS]
        if len(bad) > _MAX_NAMED_ROWS:
            yield Violation(
                "previous", f"{len(bad) - _MAX_NAMED_ROWS} more unknown names", kind=ViolationKind.UNKNOWN
            )


def _names(field: str, what: str, names: tuple[str, ...] | None, known: Iterable[str]) -> Iterator[Violation]:
    if names is None:
        return
    if not names:
        yield Violation(field, "expected at least one, or nothing for all", shown="none")
    known = set(known)
    unknown = [(k, name) for k, name in enumerate(names) if name not in known]
    for k, name in unknown[:_MAX_NAMED_ROWS]:
        yield unknown_name(f"{field}[{k}]", f"expected {what}", name, known)
    if len(unknown) > _MAX_NAMED_ROWS:
        yield Violation(
            field, f"{len(unknown) - _MAX_NAMED_ROWS} more unknown names", kind=ViolationKind.UNKNOWN
        )
    again = [name for name, count in Counter(names).items() if count > 1]
    yield from (repeated_value(field, "expected every name once", name) for name in again[:_MAX_NAMED_ROWS])


def _previous(what: str, agent: str, name: str, known: Iterable[str]) -> Iterator[Violation]:
    if name not in known:
        yield unknown_name(f"previous.{agent}", f"expected {what}", name, known)


def _known_unit(
    agents: AgentTable, demand: Demand, limit: LimitSpec, rows: NDArray[np.int64]
) -> Iterator[Violation]:
    """Check that a resource that a limit counts is one that the agents it concerns take."""
    unit = limit.unit
    if unit in UNITS or unit == DEMAND or not len(rows):
        return
    if not units_taken(agents, demand, unit)[rows].any():
        field = "of" if isinstance(limit, ShareSpec) else "resource"
        known = [*UNITS, DEMAND, *agents.resources]
        yield unknown_name(field, "expected a resource that an agent it concerns takes", unit, known)


def _concerns(
    agents: AgentTable, models: Sequence[Model], demand: Demand, limit: LimitSpec
) -> Iterator[Violation]:
    """Check that a limit concerns at least one pair, and that the amounts it counts are known for its pairs."""
    rows, columns = concerned_agents(agents, limit), concerned_models(models, limit)
    if not len(rows):
        yield Violation("", "expected at least one agent", shown="none that meets both agents and tenants")
    if not columns.any():
        yield Violation(
            "", "expected at least one model", shown="none that meets models, providers and regions"
        )
    if isinstance(limit, TogetherSpec):
        if len(rows) < 2:
            yield Violation("agents", "expected at least two", len(rows))
        if limit.agents is None:
            yield missing_value("agents")
        yield from (
            Violation(field, "expected nothing, agents that move together may use any model")
            for field in ("models", "providers", "regions")
            if getattr(limit, field) is not None
        )
    if isinstance(limit, ApartSpec) and len(rows) < 2:
        yield Violation("agents", "expected at least two", len(rows))
    yield from _known_unit(agents, demand, limit, rows)
    # A share is taken of everything, so everything has to be known.
    counted = np.ones(len(columns), bool) if isinstance(limit, ShareSpec) else columns
    for fact in _FACTS.get(limit.unit, ()):
        lacking = [model.id for j, model in enumerate(models) if counted[j] and getattr(model, fact) is None]
        if lacking:
            more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
            yield missing_value(
                "", f"counts {limit.unit}, but {fact} is missing in {', '.join(lacking[:3])}{more}"
            )
    if limit.unit in {"tokens", "usd"} and len(rows):
        tokens = agents.input_tokens[rows].any() or agents.output_tokens[rows].any()
        if not tokens:
            yield Violation(
                "", f"counts {limit.unit}, but no agent it concerns states input_tokens or output_tokens"
            )
