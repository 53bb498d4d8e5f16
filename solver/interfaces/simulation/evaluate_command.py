"""``solver evaluate``: say whether joint assignment pays on a score table."""

from __future__ import annotations

import json
from pathlib import Path  # noqa: TC003 - typer reads it at run time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from solver.errors import SpecError
from solver.interfaces.exit_codes import say
from solver.interfaces.simulation.outputs import check_new
from solver.interfaces.terminal import make_console, printable

if TYPE_CHECKING:
    from rich.table import Table


def evaluate(
    *,
    scores: Annotated[Path, typer.Argument(metavar="SCORES", help="Outcomes of agents on models: a table.")],
    capacities: Annotated[
        str, typer.Option(help="Slots of the fleet as shares of the agents, comma-separated.")
    ] = "0.5,0.7,0.8,0.9,1,1.5",
    repeats: Annotated[int, typer.Option(min=2, help="Random partitions that figures are the mean of.")] = 10,
    folds: Annotated[int, typer.Option(min=2, help="Parts; each is predicted from the others.")] = 3,
    agent_column: Annotated[str | None, typer.Option(help="Column that names the agent.")] = None,
    model_column: Annotated[str | None, typer.Option(help="Column that names the model.")] = None,
    score_column: Annotated[str | None, typer.Option(help="Column of the outcome.")] = None,
    cost_column: Annotated[str | None, typer.Option(help="Column of the cost of a pair.")] = None,
    groups: Annotated[
        Path | None, typer.Option(help="Table of agents with what predictions may use of them.")
    ] = None,
    group_column: Annotated[str | None, typer.Option(help="With --groups: the column of task types.")] = None,
    seed: Annotated[int, typer.Option(help="Same input and seed: same answer.")] = 0,
    json_output: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="File for the results.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Say whether joint assignment pays on your data, against simpler rules at matched cost and matched served.

    Decisions see predictions from held-out folds, never the outcome they are judged by. A control, in which
    predictions are those of other agents, shows what a gain by chance looks like.

    [bold]Examples[/bold]

      solver evaluate outcomes.csv --json evidence.json

      solver evaluate outcomes.csv --groups prompts.csv --group-column dataset --capacities 0.8,1
    """
    from solver.interfaces.files.library_errors import errors_about
    from solver.interfaces.files.results import write_text
    from solver.interfaces.files.sources import Reading
    from solver.interfaces.simulation.progress import duration, progress_bar
    from solver.interfaces.simulation.score_matrix import read_groups, read_score_matrix
    from solver.simulate.evaluate import EvaluationParams, seconds_per_step
    from solver.simulate.evaluate import evaluate as run

    out, err = make_console(), make_console(stderr=True)
    target = None if json_output is None else check_new(json_output, ".json", force=force)
    params = EvaluationParams(capacities=_shares(capacities), folds=folds, repeats=repeats, seed=seed)
    reading = Reading()
    table = read_score_matrix(
        scores, reading, agent=agent_column, model=model_column, score=score_column, cost=cost_column
    )
    group = None if groups is None else read_groups(groups, table, reading, agent_column, group_column)
    notes = list(reading.notes)
    if group is None:
        notes.append("no features of agents are given (--groups): predictions are the same for every agent")
    if table.cost is None:
        notes.append("no cost is given: nothing is matched but the number served")
    arrays = ("scores", "cost", "group")
    if not quiet:
        n, m = table.scores.shape
        steps = len(params.capacities) * repeats
        with errors_about(scores, arrays):
            pace = seconds_per_step(table.scores, cost=table.cost, group=group, params=params)
        size = f"{n:,} agents × {m} models, {len(params.capacities)} capacities × {repeats} partitions"
        say(err, f"{size}: {duration(pace * steps)}; no model is called, no cost")
        for note in notes:
            say(err, f"note: {note}", style="dim")
    with (
        errors_about(scores, arrays),
        progress_bar(err, len(params.capacities) * repeats, shown=not quiet) as advance,
    ):
        found = run(
            table.scores,
            cost=table.cost,
            group=group,
            params=params,
            on_step=lambda done, of: advance(done, f"{done} of {of}"),
        )
    if target is not None:
        settings = {
            "repeats": repeats,
            "folds": folds,
            "seed": seed,
            "cost": table.cost_column,
            "confidence": 0.95,
        }
        write_text(target, json.dumps({**found, "settings": settings, "notes": notes}, indent=2) + "\n")
    if not quiet:
        out.print(_table(found["results"], "Joint assignment by predicted scores, and its gain over"))
        out.print(_table(found["ceiling"], "Ceiling: the same, had the true scores been known"))
        for line in (*_conclusions(found["results"]), _verified(found["verification"])):
            out.print(printable(line), soft_wrap=True)
        if target is not None:
            out.print(printable(f"wrote {target}"), style="dim", soft_wrap=True)


def _verified(counts: dict[str, int]) -> str:
    """Return what the check of all plans found, as text."""
    if counts["broken"]:
        return f"verification: {counts['broken']:,} of {counts['plans']:,} plans break a limit; do not trust this"
    return (
        f"verification: {counts['plans']:,} plans within slots, matched in cost and number served; "
        f"{counts['proven_optimal']:,} proven optimal for the scores they were made for"
    )


def _shares(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise SpecError(f"capacities: expected numbers separated by commas, got {text!r}") from None


def _table(results: list[dict[str, Any]], title: str) -> Table:
    from rich.table import Table

    rivals = [name for name in dict.fromkeys(row["policy"] for row in results) if name != "joint"]
    table = Table(title=title, box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for heading in ("capacity", "quality", *rivals):
        table.add_column(heading, justify="right")
    for share in dict.fromkeys(row["capacity"] for row in results):
        at = {row["policy"]: row for row in results if row["capacity"] == share}
        cells = [f"{at['joint']['quality']:.4g}"]
        cells += [
            f"{at[name]['gain']:+.4f} ±{at[name]['gain_high'] - at[name]['gain']:.4f}" for name in rivals
        ]
        table.add_row(f"{share:.0%}", *cells)
    return table


def _conclusions(results: list[dict[str, Any]]) -> list[str]:
    """Return, per policy, at which capacities the gain differs from zero, in plain words."""
    lines = []
    for policy in dict.fromkeys(row["policy"] for row in results):
        if policy == "joint":
            continue
        rows = [row for row in results if row["policy"] == policy]
        sure = [row for row in rows if row["gain_low"] > 0 or row["gain_high"] < 0]
        where = ", ".join(f"{row['capacity']:.0%}" for row in sure)
        name = "control (shuffled)" if policy == "shuffled" else f"joint over {policy}"
        lines.append(
            f"{name}: indistinguishable from zero at every capacity"
            if not sure
            else f"{name}: differs from zero at {where}; indistinguishable elsewhere"
        )
    return lines
