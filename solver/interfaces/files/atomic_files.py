"""Files that are being written: complete under their name, or gone, also when the process is interrupted."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_NEW = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_CLOEXEC", 0)


class UnfinishedFiles:
    """The temporary files of one process.

    Thread-safe. A temporary file is created, renamed and removed under one lock, so that whoever holds the
    lock knows every file there is, and no new one can appear.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._paths: set[Path] = set()
        self._finished = 0

    def create(self, path: Path, *, mode: int | None = None) -> int:
        """Create a file and return its descriptor; ``mode`` replaces the default permissions.

        Raises
        ------
        OSError
            When it exists or cannot be created.
        """
        with self._lock:
            descriptor = os.open(path, _NEW, 0o666)
            self._paths.add(path)
        if mode is not None:
            os.fchmod(descriptor, mode)
        return descriptor

    def finish(self, pairs: Sequence[tuple[Path, Path]]) -> None:
        """Give every complete file its final name; an interrupt comes before the first or after the last.

        Raises
        ------
        OSError
            When one cannot be renamed.
        """
        with self._lock:
            for temporary, final in pairs:
                temporary.replace(final)
                self._paths.discard(temporary)
                self._finished += 1

    def remove(self, path: Path) -> None:
        """Remove a file that was not finished; nothing happens when it was."""
        with self._lock:
            if path in self._paths:
                path.unlink(missing_ok=True)
                self._paths.discard(path)

    def abandon(self) -> int:
        """Remove every unfinished file and keep the lock for good; return how many were finished before.

        For the end of the process only: no file can be created or renamed afterwards.
        """
        self._lock.acquire()
        for path in self._paths:
            with suppress(OSError):
                path.unlink()
        return self._finished


UNFINISHED = UnfinishedFiles()
"""The temporary files of this process, which the handler of signals has to find."""
