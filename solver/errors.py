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

import math
import reprlib
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

_LISTED_VIOLATIONS = 20
"""Violations spelled out in the message of an error; the rest are counted."""

_SHOWN_CHARACTERS = 60
"""Characters of an offending value that an error repeats."""

_LONG_BITS = 1_000
"""Bits from which an integer is described instead of shown: writing its digits takes quadratic time."""


def _bounded_repr() -> reprlib.Repr:
    """Return a representation that costs little, however large or deep a value is."""
    bounded = reprlib.Repr()
    bounded.maxlevel = 4
    bounded.maxlist = bounded.maxtuple = bounded.maxdict = bounded.maxset = bounded.maxarray = 20
    bounded.maxstring = bounded.maxlong = bounded.maxother = 4 * _SHOWN_CHARACTERS
    return bounded


_REPR = _bounded_repr()


def describe(value: object) -> str:
    """Return a value as an error shows it: numbers plain, text quoted, long things cut.

    >>> describe(-5), describe("x")
    ('-5', "'x'")
    """
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, int) and value.bit_length() > _LONG_BITS:
        return f"a number of about {int(value.bit_length() * math.log10(2)):,} digits"
    return cut(str(value) if isinstance(value, float) else _REPR.repr(value))


def cut(text: str) -> str:
    """Return a text without what is beyond the length that an error shows."""
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."


class ViolationKind(StrEnum):
    """What sort of rule is broken, for programs that react to it."""

    VALUE = "value"
    """A value of the right shape is not one that is allowed."""
    TYPE = "type"
    """Something of another type, or an array of another shape, was expected."""
    MISSING = "missing"
    """Something that is required was not given."""
    UNKNOWN = "unknown"
    """A field, id or name that nothing else knows."""
    DUPLICATE = "duplicate"
    """Something that must be unique occurs again."""
    NOT_ELIGIBLE = "not_eligible"
    """An agent is assigned to a model that is forbidden to it."""
    OVER_CAPACITY = "over_capacity"
    """A model carries more than its capacity."""
    BELOW_FLOOR = "below_floor"
    """A model carries less than it must."""
    LIMIT = "limit"
    """A limit across models does not hold."""
    TOGETHER = "together"
    """Agents that must share a model are at different ones."""
    UNSERVED = "unserved"
    """An agent that must be served is not."""


_NOTHING: Any = object()


class Violation(str):
    """One broken rule, as data; as text it reads ``path: rule, got value``.

    Programs read the attributes and never take the text apart.

    Parameters
    ----------
    path : str
        Where: ``agents[3].tokens``; empty for the whole.
    rule : str
        What is expected there.
    value : object, optional
        What was found instead.
    kind : ViolationKind
        What sort of rule it is.
    position : tuple of int
        Positions in the arrays of the instance that the violation is about, in the order of the path:
        the agent, model and resource, or the limit row.
    shown : str, optional
        The value in words, where its own text is not what a reader needs.
    hint : str
        Ends the text, such as ``; did you mean 'x'?``.

    Examples
    --------
    >>> found = Violation("agents[3].tokens", "expected >= 0", -5)
    >>> print(found)
    agents[3].tokens: expected >= 0, got -5
    >>> found.path, found.value, found.kind.value
    ('agents[3].tokens', -5, 'value')
    """

    __slots__ = ("hint", "kind", "path", "position", "rule", "shown", "value")

    path: str
    rule: str
    value: object
    kind: ViolationKind
    position: tuple[int, ...]
    shown: str | None
    hint: str

    def __new__(
        cls,
        path: str,
        rule: str,
        value: object = _NOTHING,
        *,
        kind: ViolationKind = ViolationKind.VALUE,
        position: tuple[int, ...] = (),
        shown: str | None = None,
        hint: str = "",
    ) -> Self:
        """Return the violation, its text made once."""
        if shown is None and value is not _NOTHING:
            shown = describe(value)
        text = rule if shown is None else f"{rule}, got {shown}"
        self = super().__new__(cls, (f"{path}: {text}" if path else text) + hint)
        self.path, self.rule, self.kind, self.position = path, rule, kind, position
        self.value = None if value is _NOTHING else value
        self.shown, self.hint = shown, hint
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep the attributes where errors cross processes."""
        return _restored, (self.path, self.rule, self.value, self.kind, self.position, self.shown, self.hint)

    @property
    def message(self) -> str:
        """The text without the path."""
        return (self.rule if self.shown is None else f"{self.rule}, got {self.shown}") + self.hint

    def at(self, path: str) -> Violation:
        """Return the same violation with another path: of the document around, or of a line in a file."""
        return _restored(path, self.rule, self.value, self.kind, self.position, self.shown, self.hint)

    def noted(self, hint: str) -> Violation:
        """Return the same violation with more advice at the end of its text."""
        kind, position = self.kind, self.position
        return _restored(self.path, self.rule, self.value, kind, position, self.shown, self.hint + hint)

    def within(self, path: str) -> Violation:
        """Return the same violation of a part of something larger: ``tokens`` within ``agents[3]``."""
        return self.at(f"{path}.{self.path}" if self.path else path)

    def to_dict(self) -> dict[str, Any]:
        """Return path, rule, kind, the value as text (None where there is none), and the whole text."""
        return {
            "path": self.path,
            "rule": self.rule,
            "kind": self.kind.value,
            "value": self.shown,
            "message": str(self),
        }


def missing_value(path: str, rule: str = "required, but missing") -> Violation:
    """Return the violation of something that is required and was not given."""
    return Violation(path, rule, kind=ViolationKind.MISSING)


def wrong_type(path: str, rule: str, value: object) -> Violation:
    """Return the violation of something of another type than the one expected."""
    return Violation(path, rule, value, kind=ViolationKind.TYPE)


def unknown_field(path: str, hint: str = "") -> Violation:
    """Return the violation of a field that nothing reads."""
    return Violation(path, "unknown field", kind=ViolationKind.UNKNOWN, hint=hint)


def repeated_value(path: str, rule: str, value: object, first: str = "") -> Violation:
    """Return the violation of something unique that occurs again, after it did so ``first``, a path, where known."""
    shown = f"{describe(value)} again" + (f", first at {first}" if first else "")
    return Violation(path, rule, value, shown=shown, kind=ViolationKind.DUPLICATE)


def _restored(
    path: str,
    rule: str,
    value: object,
    kind: ViolationKind,
    position: tuple[int, ...],
    shown: str | None,
    hint: str,
) -> Violation:
    return Violation(
        path, rule, _NOTHING if shown is None else value, kind=kind, position=position, shown=shown, hint=hint
    )


class SolverError(Exception):
    """Root of every error raised by this package."""


class SpecError(SolverError, ValueError):
    """Input that breaks a rule.

    Parameters
    ----------
    *violations
        Every rule that is broken; plain text stands for a violation without a path.

    Attributes
    ----------
    violations : tuple of Violation
        Every violation found, in input order. Each is its text, ``agents[3].tokens: expected >= 0, got -5``,
        and has path, rule, value and kind as attributes.
    """

    def __init__(self, *violations: str) -> None:
        self.violations: tuple[Violation, ...] = tuple(
            line if isinstance(line, Violation) else Violation("", line) for line in violations
        )
        shown: list[str] = list(self.violations[:_LISTED_VIOLATIONS])
        if len(violations) > _LISTED_VIOLATIONS:
            shown.append(f"... and {len(violations) - _LISTED_VIOLATIONS} more")
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
