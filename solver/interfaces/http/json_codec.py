"""JSON as the service reads and writes it: strict, and quick because every request passes here twice."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from solver.errors import MissingExtraError, SpecError, Violation, ViolationKind

try:
    import orjson
except ImportError as error:
    raise MissingExtraError("orjson", "service") from error

if TYPE_CHECKING:
    from collections.abc import Callable

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY
_SHORT_LIST = 256
"""Entries up to which a list is walked to count the fields in it: longer ones are agents, or rows of numbers."""


class JsonText:
    """A part of a document that is JSON already, and is written as it is.

    Parameters
    ----------
    text : bytes
        In UTF-8.

    Examples
    --------
    >>> to_json({"latest": [JsonText(b'{"model":"a"}')]})
    b'{"latest":[{"model":"a"}]}'
    """

    __slots__ = ("text",)

    def __init__(self, text: bytes) -> None:
        self.text = text


def to_json(document: Any, *, default: Callable[[Any], Any] | None = None) -> bytes:
    """Return a document as JSON in UTF-8; numbers that are not finite become null.

    Parameters
    ----------
    document : JSON value
        Arrays and numbers of numpy, and :class:`JsonText`, are taken as well.
    default : callable, optional
        Returns what JSON can hold for a value that it cannot.

    Examples
    --------
    >>> to_json({"model": "a", "price": float("inf")})
    b'{"model":"a","price":null}'
    """

    def convert(value: Any, embed: Callable[[bytes], Any]) -> Any:
        if isinstance(value, JsonText):
            return embed(value.text)
        if default is None:
            raise TypeError(f"no JSON: {type(value).__name__}")
        return default(value)

    try:
        return orjson.dumps(document, lambda value: convert(value, orjson.Fragment), _OPTIONS)
    except TypeError:
        # Text that is no valid Unicode, such as half of a surrogate pair in a fleet file, and whole numbers
        # beyond 64 bits: the standard library writes them in ASCII.
        return json.dumps(
            document, default=lambda value: convert(value, json.loads), separators=(",", ":")
        ).encode()


def from_json(body: bytes) -> Any:
    """Return the value of a JSON text.

    Raises
    ------
    ValueError
        If it is not JSON: NaN, half a surrogate pair and nesting deeper than 1,024 are none.
    """
    return orjson.loads(body)


def refuse_repeated_fields(body: bytes, document: Any = None) -> None:
    """Refuse a JSON text in which an object has a field twice.

    Parsers keep the last of two values without a word. Whether there are two is told by counting: a text has a
    colon for each field, and more only in strings. Where the numbers differ, the text is read once more.

    Parameters
    ----------
    body : bytes
        The text, which a parser has taken.
    document : JSON value, optional
        What :func:`from_json` made of it.

    Raises
    ------
    SpecError
        Naming the field.

    Examples
    --------
    >>> refuse_repeated_fields(b'{"id": "a", "priority": 1}')
    >>> refuse_repeated_fields(b'{"id": "a", "priority": 1, "id": "b"}')
    Traceback (most recent call last):
    solver.errors.SpecError: id: expected once in an object, got two values
    """
    try:
        if document is None:
            document = from_json(body)
        if _fields_of(document) == body.count(b":"):
            return
    except ValueError:
        pass  # numbers beyond 64 bits: told by the slower parser
    try:
        json.loads(body, object_pairs_hook=_unique_fields)
    except RecursionError:
        return  # no document of the service is that deep: its own check refuses it


def _fields_of(document: Any) -> int:
    """Return how many fields the objects of a document have, or fewer: long lists are looked at from outside."""
    fields, waiting = 0, [document]
    while waiting:
        value = waiting.pop()
        kind = type(value)
        if kind is dict:
            fields += len(value)
            waiting.extend(value.values())
        elif kind is list and len(value) <= _SHORT_LIST:
            waiting.extend(value)
        elif kind is list and set(map(type, value)) == {dict}:
            fields += sum(map(len, value))
    return fields


def _unique_fields(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            rule = "expected once in an object"
            raise SpecError(Violation(name, rule, shown="two values", kind=ViolationKind.DUPLICATE))
        seen.add(name)
