"""Consistency checks across the parts of a problem, beyond what each part checks by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from solver.errors import Violation, ViolationKind, missing_value, repeated_value
from solver.problem.capability import CAPABILITIES, TASK_TYPES
from solver.problem.limit_rules import limit_rules
from solver.problem.numbers import LARGEST, wrong_shape
from solver.problem.resources import resource_rules
from solver.problem.values import did_you_mean, unknown_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from solver.problem.agents import AgentTable, Profile
    from solver.problem.limit_specs import LimitSpec
    from solver.problem.models import Model
    from solver.problem.objective import Objective
    from solver.problem.resources import Demand
    from solver.problem.scores import ScoreTable

_MAX_NAMED_ROWS = 20
"""Offending entries spelled out for each rule."""

_TOO_LARGE = f"expected at most {LARGEST:g} in size"
NO_MINIMUM = "expected none where scores are costs to be minimised"


def broken_rules(
    *,
    agents: AgentTable,
    models: Sequence[Model],
    objective: Objective,
    scores: ScoreTable | None,
    demand: Demand,
    task_types: Mapping[str, tuple[str, ...]],
    limits: Sequence[LimitSpec],
) -> list[Violation]:
    """Return one line per rule that the parts of a problem break together, in the order of its fields."""
    lines: list[Violation] = []
    n, m = len(agents), len(models)
    if n == 0:
        lines.append(Violation("agents", "expected at least one agent", shown="none"))
    if m == 0:
        lines.append(Violation("models", "expected at least one model", shown="none"))
    lines.extend(repeated_ids("models", [model.id for model in models]))
    if n and m:
        lines.extend(_profile_rules(agents, models, task_types))
    lines.extend(objective_rules(models, objective))
    lines.extend(_penalty_rules(agents, objective))
    lines.extend(_tier_rules(models))
    lines.extend(_floor_rules(models))
    lines.extend(_minimum_rules(agents, objective))
    if scores is not None:
        lines.extend(_score_rules(agents, models, scores))
    elif objective.quality in {"given", "combined"}:
        lines.append(
            missing_value("scores", f"required where objective.quality is {objective.quality!r}, but missing")
        )
    lines.extend(_demand_rules(n, m, demand))
    lines.extend(resource_rules(agents, models, demand, limits))
    if n and m:
        lines.extend(limit_rules(agents, models, demand, limits))
    return lines


def repeated_ids(path: str, ids: Iterable[str]) -> Iterator[Violation]:
    """Yield one line per id that repeats an earlier one."""
    first: dict[str, int] = {}
    for j, name in enumerate(ids):
        if first.setdefault(name, j) != j:
            yield repeated_value(
                f"{path}[{j}].id", "expected unique ids", name, first=f"{path}[{first[name]}]"
            )


def _profile_rules(
    agents: AgentTable, models: Sequence[Model], own_task_types: Mapping[str, tuple[str, ...]]
) -> Iterator[Violation]:
    """Check the names that profiles use; each is reported at the first agent of its profile."""
    names = KnownNames(models, own_task_types)
    yield from names.unknown_requirements()
    for code, profile in enumerate(agents.profiles):
        if lines := names.unknown_in(profile):
            row = int(np.flatnonzero(agents.profile == code)[0])
            yield from (found.within(f"agents[{row}]") for found in lines)


class KnownNames:
    """The names that an agent may use: a misspelt one must not decide silently.

    Parameters
    ----------
    models : sequence of Model
        Whose ids, regions, providers and capabilities are known.
    own_task_types : mapping of str to sequence of str
        Required capabilities of the user's own task types, besides those known.
    """

    def __init__(self, models: Sequence[Model], own_task_types: Mapping[str, Sequence[str]]) -> None:
        ids = [model.id for model in models]
        self._named = {"allowed_models": ids, "forbidden_models": ids}
        self._present = {
            "allowed_regions": [model.region for model in models if model.region],
            "allowed_providers": [model.provider for model in models if model.provider],
        }
        self.task_types = dict.fromkeys([*TASK_TYPES, *own_task_types])
        self._own_task_types = own_task_types
        self._capabilities = dict.fromkeys(
            [*CAPABILITIES, *(name for model in models for name in model.capabilities)]
        )

    def unknown_requirements(self) -> list[Violation]:
        """Return a line for each capability that the user's task types require and nothing knows."""
        return [
            found
            for name, needed in self._own_task_types.items()
            for found in self._unknown_capabilities(f"task_types.{name}", needed)
        ]

    def unknown_in(self, profile: Profile) -> list[Violation]:
        """Return a line for each name in a profile that nothing knows."""
        lines = self.unknown_abilities(profile)
        for field, known in self._named.items():
            for name in getattr(profile, field) or ():
                if name not in known:
                    lines.append(unknown_name(field, "expected the id of a model", name, known))
        for field, known in self._present.items():
            for name in getattr(profile, field) or ():
                hint = did_you_mean(name, known)
                if name not in known and hint:  # no model in a region is a fact; a near miss is a typo
                    rule = f"no model has {name!r}"
                    lines.append(Violation(field, rule, kind=ViolationKind.UNKNOWN, hint=hint))
        return lines

    def unknown_abilities(self, profile: Profile) -> list[Violation]:
        """Return a line for a task type, and for each capability, that nothing knows: every model would have it."""
        lines: list[Violation] = []
        kind = profile.task_type
        if kind is not None and kind not in self.task_types:
            lines.append(unknown_name("task_type", "expected a known task type", kind, self.task_types))
        for field in ("required_capabilities", "preferred_capabilities"):
            lines.extend(self._unknown_capabilities(field, getattr(profile, field) or ()))
        return lines

    def _unknown_capabilities(self, path: str, names: Iterable[str]) -> Iterator[Violation]:
        for name in names:
            if name not in self._capabilities:
                rule = "expected a capability that is known or that a model has"
                yield unknown_name(path, rule, name, self._capabilities)


