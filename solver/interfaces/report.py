"""Plans and explanations as people read them on a terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from solver.engines.certificate import relative_gap
from solver.interfaces.terminal import printable
from solver.solution.solution import Status

if TYPE_CHECKING:
    from rich.console import RenderableType

    from solver.solution.explain import Candidate, Explanation
    from solver.solution.plan import Plan
    from solver.solution.solution import Solution

_BAR_CELLS = 12
_NAMED_BOTTLENECKS = 5
"""Bottlenecks spelled out; the table above them holds the price of every model."""

_NAMED_REASONS = 8
"""Reasons of unassigned agents spelled out."""

_LIMIT_PRICE_NOISE = 1e-6
"""Price of a limit, relative to the largest score, below which the limit costs nothing."""

_UNIT_WORDS = {
    "agents": ("agents", "agent"),
    "tokens": ("tokens", "token"),
    "usd": ("USD", "dollar"),
    "quality": ("quality on average", "point"),
    "latency_s": ("s on average", "second"),
    "share": ("of all", "percentage point"),
    "moves": ("moves", "move"),
}
"""How a unit reads after a number, and after "one"."""
_STYLES = {
    Status.OPTIMAL: "bold green",
    Status.FEASIBLE: "bold yellow",
    Status.INFEASIBLE: "bold red",
    Status.UNKNOWN: "bold red",
}

Baseline = tuple[str, float]
"""The name and the objective of another way of assigning."""


def number(value: float) -> str:
    """Return a number with as many decimals as its size deserves."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    digits = 1 if abs(value) >= 1e4 else 3 if abs(value) >= 1 else 5
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def headline(solution: Solution, *, agents: int, models: int) -> Text:
    """Return the one line that matters: status, objective, gap, time."""
    line = Text()
    line.append(solution.status.value.upper(), style=_STYLES[solution.status])
    size = f"{_count(agents, 'agent')} × {_count(models, 'model')}"
    line.append(f"  {size}, {solution.elapsed_ms:,.1f} ms, {solution.engine}")
    return line


def plan_report(plan: Plan, *, baselines: tuple[Baseline, ...] = ()) -> RenderableType:
    """Return the report of a plan: certificate, models, bottlenecks, who is left and why."""
    parts: list[RenderableType] = [headline(plan.solution, agents=plan.instance.n, models=plan.instance.m)]
    objective = Text("objective: " + _objective_text(plan), style="dim")
    if plan.status in (Status.INFEASIBLE, Status.UNKNOWN):
        return Group(*parts, objective, *(Text(printable(note)) for note in plan.solution.notes))
    parts += [_certificate(plan, baselines), objective]
    parts += [Text(), _models(plan)]
    if plan.resources:
        parts += [Text(), _resources(plan)]
    parts += _limits(plan)
    parts += _bottlenecks(plan)
    parts += _unassigned(plan)
    parts += [Text(printable(note), style="dim") for note in plan.solution.notes]
    return Group(*parts)


def _count(number_of: int, what: str) -> str:
    return f"{number_of:,} {what}" if number_of == 1 else f"{number_of:,} {what}s"


