"""A simulation that has been read and checked: what it will take, how far it is, and what came out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from solver.interfaces.exit_codes import say
from solver.interfaces.simulation.progress import duration, progress_bar
from solver.interfaces.simulation.result_tables import (
    difference_table,
    differences,
    measured_table,
    results_table,
)
from solver.interfaces.terminal import make_console, printable
from solver.simulate.experiment import run_experiment, seconds_per_request
from solver.simulate.policies.registry import check_policies

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from solver.interfaces.files.sources import Reading
    from solver.interfaces.simulation.variants import Variant
    from solver.simulate.experiment import Setup
    from solver.simulate.servers import Fleet
    from solver.simulate.traffic import Traffic

_OVERLOADED_FROM = 0.98
"""Share of the fleet's capacity from which on queues only grow."""

_IDLE_BELOW = 0.002
"""Share of the fleet's capacity below which seconds were probably meant to be milliseconds."""


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """A simulation that has been read and checked."""

    traffic_of: Callable[[int], Traffic]
    servers: Fleet
    variant: Variant
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

    @property
    def _intervals(self) -> str:
        """What a table of differences says of its intervals."""
        if self.seeds == 1:
            return "; one seed, no interval"
        return ", paired by seed; ? where the interval contains zero"

    def run(self) -> dict[str, Any]:
        """Say what will be done, do it, print tables, and return the results as a document."""
        fleets = [self.servers, *([] if self.variant.fleet is None else [self.variant.fleet])]
        for fleet in fleets:
            check_policies(self.names, fleet.ids)
        first = self.traffic_of(0)
        pace = seconds_per_request(first, self.servers, self.names, self.setup)
        total = sum(pace.values()) * len(first) * self.seeds * len(fleets)
        notes = [
            *self.reading.notes,
            *self.servers.silent_defaults(),
            *_never_serving(self.servers),
            *_load_warning(self.servers, first, self.setup.load),
        ]
        err = make_console(stderr=True)
        if not self.quiet:
            replays = len(self.names) * self.seeds * len(fleets)
            say(
                err,
                f"{replays} {'replay' if replays == 1 else 'replays'} of {len(first):,} requests: "
                f"{duration(total)}; no model is called, no cost",
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
            self.out.print(measured_table(found[0]))
            own = min(result["simulator_us_per_request"]["mean"] for result in found[0])
            self.out.print(f"the replay itself: {own:,.0f} µs a request", style="dim")
        self._compared(document, found)
        return document

    def _compared(self, document: dict[str, Any], found: list[list[dict[str, Any]]]) -> None:
        """Add differences to the document, and print them."""
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
            title = f"what {self.variant.label} changes{self._intervals}"
            if not self.quiet:
                self.out.print(results_table(found[1], self.variant.label))
                self.out.print(difference_table(pairs, title))
        if self.compares_policies:
            a, b = found[0][:2]
            difference = differences(a, b)
            document["comparison"] = {"of": b["policy"], "against": a["policy"], **difference}
            if not self.quiet:
                title = f"{b['policy']} against {a['policy']}{self._intervals}"
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


def _load_warning(fleet: Fleet, traffic: Traffic, load: float | None) -> list[str]:
    """Return a warning where the fleet is too small for the traffic, or absurdly large."""
    share = load if load is not None else traffic.rate_per_s / fleet.capacity_per_s(traffic.output_tokens)
    if not traffic.span_s:
        return []
    if share < _IDLE_BELOW:
        return [f"arrivals are {share:.2%} of what the fleet serves when full: is the unit of time right?"]
    if share <= _OVERLOADED_FROM:
        return []
    return [
        f"the fleet is too small: arrivals are {share:.0%} of what it serves when full; some will be refused"
    ]


def _never_serving(fleet: Fleet) -> list[str]:
    """Return a warning of models without slots."""
    return [
        f"{model} never serves: max_concurrent is 0"
        for model, slots in zip(fleet.ids, fleet.slots.tolist(), strict=True)
        if not slots
    ]
