"""``solver bench``: this machine's times, ours beside the usual tools."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads it at run time
from typing import Annotated

import typer

import solver
from solver.errors import SpecError
from solver.interfaces.terminal import make_console


def bench(
    largest: Annotated[int, typer.Option(help="Largest number of agents on the ladder.")] = 100_000,
    repeat: Annotated[int, typer.Option(min=1, help="Runs per rung and solver; the median is shown.")] = 3,
    gap: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="GAP instances and their best_known.csv, instead.")
    ] = None,
    deadlines: Annotated[str, typer.Option(help="Deadlines in ms for --gap, comma-separated.")] = "100,1000",
    peers: Annotated[bool, typer.Option(help="Run CP-SAT and HiGHS on the --gap instances too.")] = True,
    seed: Annotated[int, typer.Option(help="Same input and seed: same answer.")] = 0,
) -> None:
    """Time this machine: ours beside the usual tools, in the same run.

    By default a ladder of sizes against scipy and plain OR-Tools flow. With --gap, generalized assignment
    instances under deadlines, against CP-SAT and HiGHS: gaps to the best known costs.

    [bold]Examples[/bold]

      solver bench --largest 10000

      solver bench --gap instances --deadlines 100,1000 --no-peers
    """
    from solver.interfaces.bench.gap_benchmark import gap_results, gap_table
    from solver.interfaces.bench.size_benchmark import ladder_report

    out, err = make_console(), make_console(stderr=True)
    if gap is not None:
        solver.warm_up()
        results = []
        for one in gap_results(gap, deadlines_ms=_milliseconds(deadlines), peers=peers, seed=seed):
            results.append(one)
            found = "nothing" if one.gap is None else f"{one.gap:.4%}"
            err.print(f"{one.instance} {one.solver} {one.deadline_ms:g} ms: {found}")
        out.print(gap_table(results))
        return
    out.print(ladder_report(largest=largest, repeat=repeat, seed=seed, on_row=err.print))


def _milliseconds(text: str) -> list[float]:
    """Return the deadlines of a comma-separated list."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise SpecError(f"deadlines: expected numbers separated by commas, got {text!r}") from None
