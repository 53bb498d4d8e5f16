"""Where assignments are written, and that nothing is written over what was read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from solver.errors import SpecError
from solver.interfaces.files.results import summary_of

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path


def assignments_in(output: Path) -> Path:
    """Return the file of assignments: in a folder, or the file named."""
    try:
        if output.is_dir():
            return output / "assignments.csv"
        exists = output.exists()
    except (OSError, ValueError):  # a name that no file can have, which check_output names
        return output
    if not output.suffix and not exists:
        raise SpecError(f"{output}: no such folder; name an existing one, or a .csv, .json or .parquet file")
    return output


def check_not_read(target: Path, files: Collection[Path]) -> None:
    """Refuse to write over a file that the problem was read from."""
    for path in (target, summary_of(target)):
        for read in files:
            if path.exists() and read.exists() and path.samefile(read):
                msg = f"{path}: expected another file than those read, got one of the problem's own"
                raise SpecError(msg)
