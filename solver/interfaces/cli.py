"""The command line: ``solver solve | verify | explain | generate | bench``.

Exit codes: 0 solved, 1 unexpected, 2 bad input, 3 infeasible, 4 deadline with no full assignment, 130 ctrl-C.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

import solver
from solver.errors import MissingExtraError, SolverError, SpecError
from solver.interfaces.bench.baselines import yardsticks
from solver.interfaces.files.problem_file import read_parts, read_problem
from solver.interfaces.files.results import check_output, read_assignments, write_results
from solver.interfaces.report import explanation_report, plan_report, progress_report
from solver.interfaces.verification import verify_assignments
from solver.solution.plan import finite
from solver.solution.solution import Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from solver.problem.spec import Problem
    from solver.solution.plan import Plan

__all__ = ["app", "main"]

BAD_INPUT, INFEASIBLE, NO_FULL_ASSIGNMENT, INTERRUPTED = 2, 3, 4, 130

_TINY_BATCH = 60  # agents up to which scipy's assignment may be the fastest engine
_MAX_ERRORS = 50  # printed; a file with a wrong column has one error per row

app = typer.Typer(
    name="solver",
    help="Decide which model serves which agent, for a whole batch at once, with a proof.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
_out = Console()
_err = Console(stderr=True)

ProblemArgument = Annotated[
    Path | None, typer.Argument(metavar="PROBLEM", help="Problem file: YAML, JSON, or OR-Library GAP.")
]
Agents = Annotated[Path | None, typer.Option("--agents", help="Table of agents: CSV, Parquet, JSON Lines.")]
Models = Annotated[Path | None, typer.Option("--models", help="Fleet: YAML or JSON.")]
Scores = Annotated[Path | None, typer.Option("--scores", help="Long table of agent, model, score.")]
AgentColumn = Annotated[str, typer.Option(help="Column of the scores that names the agent.")]
ModelColumn = Annotated[str, typer.Option(help="Column of the scores that names the model.")]
ScoreColumn = Annotated[str, typer.Option(help="Column of the scores that holds the score.")]
Slots = Annotated[int | None, typer.Option(help="Slots of every model, where the scores name the models.")]
GapFile = Annotated[
    Path | None, typer.Option("--gap-file", help="Generalized assignment, OR-Library format.")
]
Engine = Annotated[str, typer.Option(help="auto, or one engine by name.")]
DeadlineMs = Annotated[
    float | None, typer.Option("--deadline-ms", help="Hard wall-clock budget of the solve.")
]
Seed = Annotated[int, typer.Option(help="Same input and seed: same answer.")]
Threads = Annotated[int, typer.Option(help="Most threads to use.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of the report.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; ``argv`` defaults to that of the process."""
    try:
        result = app(args=None if argv is None else list(argv), prog_name="solver", standalone_mode=False)
    except (SpecError, MissingExtraError) as error:
        return _report_error(error)
    except (KeyboardInterrupt, typer.Abort):
        _err.print("interrupted; no file was changed", style="yellow")
        return INTERRUPTED
    except typer.Exit as stop:
        return int(stop.exit_code)
    except Exception as error:
        show = getattr(error, "show", None)  # what typer raises for unknown options and the like
        if show is None:
            raise
        show()
        return BAD_INPUT
    return int(result or 0)


def _report_error(error: SolverError) -> int:
    lines = error.violations if isinstance(error, SpecError) else (str(error),)
    for line in lines[:_MAX_ERRORS]:
        _err.print("error:", style="bold red", end=" ")
        _err.print(line, markup=False, highlight=False, soft_wrap=True)
    if len(lines) > _MAX_ERRORS:
        _err.print(f"and {len(lines) - _MAX_ERRORS:,} more of the kind", style="red")
    return BAD_INPUT


def _exit(code: int) -> NoReturn:
    raise typer.Exit(code)


