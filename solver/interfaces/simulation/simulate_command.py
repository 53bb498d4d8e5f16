"""``solver simulate``: traffic against policies on a simulated fleet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from solver.errors import SpecError, Violation
from solver.interfaces.failures import say
from solver.interfaces.terminal import make_console, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

    from solver.interfaces.files.sources import Reading
    from solver.problem.spec import Model
    from solver.simulate.quality import Population
    from solver.simulate.servers import Fleet
    from solver.simulate.traffic import Traffic

__all__ = ["check_new", "read_fleet", "simulate"]

_DEFAULT_POLICIES = (
    "weighted-optimal,optimal-router,blind-greedy,least-tokens,route-balance,round-robin,random"
)
_OVERLOADED_FROM = 0.98
"""Share of the fleet's capacity from which on queues only grow."""


def read_fleet(path: Path, reading: Reading) -> tuple[Model, ...]:
    """Return the models of a fleet file."""
    from solver.interfaces.files.assembly import Assembly
    from solver.interfaces.files.boundary import located_errors

    with located_errors(path):
        document = {"agents": [{"id": "request"}], "models": str(path)}
        return Assembly(folder=Path(), reading=reading).problem(document, lambda _: "").models


def check_new(path: Path, suffix: str, *, force: bool) -> Path:
    """Return the path of a file to be written, unless it exists and may not be replaced."""
    from solver.interfaces.files.results import check_output

    check_output(path, suffixes=(suffix,))
    if path.exists() and not force:
        raise SpecError(f"{path}: exists; --force replaces it")
    return path


