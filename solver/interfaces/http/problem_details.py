"""Errors on the wire: problem details as RFC 9457 has them, with every violation as data."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from solver.errors import SolverError, SpecError, StoreDownError
from solver.interfaces.http.json_codec import to_json
from solver.interfaces.http.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from solver.errors import Violation

MEDIA_TYPE = "application/problem+json"

_VIOLATIONS_LISTED = 100
"""Violations listed in a problem document; the rest are counted."""


class RequestRefused(SolverError):
    """A request that is answered with an error.

    Parameters
    ----------
    status : int
        HTTP status, 400 or more.
    detail : str
        What went wrong, for a person.
    violations : sequence of Violation
        The rules that are broken.
    headers : mapping of str to str, optional
        Further headers of the answer.
    **fields
        Further members of the problem details.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        violations: Sequence[Violation] = (),
        headers: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail
        self.violations = tuple(violations)
        self.headers = dict(headers or {})
        self.fields = fields

    @property
    def title(self) -> str:
        """Name of the status."""
        return HTTPStatus(self.status).phrase

    def body(self, request_id: str) -> bytes:
        """Return the problem details as JSON."""
        document: dict[str, Any] = {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "request_id": request_id,
        } | self.fields
        if self.violations:
            document["violations"] = [one.to_dict() for one in self.violations[:_VIOLATIONS_LISTED]]
            document["violation_count"] = len(self.violations)
        return to_json(document)

    def reply(self, request_id: str) -> Reply:
        """Return the answer."""
        return Reply(self.status, self.body(request_id), tuple(self.headers.items()), MEDIA_TYPE)

    def __reduce__(self) -> tuple[Any, ...]:
        """Let it cross from a solver process to the service."""
        return _restored, (self.status, self.detail, self.violations, self.headers, self.fields)


def _restored(
    status: int,
    detail: str,
    violations: tuple[Violation, ...],
    headers: dict[str, str],
    fields: dict[str, Any],
) -> RequestRefused:
    return RequestRefused(status, detail, violations=violations, headers=headers, **fields)


def retry_after(seconds: float | None) -> dict[str, str]:
    """Return the header that names a wait, in whole seconds and at least one; nothing where none is known.

    >>> retry_after(0.2), retry_after(None)
    ({'Retry-After': '1'}, {})
    """
    if seconds is None or not math.isfinite(seconds):
        return {}
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def refusal_of(error: Exception) -> RequestRefused | None:
    """Return how an error of this package is answered; None for a fault of the service itself."""
    if isinstance(error, RequestRefused):
        return error
    if isinstance(error, SpecError):
        detail = (
            str(error.violations[0]) if len(error.violations) == 1 else "the request breaks several rules"
        )
        return RequestRefused(422, detail, violations=error.violations)
    if isinstance(error, StoreDownError):
        return RequestRefused(503, "the store of live load cannot be reached", headers=retry_after(1.0))
    return None
