"""The command line: ``solver solve | verify | explain | generate | bench | serve | token | simulate | evaluate``.

Exit codes: 0 solved, 1 unexpected, 2 bad input, 3 infeasible, 4 deadline with no full assignment, 130 and 143
interrupted, 141 the reader of the output is gone.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from dataclasses import replace
from pathlib import Path  # noqa: TC003 - typer reads it at run time
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

import solver
from solver.errors import SpecError
from solver.interfaces.bench.baselines import baselines
from solver.interfaces.bench.bench_command import bench
from solver.interfaces.exit_codes import INFEASIBLE, INTERRUPTED, NO_FULL_ASSIGNMENT, report_failure, say
from solver.interfaces.files.assignments import known_ids, read_assignments
from solver.interfaces.files.results import check_output, write_results
from solver.interfaces.http.commands import serve, token
from solver.interfaces.options import ProblemSource, takes_problem
from solver.interfaces.output_paths import assignments_in, check_not_read
from solver.interfaces.report import explanation_report, plan_report, progress_report
from solver.interfaces.simulation.evaluate_command import evaluate
from solver.interfaces.simulation.simulate_command import simulate
from solver.interfaces.terminal import LoggedSteps, Steps, make_console, printable
from solver.interfaces.verification_report import verification_report
from solver.solution.plan import finite
from solver.solution.solution import Status
from solver.solution.verification import verify_assignments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from solver.problem.spec import Problem
    from solver.solution.plan import Plan

_PLAN_URL = re.compile(r"[a-z][a-z0-9+.-]+:/")
"""URL of a plan, with one slash, as a `Path` leaves it."""

_TINY_BATCH = 60
"""Agents up to which SciPy's assignment may be the fastest engine and is warmed up."""

