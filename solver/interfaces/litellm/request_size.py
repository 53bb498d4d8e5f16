"""How large a request is and what it is about, as far as it says before there is an answer.

Tokens are told by length: LiteLLM's counter takes milliseconds. What callers send is theirs, so nothing here raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from solver.load.checks import LARGEST_WHOLE

if TYPE_CHECKING:
    from solver.interfaces.litellm.fleet import FleetOptions

_CHARACTERS_PER_TOKEN = 4
"""Characters per token, where only the length of a text is known."""

_ATTACHMENT_TOKENS = 250
"""Tokens of an image, a sound or a file: what LiteLLM counts for an image of unknown size."""

_DEEPEST = 8
"""Levels of nesting that are looked into: messages, contents, parts and results of tools are four."""

_ASKED = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_OF_RESPONSES = "litellm_metadata"
"""Key of LiteLLM's metadata in requests of its responses and messages APIs, which have output."""


def expected_tokens(
    request: Mapping[str, Any], messages: Any, text: Any, options: FleetOptions
) -> tuple[int, int]:
    """Return tokens in, by length, and out: the longest answer that was asked for. O(parts of the messages)."""
    characters = _characters(messages, _DEEPEST) + _characters(text, _DEEPEST)
    for name in ("tools", "functions", "instructions"):
        if request.get(name):
            characters += len(str(request[name]))
    tokens_in = min(-(-characters // _CHARACTERS_PER_TOKEN), LARGEST_WHOLE // 2)
    tokens_out = asked_tokens(request)
    if tokens_out is None:
        embedded = text is not None and not messages and _OF_RESPONSES not in request
        tokens_out = 0 if embedded else options.output_tokens
    answers = request.get("n")
    if type(answers) is int and answers > 1:
        tokens_out *= answers
    return tokens_in, min(tokens_out, LARGEST_WHOLE // 2)


def asked_tokens(request: Mapping[str, Any]) -> int | None:
    """Return the longest answer that a request asks for, None where it states none."""
    values = (request.get(name) for name in _ASKED)
    return next((value for value in values if type(value) is int and value > 0), None)


def stated_task_type(request: Mapping[str, Any]) -> Any:
    """Return what the metadata of a request says it is about, None where it says nothing."""
    for name in ("metadata", _OF_RESPONSES):
        metadata = request.get(name)
        if isinstance(metadata, Mapping) and metadata.get("task_type") is not None:
            return metadata["task_type"]
    return None


def _characters(content: Any, depth: int) -> int:
    """Return the length of a text, of token ids, or of messages and their parts."""
    if isinstance(content, str):
        return len(content)
    if not depth or content is None:
        return 0
    if isinstance(content, list | tuple):
        if content and type(content[0]) is int:  # ids of tokens
            return _CHARACTERS_PER_TOKEN * len(content)
        return sum(_characters(part, depth - 1) for part in content)
    if isinstance(content, Mapping) or hasattr(content, "content"):
        return _of_message(content, depth)
    return 0


def _of_message(content: Any, depth: int) -> int:
    """Return the length of a message, or of one part of it."""
    parts = [_field(content, name) for name in ("content", "text", "arguments", "output", "input")]
    called = _field(content, "tool_calls")
    if called:
        parts.append(str(called))
    if all(part is None for part in parts) and _field(content, "role") is None:
        return _CHARACTERS_PER_TOKEN * _ATTACHMENT_TOKENS
    return sum(_characters(part, depth - 1) for part in parts)


def _field(content: Any, name: str) -> Any:
    return content.get(name) if isinstance(content, Mapping) else getattr(content, name, None)
