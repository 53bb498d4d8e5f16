"""A name for each replica that outlives its restarts: the host, and the lowest number that is free there."""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import socket
import tempfile
import weakref
from pathlib import Path

try:
    import fcntl
except (
    ImportError
):  # not on this platform: names carry the process id, and a restart counts as another replica
    fcntl = None  # type: ignore[assignment]  # what is missing is handled below

_LOG = logging.getLogger("solver.load")


class ReplicaName:
    """The lowest number that no living process of this host and user holds, as ``host#number``.

    The number is a file lock, which the operating system gives back when the process ends, however it ends. So
    a worker that is restarted has the name of the one it replaces.

    Parameters
    ----------
    scope : str
        What the replicas share, such as server and namespace.
    given : str, optional
        A name of the caller's choice, instead.
    """

    def __init__(self, scope: str, given: str | None = None) -> None:
        self._scope = hashlib.sha256(scope.encode()).hexdigest()[:16]
        self._given = given
        self._unlock: weakref.finalize[[int], ReplicaName] | None = None
        self.name = given or ""
        self.number: int | None = None

    def take(self) -> None:
        """Choose the name, unless that has been done."""
        if self.name:
            return
        host = socket.gethostname()
        try:
            descriptor, self.number = self._lock_lowest()
            self._unlock = weakref.finalize(self, os.close, descriptor)
            self.name = f"{host}#{self.number}"
        except OSError as error:
            _LOG.warning("replicas are named by process id, since no lock file can be made: %s", error)
            self.name = f"{host}-{os.getpid()}"

    def _lock_lowest(self) -> tuple[int, int]:
        if fcntl is None:
            raise OSError("no file locks on this platform")
        folder = Path(tempfile.gettempdir()) / f"solver-replicas-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise OSError(f"{folder} belongs to another user")
        for number in itertools.count():
            descriptor = os.open(folder / f"{self._scope}-{number}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            return descriptor, number
        raise AssertionError("unreachable")

    def give_up(self) -> None:
        """Leave the name to others; a given one stays."""
        if self._unlock is not None:
            self._unlock()
        self._unlock, self.number = None, None
        self.name = self._given or ""
