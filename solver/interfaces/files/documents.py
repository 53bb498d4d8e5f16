"""Reading YAML and JSON: plain values, with the lines they stand on, and nothing that grows or hides.

YAML is read by the core schema of YAML 1.2, narrowed to what has one meaning: ``010``, ``0x1F``, ``1:30``,
``yes`` and dates are text, which a field of numbers refuses and an id keeps as it is written.
"""

from __future__ import annotations

import gc
import json
import re
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import yaml

from solver.errors import SpecError
from solver.interfaces.files.sources import Reading, content_suffix, read_text
from solver.problem.values import describe

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MAX_DEPTH = 32
"""Levels of nesting a document may have; problem files need six."""

_LARGEST_DOCUMENT_MB = 100.0
"""Megabytes of a document above which it is refused: YAML takes a second for every five."""

_LOCATED_CHARACTERS = 5_000_000
"""Characters up to which a document is parsed a second time to find the line numbers of errors."""

_ALIAS_VALUES = 100_000
"""Values that aliases may add, besides ten times those that are written out."""

_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_LONG_DIGITS = re.compile(r"\d{4301,}")
"""Digits that `int()` refuses to read because it would take quadratic time."""

_CORE = "tag:yaml.org,2002:"
_SCALARS: tuple[tuple[str, str, str], ...] = (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"-?(?:0|[1-9][0-9]*)", "-0123456789"),
    (
        "float",
        r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
)
_FLOATS = {".inf": "inf", "-.inf": "-inf", "+.inf": "inf", ".nan": "nan"}


def read_document(path: Path, reading: Reading | None = None) -> Any:
    """Return what a YAML or JSON file holds, by its ending (``.json``; anything else is YAML).

    Raises
    ------
    SpecError
        When the file cannot be read or parsed, a mapping repeats a key, or values are nested too deeply,
        contain themselves, or grow without bound through aliases.
    """
    text = read_text(path, _bounded(reading))
    with _without_collector():
        return parse_json(text, path) if content_suffix(path) == ".json" else _parse_yaml(text, path, "YAML")


@contextmanager
def _without_collector() -> Iterator[None]:
    """Pause the collector of cycles: it would walk every node of a growing tree again and again, 5× the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _bounded(reading: Reading | None) -> Reading:
    """Return the options with the limit of documents where that of all files is the default."""
    reading = Reading() if reading is None else reading
    if reading.max_mb != Reading().max_mb:
        return reading
    return Reading(
        encoding=reading.encoding, max_mb=_LARGEST_DOCUMENT_MB, notes=reading.notes, files=reading.files
    )


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
        When it is broken, repeats a key, is nested too deeply, or holds half a character.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique_pairs)
    except json.JSONDecodeError as error:
        msg = f"{path}:{line + error.lineno - 1}: broken JSON at column {error.colno}: {error.msg}"
    except _RepeatedKeyError as error:
        # Parsed once more as YAML, which knows the line; what is no YAML is reported where it starts.
        if len(text) <= _LOCATED_CHARACTERS and line == 1:
            try:
                _parse_yaml(text, path, "JSON")
            except SpecError as located:
                if "given twice" in str(located):
                    raise
        msg = f"{path}:{line}: key {describe(error.args[0])} is given twice in one object"
    except RecursionError:
        msg = f"{path}:{line}: broken JSON: nested more than {MAX_DEPTH} levels deep"
    except ValueError as error:
        found = _LONG_DIGITS.search(text)
        where = line + (text.count("\n", 0, found.start()) if found else 0)
        reason = "a number of more than 4,300 digits" if found else str(error)
        msg = f"{path}:{where}: broken JSON: {reason}"
    else:
        check_plain(value, f"{path}:{line}", has_surrogates=_ESCAPED_SURROGATE.search(text) is not None)
        return value
    raise SpecError(msg) from None


def check_plain(value: Any, where: str, *, has_surrogates: bool = False) -> None:
    """Refuse plain values that are nested too deeply or, where asked, hold half a surrogate pair. O(values).

    Raises
    ------
    SpecError
        One line, which begins with ``where``.
    """
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner: list[Any] = []
        for entry in level:
            if type(entry) is dict:
                inner.extend(entry.values())
                if has_surrogates:
                    inner.extend(entry)
            elif type(entry) is list:
                inner.extend(entry)
            elif has_surrogates and type(entry) is str and not _encodable(entry):
                msg = f"{where}: expected text, got half a surrogate pair in {describe(entry)}"
                raise SpecError(msg)
        level = inner if has_surrogates else [entry for entry in inner if type(entry) in (dict, list)]
        if not level:
            return
    msg = f"{where}: expected at most {MAX_DEPTH} levels of nesting, got more"
    raise SpecError(msg)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _CoreLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the C loader has no type
    """Composes nodes with the tags of the core schema; :class:`_Values` makes values of them."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 - PyYAML's way to be configured


