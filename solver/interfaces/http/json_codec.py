"""JSON as the service reads and writes it: strict, and quick because every request passes here twice."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from solver.errors import MissingExtraError

try:
    import orjson
except ImportError as error:
    raise MissingExtraError("orjson", "service") from error

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["from_json", "to_json"]

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY


def to_json(document: Any, *, default: Callable[[Any], Any] | None = None) -> bytes:
    """Return a document as JSON in UTF-8; numbers that are not finite become null.

    Parameters
    ----------
    document : JSON value
        Arrays and numbers of numpy are taken as well.
    default : callable, optional
        Returns what JSON can hold for a value that it cannot.

    Examples
    --------
    >>> to_json({"model": "a", "price": float("inf")})
    b'{"model":"a","price":null}'
    """
    try:
        return orjson.dumps(document, default, _OPTIONS)
    except TypeError:
        # Text that is no valid Unicode, such as half of a surrogate pair in a fleet file, and whole numbers
        # beyond 64 bits: the standard library writes them in ASCII.
        return json.dumps(document, default=default, separators=(",", ":")).encode()


def from_json(body: bytes) -> Any:
    """Return the value of a JSON text.

    Raises
    ------
    ValueError
        If it is not JSON: NaN, half a surrogate pair and nesting deeper than 1,024 are none.
    """
    return orjson.loads(body)
