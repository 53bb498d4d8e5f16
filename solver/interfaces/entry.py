"""Where the ``solver`` command begins: signals and streams first, everything heavy after them."""

from __future__ import annotations

import os

from solver.interfaces.interrupts import handle_signals, ignore_signals

__all__ = ["main"]


def main() -> int:
    """Run the command line of this process and return its exit code."""
    _open_standard_descriptors()
    handle_signals()
    from solver.interfaces.terminal import finish_streams, prepare_streams  # after the handlers

    prepare_streams()
    from solver.interfaces.cli import main as run

    code = run()
    ignore_signals()
    return finish_streams(code)


def _open_standard_descriptors() -> None:
    """Fill descriptors 0 to 2 where the parent closed them: no file opened later may take their place."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


if __name__ == "__main__":
    raise SystemExit(main())