for _kind, _pattern, _first in _SCALARS:
    _CoreLoader.add_implicit_resolver(
        _CORE + _kind, re.compile(rf"^(?:{_pattern})$"), [*_first.replace("\0", ""), ""]
    )
_CoreLoader.add_implicit_resolver(_CORE + "merge", re.compile(r"^<<$"), ["<"])


def _parse_yaml(text: str, path: Path, language: str) -> Any:
    root = _compose(text, path)
    return None if root is None else _Values(path, language).of(root)


def _compose(text: str, path: Path) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=_CoreLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = error.problem or error.context or "it cannot be parsed"
        if "nesting depth" in problem:
            problem = f"nested more than {MAX_DEPTH} levels deep"
        hint = "; indent with blanks" if "'\\t'" in problem else ""
        msg = f"{where}: broken YAML: {problem}{hint}"
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        msg = f"{path}:{line}: broken YAML: {error.reason}"
    except yaml.YAMLError as error:
        msg = f"{path}: broken YAML: {error}"
    except RecursionError:
        msg = f"{path}: broken YAML: nested more than {MAX_DEPTH} levels deep"
    raise SpecError(msg) from None


class _Values:
    """Makes plain values of composed nodes; what stands behind an alias is made once and shared.

    Parameters
    ----------
    path : Path
        The file, for errors.
    language : str
        What the file is written in, likewise.
    """

    def __init__(self, path: Path, language: str) -> None:
        self._path = path
        self._language = language
        self._made: dict[int, Any] = {}  # by identity of the node; the nodes live as long as this object
        self._sizes: dict[int, int] = {}
        self._written = 0

    def of(self, root: yaml.Node) -> Any:
        """Return the value of the whole document.

        Raises
        ------
        SpecError
            For tags, keys, aliases and numbers that have no plain meaning, with their line.
        """
        value, size = self._value(root, 0)
        if size > _ALIAS_VALUES + 10 * self._written:
            raise self._error(root, f"aliases repeat values too often: {size:,} of {self._written:,} written")
        return value

    def _error(self, node: yaml.Node, rule: str) -> SpecError:
        return SpecError(f"{self._path}:{node.start_mark.line + 1}: broken {self._language}: {rule}")

    def _value(self, node: yaml.Node, depth: int) -> tuple[Any, int]:
        """Return a node's value and how many values it holds, each as often as aliases repeat it."""
        if depth > MAX_DEPTH:
            raise self._error(node, f"nested more than {MAX_DEPTH} levels deep")
        if type(node) is yaml.ScalarNode:
            self._written += 1
            return self._scalar(node), 1
        key = id(node)
        if key in self._sizes:
            if self._sizes[key] < 0:
                raise self._error(node, "a value that contains itself")
            return self._made[key], self._sizes[key]
        self._sizes[key] = -1
        self._written += 1
        read = self._sequence if type(node) is yaml.SequenceNode else self._mapping
        self._made[key], self._sizes[key] = read(node, depth)
        return self._made[key], self._sizes[key]

    def _sequence(self, node: yaml.Node, depth: int) -> tuple[Any, int]:
        if node.tag != _CORE + "seq":
            raise self._error(node, f"a list cannot have the tag {_tag(node)}")
        made = [self._value(entry, depth + 1) for entry in node.value]
        return [value for value, _ in made], 1 + sum(size for _, size in made)

    def _mapping(self, node: yaml.Node, depth: int) -> tuple[Any, int]:
        if node.tag != _CORE + "map":
            raise self._error(node, f"a mapping cannot have the tag {_tag(node)}")
        given: dict[Any, Any] = {}
        merged: dict[Any, Any] = {}
        total = 1
        for key_node, value_node in node.value:
            if type(key_node) is not yaml.ScalarNode:
                raise self._error(key_node, "a key must be text or a number")
            value, size = self._value(value_node, depth + 1)
            total += size
            if key_node.tag == _CORE + "merge":
                sources = value if isinstance(value, list) else [value]
                if not all(isinstance(source, dict) for source in sources):
                    raise self._error(key_node, "<< merges a mapping, or a list of mappings only")
                for source in reversed(sources):
                    merged.update(source)
                continue
            key = self._scalar(key_node)
            if key in given:
                raise self._error(key_node, f"key {describe(key_node.value)} is given twice")
            given[key] = value
        return (merged | given if merged else given), total

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        tag, text = node.tag, str(node.value)
        if tag == _CORE + "str":
            return text
        kind = tag.removeprefix(_CORE)
        pattern = _PATTERNS.get(kind)
        if kind == "float" and _PATTERNS["int"].match(text):
            pattern = _PATTERNS["int"]
        if pattern is None:
            raise self._error(node, f"expected plain values, got the tag {_tag(node)}")
        if not pattern.match(text):
            raise self._error(node, f"expected a value of {_tag(node)}, got {describe(text)}")
        if kind == "int":
            try:
                return int(text)
            except ValueError:  # more digits than Python reads
                raise self._error(node, "expected a number of at most 4,300 digits, got more") from None
        if kind == "float":
            return float(_FLOATS.get(text.lower(), text))
        return None if kind == "null" else text.lower() == "true"


