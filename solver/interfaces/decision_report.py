"""One logged decision of a router, as a table of the models it could have chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from solver.interfaces.report import number
from solver.interfaces.terminal import printable
from solver.online.decision_records import find_decision

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType

    from solver.online.decision_records import DecisionRecord, ReleaseRecord


def decision_report(log: Path, name: str) -> RenderableType:
    """Return the report of the newest decision on an agent, lease or decision id.

    Raises
    ------
    SpecError
        If the log cannot be read or has no such decision.
    """
    record, released = find_decision(log, name)
    head = Text(printable(f"{record.agent or record.id} → {record.chosen or 'refused'}"), style="bold")
    head.append(printable(f"  ({record.reason})"), style="not bold")
    parts: list[RenderableType] = [head, Text(printable(_circumstances(record)), style="dim"), _table(record)]
    closed = [model for model in record.scores if model not in record.prices]
    if closed:
        parts.append(Text(printable(f"no room, or not affordable: {', '.join(closed)}"), style="dim"))
    parts.append(
        Text("→ chosen, 2nd the runner-up; net = score − price, and the highest net wins", style="dim")
    )
    if record.chosen is not None and released is None:
        parts.append(Text("no release is noted"))
    elif released is not None:
        parts.append(Text(printable(_ending(record, released))))
    elif record.retry_after_s is not None:
        parts.append(Text(f"told to ask again after {number(record.retry_after_s)} s"))
    return Group(*parts)


def _circumstances(record: DecisionRecord) -> str:
    facts = [record.time, f"decision {record.id}", f"features {record.features}"]
    if record.lease is not None:
        facts.append(f"lease {record.lease}")
    return " · ".join(facts)


def _table(record: DecisionRecord) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("model", overflow="ellipsis", no_wrap=True, min_width=12)
    for name in ("score", "price", "net"):
        table.add_column(name, justify="right", no_wrap=True)
    open_models = [model for model in record.prices if model in record.scores]
    for model in sorted(open_models, key=lambda one: record.prices[one] - record.scores[one]):
        score, price = record.scores[model], record.prices[model]
        mark = "→" if model == record.chosen else "2nd" if model == record.runner_up else ""
        style = "bold" if model == record.chosen else ""
        table.add_row(
            mark, printable(model), number(score), number(price), number(score - price), style=style
        )
    return table


def _ending(record: DecisionRecord, released: ReleaseRecord) -> str:
    held = f"released after {number(released.at_s - record.at_s)} s"
    facts = [held, "succeeded" if released.success else "failed"]
    if released.latency_ms is not None:
        facts.append(f"{number(released.latency_ms)} ms")
    if released.tokens is not None:
        facts.append(f"{released.tokens} tokens")
    if released.cost_usd is not None:
        facts.append(f"{number(released.cost_usd)} USD")
    return ", ".join(facts)
