"""Scores from what agents need and what models can do, computed while the agents' rows are read."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from solver.errors import SpecError, Violation
from solver.problem.agent_columns import (
    FLAG_FIELDS,
    LIST_FIELDS,
    NUMBER_FIELDS,
    TEXT_FIELDS,
    agent_table,
)
from solver.problem.column_values import Coded
from solver.problem.fleet_scorer import FleetScorer
from solver.problem.spec import Model, Objective
from solver.scale.storage import arrow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from solver.problem.agents import AgentTable

_WITHOUT_EFFECT = ("tenant",)
"""Fields that only limits look at."""

_LIST_SEPARATOR = ";"
"""Separator between the names of a list in a text column."""

_ROW = re.compile(r"^agents\[(\d+)\]\.?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputedScores:
    """How scores follow from the columns of agents.

    Parameters
    ----------
    fleet : str
        JSON of models, objective and task types, as :meth:`of` writes it.
    fields : tuple of str
        Columns of the files, named as the fields of :class:`~solver.problem.agents.Agent`.
    """

    fleet: str
    fields: tuple[str, ...]

    @classmethod
    def of(
        cls,
        models: Sequence[Model],
        fields: Sequence[str],
        *,
        objective: Objective | None = None,
        task_types: Mapping[str, Sequence[str]] | None = None,
    ) -> ComputedScores:
        """Return scores by a fleet and an objective.

        Raises
        ------
        SpecError
            For an objective that needs given scores or minimises, or facts that a model does not state.
        """
        objective = objective or Objective()
        if objective.quality not in (None, "capability"):
            rule = "expected capability where scores are computed from files of agents"
            raise SpecError(Violation("objective.quality", rule, objective.quality))
        if objective.sense == "minimize":
            rule = "expected maximize where scores are computed from capabilities"
            raise SpecError(Violation("objective.sense", rule, objective.sense))
        document = {
            "models": [model.model_dump(mode="json", exclude_defaults=True) for model in models],
            "objective": objective.model_dump(mode="json", exclude_defaults=True),
            "task_types": {name: list(needed) for name, needed in (task_types or {}).items()},
        }
        computed = cls(fleet=json.dumps(document), fields=tuple(fields))
        _scorer(computed.fleet)
        return computed

    @property
    def models(self) -> tuple[str, ...]:
        """Ids of the models."""
        return tuple(model.id for model in _scorer(self.fleet).models)

    @property
    def objective(self) -> Objective:
        """What is maximised."""
        return _scorer(self.fleet).objective


@lru_cache(maxsize=8)
def _scorer(fleet: str) -> FleetScorer:
    document = json.loads(fleet)
    models = [Model.model_validate(one) for one in document["models"]]
    return FleetScorer(models, Objective(**document["objective"]), task_types=document["task_types"])


def agent_fields(
    path: str, names: Sequence[str], agent: str, amounts: Sequence[str] = ()
) -> tuple[tuple[str, ...], list[Violation]]:
    """Return which of a file's columns are fields of agents that scores follow from, and what is wrong with others.

    ``amounts`` are columns of what agents take, which count besides.
    """
    known = (*TEXT_FIELDS, *FLAG_FIELDS, *LIST_FIELDS, *NUMBER_FIELDS)
    lines = []
    for name in names:
        if name in amounts:
            continue
        if name.startswith("resources."):
            lines.append(Violation(path, f"{name}: expected a resource that some model has"))
        elif name not in known and name != agent:
            lines.append(Violation(path, f"{name}: expected a field of agents, or to be ignored"))
    return tuple(name for name in names if name in known and name not in _WITHOUT_EFFECT), lines


class ScoredAgents(NamedTuple):
    """The (k, m) scores of some rows, to be maximised, and their (k,) penalties and priorities where there are any."""

    score: NDArray[np.float64]
    penalty: NDArray[np.float64] | None
    priority: NDArray[np.float64] | None


def scored_agents(computed: ComputedScores, batch: Any, where: str, row: int) -> ScoredAgents:
    """Return the scores of some rows. O(k m).

    Parameters
    ----------
    computed : ComputedScores
        How they are computed.
    batch : pyarrow.RecordBatch
        With the columns ``computed.fields``.
    where, row : str, int
        The file, and the rows of it before these, for errors.

    Raises
    ------
    SpecError
        For a value that breaks a rule of agents, with file and row.
    """
    columns = {name: _column(batch.column(name), name) for name in computed.fields}
    try:
        agents = agent_table(columns, rows=batch.num_rows)
    except SpecError as error:
        raise SpecError(*(_in_file(line, where, row) for line in error.violations)) from None
    scorer = _scorer(computed.fleet)
    penalty = None
    if "unassigned_penalty" in computed.fields:
        penalty = _penalties(agents, scorer.objective, where, row)
    priority = agents.priority if "priority" in computed.fields else None
    return ScoredAgents(score=scorer.rows(agents).score, penalty=penalty, priority=priority)


def _penalties(agents: AgentTable, objective: Objective, where: str, row: int) -> NDArray[np.float64]:
    """Return what leaving each out costs before its priority."""
    own, common = agents.unassigned_penalty, objective.unassigned_penalty
    if own is None:
        own = np.full(len(agents.priority), np.nan)
    missing = np.isnan(own)
    if missing.any() and common is None:
        at = row + int(np.flatnonzero(missing)[0]) + 1
        rule = "unassigned_penalty: required for every agent where the objective has none"
        raise SpecError(Violation(f"{where}: row {at}", rule))
    return own if common is None else np.where(missing, common, own)


def _in_file(line: Violation, where: str, row: int) -> Violation:
    """Return a violation with the file and its row instead of the place in a table."""
    found = _ROW.match(line.path)
    if found is None:
        return Violation(where, f"{line.path}: {line.rule}", line.value, kind=line.kind, hint=line.hint)
    field = line.path[found.end() :]
    path = f"{where}: row {row + int(found[1]) + 1}"
    rule = f"{field}: {line.rule}"
    return Violation(path, rule, line.value, shown=line.shown, kind=line.kind, hint=line.hint)


def _column(column: Any, name: str) -> Any:
    """Return an Arrow column as codes, numbers with a mask, or lists, see ``agent_table``."""
    pa, _ = arrow()
    types, kind = pa.types, column.type
    if types.is_null(kind):
        return [None] * len(column)
    if types.is_decimal(kind):
        column, kind = column.cast(pa.float64()), pa.float64()
    if types.is_list(kind) or types.is_large_list(kind):
        column = _joined_names(column, may_be_none=name.startswith("allowed_"))
        if isinstance(column, list):
            return column
        kind = column.type
    if types.is_dictionary(kind) or name not in NUMBER_FIELDS:
        encoded = column if types.is_dictionary(kind) else column.dictionary_encode()
        codes = encoded.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
        return Coded(codes, encoded.dictionary.to_pylist())
    if not (types.is_integer(kind) or types.is_floating(kind)):
        return column.to_pylist()
    if not column.null_count:
        return column.to_numpy(zero_copy_only=False)
    missing = column.is_null().to_numpy(zero_copy_only=False)
    return np.ma.array(column.fill_null(0).to_numpy(zero_copy_only=False), mask=missing)


def _joined_names(column: Any, *, may_be_none: bool) -> Any:
    """Return lists of names as text, or as Python's lists where a name holds what separates them."""
    pa, _ = arrow()
    names = column.flatten()
    if may_be_none and (pa.compute.min(pa.compute.list_value_length(column)).as_py() or 0) == 0:
        return column.to_pylist()  # as text, an empty list would be no list
    text = pa.types.is_string(names.type) or pa.types.is_large_string(names.type)
    if (
        not text
        or names.null_count
        or pa.compute.any(pa.compute.match_substring_regex(names, "[;|]")).as_py()
    ):
        return column.to_pylist()
    return pa.compute.binary_join(column, _LIST_SEPARATOR)
