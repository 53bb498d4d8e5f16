"""A whole answer as bytes, which can be kept and given again."""

from __future__ import annotations

from typing import Any, NamedTuple

from solver.interfaces.http.json_codec import to_json


class Reply(NamedTuple):
    """An answer as bytes.

    Parameters
    ----------
    status : int
        HTTP status.
    body : bytes
        As it is sent.
    headers : tuple of (str, str)
        Beside those of every answer.
    media_type : str
        Of the body.
    """

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    media_type: str = "application/json"


def json_reply(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
    """Return a document as JSON."""
    return Reply(status, to_json(document), () if headers is None else tuple(headers.items()))
