"""Batches in files at the command line: what the options mean, and the report."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from solver.errors import SpecError, Violation, missing_value
from solver.interfaces.exit_codes import INFEASIBLE, say
from solver.interfaces.files.problem_file import read_fleet
from solver.interfaces.report import number
from solver.interfaces.terminal import printable
from solver.problem.request_cost import TokenPrices
from solver.problem.resources import TOKEN_SUMS, resource_capacity, resource_names
from solver.scale.batch import LargeBatch
from solver.scale.computed_scores import ComputedScores, agent_fields
from solver.scale.coupling import BatchBudget, BatchResource
from solver.scale.job import solve_files
from solver.scale.pieces import ScoreColumns, files_of, unreadable
from solver.scale.storage import arrow, full_location, open_input
from solver.scale.verification import verify_plan
from solver.solution.plan import finite

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from rich.console import Console, RenderableType

    from solver.interfaces.options import ProblemSource
    from solver.problem.spec import Model
    from solver.scale.certificate import PlanCertificate
    from solver.scale.manifest import Manifest

_PRINTED_VIOLATIONS = 20
"""Violations printed at most."""

_PRINTED_ROWS = 8
"""Bounds printed at most."""


def refuse_beside_stream(given: Mapping[str, bool]) -> None:
    """Raise for options that would have no effect.

    Raises
    ------
    SpecError
        Naming them.
    """
    lines = [f"{name}: not beside --stream" for name, wanted in given.items() if wanted]
    if lines:
        raise SpecError(*lines)


def solve_stream(
    source: ProblemSource,
    output: Path | None,
    *,
    seed: int,
    resume: bool,
    unique_ids: bool,
    workers: int,
    address: str | None,
    budget_usd: float | None = None,
    report: Callable[[str], None],
) -> Manifest | None:
    """Solve a batch in files: with so many actors of Ray, or with none in this process.

    Raises
    ------
    SpecError
        Without an output, and for whatever is wrong with options, files and cluster.
    """
    if output is None:
        raise SpecError("--output: required beside --stream: the folder of the plan")
    batch = large_batch(source, budget_usd)
    if not workers:
        return solve_files(batch, output, seed=seed, resume=resume, unique_ids=unique_ids, report=report)
    from solver.scale.ray_workers import RayFleet

    fleet = partial(RayFleet, workers=workers, address=address)
    return solve_files(
        batch, output, seed=seed, resume=resume, unique_ids=unique_ids, fleet=fleet, report=report
    )


def show_stream(manifest: Manifest | None, out: Console, err: Console, *, as_json: bool, quiet: bool) -> int:
    """Print what became of a batch in files, and return the exit code."""
    if manifest is None:
        if not quiet:
            say(err, "infeasible: not every agent who must be served can be; nothing was written")
        return INFEASIBLE
    if as_json:
        sys.stdout.write(json.dumps(finite(asdict(manifest.certificate))) + "\n")
    elif not quiet:
        out.print(streaming_report(manifest.certificate))
    return 0


def show_verification(folder: Path, out: Console, *, as_json: bool, quiet: bool) -> int:
    """Check a plan in files, print what was found, and return the exit code."""
    found = verify_plan(folder)
    if as_json:
        document = {**asdict(found.certificate), "feasible": found.feasible, "violations": found.violations}
        sys.stdout.write(json.dumps(finite(document)) + "\n")
    elif not quiet:
        out.print(streaming_report(found.certificate, found.violations))
    return 0 if found.feasible else INFEASIBLE


def large_batch(source: ProblemSource, budget_usd: float | None = None) -> LargeBatch:
    """Return the batch that ``--scores`` or ``--agents``, ``--models`` and the options beside them describe.

    With ``budget_usd`` all agents together may cost so much, by the list prices of the models and the columns
    ``input_tokens`` and ``output_tokens``.

    Raises
    ------
    SpecError
        For options that do not go with it, and a fleet that has more than slots, load costs, floors and resources.
    """
    _check_options(source, budget_usd)
    fleet = [] if source.models is None else read_fleet(source.models, reading=source.reading)
    _check_openings(fleet)
    resources = _resources(fleet)
    budgets = [] if budget_usd is None else [_budget(fleet, budget_usd)]
    amounts = [name for one in resources for name in one.taken] + [
        name for one in budgets for name in one.rates
    ]
    if source.agents is None:
        columns, files = _score_columns(source, fleet)
    else:
        columns, files = _agent_columns(source, fleet, amounts)
    if not fleet:
        capacity = [int(source.slots or 0)] * len(columns.models)
        return LargeBatch(files=files, columns=columns, capacity=capacity)
    tiers = max(len(model.capacity.load_cost) for model in fleet)
    return LargeBatch(
        files=files,
        columns=columns,
        capacity=[model.capacity.batch_slots for model in fleet],
        load_cost=[model.capacity.load_cost or (0.0,) * tiers for model in fleet] if tiers else [],
        min_load=[model.capacity.min_slots for model in fleet],
        resources=resources,
        budgets=budgets,
    )


def _resources(fleet: Sequence[Model]) -> list[BatchResource]:
    """Return the resources of a fleet: sums of tokens by their names, others from the column ``resources.NAME``."""
    return [
        BatchResource(
            name=name,
            capacity=resource_capacity(fleet, name).tolist(),
            columns=TOKEN_SUMS.get(name, (f"resources.{name}",)),
        )
        for name in resource_names(fleet)
    ]


def _budget(fleet: Sequence[Model], amount: float) -> BatchBudget:
    """Return a budget at the list prices of the models.

    Raises
    ------
    SpecError
        For models without list prices.
    """
    fields = ("usd_per_million_input_tokens", "usd_per_million_output_tokens")
    lines = [
        missing_value(f"models.{model.id}.{name}", "required beside --budget-usd")
        for model in fleet
        for name in fields
        if getattr(model, name) is None
    ]
    if lines:
        raise SpecError(*lines)
    prices = TokenPrices(fleet)
    rates = {
        "input_tokens": prices.usd_per_input_token.tolist(),
        "output_tokens": prices.usd_per_output_token.tolist(),
    }
    return BatchBudget(name="budget_usd", amount=amount, rates=rates)


def _check_options(source: ProblemSource, budget_usd: float | None) -> None:
    others: dict[str, object] = {
        "PROBLEM": source.problem,
        "--gap-file": source.gap_file,
        "--model-column": source.model_column,
        "--choice-column": source.choice_column,
    }
    if source.agents is not None:
        others |= {"--score-column": source.score_column, "--sense": source.sense, "--slots": source.slots}
    lines = [f"{name}: not beside --stream" for name, given in others.items() if given not in (None, [])]
    if (source.scores is None) == (source.agents is None):
        lines.append("--scores: expected either --scores or --agents beside --stream: one agent a row")
    if source.layout not in (None, "wide"):
        lines.append(f"--layout: expected wide beside --stream, got {source.layout!r}")
    if source.agents is not None and source.models is None:
        lines.append("--models: required beside --agents and --stream")
    elif (source.models is None) == (source.slots is None):
        lines.append("--models: expected either a fleet or --slots beside --stream")
    lines += [
        f"--{name}-column: not beside --agents, whose column {name} is read"
        for name, column in _unit_columns(source).items()
        if column is not None and source.agents is not None
    ]
    if source.models is None and budget_usd is not None:
        lines.append("--models: required beside --budget-usd")
    if lines:
        raise SpecError(*lines)


def _score_columns(source: ProblemSource, fleet: Sequence[Model]) -> tuple[ScoreColumns, tuple[str, ...]]:
    """Return what the columns of ``--scores`` hold, and its files."""
    agent = source.agent_column or "agent"
    files = files_of([full_location(source.scores or "")])
    units = _unit_columns(source)
    named = {name for name in units.values() if name is not None}
    names = [model.id for model in fleet] or _model_columns(files[0], agent, source, named)
    ignored = {agent, *names, *(source.ignore_column or []), *named}
    lines = [
        f"--{name}-column: expected {name}, or --ignore-column {name}: {files[0]} has such a column"
        for name in units
        if name in _schema_names(files[0]) and name not in ignored
    ]
    if lines:
        raise SpecError(*lines)
    columns = ScoreColumns(
        agent=agent,
        models=tuple(names),
        scores=source.score_column,
        sense=source.sense or "maximize",
        count=units["count"],
        copies=units["copies"],
    )
    return columns, files


def _unit_columns(source: ProblemSource) -> dict[str, str | None]:
    """Return the columns of scores that say what a row takes besides one slot."""
    return {"count": source.count_column, "copies": source.copies_column}


def _agent_columns(
    source: ProblemSource, fleet: Sequence[Model], amounts: Sequence[str]
) -> tuple[ScoreColumns, tuple[str, ...]]:
    """Return how scores follow from the columns of ``--agents``, and its files."""
    agent = source.agent_column or "id"
    files = files_of([full_location(source.agents or "")])
    names = [name for name in _schema_names(files[0]) if name not in (source.ignore_column or [])]
    fields, lines = agent_fields(files[0], names, agent, amounts)
    if lines:
        raise SpecError(*lines)
    return ScoreColumns.of_agents(ComputedScores.of(fleet, fields), agent=agent), files


def _model_columns(path: str, agent: str, source: ProblemSource, units: set[str]) -> list[str]:
    """Return the columns of scores, where no fleet names the models."""
    if source.score_column is not None:
        raise SpecError("--models: required beside --score-column: it names the models of the scores")
    ignored = {agent, *(source.ignore_column or []), *units}
    return [name for name in _schema_names(path) if name not in ignored]


def _schema_names(path: str) -> list[str]:
    pa, pq = arrow()
    try:
        with open_input(path) as file:
            names: list[str] = pq.read_schema(file).names
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from None
    return names


def _check_openings(fleet: Sequence[Model]) -> None:
    fields = ("min_slots_if_open", "opening_cost")
    lines = [
        Violation(f"models.{model.id}.capacity.{name}", "expected none beside --stream", value)
        for model in fleet
        for name in fields
        if (value := getattr(model.capacity, name))
    ]
    if lines:
        raise SpecError(*lines)


def streaming_report(certificate: PlanCertificate, violations: Sequence[str] | None = None) -> RenderableType:
    """Return a plan in files, or the check of one, as people read it."""
    wrong = certificate.violations if violations is None else violations
    word = "BROKEN" if wrong else "OPTIMAL" if certificate.optimal else "FEASIBLE"
    head = Text(word, style="bold red" if wrong else "bold green")
    what = "agents" if certificate.units is None else "rows with all their units"
    head.append(f"  {certificate.served:,} of {certificate.agents:,} {what} assigned", style="default")
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(justify="right")
    grid.add_row("objective", number(certificate.objective))
    grid.add_row("bound", number(certificate.bound))
    grid.add_row("gap", f"{certificate.gap:.4%}")
    if certificate.units is not None:
        served, asked = certificate.units
        grid.add_row("units", f"{served:,} of {asked:,}")
    parts: list[RenderableType] = [head, grid]
    if certificate.usage:
        parts.append(_usage_table(certificate.usage))
    lines = [Text(printable(f"  {line}"), style="red") for line in wrong[:_PRINTED_VIOLATIONS]]
    if len(wrong) > _PRINTED_VIOLATIONS:
        lines.append(Text(f"  and {len(wrong) - _PRINTED_VIOLATIONS:,} more", style="red"))
    return Group(*parts, *lines)


def _usage_table(usage: Sequence[tuple[str, float, float]]) -> Table:
    """Return the bounds that are used up most."""
    table = Table.grid(padding=(0, 2))
    table.add_column(overflow="fold")
    for _ in range(3):
        table.add_column(justify="right")
    fullest = sorted(usage, key=lambda row: -(row[1] / row[2] if row[2] else 0.0))[:_PRINTED_ROWS]
    for name, used, bound in fullest:
        share = f"{used / bound:.2%}" if bound else "-"
        table.add_row(printable(name), number(used), f"of {number(bound)}", share)
    if len(usage) > _PRINTED_ROWS:
        table.add_row(Text(f"and {len(usage) - _PRINTED_ROWS:,} bounds that are used less", style="dim"))
    return table
