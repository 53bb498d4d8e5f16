"""Every answer that a test gets, validated against the OpenAPI document that the service itself publishes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from jsonschema_rs import validator_for

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

__all__ = ["validating"]


def validating(document: dict[str, Any]) -> Callable[[httpx.Response], None]:
    """Return a hook for a client of httpx: an answer that is not as the document has it is an assertion error."""
    templates = [
        (re.compile(re.sub(r"\\\{\w+\\\}", ".+", re.escape(path))), operations)
        for path, operations in sorted(document["paths"].items(), key=lambda item: "{" in item[0])
    ]
    validators: dict[str, Any] = {}

    def check(answer: httpx.Response) -> None:
        kind = answer.headers.get("content-type", "").partition(";")[0]
        method, path = answer.request.method.lower(), answer.request.url.path
        found = [one for pattern, one in templates if pattern.fullmatch(path) and method in one]
        if not found or kind == "text/event-stream":
            return
        described = found[0][method]["responses"]
        status = str(answer.status_code)
        assert status in described, f"{method} {path}: status {status} is not described"
        assert kind in described[status]["content"], f"{method} {path}: {kind} is not described"
        if kind.endswith("json"):
            name = described[status]["content"][kind]["schema"]["$ref"]
            if name not in validators:
                validators[name] = validator_for({"$ref": name, "components": document["components"]})
            answer.read()
            problems = [
                f"{'/'.join(map(str, error.instance_path))}: {error.message}"
                for error in validators[name].iter_errors(answer.json())
            ]
            assert not problems, (method, path, problems[:5], answer.text[:1000])

    return check
