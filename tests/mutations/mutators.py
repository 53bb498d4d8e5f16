"""What happens to files: edits of documents, tables and text, harmless ones and others."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import yaml

__all__ = ["HARMFUL", "HARMLESS", "Mutation"]

Mutation = Callable[[str, str, np.random.Generator], bytes | None]
"""Takes a file's name, its text and a generator; returns new bytes, or None where it does not apply."""

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

T = TypeVar("T")

HOSTILE: tuple[Any, ...] = (
    None, "", " ", -1, 0, 0.5, 1e308, -1e308, float("nan"), float("inf"), 2**53 + 1, 10**400, True, False, "1",
    "1,5", "95%", "1,234.5", "n/a", "NaN", "010", "1:30", "yes", "2024-01-31", "[/red]", "[link=http://x]y[/link]",
    "\x1b[31mred", "a\nb", "a\tb", "ü" * 300, "名前", "\u202eevil", "'; DROP TABLE", "=1+1", [], {}, [[]], [None],
    {"a": 1}, ["ann", "ann"], "ann", "large", "Large", "nobody", "x" * 5000, [[[[[[]]]]]], {"a": {"b": {"c": {}}}},
)  # fmt: skip
"""Values that a field does not expect."""

_CHARACTERS = "\x00\x01\x07\x1b\t\r\n ,;|\"'\\{}[]()<>&*!%@`#:-?~^=+.0123456789aZé名\u202e\ufeff\ud83d\ude00"


def _pick(rng: np.random.Generator, given: Sequence[T]) -> T:
    return given[int(rng.integers(len(given)))]


# --- documents -------------------------------------------------------------------------------------------------


def _load(name: str, text: str) -> Any:
    if name.endswith(".json"):
        return json.loads(text)
    if not name.endswith(".yaml"):
        return None
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - the safe one, in C


def _dump(name: str, value: Any) -> bytes:
    if name.endswith(".json"):
        return json.dumps(value).encode("utf-8", "surrogatepass")
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True).encode(
        "utf-8", "surrogatepass"
    )


def _places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Return every (container, key) of a document."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        found.append((value, key))
        _places(inner, found)
    return found


def _on_document(change: Callable[[Any, Any, np.random.Generator], None]) -> Mutation:
    """Return a mutation that changes one place of a document."""

    def mutate(name: str, text: str, rng: np.random.Generator) -> bytes | None:
        value = _load(name, text)
        if value is None:
            return None
        value = copy.deepcopy(value)
        container, key = _pick(rng, _places(value, []))
        change(container, key, rng)
        return _dump(name, value)

    return mutate


def _set_hostile(container: Any, key: Any, rng: np.random.Generator) -> None:
    container[key] = copy.deepcopy(_pick(rng, HOSTILE))


def _drop(container: Any, key: Any, _: np.random.Generator) -> None:
    del container[key]


def _misspell(container: Any, key: Any, rng: np.random.Generator) -> None:
    if isinstance(container, dict):
        at = int(rng.integers(len(key)))
        container[key[:at] + key[at + 1 :]] = container.pop(key)
    elif isinstance(container[key], str):
        container[key] = container[key][:-1]


def _repeat(container: Any, key: Any, _: np.random.Generator) -> None:
    if isinstance(container, list):
        container.append(container[key])
    else:
        container[f"{key} "] = container[key]


def _wrap(container: Any, key: Any, rng: np.random.Generator) -> None:
    inner = container[key]
    for _ in range(int(rng.integers(1, 60))):
        inner = [inner]
    container[key] = inner


def _negate(container: Any, key: Any, _: np.random.Generator) -> None:
    value = container[key]
    if isinstance(value, int | float) and not isinstance(value, bool):
        container[key] = -value
    else:
        container[key] = str(value)


def _exchange(container: Any, key: Any, rng: np.random.Generator) -> None:
    other = _pick(rng, list(container) if isinstance(container, dict) else range(len(container)))
    container[key], container[other] = container[other], container[key]


def _strange_key(container: Any, key: Any, rng: np.random.Generator) -> None:
    if isinstance(container, dict):
        container[str(_pick(rng, HOSTILE))] = container[key]


# --- tables ----------------------------------------------------------------------------------------------------


