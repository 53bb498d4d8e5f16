"""Progress of long commands on a terminal, and their duration beforehand."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console


def duration(seconds: float) -> str:
    """Return a rough duration in words: two digits at most."""
    if seconds < 1:
        return "less than a second"
    if seconds < 90:
        return f"about {seconds:.0f} s"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} minutes"
    return f"about {seconds / 3600:.1f} hours"


@contextmanager
def progress_bar(console: Console, total: float, *, shown: bool) -> Iterator[Callable[[float, str], object]]:
    """Show a bar on a terminal, nothing elsewhere; yields what takes work done so far and what is being done."""
    if not (shown and console.is_terminal):
        yield lambda _done, _what: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    with bar:
        task = bar.add_task("", total=total)

        def advance(done: float, what: str) -> None:
            bar.update(task, completed=done, description=what)

        yield advance
