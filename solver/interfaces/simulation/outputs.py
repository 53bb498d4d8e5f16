"""Files that commands of this package write."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from solver.errors import SpecError
from solver.interfaces.files.results import check_output, write_text
from solver.interfaces.simulation.html_report import html_report
from solver.interfaces.terminal import printable

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console


def check_new(path: Path, suffix: str, *, force: bool) -> Path:
    """Return the path of a file to be written, unless it exists and may not be replaced."""
    check_output(path, suffixes=(suffix,))
    if path.exists() and not force:
        raise SpecError(f"{path}: exists; --force replaces it")
    return path


def write_results(
    document: dict[str, Any], json_target: Path | None, html_target: Path | None, out: Console, *, quiet: bool
) -> None:
    """Write the results and the report."""
    if json_target is not None:
        write_text(json_target, json.dumps(document, indent=2, allow_nan=False) + "\n")
    if html_target is not None:
        write_text(html_target, html_report(document))
    if not quiet:
        for target in (json_target, html_target):
            if target is not None:
                out.print(printable(f"wrote {target}"), style="dim", soft_wrap=True)
