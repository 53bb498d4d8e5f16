"""A verification as people read it on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from solver.interfaces.report import number
from solver.interfaces.terminal import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from solver.solution.verification import Verification

_PRINTED_VIOLATIONS = 20
"""Violations printed at most."""


def verification_report(found: Verification) -> RenderableType:
    """Return whether assignments are feasible, their objective and bound, and the constraints they break."""
    head = Text("FEASIBLE", style="bold green") if found.feasible else Text("BROKEN", style="bold red")
    head.append(f"  {found.assigned:,} of {found.agents:,} agents assigned", style="default")
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(justify="right")
    grid.add_row("objective", number(found.objective))
    if found.bound is not None and found.gap is not None:
        grid.add_row("bound", number(found.bound))
        grid.add_row("gap", f"{found.gap:.4%}")
    if found.more_served:
        head.append(f", {found.more_served:,} more could be", style="yellow")
    lines = [Text(printable(f"  {line}"), style="red") for line in found.violations[:_PRINTED_VIOLATIONS]]
    if len(found.violations) > _PRINTED_VIOLATIONS:
        lines.append(Text(f"  and {len(found.violations) - _PRINTED_VIOLATIONS:,} more", style="red"))
    return Group(head, grid, *lines)
