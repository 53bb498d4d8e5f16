"""SIGINT and SIGTERM end the process at once, with no half-written file and no traceback.

A Python signal handler runs between two instructions of the main thread, which may be inside an engine, or
half-way through an import, for seconds. So the C-level handler writes the signal's number to a pipe, and a
thread that waits there removes temporary files and ends the process.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from solver.interfaces.files.atomic_files import UNFINISHED

if TYPE_CHECKING:
    from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = b"\x1b[?25h"


def _by_thread(_number: int, _frame: FrameType | None) -> None:
    """Stand in as the Python handler; the thread at the end of the pipe does the work."""


def handle_signals() -> None:
    """From now on, SIGINT ends the process with code 130 and SIGTERM with 143.

    To be called once, in the main thread, before anything heavy is imported. Signals that the parent set to
    be ignored stay ignored; a handler installed later, such as a web server's, takes over.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_wait, args=(reader,), name="signals", daemon=True).start()
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _by_thread)


def ignore_signals() -> None:
    """Let the process end with its own code: everything is written."""
    for number in _SIGNALS:
        if signal.getsignal(number) is _by_thread:
            signal.signal(number, signal.SIG_IGN)


def _wait(reader: int) -> None:
    while True:
        for number in os.read(reader, 64):
            if number in _SIGNALS and signal.getsignal(number) is _by_thread:
                _leave(number)


def _leave(number: int) -> None:
    finished = UNFINISHED.abandon()
    text = "interrupted; " + ("the files were already written" if finished else "no file was changed")
    with suppress(OSError, ValueError, AttributeError):
        shown = _SHOW_CURSOR + b"\r\n" if sys.stderr.isatty() else b""
        os.write(2, shown + text.encode() + b"\n")
    os._exit(128 + number)
