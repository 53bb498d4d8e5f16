"""The boundary between libraries that read files and everything else: what they raise becomes a located error."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from solver.errors import SolverError, SpecError
from solver.problem.values import describe

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path


@contextmanager
def located_errors(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into a :class:`SpecError` that names the file.

    Errors of this package pass as they are: they say more. So do interrupts. A library's error is one about
    the file in front of it, whatever its type; nothing is swallowed, its words are in the message.

    Raises
    ------
    SpecError
        For every other exception.
    """
    try:
        yield
    except SolverError:
        raise
    except MemoryError:
        msg = f"{path}: cannot be read: it takes more memory than there is"
        raise SpecError(msg) from None
    except RecursionError:
        msg = f"{path}: cannot be read: values are nested too deeply"
        raise SpecError(msg) from None
    except Exception as error:
        reason = describe(str(error).strip().partition("\n")[0])[1:-1] if str(error).strip() else ""
        msg = f"{path}: cannot be read: {reason or 'its content is broken'} ({type(error).__name__})"
        raise SpecError(msg) from error


@contextmanager
def errors_about(path: Path, arrays: Collection[str]) -> Iterator[None]:
    """Name the file that arrays were read from in errors about them.

    Parameters
    ----------
    path : Path
        The file.
    arrays : collection of str
        First parts of the paths of such errors.

    Raises
    ------
    SpecError
        As raised inside, with the file in front of what is about the arrays.
    """
    try:
        yield
    except SpecError as error:
        raise SpecError(
            *(
                line.at(f"{path}: {line.path}") if line.path.partition("[")[0] in arrays else line
                for line in error.violations
            )
        ) from None