def objective_rules(models: Sequence[Model], objective: Objective) -> Iterator[Violation]:
    """Check that models state the facts that an objective weighs, and that costs have no minimum score."""
    needed = {
        "cost_weight": ("usd_per_million_input_tokens", "usd_per_million_output_tokens"),
        "latency_weight": ("latency_s", "output_tokens_per_second"),
    }
    for weight, facts in needed.items():
        if getattr(objective, weight) > 0:
            for j, model in enumerate(models):
                for fact in facts:
                    if getattr(model, fact) is None:
                        yield missing_value(
                            f"models[{j}].{fact}", f"required where objective.{weight} > 0, but missing"
                        )
    if objective.sense == "minimize" and objective.min_score is not None:
        yield Violation("objective.min_score", NO_MINIMUM, objective.min_score)


def _score_rules(agents: AgentTable, models: Sequence[Model], scores: ScoreTable) -> Iterator[Violation]:
    n, m = len(agents), len(models)
    values = scores.values
    model_ids = [model.id for model in models]
    if scores.agent_ids is not None:
        known = agents.positions
        yield from _unknown_ids("agent", scores.agent_ids, scores.agent_codes, known, list(known))
    if scores.model_ids is not None:
        yield from _unknown_ids(
            "model", scores.model_ids, scores.model_codes, dict.fromkeys(model_ids), model_ids
        )
    if scores.agent_codes is None or scores.model_codes is None:
        rows = n if scores.agent_ids is None else len(scores.agent_ids)
        columns = m if scores.model_ids is None else len(scores.model_ids)
        if values.shape != (rows, columns):
            yield wrong_shape("scores", f"({rows}, {columns}), agents by models", values.shape)
        pairs = np.argwhere(~(values <= LARGEST) | ((values < -LARGEST) & (values > -np.inf)))
        rule = "expected a finite number, or null to forbid the pair"
        yield from (
            Violation(
                f"scores[{i}, {j}]", _TOO_LARGE if np.isfinite(values[i, j]) else rule, float(values[i, j])
            )
            for i, j in pairs[:_MAX_NAMED_ROWS]
        )
        if len(pairs) > _MAX_NAMED_ROWS:
            yield Violation("scores", f"{len(pairs) - _MAX_NAMED_ROWS} more entries are not finite")
    else:
        bad = np.flatnonzero(~(np.abs(values) <= LARGEST))
        rule = "expected a finite number"
        yield from (
            Violation(f"scores[{k}].score", _TOO_LARGE if np.isfinite(values[k]) else rule, float(values[k]))
            for k in bad[:_MAX_NAMED_ROWS]
        )
        if len(bad) > _MAX_NAMED_ROWS:
            yield Violation("scores", f"{len(bad) - _MAX_NAMED_ROWS} more entries are not finite")
        yield from _repeated_pairs(scores)