def _certificate(plan: Plan, baselines: tuple[Baseline, ...]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(justify="right")
    grid.add_column(style="dim")
    claimed = ", as the engine claims" if plan.solution.bound_is_claimed else ""
    costs = plan.instance.sense == "minimize"
    total = "total cost" if costs else "total score"
    grid.add_row("objective", number(plan.objective), f"{total} of the plan, recomputed")
    grid.add_row("bound", number(plan.bound), f"no plan {'costs less' if costs else 'exceeds it'}{claimed}")
    grid.add_row(
        "gap", f"{plan.gap:.4%}" if math.isfinite(plan.gap) else "unknown", "distance between the two"
    )
    for name, objective in baselines:
        gain = f", the plan is {plan.objective / objective:.2f}× that" if objective > 0 else ""
        grid.add_row(name, number(objective), f"for comparison{gain}")
    return grid


def _objective_text(plan: Plan) -> str:
    """Return what was maximised, in one line."""
    objective = plan.problem.objective
    costs = objective.sense == "minimize"
    terms = {"capability": "capability score", "given": "given score", "combined": "combined score"}
    text = "given cost" if costs and plan.problem.quality == "given" else terms[plan.problem.quality]
    if plan.problem.quality == "combined":
        text = f"{objective.capability_weight:g} × capability + {objective.given_weight:g} × given"
    sign = "+" if costs else "−"
    if objective.cost_weight:
        text += f" {sign} {objective.cost_weight:g} × cost in USD"
    if objective.latency_weight:
        text += f" {sign} {objective.latency_weight:g} × latency in s"
    if (plan.problem.agents.priority != 1).any():
        text = (
            f"priority × ({text})"
            if objective.cost_weight or objective.latency_weight
            else f"priority × {text}"
        )
    penalty = objective.unassigned_penalty
    own = plan.problem.agents.unassigned_penalty
    best = "minimise" if costs else "maximise"
    if plan.instance.limits is not None and plan.instance.limits.is_soft:
        text += f" {'plus' if costs else 'less'} the price of exceeded limits"
    if own is not None:
        count = int(np.count_nonzero(~np.isnan(own)))
        return f"{best} {text}, less the penalties of agents left out ({_count(count, 'agent')} with one of their own)"
    if penalty is None:
        return f"serve as many agents as possible, then {best} {text}"
    if math.isinf(penalty):
        return f"serve every agent, {best} {text}"
    return f"{best} {text}, {penalty:g} {'paid' if costs else 'lost'} per unassigned agent"


def _models(plan: Plan) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model", overflow="fold")
    slots = plan.instance.is_slots
    floors = any(model.floor for model in plan.models)
    mean = "mean cost" if plan.instance.sense == "minimize" else "mean score"
    for name in (
        "agents",
        *([] if slots else ["used"]),
        *(["floor"] if floors else []),
        "of",
        "utilization",
        mean,
        "price",
        *(["floor price"] if floors else []),
    ):
        table.add_column(name, justify="left" if name == "utilization" else "right", no_wrap=True)
    for model in plan.models:
        table.add_row(
            printable(model.model_id),
            f"{model.agents:,}",
            *([] if slots else [number(model.load)]),
            *([number(model.floor)] if floors else []),
            number(model.capacity),
            _bar(model.utilization),
            number(model.mean_score),
            Text(number(model.price), style="bold" if model.price > 0 else "dim"),
            *([number(model.floor_price)] if floors else []),
        )
    return table


def _resources(plan: Plan) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("resource", "model", "used", "of", "utilization", "price"):
        left = name in {"resource", "model", "utilization"}
        table.add_column(name, justify="left" if left else "right", no_wrap=name not in {"resource", "model"})
    for one in plan.resources:
        price = Text(number(one.price), style="bold" if one.price > 0 else "dim")
        table.add_row(
            printable(one.resource),
            printable(one.model_id),
            number(one.used),
            number(one.capacity),
            _bar(one.utilization),
            price,
        )
    return table


def _limits(plan: Plan) -> list[RenderableType]:
    """Return use against bound of every limit, and what loosening those that cost something is worth."""
    if not plan.limits:
        return []
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("limit", overflow="fold")
    table.add_column("used", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("bound", justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    for limit in plan.limits:
        style = "yellow" if limit.is_exceeded else "red" if limit.is_tight else ""
        side = limit.side.replace("_", " ")
        unit = _UNIT_WORDS.get(limit.unit, (printable(limit.unit),))[0]
        table.add_row(
            printable(limit.name), Text(number(limit.used), style=style), side, number(limit.bound), unit
        )
    lines: list[RenderableType] = [Text(), table]
    cost = "added to the total" if plan.instance.sense == "minimize" else "taken off the total"
    lines += [
        Text(f"  {printable(repr(limit.name))} is exceeded: {number(limit.charge)} {cost}", style="yellow")
        for limit in plan.limits
        if limit.is_exceeded
    ]
    noise = _LIMIT_PRICE_NOISE * float(np.abs(plan.scores).max(initial=0.0))
    gain = "saves about {}" if plan.instance.sense == "minimize" else "adds about {} to the total"
    for limit in sorted(plan.limits, key=lambda one: -one.price):
        if limit.price > noise:
            one = _UNIT_WORDS.get(limit.unit, ("", printable(f"unit of {limit.unit}")))[1]
            way = "more" if limit.side == "at_most" else "less"
            worth = limit.price * (0.01 if limit.unit == "share" else 1.0)
            lines.append(
                Text(f"  one {one} {way} in {printable(repr(limit.name))} {gain.format(number(worth))}")
            )
    return lines


def _bar(share: float) -> Text:
    full = round(min(share, 1.0) * _BAR_CELLS)
    style = "red" if share >= 1.0 else "yellow" if share >= 0.8 else "green"
    bar = Text("█" * full, style=style)
    bar.append("░" * (_BAR_CELLS - full), style="dim")
    bar.append(f" {share:4.0%}")
    return bar


def _bottlenecks(plan: Plan) -> list[RenderableType]:
    found: list[tuple[float, str, float]] = [
        (model.price, printable(model.model_id), model.utilization) for model in plan.bottlenecks
    ]
    found += [
        (one.price, printable(f"{one.model_id}, {one.resource}"), one.utilization) for one in plan.scarce
    ]
    found.sort(key=lambda entry: -entry[0])
    gains = "save" if plan.instance.sense == "minimize" else "add"
    served = [
        Text(
            f"{model.model_id}: one more slot serves one more agent and changes the total by "
            f"{number(model.slot_change)}"
        )
        for model in plan.models
        if model.serves_more and model.price == 0 and model.slot_change is not None
    ][:_NAMED_BOTTLENECKS]
    if not found and served:
        return [Text(), *served]
    if not found:
        return [Text(f"\nno bottleneck: one more unit of any model would {gains} nothing")]
    # A slot's price is exactly what it adds; a multiplier of another resource is a rate, and demands are lumpy.
    exact = "would save" if plan.instance.sense == "minimize" else "would add"
    worth = exact if plan.instance.has_exact_prices else "is worth about"
    lines: list[RenderableType] = [Text(f"\nbottlenecks: one more unit {worth}", style="bold")]
    lines += [
        Text(f"  {number(price):>10}  on {where}, {share:.0%} used")
        for price, where, share in found[:_NAMED_BOTTLENECKS]
    ]
    if len(found) > _NAMED_BOTTLENECKS:
        lines.append(Text(f"  and {len(found) - _NAMED_BOTTLENECKS} more", style="dim"))
    return [*lines, *served]


def _unassigned(plan: Plan) -> list[RenderableType]:
    reasons = plan.unassigned_reasons()
    if not reasons:
        return [Text("\nevery agent is served")]
    total = sum(reasons.values())
    lines: list[RenderableType] = [Text(f"\nnot served: {_count(total, 'agent')}", style="bold")]
    lines += [
        Text(f"  {count:>10,}  {printable(reason)}")
        for reason, count in list(reasons.items())[:_NAMED_REASONS]
    ]
    if len(reasons) > _NAMED_REASONS:
        lines.append(Text(f"  and {len(reasons) - _NAMED_REASONS} other reasons", style="dim"))
    return lines


def progress_report(solution: Solution) -> RenderableType:
    """Return how objective and bound closed in on each other; engines that answer at once show one row."""
    table = Table(box=None, pad_edge=False, header_style="bold", title="improvement", title_justify="left")
    for name in ("ms", "objective", "bound", "gap"):
        table.add_column(name, justify="right")
    curve = solution.progress or ((solution.elapsed_ms, solution.objective, solution.bound),)
    for elapsed_ms, objective, bound in curve:
        sign = -1.0 if solution.sense == "minimize" else 1.0
        gap = relative_gap(sign * objective, sign * bound)
        shown = f"{gap:.4%}" if math.isfinite(gap) else "–"
        table.add_row(f"{elapsed_ms:,.1f}", number(objective), number(bound), shown)
    return table


def explanation_report(explanation: Explanation) -> RenderableType:
    """Return why one agent got its model, as a table of all models it could have had."""
    head = Text(printable(f"{explanation.agent_id} → "), style="bold")
    chosen = printable(explanation.chosen.model_id) if explanation.chosen else "unassigned"
    head.append(chosen, style="bold")
    head.append(printable(f"  ({explanation.reason})"))
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("model", overflow="ellipsis", no_wrap=True, min_width=12)
    shown = [one for one in explanation.candidates if not one.unmet]
    weighs_load = any(one.load_factor != 1 for one in shown)
    weighs_cost = any(one.cost_usd is not None for one in shown)
    weighs_latency = any(one.latency_s is not None for one in shown)
    weighs_quality = any(one.quality != one.score for one in shown)
    names = ["quality"] * weighs_quality
    names += ["load"] * weighs_load + ["USD"] * weighs_cost + ["seconds"] * weighs_latency
    for name in (*names, "score", "price", "net"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in shown:
        cells = [number(one.quality)] * weighs_quality
        cells += [number(one.load_factor)] * weighs_load
        cells += [_optional(one.cost_usd)] * weighs_cost + [_optional(one.latency_s)] * weighs_latency
        cells += [number(one.score), number(one.price), number(one.net)]
        table.add_row(
            _mark(explanation, one),
            printable(one.model_id),
            *cells,
            style="bold" if one is explanation.chosen else "",
        )
    parts: list[RenderableType] = [head, table]
    parts += [
        Text(printable(f"not eligible: {one.model_id} {'; '.join(one.unmet)}"), style="dim")
        for one in explanation.candidates
        if one.unmet
    ]
    parts.append(
        Text("→ chosen, 2nd the runner-up; net = score − price, and the highest net wins", style="dim")
    )
    parts.append(Text(printable(f"what would change it: {explanation.change}")))
    return Group(*parts)


def _optional(value: float | None) -> str:
    return "–" if value is None else number(value)


def _mark(explanation: Explanation, one: Candidate) -> str:
    if one is explanation.chosen:
        return "→"
    return "2nd" if one is explanation.runner_up else ""
