"""``solver simulate``: traffic against policies on a simulated fleet."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from solver.errors import SpecError
from solver.interfaces.failures import say
from solver.interfaces.terminal import make_console, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from solver.interfaces.files.sources import Reading
    from solver.interfaces.simulation.what_if import Change
    from solver.problem.spec import Model
    from solver.simulate.experiment import Setup
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
        str, typer.Option(help="Comma-separated; the first is what the others are compared with.")
    ] = _DEFAULT_POLICIES,
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
    from solver.interfaces.simulation.plan_files import read_rules, read_schedule
    from solver.interfaces.simulation.sources import TrafficOptions, traffic_source
    from solver.interfaces.simulation.traces import TraceColumns
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
    variant, names = _variant(
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
        population=None if scores is None else _population(scores, groups, servers, reading),
        predictor=Predictor.parse(predictor),
        schedule=() if schedule is None else read_schedule(schedule, reading),
        retries=retries,
        rules=() if rules is None else read_rules(rules, reading),
        enforce_rules=enforce_rules,
    )
    check_schedule(setup.schedule, servers.ids)
    run = _Run(
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
    document = run.carried_out()
    document["settings"] |= {"slowdown": slowdown, "failure_rate": failure_rate, "predictor": predictor}
    _written(document, json_target, html_target, run.out, quiet=quiet)


@dataclass(frozen=True, kw_only=True)
class _Variant:
    """Another fleet to replay the same traffic on, and what it is called; without a fleet there is none."""

    fleet: Fleet | None = None
    label: str = ""
    base: Fleet | None = None
    base_label: str = ""


def _variant(
    compare: str | None, policies: str, params: Any, reading: Reading, changes: list[Change], models: Any
) -> tuple[_Variant, list[str]]:
    """Return the other fleet, and the policies to run."""
    from solver.interfaces.simulation.what_if import changed_fleet
    from solver.simulate.servers import Fleet

    names = [name.strip() for name in policies.split(",") if name.strip()]
    if changes:
        defaults = {
            "latency_s": params.latency_s,
            "output_tokens_per_second": params.output_tokens_per_second,
        }
        changed = Fleet(changed_fleet(models, changes, defaults), params)
        if compare is not None:
            raise SpecError("compare: expected either --compare or --what-if, got both")
        return _Variant(fleet=changed, label=", ".join(change.text for change in changes)), names
    if compare is None:
        return _Variant(), names
    parts = [part.strip() for part in compare.split(",") if part.strip()]
    if len(parts) != 2:
        raise SpecError(f"compare: expected two policies or two fleet files, A,B, got {compare!r}")
    if all(Path(part).suffix and Path(part).is_file() for part in parts):
        first, second = (Fleet(read_fleet(Path(part), reading), params) for part in parts)
        return _Variant(fleet=second, label=parts[1], base=first, base_label=parts[0]), names
    return _Variant(), parts


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A simulation that has been read and checked."""

    traffic_of: Callable[[int], Traffic]
    servers: Fleet
    variant: _Variant
    names: list[str]
    seeds: int
    setup: Setup
    reading: Reading
    quiet: bool
    compares_policies: bool

    @property
    def out(self) -> Console:
        """Standard output."""
        return make_console()

    def carried_out(self) -> dict[str, Any]:
        """Say what will be done, do it, print tables, and return the results as a document."""
        from solver.interfaces.simulation.progress import duration, progress_bar
        from solver.interfaces.simulation.result_tables import results_table
        from solver.simulate.experiment import run_experiment, seconds_per_request
        from solver.simulate.policies.registry import check_policies

        fleets = [self.servers, *([] if self.variant.fleet is None else [self.variant.fleet])]
        for fleet in fleets:
            check_policies(self.names, fleet.ids)
        first = self.traffic_of(0)
        pace = seconds_per_request(first, self.servers, self.names, self.setup)
        total = sum(pace.values()) * len(first) * self.seeds * len(fleets)
        notes = [
            *self.reading.notes,
            *self.servers.silent_defaults(),
            *_strain(self.servers, first, self.setup.load),
        ]
        err = make_console(stderr=True)
        if not self.quiet:
            replays = len(self.names) * self.seeds * len(fleets)
            say(
                err,
                f"{replays} replays of {len(first):,} requests: {duration(total)}; no model is called, no cost",
            )
            for note in notes:
                say(err, f"note: {note}", style="dim")
        found, setup = [], self.setup
        with progress_bar(err, total, shown=not self.quiet) as advance:
            done = _Done(advance, pace, len(first))
            for fleet in fleets:
                found.append(
                    run_experiment(
                        self.traffic_of,
                        fleet,
                        self.names,
                        seeds=self.seeds,
                        setup=setup,
                        on_run=done.begin,
                        on_progress=done.told,
                    )
                )
                if found[0][0]["rate_per_s"] is not None:  # another fleet sees the same traffic
                    setup = replace(setup, load=None, rate_per_s=found[0][0]["rate_per_s"])
        document: dict[str, Any] = {
            "results": found[0],
            "settings": {"seeds": self.seeds, "confidence": 0.95, "retries": self.setup.retries},
            "notes": notes,
        }
        if not self.quiet:
            self.out.print(results_table(found[0], self.variant.base_label))
        self._compared(document, found)
        return document

    def _compared(self, document: dict[str, Any], found: list[list[dict[str, Any]]]) -> None:
        """Add differences to the document, and print them."""
        from solver.interfaces.simulation.result_tables import (
            difference_table,
            differences,
            results_table,
        )

        if self.variant.fleet is not None:
            pairs = [
                (before["policy"], after, differences(before, after))
                for before, after in zip(found[0], found[1], strict=True)
            ]
            document["what_if"] = {
                "change": self.variant.label,
                "results": found[1],
                "differences": [{"policy": name, **difference} for name, _, difference in pairs],
            }
            title = f"what {self.variant.label} changes; ? where the interval contains zero"
            if not self.quiet:
                self.out.print(results_table(found[1], self.variant.label))
                self.out.print(difference_table(pairs, title))
        if self.compares_policies:
            a, b = found[0]
            difference = differences(a, b)
            document["comparison"] = {"of": b["policy"], "against": a["policy"], **difference}
            if not self.quiet:
                title = (
                    f"{b['policy']} against {a['policy']}, paired by seed; ? where the interval contains zero"
                )
                self.out.print(difference_table([(b["policy"], b, difference)], title))
        events = [event for result in found[0] for event in result.get("rule_events", [])]
        if self.setup.rules and not self.quiet:
            for result in found[0]:
                for line in _rule_lines(result):
                    self.out.print(printable(line), soft_wrap=True)
            if not events:
                self.out.print("capacity rules: none would have acted")