def _read(
    problem: Path | None,
    *,
    agents: Path | None = None,
    models: Path | None = None,
    scores: Path | None = None,
    columns: dict[str, str] | None = None,
    slots: int | None = None,
    gap_file: Path | None = None,
) -> Problem:
    """Return the problem named by a file, or made of tables."""
    tables = {"--agents": agents, "--models": models, "--scores": scores}
    given = [name for name, path in tables.items() if path is not None]
    if sum((problem is not None, gap_file is not None, bool(given))) != 1:
        msg = (
            "PROBLEM: expected a problem file, or --gap-file, or --agents/--models/--scores, one of the three"
        )
        raise SpecError(msg)
    if gap_file is not None:
        return read_problem(gap_file, file_format="gap")
    if problem is not None:
        return read_problem(problem)
    table = None if scores is None else {"path": str(scores), **(columns or {})}
    return read_parts(agents=agents, models=models, scores=table, slots=slots)


@app.command()
def solve(
    problem: ProblemArgument = None,
    agents: Agents = None,
    models: Models = None,
    scores: Scores = None,
    agent_column: AgentColumn = "agent",
    model_column: ModelColumn = "model",
    score_column: ScoreColumn = "score",
    slots: Slots = None,
    gap_file: GapFile = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder, or .csv/.json/.parquet file, for the assignments."),
    ] = None,
    engine: Engine = "auto",
    deadline_ms: DeadlineMs = None,
    seed: Seed = 0,
    threads: Threads = 1,
    as_json: AsJson = False,
    quiet: Quiet = False,
    progress: Annotated[
        bool, typer.Option("--progress", help="Show how the answer improved over time.")
    ] = False,
) -> None:
    """Assign every agent of a problem to a model, with a proof of how good the plan is.

    [bold]Examples[/bold]

      solver solve data/demo.yaml

      solver solve data/demo.yaml --output plan.csv --deadline-ms 100

      solver solve --agents agents.csv --models fleet.yaml --json

      solver solve --scores outcomes.csv --agent-column prompt_id --score-column win_prob --slots 38
    """
    target = None if output is None else check_output(_assignments_in(output))
    with _working("reading", quiet=quiet or as_json) as step:
        columns = {"agent": agent_column, "model": model_column, "score": score_column}
        asked = _read(
            problem,
            agents=agents,
            models=models,
            scores=scores,
            columns=columns,
            slots=slots,
            gap_file=gap_file,
        )
        # Importing engines is neither solving time nor part of a deadline.
        solver.warm_up(*(() if deadline_ms is not None else _likely_engines(asked)))
        step(f"solving {len(asked.agents):,} agents × {len(asked.models):,} models")
        plan = solver.solve(asked, engine=engine, deadline_ms=deadline_ms, seed=seed, threads=threads)
        step("writing")
        written: list[Path] = []
        if target is not None:
            written = write_results(target, plan.to_columns(), summary=plan.summary())
    if as_json:
        sys.stdout.write(json.dumps(finite(plan.summary())) + "\n")
    elif not quiet:
        _out.print(plan_report(plan, yardsticks=yardsticks(plan)))
        if progress:
            _out.print(progress_report(plan.solution))
        for path in written:
            _out.print(f"wrote {path}", style="dim", highlight=False, soft_wrap=True)
    _exit(_code(plan, deadline_ms))


def _likely_engines(problem: Problem) -> tuple[str, ...]:
    """Return the engines a problem of this size is likely to meet, cheap imports only."""
    if problem.demand is not None or any(model.resources for model in problem.models):
        return ("greedy",)
    return ("lsap", "flow") if len(problem.agents) <= _TINY_BATCH else ("flow", "price")


def _assignments_in(output: Path) -> Path:
    """Return the file of assignments: in a folder, or the file named."""
    if output.is_dir():
        return output / "assignments.csv"
    if not output.suffix and not output.exists():
        raise SpecError(f"{output}: no such folder; name an existing one, or a .csv, .json or .parquet file")
    return output


def _code(plan: Plan, deadline_ms: float | None) -> int:
    if plan.status is Status.INFEASIBLE:
        return INFEASIBLE
    cut_short = plan.status is not Status.OPTIMAL and deadline_ms is not None
    if plan.status is Status.UNKNOWN or (cut_short and len(plan.solution.unassigned)):
        return NO_FULL_ASSIGNMENT
    return 0


