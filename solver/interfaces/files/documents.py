"""Reading text, YAML and JSON with errors that name the file and, where there is one, the line."""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING, Any

import yaml

from solver.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["DocumentLines", "parse_json", "read_document", "read_text"]

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_LOCATED = 5_000_000  # characters of a document that is parsed a second time to find line numbers


def read_text(path: Path) -> str:
    """Return a file's text.

    Raises
    ------
    SpecError
        When the file is missing, unreadable, or not UTF-8.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        msg = f"{path}: no such file"
        raise SpecError(msg) from None
    except IsADirectoryError:
        msg = f"{path}: expected a file, got a folder"
        raise SpecError(msg) from None
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror or error}"
        raise SpecError(msg) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        msg = f"{path}:{line}: expected UTF-8 text, got byte 0x{data[error.start]:02x}"
        raise SpecError(msg) from None


def read_document(path: Path) -> Any:
    """Return what a YAML or JSON file holds, by its ending (``.json``; anything else is YAML).

    Raises
    ------
    SpecError
        When the file cannot be read or parsed, or a mapping repeats a key.
    """
    text = read_text(path)
    return parse_json(text, path) if path.suffix.lower() == ".json" else _parse_yaml(text, path)


class _RepeatedKeyError(ValueError):
    """A JSON object names a key twice."""


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _RepeatedKeyError(key)
            seen.add(key)
    return result


def parse_json(text: str, path: Path, *, line: int = 1) -> Any:
    """Return what JSON text holds; ``line`` is where it starts in its file.

    Raises
    ------
    SpecError
        When it is broken or repeats a key.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique_pairs)
    except json.JSONDecodeError as error:
        msg = f"{path}:{line + error.lineno - 1}: broken JSON at column {error.colno}: {error.msg}"
    except _RepeatedKeyError as error:
        msg = f"{path}:{line}: key {error.args[0]!r} is given twice in one object"
    except RecursionError:
        msg = f"{path}:{line}: broken JSON: nested too deeply"
    raise SpecError(msg) from None


class _UniqueKeyLoader(_Loader):  # type: ignore[misc]  # the C loader has no type
    """A safe loader that refuses a key given twice, which YAML forbids and PyYAML lets pass."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = (key_node.tag, getattr(key_node, "value", None)) if key_node.id == "scalar" else None
            if key is not None and key in seen and key_node.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key_node.value!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)  # type: ignore[no-any-return]


def _parse_yaml(text: str, path: Path) -> Any:
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506  # derived from the safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        msg = f"{where}: broken YAML: {error.problem or error.context}"
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        msg = f"{path}:{line}: broken YAML: {error.reason}"
    except (ValueError, RecursionError) as error:  # such as a date with month 13
        msg = f"{path}: broken YAML: {error}"
    raise SpecError(msg) from None


class DocumentLines:
    """Finds the lines of a YAML or JSON file on which values stand.

    Parameters
    ----------
    path : Path
        A file that :func:`read_document` could read. It is parsed again, at the first question.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def _root(self) -> Any:
        text = self._path.read_text(encoding="utf-8-sig")
        try:
            return yaml.compose(text, Loader=_Loader) if len(text) <= _LOCATED else None
        except yaml.YAMLError:  # JSON that is not YAML, such as one indented by tabs
            return None

    def line_of(self, steps: Sequence[str | int]) -> int | None:
        """Return the line of the value at ``steps``, keys and positions from the top; None when unknown.

        Where a step leads nowhere, the line of what it was looked for in.
        """
        node = self._root
        line = None if node is None else node.start_mark.line + 1
        for step in steps:
            if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
                node = node.value[step]
                line = node.start_mark.line + 1
                continue
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            found = next(((key, value) for key, value in pairs if key.value == str(step)), None)
            if found is None:
                break
            line = (
                found[0].start_mark.line + 1
            )  # a nested block begins below its key; the key is what people seek
            node = found[1]
        return line
