"""Prices computed in a process of their own, where not even a few milliseconds of an interpreter's lock can be spared.

The child is this interpreter again; questions and answers are pickled over its standard input and output. It ends
when its parent does, whose end of the pipe is then closed.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

from solver.errors import SolverError
from solver.load.fork import renewed_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")
_NICENESS = 5
"""Added to the niceness of a process that computes beside one that decides, which then waits for less than a time slice
where there are more busy processes than processors."""

_SHUTDOWN_TIMEOUT_S = 5.0
"""Seconds after which a child that does not end is killed."""


class PriceProcess:
    """Answers questions in a child process, one at a time.

    The child starts with this object, so that its imports do not compete with the first decisions; after it has died,
    with the next question.
    """

    def __init__(self) -> None:
        self._lock = renewed_after_fork(self, "_lock", threading.Lock)
        self._child: subprocess.Popen[bytes] | None = None
        self._pid = os.getpid()
        self._end: Callable[[], object] = lambda: None
        self._running()

    @property
    def pid(self) -> int | None:
        """Process id of the child; None after a failure."""
        return None if self._child is None else self._child.pid

    def answer(self, price_job: Callable[[], _T]) -> _T:
        """Return what a call returns there.

        Parameters
        ----------
        price_job : callable
            Can be pickled, takes no arguments.

        Raises
        ------
        SolverError
            If the call raised an error there, or the child has died; the next job starts another.
        """
        with self._lock:
            child = self._running()
            assert child.stdin is not None
            assert child.stdout is not None
            try:
                pickle.dump(price_job, child.stdin, pickle.HIGHEST_PROTOCOL)
                child.stdin.flush()
                answer, error = pickle.load(child.stdout)  # noqa: S301 - from this object's own child
            except (OSError, EOFError, pickle.UnpicklingError) as problem:
                self._close()
                msg = f"the process that computes prices has ended: {type(problem).__name__}"
                raise SolverError(msg) from problem
        if error is not None:
            raise SolverError(error)
        return answer  # type: ignore[no-any-return]  # pickled by serve()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._pid != os.getpid():  # after a fork the child belongs to the parent
            self._child, self._pid = None, os.getpid()
        if self._child is None:
            program = f"import sys; sys.path[:] = {sys.path!r}; from solver.online.price_process import serve; serve()"
            child = subprocess.Popen(  # noqa: S603 - this interpreter, with a program of our own
                [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            self._child = child
            self._end = weakref.finalize(self, _finish, child, os.getpid())
        return self._child

    def _close(self) -> None:
        self._end()
        self._child = None

    def close(self) -> None:
        """End the child."""
        with self._lock:
            self._close()


def _finish(child: subprocess.Popen[bytes], owner: int) -> None:
    if owner != os.getpid():
        return
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:  # what was not sent yet cannot be sent any more
                continue
    try:
        child.wait(_SHUTDOWN_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def give_way() -> None:
    """Let other processes of this machine go before this one, where the system knows of that."""
    if hasattr(os, "nice"):
        os.nice(_NICENESS)


def serve() -> None:
    """Answer questions until standard input ends. What a call prints goes to standard error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to end
    give_way()
    asked, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    while True:
        try:
            price_job = pickle.load(asked)  # noqa: S301 - from the parent process
        except EOFError:
            return
        answer: tuple[Any, str | None]
        try:
            answer = price_job(), None
        except Exception as error:  # noqa: BLE001 - reported to the parent, which raises it
            answer = None, f"{type(error).__name__}: {error}"
        try:
            pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
            answers.flush()
        except BrokenPipeError:
            return