def _on_cells(change: Callable[[list[list[str]], np.random.Generator], None]) -> Mutation:
    """Return a mutation that changes the cells of a table."""

    def mutate(name: str, text: str, rng: np.random.Generator) -> bytes | None:
        if not name.endswith(".csv"):
            return None
        cells = [line.split(",") for line in text.splitlines()]
        change(cells, rng)
        return ("\n".join(",".join(row) for row in cells) + "\n").encode("utf-8", "surrogatepass")

    return mutate


def _cell(cells: list[list[str]], rng: np.random.Generator) -> tuple[int, int]:
    row = int(rng.integers(len(cells)))
    return row, int(rng.integers(len(cells[row]))) if cells[row] else 0


def _hostile_cell(cells: list[list[str]], rng: np.random.Generator) -> None:
    row, column = _cell(cells, rng)
    value = str(_pick(rng, HOSTILE))
    cells[row][column] = '"' + value.replace('"', '""') + '"' if rng.random() < 0.5 else value


def _lost_cell(cells: list[list[str]], rng: np.random.Generator) -> None:
    row, column = _cell(cells, rng)
    del cells[row][column]


def _extra_cell(cells: list[list[str]], rng: np.random.Generator) -> None:
    row, column = _cell(cells, rng)
    cells[row].insert(column, str(_pick(rng, HOSTILE)).replace(",", ""))


def _lost_column(cells: list[list[str]], rng: np.random.Generator) -> None:
    _, column = _cell(cells[:1], rng)
    for row in cells:
        del row[column]


def _twice(cells: list[list[str]], rng: np.random.Generator) -> None:
    cells.append(list(cells[_cell(cells, rng)[0]]))


def _moved_cells(cells: list[list[str]], rng: np.random.Generator) -> None:
    (first, a), (second, b) = _cell(cells, rng), _cell(cells, rng)
    cells[first][a], cells[second][b] = cells[second][b], cells[first][a]


# --- text ------------------------------------------------------------------------------------------------------


def _cut(_name: str, text: str, rng: np.random.Generator) -> bytes:
    return text.encode()[: int(rng.integers(len(text.encode())))]


def _typed(_name: str, text: str, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(len(text) + 1))
    return (text[:at] + _pick(rng, _CHARACTERS) + text[at:]).encode("utf-8", "surrogatepass")


def _deleted(_name: str, text: str, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(len(text)))
    return (text[:at] + text[at + int(rng.integers(1, 9)) :]).encode()


def _byte(_name: str, text: str, rng: np.random.Generator) -> bytes:
    data = bytearray(text.encode())
    data[int(rng.integers(len(data)))] = int(rng.integers(256))
    return bytes(data)


def _line_again(_name: str, text: str, rng: np.random.Generator) -> bytes:
    lines = text.splitlines(keepends=True)
    at = int(rng.integers(len(lines)))
    return "".join([*lines[: at + 1], *lines[at:]]).encode()


def _line_lost(_name: str, text: str, rng: np.random.Generator) -> bytes:
    lines = text.splitlines(keepends=True)
    del lines[int(rng.integers(len(lines)))]
    return "".join(lines).encode()


def _other_encoding(_name: str, text: str, rng: np.random.Generator) -> bytes:
    return str(text.replace("a", "ä", 1)).encode(
        _pick(rng, ("latin-1", "utf-16-le", "utf-32-le", "cp037")), "replace"
    )


def _tagged(name: str, text: str, rng: np.random.Generator) -> bytes | None:
    if not name.endswith(".yaml") or ": " not in text:
        return None
    starts = [at for at in range(len(text)) if text.startswith(": ", at)]
    at = _pick(rng, starts) + 2
    mark = _pick(
        rng,
        ("!!bool ", "!!map ", "!!int ", "!!binary ", "!!python/name:os.system ", "&x ", "*x ", "? ", "- "),
    )
    return (text[:at] + mark + text[at:]).encode()


def _bomb(name: str, text: str, rng: np.random.Generator) -> bytes | None:
    if not name.endswith(".yaml"):
        return None
    levels = int(rng.integers(2, 12))
    lines = ["zz0: &z0 [x,x,x,x,x,x,x,x,x]"]
    lines += [f"zz{k}: &z{k} [{','.join([f'*z{k - 1}'] * 9)}]" for k in range(1, levels)]
    return (text + "\n".join(lines) + "\n").encode() if text.startswith("agents") else None


