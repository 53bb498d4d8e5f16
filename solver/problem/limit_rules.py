"""What must hold between a problem's limits and its agents and models."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from solver.problem.limit_arrays import concerned_agents, concerned_models
from solver.problem.limit_specs import (
    DEMAND,
    UNITS,
    ApartSpec,
    ChangesSpec,
    ShareSpec,
    StayPutSpec,
    TogetherSpec,
)
from solver.problem.resources import resources_taken
from solver.problem.values import describe, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from solver.problem.limit_specs import LimitSpec
    from solver.problem.spec import Problem

__all__ = ["limit_rules"]

_NAMED = 20  # offending names spelled out per field
_FACTS = {
    "usd": ("usd_per_million_input_tokens", "usd_per_million_output_tokens"),
    "latency_s": ("latency_s", "output_tokens_per_second"),
}


def limit_rules(problem: Problem) -> Iterator[str]:
    """Yield one line per rule that limits break, ``limits[2].models[0]: rule, value``."""
    first: dict[str, int] = {}
    grouped: dict[str, str] = {}
    for position, limit in enumerate(problem.limits):
        path = f"limits[{position}]"
        if first.setdefault(limit.name, position) != position:
            yield (
                f"{path}.name: expected unique names, got {limit.name!r} again, "
                f"first at limits[{first[limit.name]}]"
            )
        yield from (f"{path}.{line}" for line in limit.broken_by_itself())
        unknown = list(_unknown_names(problem, limit))
        yield from (f"{path}.{line}" for line in unknown)
        if not unknown:
            yield from (f"{path}{line}" for line in _concerns(problem, limit))
        if isinstance(limit, TogetherSpec):
            for k, name in enumerate(limit.agents or ()):
                if grouped.setdefault(name, limit.name) != limit.name:
                    yield f"{path}.agents[{k}]: expected an agent of no other group, got {name!r} of {grouped[name]!r}"


def _unknown_names(problem: Problem, limit: LimitSpec) -> Iterator[str]:
    agents, models = problem.agents.positions, problem.model_ids
    tenants = [name for name in problem.agents.tenants if name is not None]
    providers = [model.provider for model in problem.models if model.provider]
    regions = [model.region for model in problem.models if model.region]
    yield from _names("agents", "the id of an agent", limit.agents, agents)
    yield from _names("tenants", "the tenant of an agent", limit.tenants, tenants)
    yield from _names("models", "the id of a model", limit.models, models)
    yield from _names("providers", "the provider of a model", limit.providers, providers)
    yield from _names("regions", "the region of a model", limit.regions, regions)
    if isinstance(limit, ChangesSpec | StayPutSpec):
        columns = set(models)
        bad = [
            line
            for agent, model in limit.previous.items()
            for line in (
                *_previous("the id of an agent", agent, agent, agents),
                *_previous("the id of a model", agent, model, columns),
            )
        ]
        yield from bad[:_NAMED]
        if len(bad) > _NAMED:
            yield f"previous: {len(bad) - _NAMED} more unknown names"


def _names(field: str, what: str, names: tuple[str, ...] | None, known: Iterable[str]) -> Iterator[str]:
    if names is None:
        return
    if not names:
        yield f"{field}: expected at least one, or nothing for all, got none"
    known = set(known)
    unknown = [(k, name) for k, name in enumerate(names) if name not in known]
    for k, name in unknown[:_NAMED]:
        yield f"{field}[{k}]: expected {what}, got {name!r}{did_you_mean(name, known)}"
    if len(unknown) > _NAMED:
        yield f"{field}: {len(unknown) - _NAMED} more unknown names"
    again = [name for name, count in Counter(names).items() if count > 1]
    yield from (f"{field}: expected every name once, got {name!r} again" for name in again[:_NAMED])


def _previous(what: str, agent: str, name: str, known: Iterable[str]) -> Iterator[str]:
    if name not in known:
        yield f"previous.{agent}: expected {what}, got {describe(name)}{did_you_mean(name, known)}"


def _known_unit(problem: Problem, limit: LimitSpec, rows: NDArray[np.int64]) -> Iterator[str]:
    """Check that a resource that a limit counts is one that the agents it concerns take."""
    unit = limit.unit
    if unit in UNITS or unit == DEMAND or not len(rows):
        return
    if not resources_taken(problem.agents, unit)[rows].any():
        field = "of" if isinstance(limit, ShareSpec) else "resource"
        known = [*UNITS, DEMAND, *problem.agents.resources]
        yield f".{field}: expected a resource that an agent it concerns takes, got {unit!r}{did_you_mean(unit, known)}"


def _concerns(problem: Problem, limit: LimitSpec) -> Iterator[str]:
    """Check that a limit concerns somebody, and that what it counts is known of them."""
    rows, columns = concerned_agents(problem, limit), concerned_models(problem, limit)
    if not len(rows):
        yield ": expected at least one agent, got none that meets both agents and tenants"
    if not columns.any():
        yield ": expected at least one model, got none that meets models, providers and regions"
    if isinstance(limit, TogetherSpec):
        if len(rows) < 2:
            yield f".agents: expected at least two, got {len(rows)}"
        if limit.agents is None:
            yield ".agents: required, but missing"
        yield from (
            f".{field}: expected nothing, agents that move together may use any model"
            for field in ("models", "providers", "regions")
            if getattr(limit, field) is not None
        )
    if isinstance(limit, ApartSpec) and len(rows) < 2:
        yield f".agents: expected at least two, got {len(rows)}"
    yield from _known_unit(problem, limit, rows)
    # A share is taken of everything, so everything has to be known.
    counted = np.ones(len(columns), bool) if isinstance(limit, ShareSpec) else columns
    for fact in _FACTS.get(limit.unit, ()):
        lacking = [
            model.id for j, model in enumerate(problem.models) if counted[j] and getattr(model, fact) is None
        ]
        if lacking:
            more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
            yield f": counts {limit.unit}, but {fact} is missing in {', '.join(lacking[:3])}{more}"
    if limit.unit in {"tokens", "usd"} and len(rows):
        agents = problem.agents
        tokens = agents.input_tokens[rows].any() or agents.output_tokens[rows].any()
        if not tokens:
            yield f": counts {limit.unit}, but no agent it concerns states input_tokens or output_tokens"