class _Done:
    """Expected seconds of work that are done."""

    def __init__(
        self, advance: Callable[[float, str], object], pace: dict[str, float], requests: int
    ) -> None:
        self._advance, self._pace, self._requests = advance, pace, requests
        self._before, self._now, self._what = 0.0, 0.0, ""

    def begin(self, policy: str, seed: int) -> None:
        """Begin a replay; the one before it is done."""
        self._before += self._now
        self._now = self._pace[policy] * self._requests
        self._what = f"{policy}, seed {seed}"
        self._rate = self._pace[policy]
        self._advance(self._before, self._what)

    def told(self, requests: int) -> None:
        """Note how far the replay is."""
        self._advance(self._before + requests * self._rate, self._what)


def _rule_lines(result: dict[str, Any]) -> list[str]:
    """Return what capacity rules did under one policy, the first few events in words."""
    events = result.get("rule_events", [])
    begun = [event for event in events if event["begins"]]
    if not begun:
        return []
    lines = [f"capacity rules under {result['policy']}: {len(begun)} times (seed 0)"]
    lines += [
        f"  {event['at_s']:,.0f} s: {event['action']} for {event['model']} at {event['utilization']:.0%}"
        for event in begun[:_EVENTS_SHOWN]
    ]
    if len(begun) > _EVENTS_SHOWN:
        lines.append(f"  and {len(begun) - _EVENTS_SHOWN} more; --json has them all")
    return lines


_EVENTS_SHOWN = 5


def _written(
    document: dict[str, Any], json_target: Path | None, html_target: Path | None, out: Console, *, quiet: bool
) -> None:
    """Write the results and the report."""
    from solver.interfaces.files.results import write_text
    from solver.interfaces.simulation.html_report import html_report

    if json_target is not None:
        write_text(json_target, json.dumps(document, indent=2, allow_nan=False) + "\n")
    if html_target is not None:
        write_text(html_target, html_report(document))
    if not quiet:
        for target in (json_target, html_target):
            if target is not None:
                out.print(printable(f"wrote {target}"), style="dim", soft_wrap=True)


def _population(path: Path, groups: Path | None, fleet: Fleet, reading: Reading) -> Population:
    """Return the agents of a score table, in the columns of the fleet."""
    import numpy as np

    from solver.errors import Violation
    from solver.interfaces.simulation.score_matrix import read_groups, read_score_matrix
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
    group = np.zeros(len(table.scores), np.int64)
    if groups is not None:
        group = read_groups(groups, table, reading, None, None)
    return Population(outcome=table.scores[:, columns], group=group)


def _strain(fleet: Fleet, traffic: Traffic, load: float | None) -> list[str]:
    """Return a warning where the fleet is too small for the traffic."""
    share = load if load is not None else traffic.rate_per_s / fleet.capacity_per_s(traffic.output_tokens)
    if share <= _OVERLOADED_FROM or not traffic.span_s:
        return []
    return [
        f"the fleet is too small: arrivals are {share:.0%} of what it serves when full; some will be refused"
    ]