def _unknown_ids(
    what: str,
    ids: Sequence[str],
    codes: NDArray[np.int64] | None,
    known: dict[str, object] | dict[str, int],
    names: list[str],
) -> Iterator[Violation]:
    """Yield a violation for each unknown id, at its first use: in a pair, or among the labels of a matrix."""
    unknown = [k for k, name in enumerate(ids) if name not in known]
    for k in unknown[:_MAX_NAMED_ROWS]:
        pair: list[int] = [] if codes is None else np.flatnonzero(codes == k)[:1].tolist()
        name = ids[k]
        yield unknown_name(
            f"scores[{pair[0]}].{what}" if pair else f"scores.{what}s[{k}]",
            f"expected the id of one of the {what}s",
            name,
            names,
        )
    if len(unknown) > _MAX_NAMED_ROWS:
        yield Violation(
            "scores", f"{len(unknown) - _MAX_NAMED_ROWS} more unknown {what} ids", kind=ViolationKind.UNKNOWN
        )


def _repeated_pairs(scores: ScoreTable) -> Iterator[Violation]:
    assert scores.agent_codes is not None
    assert scores.model_codes is not None
    assert scores.agent_ids is not None
    assert scores.model_ids is not None
    pair = scores.agent_codes * len(scores.model_ids) + scores.model_codes
    order = np.argsort(pair, kind="stable")
    again = np.sort(order[1:][pair[order[1:]] == pair[order[:-1]]])
    for k in again[:_MAX_NAMED_ROWS]:
        agent, model = scores.agent_ids[scores.agent_codes[k]], scores.model_ids[scores.model_codes[k]]
        yield Violation(
            f"scores[{k}]",
            "expected one score a pair",
            shown=f"agent {agent!r}, model {model!r} again",
            kind=ViolationKind.DUPLICATE,
        )
    if len(again) > _MAX_NAMED_ROWS:
        yield Violation("scores", f"{len(again) - _MAX_NAMED_ROWS} more repeated pairs")


def _penalty_rules(agents: AgentTable, objective: Objective) -> Iterator[Violation]:
    """Check that every agent has a penalty where some have one of their own."""
    own = agents.unassigned_penalty
    if own is not None and objective.unassigned_penalty is None:
        for i in np.flatnonzero(np.isnan(own))[:_MAX_NAMED_ROWS]:
            yield (
                missing_value(
                    f"agents[{i}].unassigned_penalty",
                    "required where other agents have one and objective.unassigned_penalty is not given, but missing",
                )
            )


def _tier_rules(models: Sequence[Model]) -> Iterator[Violation]:
    """Check that costs of load have as many tiers in every model, and do not fall."""
    tiers = [len(model.capacity.load_cost) for model in models]
    most = max(tiers, default=0)
    for j, model in enumerate(models):
        path, cost = f"models[{j}].capacity.load_cost", model.capacity.load_cost
        if 0 < len(cost) < most:
            yield Violation(path, f"expected {most} tiers as in models[{tiers.index(most)}]", len(cost))
        if list(cost) != sorted(cost):
            yield Violation(path, "expected costs that do not fall", list(cost))


def _floor_rules(models: Sequence[Model]) -> Iterator[Violation]:
    """Check floors against capacities."""
    for j, model in enumerate(models):
        capacity = model.capacity
        for field in ("min_slots", "min_slots_if_open"):
            if getattr(capacity, field) > capacity.batch_slots:
                yield Violation(
                    f"models[{j}].capacity.{field}",
                    f"expected <= its {capacity.batch_slots} slots",
                    shown=getattr(capacity, field),
                )


def _minimum_rules(agents: AgentTable, objective: Objective) -> Iterator[Violation]:
    """Check that agents have no minimum score where scores are costs."""
    if objective.sense == "minimize":
        for i in np.flatnonzero(~np.isnan(agents.min_score))[:_MAX_NAMED_ROWS]:
            yield Violation(f"agents[{i}].min_score", NO_MINIMUM, float(agents.min_score[i]))


def _demand_rules(n: int, m: int, demand: Demand) -> Iterator[Violation]:
    if isinstance(demand, Mapping):
        for name, array in demand.items():
            yield from _demand_array_rules(n, m, f"demand.{name}", array, one=True)
    elif demand is not None:
        yield from _demand_array_rules(n, m, "demand", demand, one=False)


def _demand_array_rules(
    n: int, m: int, path: str, demand: NDArray[np.float64], *, one: bool
) -> Iterator[Violation]:
    if demand.shape not in {(n,), (n, m)} and not (one and demand.ndim == 0):
        yield wrong_shape(path, f"({n},) or ({n}, {m})", demand.shape)
    elif not (np.isfinite(demand) & (demand >= 0)).all():
        for where in np.argwhere(~(np.isfinite(demand) & (demand >= 0)))[:_MAX_NAMED_ROWS]:
            index = ", ".join(map(str, where))
            amount = float(demand[tuple(where)])
            place = f"{path}[{index}]" if index else path
            yield Violation(place, "expected a finite number >= 0", amount)