_PATTERNS = {kind: re.compile(rf"^(?:{pattern})\Z") for kind, pattern, _ in _SCALARS}


def _tag(node: yaml.Node) -> str:
    return describe(str(node.tag).replace(_CORE, "!!"))


class DocumentLines:
    """Finds the lines of a YAML or JSON file on which values stand.

    Parameters
    ----------
    path : Path
        A file that :func:`read_document` could read. It is parsed again, at the first question.
    reading : Reading, optional
        How it was read.
    """

    def __init__(self, path: Path, reading: Reading | None = None) -> None:
        self._path = path
        self._reading = reading
        self._pairs: dict[int, dict[str, tuple[yaml.Node, yaml.Node]]] = {}

    @cached_property
    def _root(self) -> Any:
        try:
            text = read_text(self._path, _bounded(self._reading))
            with _without_collector():
                return _compose(text, self._path) if len(text) <= _LOCATED_CHARACTERS else None
        except SpecError:  # changed meanwhile, or JSON that is not YAML, such as one indented by tabs
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
            found = self._pairs_of(node).get(str(step))
            if found is None:
                break
            # A nested block begins below its key, and the key is what people look for.
            line = found[0].start_mark.line + 1
            node = found[1]
        return line

    def _pairs_of(self, node: Any) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Return the key and value nodes of a mapping, by the text of the key; made once per mapping."""
        if id(node) not in self._pairs:
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            self._pairs[id(node)] = {
                key.value: (key, value) for key, value in reversed(pairs) if isinstance(key.value, str)
            }
        return self._pairs[id(node)]
