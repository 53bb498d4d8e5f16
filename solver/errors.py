"""Every error this package raises on purpose.

::

    SolverError
    ├── SpecError(ValueError)             a value the caller gave breaks a rule; lists every violation found
    ├── EngineError(RuntimeError)         an engine's claim failed the certificate: a bug, not misuse
    ├── ForkedStoreError(RuntimeError)    load of one process, used in a process forked from it
    ├── StoreDownError(ConnectionError)   the server of a shared store does not answer
    ├── MissingExtraError(ImportError)    an optional package is not installed; names the extra
    └── UnsolvedError(RuntimeError)       raised by ``raise_for_status`` only: there is no assignment
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "EngineError",
    "ForkedStoreError",
    "MissingExtraError",
    "SolverError",
    "SpecError",
    "StoreDownError",
    "UnsolvedError",
]

_LISTED = 20  # violations spelled out in a message; the rest are counted


class SolverError(Exception):
    """Root of every error raised by this package."""


class SpecError(SolverError, ValueError):
    """Input that breaks a rule.

    Parameters
    ----------
    *violations
        One line each: path, rule, value, such as ``agents[3].tokens: expected >= 0, got -5``.

    Attributes
    ----------
    violations : tuple of str
        Every violation found, in input order.
    """

    def __init__(self, *violations: str) -> None:
        self.violations: tuple[str, ...] = violations
        shown = list(violations[:_LISTED])
        if len(violations) > _LISTED:
            shown.append(f"... and {len(violations) - _LISTED} more")
        super().__init__("\n".join(shown))

    @classmethod
    def merged(cls, errors: Iterable[SpecError]) -> SpecError:
        """Return one error that lists the violations of all."""
        return cls(*(line for error in errors for line in error.violations))


class EngineError(SolverError, RuntimeError):
    """An engine's claim failed independent verification. A bug in this package; please report it."""


class ForkedStoreError(SolverError, RuntimeError):
    """A store of one process was used in a child process made by a fork. Nothing was granted."""


class StoreDownError(SolverError, ConnectionError):
    """The server of a shared store does not answer, or not as it should."""


class MissingExtraError(SolverError, ImportError):
    """An optional package is missing.

    Parameters
    ----------
    package : str
        What could not be imported.
    extra : str
        The extra of this distribution that installs it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed; install it with: pip install 'batch-assignment-solver[{extra}]'"
        )


class UnsolvedError(SolverError, RuntimeError):
    """Raised by ``raise_for_status`` when there is no assignment to use."""