@app.command()
def verify(
    problem: Annotated[Path, typer.Argument(metavar="PROBLEM", help="Problem file.")],
    assignments: Annotated[Path, typer.Argument(metavar="ASSIGNMENTS", help="CSV, JSON or Parquet.")],
    bound: Annotated[
        bool, typer.Option(help="Solve for a bound, to say how far from the best it is.")
    ] = True,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Check an assignment file against its problem file, independently of whoever made it.

    Recomputes every score, load and the objective. Exit code 3 when a constraint is broken.

    [bold]Example[/bold]

      solver verify data/demo.yaml plan.csv
    """
    found = verify_assignments(read_problem(problem), read_assignments(assignments), with_bound=bound)
    if as_json:
        sys.stdout.write(json.dumps(finite(found.to_dict())) + "\n")
    elif not quiet:
        _out.print(found.report())
    _exit(0 if found.feasible else INFEASIBLE)


@app.command()
def explain(
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="Id of an agent.")],
    problem: Annotated[Path, typer.Argument(metavar="PROBLEM", help="Problem file.")],
    engine: Engine = "auto",
) -> None:
    """Say why an agent got its model: score terms, runner-up, and the price that decided.

    [bold]Example[/bold]

      solver explain a0042 data/demo.yaml
    """
    plan = solver.solve(read_problem(problem), engine=engine)
    _out.print(explanation_report(solver.explain(plan, agent)))


@app.command()
def generate(
    folder: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Folder, or file for --gap.")],
    agents: Annotated[int, typer.Option(min=1, help="Number of agents.")] = 1000,
    models: Annotated[int, typer.Option(min=1, help="Number of models.")] = 10,
    tightness: Annotated[float, typer.Option(help="Agents per slot; above 1 not all fit.")] = 0.9,
    table: Annotated[str, typer.Option(help="How agents are written: csv or parquet.")] = "csv",
    gap: Annotated[str | None, typer.Option(help="Type A to E: a generalized assignment instance.")] = None,
    seed: Seed = 0,
) -> None:
    """Write a seeded, realistic problem: a fleet and a batch, or a GAP instance of type A to E.

    [bold]Examples[/bold]

      solver generate batch --agents 10000 --models 20

      solver generate d20200.txt --gap D --agents 200 --models 20
    """
    from solver.interfaces.generate import write_gap, write_problem
    from solver.problem.generate import gap_type, generate_problem

    if gap is not None:
        written = [write_gap(gap_type(gap), models, agents, folder, seed=seed)]
    else:
        asked = generate_problem(agents, models, tightness=tightness, seed=seed)
        written = write_problem(asked, folder, table=table)
    for path in written:
        _out.print(f"wrote {path}", highlight=False, soft_wrap=True)


@app.command()
def bench(
    largest: Annotated[int, typer.Option(help="Largest number of agents on the ladder.")] = 100_000,
    repeat: Annotated[int, typer.Option(min=1, help="Runs per rung and solver; the median is shown.")] = 3,
    gap: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="GAP instances and their best_known.csv, instead.")
    ] = None,
    deadlines: Annotated[str, typer.Option(help="Deadlines in ms for --gap, comma-separated.")] = "100,1000",
    peers: Annotated[bool, typer.Option(help="Run CP-SAT and HiGHS on the --gap instances too.")] = True,
    seed: Seed = 0,
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

    if gap is not None:
        solver.warm_up()
        results = []
        for one in gap_results(gap, deadlines_ms=_milliseconds(deadlines), peers=peers, seed=seed):
            results.append(one)
            found = "nothing" if one.gap is None else f"{one.gap:.4%}"
            _err.print(f"{one.instance} {one.solver} {one.deadline_ms:g} ms: {found}", highlight=False)
        _out.print(gap_table(results))
        return
    _out.print(ladder_report(largest=largest, repeat=repeat, seed=seed, on_row=_err.print))


def _milliseconds(text: str) -> list[float]:
    """Return the deadlines of a comma-separated list."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise SpecError(f"deadlines: expected numbers separated by commas, got {text!r}") from None


class _Steps:
    """Says on a terminal what is going on; silent elsewhere."""

    def __init__(self, first: str, *, quiet: bool) -> None:
        self._status = None if quiet or not _err.is_terminal else _err.status(first)

    def __enter__(self) -> Any:
        if self._status is not None:
            self._status.start()
        return self.step

    def step(self, text: str) -> None:
        if self._status is not None:
            self._status.update(text)

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()


def _working(first: str, *, quiet: bool) -> _Steps:
    return _Steps(first, quiet=quiet)


if __name__ == "__main__":
    raise SystemExit(main())
