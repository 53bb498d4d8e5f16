"""Exit codes of the command line, and what it prints where a call fails."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from solver.errors import MissingExtraError, SpecError
from solver.interfaces.terminal import BROKEN_PIPE, lost_output, printable, silence_stdout

if TYPE_CHECKING:
    from rich.console import Console

UNEXPECTED, BAD_INPUT, INFEASIBLE, NO_FULL_ASSIGNMENT, INTERRUPTED = 1, 2, 3, 4, 130

_PRINTED_ERRORS = 20
"""Errors printed at most: a table with a wrong column has one for every row."""

_TRACEBACK = "SOLVER_TRACEBACK"
"""Environment variable that asks for tracebacks of unexpected errors."""


def say(console: Console, text: str, **options: Any) -> None:
    """Print one line; do nothing when standard error is closed or full."""
    with suppress(OSError):
        console.print(printable(text), soft_wrap=True, **options)


def report_failure(error: Exception, console: Console) -> int:
    """Say in a line per violation what went wrong, and return the exit code.

    A fault of this package is one line that says so, with the traceback where the environment variable
    ``SOLVER_TRACEBACK`` is set.
    """
    if isinstance(error, SpecError | MissingExtraError):
        lines = error.violations if isinstance(error, SpecError) else (str(error),)
        for line in lines[:_PRINTED_ERRORS]:
            say(console, f"error: {line}")
        if len(lines) > _PRINTED_ERRORS:
            say(console, f"and {len(lines) - _PRINTED_ERRORS:,} more of the kind", style="red")
        return BAD_INPUT
    if isinstance(error, BrokenPipeError):
        silence_stdout()
        return BROKEN_PIPE
    if isinstance(error, OSError) and error.filename is None:
        silence_stdout()
        say(console, lost_output(error))
        return UNEXPECTED
    if hasattr(error, "format_message"):  # what typer raises for unknown options and the like
        say(console, f"error: {error.format_message()}")
        path = getattr(getattr(error, "ctx", None), "command_path", "solver")
        say(console, f"'{path} --help' shows what there is", style="dim")
        return BAD_INPUT
    if isinstance(error, MemoryError):
        say(console, "error: this takes more memory than there is")
        return UNEXPECTED
    if os.environ.get(_TRACEBACK):
        with suppress(OSError):
            sys.stderr.write("\n".join(map(printable, traceback.format_exc().split("\n"))))
    first = str(error).partition("\n")[0]
    say(
        console,
        f"error: unexpected {type(error).__name__}: {first}; this is a fault of solver, not of the input "
        f"({_TRACEBACK}=1 shows where)",
    )
    return UNEXPECTED
