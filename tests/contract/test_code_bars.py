"""The bars that keep modules small, functions short and imports one-way."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

import solver

ROOT = Path(solver.__file__).parent
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60

LONG_FILES = {
    "interfaces/files/score_tables.py": "the layouts of score tables share what they recognise",
    "online/router.py": "a third of it is what users read of the public class",
}
"""File -> why it is one piece."""

OF_EACH_PACKAGE = {"_LOG"}
"""Names of constants that every package gives a value of its own."""


@cache
def modules() -> dict[str, ast.Module]:
    """Return every module of the package, by its dotted name."""
    found: dict[str, ast.Module] = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imported(name: str) -> set[str]:
    """Return the modules of the package that a module imports, for types too."""
    known = modules()
    found: set[str] = set()
    for node in ast.walk(known[name]):
        if isinstance(node, ast.ImportFrom) and node.module in known:
            inner = [f"{node.module}.{one.name}" for one in node.names]
            found.update(each if each in known else node.module for each in inner)
        elif isinstance(node, ast.Import):
            found.update(one.name for one in node.names if one.name in known)
    return found - {name}


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> int:
    """Return the lines of a function's body without docstring, comments and blank lines."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    if not body:
        return 0
    text = [line.strip() for line in lines[body[0].lineno - 1 : function.end_lineno]]
    return sum(bool(line) and not line.startswith("#") for line in text)


def reached(graph: dict[str, set[str]], start: str) -> set[str]:
    """Return the nodes that a node leads to, itself only where it lies on a circle."""
    found: set[str] = set()
    ahead = list(graph[start])
    while ahead:
        node = ahead.pop()
        if node not in found:
            found.add(node)
            ahead += graph.get(node, ())
    return found


def on_circles(graph: dict[str, set[str]]) -> list[str]:
    """Return the nodes that lead back to themselves."""
    return sorted(node for node in graph if node in reached(graph, node))


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    if str(path.relative_to(ROOT)) not in LONG_FILES:
        assert len(lines) <= MAX_FILE_LINES
    functions = [
        node
        for node in ast.walk(ast.parse("\n".join(lines)))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    long = {one.name: code_lines(one, lines) for one in functions}
    assert {name: count for name, count in long.items() if count > MAX_FUNCTION_LINES} == {}


def test_exceptions_are_few() -> None:
    assert len(LONG_FILES) <= 2
    assert all((ROOT / name).is_file() for name in LONG_FILES)


def test_imports_have_no_circles() -> None:
    """Not even those that only type checkers follow: what a module names, it depends on."""
    assert on_circles({name: imported(name) for name in modules()}) == []


def test_a_circle_is_found() -> None:
    assert on_circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == ["b", "c"]
    assert on_circles({"a": {"b"}, "b": set()}) == []


def test_a_constant_has_one_value() -> None:
    """Constants of one name in several modules have one value."""
    values: dict[str, set[str]] = {}
    for tree in modules().values():
        for node in tree.body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                if isinstance(target, ast.Name) and target.id.strip("_").isupper():
                    values.setdefault(target.id, set()).add(ast.unparse(node.value))
    several = {name for name, found in values.items() if len(found) > 1}
    assert several == OF_EACH_PACKAGE