HARMFUL: dict[str, Mutation] = {
    "hostile value": _on_document(_set_hostile),
    "value lost": _on_document(_drop),
    "misspelt": _on_document(_misspell),
    "repeated": _on_document(_repeat),
    "wrapped": _on_document(_wrap),
    "negated": _on_document(_negate),
    "exchanged": _on_document(_exchange),
    "strange key": _on_document(_strange_key),
    "hostile cell": _on_cells(_hostile_cell),
    "cell lost": _on_cells(_lost_cell),
    "cell added": _on_cells(_extra_cell),
    "column lost": _on_cells(_lost_column),
    "row twice": _on_cells(_twice),
    "cells exchanged": _on_cells(_moved_cells),
    "cut": _cut,
    "typed": _typed,
    "deleted": _deleted,
    "byte": _byte,
    "line again": _line_again,
    "line lost": _line_lost,
    "other encoding": _other_encoding,
    "tagged": _tagged,
    "bomb": _bomb,
}
"""Mutations that may break a file; what they leave valid is a problem like any other."""


# --- harmless --------------------------------------------------------------------------------------------------


def _only(ending: str, change: Callable[[str], str]) -> Mutation:
    def mutate(name: str, text: str, _: np.random.Generator) -> bytes | None:
        return change(text).encode() if name.endswith(ending) else None

    return mutate


def _columns_beside(text: str, first: str, cell: Callable[[int], str], *, before: bool) -> str:
    lines = text.splitlines()
    added = [first, *(cell(row) for row in range(len(lines) - 1))]
    pairs = zip(added, lines, strict=True)
    return "".join(f"{new},{line}\n" if before else f"{line},{new}\n" for new, line in pairs)


def _quoted(text: str) -> str:
    return "".join(",".join(f'"{cell}"' for cell in line.split(",")) + "\n" for line in text.splitlines())


def _shuffled_keys(name: str, text: str, rng: np.random.Generator) -> bytes | None:
    value = _load(name, text)
    if not isinstance(value, dict):
        return None
    order = rng.permutation(len(value))
    keys = list(value)
    return _dump(name, {keys[k]: value[keys[k]] for k in order})


def _decimal_commas(text: str) -> str:
    return text.replace(",", ";").replace(".", ",").replace("capabilities,", "capabilities.")


HARMLESS: dict[str, Mutation] = {
    "windows lines": lambda _name, text, _: text.replace("\n", "\r\n").encode(),
    "byte order mark": lambda _name, text, _: b"\xef\xbb\xbf" + text.encode(),
    "utf-16": lambda _name, text, _: text.encode("utf-16"),
    "no last line end": lambda _name, text, _: text.rstrip("\n").encode(),
    "blank lines": lambda _name, text, _: (text + "\n\n").encode(),
    "compressed": lambda _name, text, _: gzip.compress(text.encode(), mtime=0),
    "old lines": _only(".csv", lambda text: text.replace("\n", "\r")),
    "tabs": _only(".csv", lambda text: text.replace(",", "\t")),
    "semicolons": _only(".csv", lambda text: text.replace(",", ";")),
    "bars": _only(".csv", lambda text: text.replace(",", "|")),
    "decimal commas": _only(".csv", _decimal_commas),
    "excel line": _only(".csv", lambda text: "sep=,\n" + text),
    "quoted": _only(".csv", _quoted),
    "index column": _only(".csv", lambda text: _columns_beside(text, "", str, before=True)),
    "r rows": _only(
        ".csv", lambda text: _columns_beside(text, '""', lambda row: f'"{row + 1}"', before=True)
    ),
    "empty column": _only(".csv", lambda text: _columns_beside(text, "", lambda _: "", before=False)),
    "blank rows": _only(".csv", lambda text: text + "," * text.split("\n", 1)[0].count(",") + "\n"),
    "spaced": _only(".csv", lambda text: text.replace(",", ", ")),
    "comment": _only(".yaml", lambda text: "# a comment\n" + text),
    "document marks": _only(".yaml", lambda text: "---\n" + text + "...\n"),
    "keys in another order": _shuffled_keys,
}
"""Mutations after which a file says the same."""
