"""``solver simulate``: traffic against policies on a simulated fleet."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads it at run time
from typing import Annotated

import typer


def simulate(
    *,
    trace: Annotated[
        str,
        typer.Option(
            help="File of requests, client rates or decisions; or poisson, gamma, weibull, bursts, batches, diurnal."
        ),
    ] = "poisson",
    fleet: Annotated[Path, typer.Option(help="Models: capacity, latency_s, output_tokens_per_second.")],
    load: Annotated[
        float | None,
        typer.Option(
            help="Scale arrivals in time to this share of the fleet's capacity; as they are otherwise."
        ),
    ] = None,
    policies: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated; the first is what the others are compared with. A useful choice by default; with"
            " --compare of two policies, those two and these."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Repetitions that intervals are over.")] = 5,
    compare: Annotated[
        str | None, typer.Option(metavar="A,B", help="Two policies, or two fleet files: what B changes.")
    ] = None,
    what_if: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHANGE", help="A change of the fleet on the same traffic: slots.gpt-4o=+10. Repeatable."
        ),
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(help="Outcomes of past agents on the fleet's models; simulated otherwise.")
    ] = None,
    groups: Annotated[
        Path | None, typer.Option(help="With --scores: a table of agents and task types.")
    ] = None,
    predictor: Annotated[
        str, typer.Option(help="What policies know of outcomes: means, noise=SHARE or oracle.")
    ] = "means",
    requests: Annotated[
        int | None, typer.Option(min=1, help="Of a generator, 10,000 by default; of a trace, the first.")
    ] = None,
    cv: Annotated[float, typer.Option(help="Of a generator: coefficient of variation of the gaps.")] = 2.0,
    rate: Annotated[float, typer.Option(help="Of a generator without --load: arrivals a second.")] = 1.0,
    client_model: Annotated[
        str | None, typer.Option(help="Whose clients, in a table of client rates.")
    ] = None,
    thin: Annotated[float, typer.Option(help="Keep each request with this probability.")] = 1.0,
    deadline_s: Annotated[float | None, typer.Option(help="Seconds within which answers are wanted.")] = None,
    slowdown: Annotated[
        float, typer.Option(help="A full model is 1 + SLOWDOWN times as slow as an idle one.")
    ] = 0.5,
    failure_rate: Annotated[float, typer.Option(help="Share of started requests that fail.")] = 0.0,
    schedule: Annotated[
        Path | None, typer.Option(help="Outages, failures, 429s, slowness, capacities, and when.")
    ] = None,
    retries: Annotated[int, typer.Option(help="Decide again on what a server turned away, so often.")] = 0,
    rules: Annotated[
        Path | None, typer.Option(help="Capacity rules: what they would have done, second by second.")
    ] = None,
    enforce_rules: Annotated[
        bool, typer.Option("--enforce-rules", help="Have the rules act on policies that track load.")
    ] = False,
    time_column: Annotated[str | None, typer.Option(help="Column of arrival times.")] = None,
    input_tokens_column: Annotated[str | None, typer.Option(help="Column of prompt tokens.")] = None,
    output_tokens_column: Annotated[str | None, typer.Option(help="Column of generated tokens.")] = None,
    task_type_column: Annotated[str | None, typer.Option(help="Column of task types.")] = None,
    time_unit: Annotated[str | None, typer.Option(help="s, ms, us or ns, of times that are numbers.")] = None,
    json_output: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="File for the results.")
    ] = None,
    html_output: Annotated[
        Path | None, typer.Option("--html", metavar="OUT", help="File for a report that opens offline.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Replay traffic against routing policies on a simulated fleet, with intervals over seeds.

    Policies: <strategy>-<routing> (such as weighted-optimal) and optimal-router, with settings behind colons
    (optimal-router:latency_weight=16); blind-greedy, blind-balanced, blind-optimal, offline-optimum, random,
    round-robin, power-of-two, least-tokens, route-balance, constant:<model> and litellm:<strategy>.

    [bold]Examples[/bold]

      solver simulate --fleet data/fleet.yaml --load 0.8 --requests 5000

      solver simulate --trace azure.csv --fleet fleet.yaml --load 0.8 --policies weighted-optimal,random --json o.json

      solver simulate --trace azure.csv --fleet fleet.yaml --load 0.95 --what-if slots.gpt-4o=+10 --html o.html
    """
    from solver.interfaces.files.sources import Reading
    from solver.interfaces.simulation.fleet_file import read_fleet, read_population
    from solver.interfaces.simulation.outputs import check_new, write_results
    from solver.interfaces.simulation.plan_files import read_rules, read_schedule
    from solver.interfaces.simulation.run_simulation import Simulation
    from solver.interfaces.simulation.sources import TrafficOptions, traffic_source
    from solver.interfaces.simulation.traces import TraceColumns
    from solver.interfaces.simulation.variants import variant_of
    from solver.interfaces.simulation.what_if import parse_change
    from solver.simulate.experiment import Setup
    from solver.simulate.quality import Predictor
    from solver.simulate.schedule import check_schedule
    from solver.simulate.servers import Fleet, ServerParams

    json_target = None if json_output is None else check_new(json_output, ".json", force=force)
    html_target = None if html_output is None else check_new(html_output, ".html", force=force)
    reading = Reading()
    params = ServerParams(slowdown=slowdown, failure_rate=failure_rate)
    models = read_fleet(fleet, reading)
    servers = Fleet(models, params)
    variant, names = variant_of(
        compare, policies, params, reading, [parse_change(text) for text in what_if or []], models
    )
    columns = TraceColumns(
        time=time_column,
        input_tokens=input_tokens_column,
        output_tokens=output_tokens_column,
        time_unit=time_unit,
        task_type=task_type_column,
    )
    options = TrafficOptions(
        requests=requests, cv=cv, rate=rate, thin=thin, deadline_s=deadline_s, client_model=client_model
    )
    setup = Setup(
        load=load,
        population=None if scores is None else read_population(scores, groups, servers, reading),
        predictor=Predictor.parse(predictor),
        schedule=() if schedule is None else read_schedule(schedule, reading),
        retries=retries,
        rules=() if rules is None else read_rules(rules, reading),
        enforce_rules=enforce_rules,
    )
    check_schedule(setup.schedule, servers.ids)
    run = Simulation(
        traffic_of=traffic_source(trace, columns, options, reading),
        servers=variant.base or servers,
        variant=variant,
        names=names,
        seeds=seeds,
        setup=setup,
        reading=reading,
        quiet=quiet,
        compares_policies=compare is not None and variant.fleet is None,
    )
    document = run.run()
    document["settings"] |= {"slowdown": slowdown, "failure_rate": failure_rate, "predictor": predictor}
    write_results(document, json_target, html_target, run.out, quiet=quiet)
