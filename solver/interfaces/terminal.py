"""Output to a terminal: plain text without control characters, in whatever encoding the stream has."""

from __future__ import annotations

import codecs
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from solver.clock import MonotonicClock

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from solver.clock import Clock

BROKEN_PIPE = 141
"""Exit code when whoever reads standard output has closed it: 128 plus the number of SIGPIPE."""

_ASCII = str.maketrans(
    {
        "–": "-", "−": "-", "—": "-", "×": "x", "→": ">", "…": "~", "█": "#", "░": ".", "∞": "inf", "≥": ">=",
        "≤": "<=", "€": "EUR", "·": ".", "’": "'",
    }
)  # fmt: skip
"""What stands for a character of the reports on a stream that cannot show it."""


def printable(text: object) -> str:
    r"""Return text as a terminal may show it: control, format and other invisible characters as escapes.

    >>> printable("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in shown)


def make_console(*, stderr: bool = False) -> Console:
    """Return a console that takes no text for markup, links or emoji, and lets no control character through."""
    from rich.console import Console
    from rich.segment import Segment

    class PlainConsole(Console):
        """Renders strings as they are; what names and values smuggle in is escaped."""

        def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                if segment.control or segment.text.isprintable() or segment.text == "\n":
                    yield segment
                else:
                    text = "\n".join(map(printable, segment.text.split("\n")))
                    yield Segment(text, segment.style)

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return PlainConsole(stderr=stderr, markup=False, emoji=False, highlight=False)


def _look_alike(error: UnicodeError) -> tuple[str, int]:
    """Replace what an encoding cannot show: look-alikes where there are any, escapes elsewhere."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    return "".join(
        shown if (shown := one.translate(_ASCII)).isascii() else one.encode("unicode_escape").decode()
        for one in text
    ), error.end


def prepare_streams() -> None:
    """Make standard output and error fit for any text: closed ones take it, narrow ones show look-alikes."""
    codecs.register_error("look_alike", _look_alike)
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        if stream is None:  # its descriptor was closed before the process began
            nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - as long as the process
            setattr(sys, name, nowhere)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="look_alike")


def finish_streams(code: int) -> int:
    """Write out what is buffered and return the exit code, another one when output was lost."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = BROKEN_PIPE
        silence_stdout()
    except OSError as error:
        with suppress(OSError):
            sys.stderr.write(lost_output(error) + "\n")
        code = code or 1
        silence_stdout()
    with suppress(OSError):
        sys.stderr.flush()
    return code


def lost_output(error: OSError) -> str:
    """Return what to say when standard output cannot be written to."""
    return f"error: standard output cannot be written: {error.strerror or error}"


def silence_stdout() -> None:
    """Send the rest of standard output nowhere, so that the interpreter's last flush cannot fail again."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


class Steps:
    """A line on a terminal that says what is going on; nothing elsewhere. Entering it gives :meth:`step`."""

    def __init__(self, console: Console, first: str, *, quiet: bool) -> None:
        self._status = None if quiet or not console.is_terminal else console.status(first)

    def __enter__(self) -> Any:
        if self._status is not None:
            self._status.start()
        return self.step

    def step(self, text: str) -> None:
        """Show another text."""
        if self._status is not None:
            self._status.update(text)

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()


class LoggedSteps(Steps):
    """The same for long jobs: where there is no terminal, lines with the seconds since the beginning, for logs.

    What is said of one step again and again, in lines that begin with it and a colon, appears at intervals.
    """

    EVERY_S = 10.0
    """Seconds between two lines of one step, at least."""

    def __init__(self, console: Console, first: str, *, quiet: bool, clock: Clock | None = None) -> None:
        super().__init__(console, first, quiet=quiet)
        self._lines = None if quiet or self._status is not None else console
        self._clock = clock or MonotonicClock()
        self._began = self._said = self._clock.now()

    def step(self, text: str) -> None:
        """Show another text."""
        super().step(text)
        now = self._clock.now()
        if self._lines is None or (": " in text and now - self._said < self.EVERY_S):
            return
        self._said = now
        self._lines.print(f"{now - self._began:7.1f} s  {text}", soft_wrap=True)
