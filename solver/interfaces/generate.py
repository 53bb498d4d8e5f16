"""Writing generated instances as the files a user would write."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from solver.errors import SpecError
from solver.interfaces.files.gap_format import format_gap
from solver.interfaces.files.results import write_columns, write_text
from solver.problem.agent_columns import LIST_FIELDS
from solver.problem.generate import generate_gap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from solver.problem.agents import AgentTable
    from solver.problem.generate import GapType
    from solver.problem.spec import Model, Problem


def write_problem(
    problem: Problem, folder: str | Path, *, name: str = "problem", table: str = "csv"
) -> list[Path]:
    """Write ``name.yaml`` and, beside it, ``name_agents`` as a table and ``name_fleet.yaml``.

    Parameters
    ----------
    problem : Problem
        Without given scores, demand or limits.
    folder : str or Path
        Made where it is missing.
    name : str
        What the files are called.
    table : {"csv", "parquet"}
        How the agents are written.

    Returns
    -------
    list of Path
        The files, the problem file first.

    Raises
    ------
    SpecError
        When a file cannot be written, or the problem holds what this form cannot.
    """
    if table not in {"csv", "parquet"}:
        msg = f"table: expected csv or parquet, got {table!r}"
        raise SpecError(msg)
    if problem.scores is not None or problem.demand is not None:
        msg = "problem: expected agents, models and objective only, got scores or demand"
        raise SpecError(msg)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{folder}: cannot be made: {error.strerror or error}"
        raise SpecError(msg) from None
    agents, fleet, main = (
        folder / f"{name}_agents.{table}", folder / f"{name}_fleet.yaml", folder / f"{name}.yaml"
    )  # fmt: skip
    write_columns(agents, agent_columns(problem.agents))
    write_fleet(problem.models, fleet)
    document: dict[str, Any] = {"agents": agents.name, "models": fleet.name}
    for part in ("objective", "task_types"):
        if plain := problem.model_dump(mode="json", include={part}, exclude_defaults=True).get(part):
            document[part] = plain
    write_text(main, yaml.safe_dump(document, sort_keys=False))
    return [main, agents, fleet]


def write_fleet(models: Sequence[Model], path: str | Path) -> Path:
    """Write models as YAML; what equals a default is left out."""
    plain = [model.model_dump(mode="json", exclude_defaults=True) for model in models]
    return write_text(Path(path), yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=110))


def write_gap(kind: GapType, m: int, n: int, path: str | Path, *, seed: int = 0) -> Path:
    """Write a generated generalized assignment instance in the OR-Library's format."""
    return write_text(Path(path), format_gap(*generate_gap(kind, m, n, seed=seed)))


def agent_columns(agents: AgentTable) -> dict[str, Any]:
    """Return the columns of a table of agents; a column in which all have the default is left out."""
    columns: dict[str, Any] = {"id": agents.ids}
    for name in agents.profiles[0].__slots__:
        values = [getattr(profile, name) for profile in agents.profiles]
        if all(value in (None, (), False) for value in values):
            continue
        if name in LIST_FIELDS:
            values = [None if not value else ";".join(value) for value in values]
        lookup = np.empty(
            len(values), dtype=object if name in LIST_FIELDS or name == "task_type" else np.bool_
        )
        lookup[:] = values
        columns[name] = lookup[agents.profile]
    for name, default in (
        ("min_context_tokens", 0), ("input_tokens", 0), ("output_tokens", 0), ("priority", 1.0)
    ):  # fmt: skip
        if (getattr(agents, name) != default).any():
            columns[name] = np.asarray(getattr(agents, name))
    if agents.unassigned_penalty is not None and np.isinf(agents.unassigned_penalty).any():
        msg = "agents.unassigned_penalty: expected finite numbers in a table, got inf"
        raise SpecError(msg)
    for name, column in (
        ("unassigned_penalty", agents.unassigned_penalty),
        ("copies", agents.copies),
        ("count", agents.multiplicity),
    ):
        columns |= {} if column is None else {name: column}
    if not np.isnan(agents.min_score).all():
        columns["min_score"] = agents.min_score
    if agents.tenants != (None,):
        columns["tenant"] = np.array(agents.tenants, dtype=object)[agents.tenant]
    columns |= {f"resources.{name}": taken for name, taken in agents.resources.items()}
    return columns