app = typer.Typer(
    name="solver",
    help="Decide which model serves which agent, for a whole batch at once, with a proof.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
_out = make_console()
_err = make_console(stderr=True)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        _out.print(f"solver {version('batch-assignment-solver')}", highlight=False)
        raise typer.Exit


@app.callback()
def _common(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Decide which model serves which agent, for a whole batch at once, with a proof."""


Engine = Annotated[str, typer.Option(help="auto, or one engine by name.")]
DeadlineMs = Annotated[
    float | None, typer.Option("--deadline-ms", help="Hard wall-clock budget of the solve.")
]
Seed = Annotated[int, typer.Option(help="Same input and seed: same answer.")]
Threads = Annotated[int, typer.Option(help="Most threads to use.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of the report.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


@functools.cache
def _command() -> Any:
    """Return the command line with every option resolved: 100 ms for a program that calls it many times."""
    return typer.main.get_command(app)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; ``argv`` defaults to that of the process.

    No exception leaves it: a user's mistake is one line per violation, a fault of this package one line that
    says so, with the traceback where the environment variable ``SOLVER_TRACEBACK`` is set.
    """
    try:
        result = _command()(
            args=None if argv is None else list(argv), prog_name="solver", standalone_mode=False
        )
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        _err.print("interrupted; no file was changed", style="yellow")
        return INTERRUPTED
    except (typer.Exit, SystemExit) as stop:
        code = stop.code if isinstance(stop, SystemExit) else stop.exit_code
        return code if isinstance(code, int) else int(code is not None)
    except Exception as error:  # noqa: BLE001 - the last boundary
        return report_failure(error, _err)
    return int(result or 0)


def _notes(source: ProblemSource, *, quiet: bool) -> None:
    """Say what the readers decided by themselves."""
    if not quiet:
        for note in source.reading.notes:
            say(_err, f"note: {note}", style="dim")


def _read(source: ProblemSource, *, quiet: bool) -> Problem:
    """Return the problem; where it has errors, what the readers decided by themselves comes before them."""
    try:
        return source.read()
    except SpecError:
        _notes(source, quiet=quiet)
        raise


def _exit(code: int) -> NoReturn:
    raise typer.Exit(code)


@app.command()
@takes_problem
def solve(
    *,
    source: ProblemSource,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder, or .csv/.json/.parquet file, for the assignments."),
    ] = None,
    excel_safe: Annotated[
        bool, typer.Option("--excel-safe", help="In CSV, put ' before text that begins like a formula.")
    ] = False,
    engine: Engine = "auto",
    deadline_ms: DeadlineMs = None,
    seed: Seed = 0,
    threads: Threads = 1,
    as_json: AsJson = False,
    quiet: Quiet = False,
    progress: Annotated[
        bool, typer.Option("--progress", help="Show how the answer improved over time.")
    ] = False,
    stream: Annotated[
        bool,
        typer.Option("--stream", help="Read --scores or --agents, Parquet, in passes: for more than memory."),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="With --stream: go on with an interrupted job.")
    ] = False,
    unique_ids: Annotated[
        bool, typer.Option("--unique-ids", help="With --stream: check that no agent occurs twice.")
    ] = False,
    budget_usd: Annotated[
        float | None,
        typer.Option(min=0, help="With --stream: US dollars for all agents, by the fleet's token prices."),
    ] = None,
    ray: Annotated[bool, typer.Option("--ray", help="With --stream: passes by actors of Ray.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="With --ray: actors, of one CPU each.")] = 2,
    ray_address: Annotated[
        str | None, typer.Option(help="With --ray: a cluster; else RAY_ADDRESS, else this machine alone.")
    ] = None,
) -> None:
    """Assign every agent of a problem to a model, with a proof of how good the plan is.

    [bold]Examples[/bold]

      solver solve data/demo.yaml

      solver solve data/demo.yaml --output plan.csv --deadline-ms 100

      solver solve --agents agents.csv --models fleet.yaml --json

      solver solve --scores outcomes.csv --agent-column prompt_id --score-column win_prob --slots 38

      solver solve --scores preferences.csv --layout ranked --agent-column Name --slots 3

      solver solve --scores 'batch/*.parquet' --models fleet.yaml --output plan/ --stream --ray
    """
    if (ray or ray_address or resume or unique_ids or budget_usd is not None) and not stream:
        raise SpecError("--budget-usd, --ray, --ray-address, --resume, --unique-ids: only beside --stream")
    if stream:
        from solver.interfaces.streaming import refuse_beside_stream, show_stream, solve_stream

        refuse_beside_stream(
            {
                "--engine": engine != "auto",
                "--deadline-ms": deadline_ms is not None,
                "--threads": threads != 1,
                "--excel-safe": excel_safe,
                "--progress": progress,
            }
        )
        with LoggedSteps(_err, "reading", quiet=quiet or as_json) as step:
            manifest = solve_stream(
                source,
                output,
                seed=seed,
                resume=resume,
                unique_ids=unique_ids,
                workers=workers if ray else 0,
                address=ray_address,
                budget_usd=budget_usd,
                report=step,
            )
        _exit(show_stream(manifest, _out, _err, as_json=as_json, quiet=quiet))
    target = None if output is None else check_output(assignments_in(output))
    with Steps(_err, "reading", quiet=quiet or as_json) as step:
        asked = _read(source, quiet=quiet)
        if target is not None:
            check_not_read(target, source.reading.files)
        # Importing engines is neither solving time nor part of a deadline.
        solver.warm_up(*(() if deadline_ms is not None else _likely_engines(asked)))
        step(f"solving {len(asked.agents):,} agents × {len(asked.models):,} models")
        with source.named_in_errors():
            plan = solver.solve(asked, engine=engine, deadline_ms=deadline_ms, seed=seed, threads=threads)
        step("writing")
        written: list[Path] = []
        if target is not None:
            columns = plan.to_columns()
            written = write_results(target, columns, summary=plan.summary(), excel_safe=excel_safe)
    _notes(source, quiet=quiet)
    if as_json:
        sys.stdout.write(json.dumps(finite(plan.summary())) + "\n")
    elif not quiet:
        _out.print(plan_report(plan, baselines=baselines(plan)))
        if progress:
            _out.print(progress_report(plan.solution))
        for path in written:
            _wrote(path)
    _exit(_code(plan, deadline_ms))


def _wrote(path: Path) -> None:
    _out.print(printable(f"wrote {path}"), style="dim", soft_wrap=True)


def _likely_engines(problem: Problem) -> tuple[str, ...]:
    """Return the engines a problem of this size is likely to meet, cheap imports only."""
    if problem.demand is not None or any(model.resources for model in problem.models):
        return ("greedy",)
    return ("lsap", "flow") if len(problem.agents) <= _TINY_BATCH else ("flow", "price")


def _code(plan: Plan, deadline_ms: float | None) -> int:
    if plan.status is Status.INFEASIBLE:
        return INFEASIBLE
    cut_short = plan.status is not Status.OPTIMAL and deadline_ms is not None
    if plan.status is Status.UNKNOWN or (cut_short and len(plan.solution.unassigned)):
        return NO_FULL_ASSIGNMENT
    return 0


def _verify(
    *,
    source: ProblemSource,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="[PROBLEM] PLAN", help="Problem file, and the plan: a table or JSON."),
    ],
    plan_agent_column: Annotated[
        str, typer.Option(help="Column of the plan that names the agent.")
    ] = "agent",
    plan_model_column: Annotated[
        str, typer.Option(help="Column of the plan that names the model.")
    ] = "model",
    bound: Annotated[
        bool, typer.Option(help="Solve for a bound, to say how far from the best it is.")
    ] = True,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Check an assignment file against its problem, independently of whoever made it.

    Recomputes every score, load and the objective. Agents that the plan does not name are unassigned. Exit
    code 3 when a constraint is broken.

    [bold]Examples[/bold]

      solver verify data/demo.yaml plan.csv

      solver verify --scores scores.csv --slots 2 theirs.csv --plan-agent-column Student

      solver verify plan/
    """
    if len(files) == 1 and (files[0].is_dir() or _PLAN_URL.match(str(files[0]))):
        from solver.interfaces.streaming import show_verification

        _exit(show_verification(files[0], _out, as_json=as_json, quiet=quiet))
    if len(files) > 2:
        msg = f"expected a problem file and a plan, got {len(files)} files"
        raise SpecError(msg)
    source = replace(source, problem=files[0] if len(files) == 2 else None)
    asked = _read(source, quiet=quiet)
    several = asked.agents.copies is not None or asked.agents.multiplicity is not None
    given = read_assignments(
        files[-1],
        agent=plan_agent_column,
        model=plan_model_column,
        several=several,
        reading=source.reading,
    )
    plans = known_ids(given, asked.agents.positions, asked.model_ids, source.reading.note)
    with source.named_in_errors(plan=files[-1]):
        found = verify_assignments(asked, plans, with_bound=bound)
    _notes(source, quiet=quiet)
    if as_json:
        sys.stdout.write(json.dumps(finite(found.to_dict())) + "\n")
    elif not quiet:
        _out.print(verification_report(found))
    _exit(0 if found.feasible else INFEASIBLE)


app.command(name="verify")(takes_problem(_verify, without=("problem",)))


@app.command()
@takes_problem
def explain(
    *,
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="Id of an agent.")],
    source: ProblemSource,
    engine: Engine = "auto",
    decision: Annotated[
        Path | None,
        typer.Option(help="Instead of a problem: a router's log; AGENT, its lease or the decision's id."),
    ] = None,
) -> None:
    """Say why an agent got its model: score terms, runner-up, and the price that decided.

    [bold]Examples[/bold]

      solver explain a0042 data/demo.yaml

      solver explain a0042 --decision decisions.jsonl
    """
    if decision is not None:
        from solver.interfaces.decision_report import decision_report

        source.expect_nothing("--decision is given")
        _out.print(decision_report(decision, agent))
        return
    asked = _read(source, quiet=False)
    with source.named_in_errors():
        plan = solver.solve(asked, engine=engine)
    _notes(source, quiet=False)
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
        _wrote(path)


app.command()(bench)
app.command()(serve)
app.command()(token)
app.command()(simulate)
app.command()(evaluate)