def simulate(
    *,
    trace: Annotated[
        str,
        typer.Option(help="File of requests, or a generator: poisson, gamma, weibull, bursts."),
    ] = "poisson",
    fleet: Annotated[Path, typer.Option(help="Models: capacity, latency_s, output_tokens_per_second.")],
    load: Annotated[
        float | None,
        typer.Option(
            help="Scale arrivals in time to this share of the fleet's capacity; as they are otherwise."
        ),
    ] = None,
    policies: Annotated[
        str, typer.Option(help="Comma-separated; the first is what the others are compared with.")
    ] = _DEFAULT_POLICIES,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Repetitions that intervals are over.")] = 5,
    scores: Annotated[
        Path | None, typer.Option(help="Outcomes of past agents on the fleet's models; simulated otherwise.")
    ] = None,
    requests: Annotated[
        int | None, typer.Option(min=1, help="Of a generator, 10,000 by default; of a trace, the first.")
    ] = None,
    cv: Annotated[float, typer.Option(help="Of a generator: coefficient of variation of the gaps.")] = 2.0,
    rate: Annotated[float, typer.Option(help="Of a generator without --load: arrivals a second.")] = 1.0,
    thin: Annotated[float, typer.Option(help="Keep each request with this probability.")] = 1.0,
    slowdown: Annotated[
        float, typer.Option(help="A full model is 1 + SLOWDOWN times as slow as an idle one.")
    ] = 0.5,
    failure_rate: Annotated[float, typer.Option(help="Share of started requests that fail.")] = 0.0,
    time_column: Annotated[str | None, typer.Option(help="Column of arrival times.")] = None,
    input_tokens_column: Annotated[str | None, typer.Option(help="Column of prompt tokens.")] = None,
    output_tokens_column: Annotated[str | None, typer.Option(help="Column of generated tokens.")] = None,
    time_unit: Annotated[str | None, typer.Option(help="s, ms, us or ns, of times that are numbers.")] = None,
    json_output: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="File for the results.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Replay traffic against routing policies on a simulated fleet, with intervals over seeds.

    Policies: <strategy>-<routing> (such as weighted-optimal), blind-greedy, blind-balanced, blind-optimal,
    optimal-router, offline-optimum, random, round-robin, power-of-two, least-tokens, route-balance and
    constant:<model>.

    [bold]Examples[/bold]

      solver simulate --fleet data/fleet.yaml --load 0.8 --requests 5000

      solver simulate --trace azure.csv --fleet fleet.yaml --load 0.8 --policies weighted-optimal,random --json o.json
    """
    from solver.interfaces.files.results import write_text
    from solver.interfaces.files.sources import Reading
    from solver.interfaces.simulation.traces import TraceColumns
    from solver.simulate.experiment import Setup, run_experiment
    from solver.simulate.policies.registry import check_policies
    from solver.simulate.servers import Fleet, ServerParams

    out, err = make_console(), make_console(stderr=True)
    target = None if json_output is None else check_new(json_output, ".json", force=force)
    reading = Reading()
    servers = Fleet(read_fleet(fleet, reading), ServerParams(slowdown=slowdown, failure_rate=failure_rate))
    names = [name.strip() for name in policies.split(",") if name.strip()]
    check_policies(names, servers.ids)
    columns = TraceColumns(
        time=time_column,
        input_tokens=input_tokens_column,
        output_tokens=output_tokens_column,
        time_unit=time_unit,
    )
    traffic_of = _traffic(trace, columns, reading, requests=requests, cv=cv, rate=rate, thin=thin)
    population = None if scores is None else _population(scores, servers, reading)
    notes = [*reading.notes, *servers.silent_defaults(), *_strain(servers, traffic_of(0), load)]
    if not quiet:
        for note in notes:
            say(err, f"note: {note}", style="dim")

    def on_run(name: str, seed: int) -> None:
        if not quiet and err.is_terminal:
            say(err, f"{name}, seed {seed}", style="dim")

    results = run_experiment(
        traffic_of, servers, names, seeds=seeds, setup=Setup(load=load, population=population), on_run=on_run
    )
    if target is not None:
        settings = {"seeds": seeds, "slowdown": slowdown, "failure_rate": failure_rate, "confidence": 0.95}
        document = {"results": results, "settings": settings, "notes": notes}
        write_text(target, json.dumps(document, indent=2, allow_nan=False) + "\n")
    if not quiet:
        out.print(_table(results))
        if target is not None:
            out.print(printable(f"wrote {target}"), style="dim", soft_wrap=True)


def _traffic(
    trace: str,
    columns: Any,
    reading: Reading,
    *,
    requests: int | None,
    cv: float,
    rate: float,
    thin: float,
) -> Callable[[int], Traffic]:
    """Return what gives the traffic of a seed: a file's, or a generator's."""
    from solver.interfaces.simulation.traces import read_trace
    from solver.simulate.generators import GENERATORS, generate_traffic

    if trace in GENERATORS:
        count = 10_000 if requests is None else requests
        generate_traffic(trace, 1, rate_per_s=rate, cv=cv)  # bad parameters are found before the work
        return lambda seed: _thinned(
            generate_traffic(trace, count, rate_per_s=rate, cv=cv, seed=seed), thin, seed
        )
    path = Path(trace)
    if not path.exists() and not path.suffix:
        raise SpecError(Violation("trace", f"expected a file, or one of {', '.join(GENERATORS)}", trace))
    read = read_trace(path, columns, reading=reading)
    if requests is not None:
        read = read.first(requests)
    return lambda seed: _thinned(read, thin, seed)


def _thinned(traffic: Traffic, share: float, seed: int) -> Traffic:
    return traffic if share == 1.0 else traffic.thinned(share, seed=seed)


def _population(path: Path, fleet: Fleet, reading: Reading) -> Population:
    """Return the agents of a score table, in the columns of the fleet."""
    import numpy as np

    from solver.interfaces.simulation.score_matrix import read_score_matrix
    from solver.simulate.quality import Population

    table = read_score_matrix(path, reading)
    missing = [name for name in fleet.ids if name not in table.models]
    if missing:
        raise SpecError(
            *(
                Violation(f"{path}: {name}", "expected scores of every model of the fleet", shown="none")
                for name in missing
            )
        )
    columns = [table.models.index(name) for name in fleet.ids]
    return Population(outcome=table.scores[:, columns], group=np.zeros(len(table.scores), np.int64))


def _strain(fleet: Fleet, traffic: Traffic, load: float | None) -> list[str]:
    """Return a warning where the fleet is too small for the traffic."""
    share = load if load is not None else traffic.rate_per_s / fleet.capacity_per_s(traffic.output_tokens)
    if share <= _OVERLOADED_FROM or not traffic.span_s:
        return []
    return [
        f"the fleet is too small: arrivals are {share:.0%} of what it serves when full; some will be refused"
    ]


def _table(results: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    shown = {  # figure, scale, digits, whether its interval is shown
        "P50 s": ("p50_latency_ms", 1e-3, 2, False),
        "P99 s": ("p99_latency_ms", 1e-3, 2, True),
        "used": ("utilization", 1.0, 2, False),
        "served": ("served", 1.0, 0, False),
        "refused": ("refused", 1.0, 0, False),
        "overload": ("overload_failures", 1.0, 0, False),
        "quality": ("quality", 1.0, 2, True),
    }
    first = results[0]
    load = "" if first["load"] is None else f" at {first['load']:.0%} of capacity"
    table = Table(
        title=printable(f"{first['arrived']:,} requests of {first['trace']}{load}; mean ± half of 95 %")
    )
    table.add_column("policy", no_wrap=True)
    for heading in shown:
        table.add_column(heading, justify="right")
    for result in results:
        cells = []
        for figure, scale, digits, with_interval in shown.values():
            value = result[figure]
            if value["mean"] is None:
                cells.append("-")
                continue
            half = scale * (value["high"] - value["mean"])
            spread = f" ±{half:,.{digits}f}" if with_interval and round(half, digits) else ""
            cells.append(f"{scale * value['mean']:,.{digits}f}{spread}")
        table.add_row(printable(result["policy"]), *cells)
    return table
