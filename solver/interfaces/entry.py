"""Where the ``solver`` command begins: signals and streams first, everything heavy after them.

Until signals have a handler, an interrupt meets Python's own, which prints where it was; so this module imports
next to nothing, and its first call installs one.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # without the enumerations of signal, which take 8 ms
import os

TYPE_CHECKING = False
"""False at run time, as in `typing`, whose import takes longer than this whole module."""

if TYPE_CHECKING:
    from types import FrameType


def main() -> int:
    """Run the command line of this process and return its exit code."""
    _leave_on_signals()
    _open_standard_descriptors()
    from solver.interfaces.interrupts import handle_signals, ignore_signals

    handle_signals()
    from solver.interfaces.terminal import finish_streams, prepare_streams

    prepare_streams()
    from solver.interfaces.cli import main as run

    code = run()
    ignore_signals()
    return finish_streams(code)


def _leave_on_signals() -> None:
    """End the process on signals that the parent did not set to be ignored, as long as there is no more to do."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave)


def _leave(number: int, _frame: FrameType | None) -> None:
    os.write(2, b"interrupted; no file was changed\n")
    os._exit(128 + number)


def _open_standard_descriptors() -> None:
    """Fill descriptors 0 to 2 where the parent closed them: no file opened later may take their place."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


if __name__ == "__main__":
    raise SystemExit(main())
