"""Problem files: YAML or JSON that holds everything, or points to tables beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from solver.errors import SpecError
from solver.interfaces.files.documents import DocumentLines, read_document
from solver.interfaces.files.gap_format import read_gap
from solver.interfaces.files.score_tables import read_score_table, score_options
from solver.interfaces.files.tables import TABLE_SUFFIXES, Table, read_table
from solver.problem.agent_columns import LIST_FIELDS, NUMBER_FIELDS, TEXT_FIELDS, agent_table
from solver.problem.agents import Agent, AgentTable
from solver.problem.scores import ScoreTable
from solver.problem.spec import Problem
from solver.problem.values import describe, did_you_mean

__all__ = ["PROBLEM_FORMATS", "read_parts", "read_problem"]

ProblemFormat = Literal["auto", "document", "gap"]
PROBLEM_FORMATS: tuple[ProblemFormat, ...] = ("auto", "document", "gap")
"""How a problem file is written: YAML or JSON, or the OR-Library's numbers; ``auto`` goes by its ending."""

_DOCUMENT_SUFFIXES = (".yaml", ".yml", ".json")
_GAP_SUFFIXES = ("", ".txt", ".gap", ".dat")
_FAULTY_AGENT = re.compile(r"agents\[(\d+)\]\.(\w+)")
_STEP = re.compile(r"\[(\d+)(?:, *\d+)*\]|\.?([^.\[\]]+)")


def read_problem(path: str | Path, *, file_format: ProblemFormat = "auto") -> Problem:
    """Return the problem a file describes.

    Parameters
    ----------
    path : str or Path
        YAML or JSON with the fields of :class:`~solver.problem.spec.Problem`, where ``agents``, ``models``
        and ``scores`` may be paths relative to the file, or ``{path: ..., options}``; or a generalized
        assignment problem in the OR-Library's format.
    file_format : {"auto", "document", "gap"}
        How it is written. ``auto`` takes files that end in ``.yaml``, ``.yml`` or ``.json`` as documents,
        and those without an ending, or with ``.txt``, ``.gap`` or ``.dat``, as ``gap``.

    Raises
    ------
    SpecError
        Every violation in the file and the tables it points to, ``file:line: path: rule, value``.
    MissingExtraError
        When it points to Parquet and pyarrow is not installed.
    """
    path = Path(path)
    if file_format not in PROBLEM_FORMATS:
        msg = f"file_format: expected one of {', '.join(PROBLEM_FORMATS)}, got {file_format!r}"
        raise SpecError(msg)
    suffix = path.suffix.lower()
    if file_format == "gap" or (file_format == "auto" and _is_gap_suffix(suffix)):
        return read_gap(path)
    if file_format == "auto" and suffix not in _DOCUMENT_SUFFIXES:
        hint = "; a table is read with its fleet, as agents or scores" if suffix in TABLE_SUFFIXES else ""
        endings = ", ".join(_DOCUMENT_SUFFIXES)
        msg = f"{path}: expected a problem file ({endings} or OR-Library){hint}, got {suffix!r}"
        raise SpecError(msg)
    document = read_document(path)
    if not isinstance(document, dict):
        msg = f"{path}: expected a mapping with the fields of a problem, got {describe(document)}"
        raise SpecError(msg)
    assembly = _Assembly(folder=path.parent)
    lines = DocumentLines(path)
    return assembly.problem(document, lambda steps: _in_document(path, lines, steps))


def read_parts(
    *,
    agents: str | Path | Mapping[str, Any] | None = None,
    models: str | Path | Mapping[str, Any] | None = None,
    scores: str | Path | Mapping[str, Any] | None = None,
    slots: int | None = None,
    objective: Mapping[str, Any] | None = None,
) -> Problem:
    """Return the problem made of separate files, without a problem file.

    Parameters
    ----------
    agents, models, scores : path, or mapping with ``path`` and options, optional
        As in a problem file, relative to the working folder. Agents that are left out are those that the
        scores name, and likewise models.
    slots : int, optional
        Slots of every model, where models are those the scores name.
    objective : mapping, optional
        Fields of :class:`~solver.problem.spec.Objective`.

    Raises
    ------
    SpecError
        Every violation found.
    """
    document: dict[str, Any] = {}
    for name, part in (("agents", agents), ("models", models), ("scores", scores)):
        if part is not None:
            document[name] = dict(part) if isinstance(part, Mapping) else str(part)
    if slots is not None:
        if models is not None:
            msg = f"slots: only for models that come from the scores, got {slots} besides a fleet"
            raise SpecError(msg)
        document["models"] = {"from_scores": True, "capacity": {"max_concurrent": slots}}
    if objective:
        document["objective"] = dict(objective)
    return _Assembly(folder=Path()).problem(document, lambda _: "")


def _is_gap_suffix(suffix: str) -> bool:
    # OR-Library names such as gap12-4 have no ending; .4 or the like is part of a name, not a format.
    return suffix in _GAP_SUFFIXES or suffix[1:].isdigit()


def _in_document(path: Path, lines: DocumentLines, steps: list[str | int]) -> str:
    line = lines.line_of(steps)
    return f"{path}: " if line is None else f"{path}:{line}: "


Locate = Callable[[list[str | int]], str]
"""Turns the steps to a value, below its part of the problem, into ``file:line: ``."""


@dataclass
class _Assembly:
    """A problem being put together: what was read, where from, and what is wrong so far."""

    folder: Path
    lines: list[str] = field(default_factory=list)
    locate: dict[str, Locate] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)

    def problem(self, document: dict[Any, Any], locate: Locate) -> Problem:
        """Return the problem of a document, or raise every violation found in it and its tables."""
        self.locate[""] = locate
        parts = {str(key): value for key, value in document.items()}
        failed: set[str] = set()
        readers = {"scores": self._scores, "agents": self._agents, "models": self._models}
        for part, read in readers.items():
            try:
                if part in parts or part in {"agents", "models"}:
                    value = read(parts.get(part), parts.get("scores"))
                    if value is not None:
                        parts[part] = value
            except SpecError as error:
                failed.add(part)
                parts.pop(part, None)
                self.lines.extend(self._placed(line) for line in error.violations)
        if failed:  # what is left is checked all the same, so that one run shows all there is to mend
            self.lines.extend(line for line in self._rest(parts, failed))
            raise SpecError(*self.lines)
        try:
            return Problem.model_validate(parts)
        except SpecError as error:
            lines = [*error.violations, *_beyond(parts, error.violations)]
            raise SpecError(*(self._placed(line) for line in lines)) from None

    def _rest(self, parts: dict[str, Any], failed: set[str]) -> list[str]:
        """Return what is wrong with the parts that could be read, taken without those that could not."""
        lines: list[str] = []
        rest = dict(parts)
        if "models" in failed:  # rules that look up models in agents and task types say nothing now
            rest.pop("task_types", None)
            if "agents" not in failed:
                try:
                    AgentTable.read(rest["agents"])
                except SpecError as error:
                    lines.extend(error.violations)
            rest["models"] = [{"id": "-", "capacity": {"max_concurrent": 0}}]
        if failed & {"agents", "models"}:
            rest["agents"] = AgentTable.of_ids(["-"])
            rest.pop("demand", None)
            rest.pop("scores", None)
            rest.pop("limits", None)
        if "scores" not in rest and isinstance(rest.get("objective"), dict):
            rest["objective"] = {key: value for key, value in rest["objective"].items() if key != "quality"}
        try:
            Problem.model_validate(rest)
        except SpecError as error:
            lines.extend(line for line in error.violations if re.split(r"[.\[:]", line)[0] not in failed)
        return [self._placed(line) for line in lines]

    def _placed(self, line: str) -> str:
        """Return a violation with its file and line in front."""
        path, colon, rule = line.partition(": ")
        steps: list[str | int] = [int(index) if index else name for index, name in _STEP.findall(path)]
        part = steps[0] if steps else ""
        if not colon or _names_a_file(path) or not isinstance(part, str):
            return line
        table = self.tables.get(part)
        if table is not None:
            if len(steps) > 1 and isinstance(steps[1], int) and steps[1] < table.rows:
                rest = path[len(part) :].partition("]")[2].lstrip(".")
                return f"{table.where(steps[1])}: {rest + ': ' if rest else ''}{rule}"
            return f"{self.locate[part](steps)}{line}"
        if part in self.locate:
            return f"{self.locate[part](steps[1:])}{line}"
        return f"{self.locate[''](steps)}{line}"

    def _file(self, part: str, reference: Any, options: tuple[str, ...]) -> tuple[Path, dict[str, Any]]:
        """Return the file a part points to, and the options beside the path."""
        if isinstance(reference, str):
            reference = {"path": reference}
        lines = [
            f"{part}.{key}: unknown field{did_you_mean(key, ['path', *options])}"
            for key in reference
            if key not in {"path", *options}
        ]
        target = reference.get("path")
        if not isinstance(target, str) or not target:
            lines.append(f"{part}.path: expected the path of a file, got {describe(target)}")
        if lines:
            raise SpecError(*lines)
        return self.folder / str(target), {key: reference[key] for key in options if key in reference}

    def _listed(self, part: str, path: Path) -> Any:
        """Return the list in a YAML or JSON file: the file itself, or its field of the part's name."""
        if path.suffix.lower() not in _DOCUMENT_SUFFIXES:
            endings = _DOCUMENT_SUFFIXES if part == "models" else (*_DOCUMENT_SUFFIXES, *TABLE_SUFFIXES)
            msg = f"{path}: expected one of {', '.join(endings)}, got {path.suffix!r}"
            raise SpecError(msg)
        document = read_document(path)
        lines = DocumentLines(path)
        root: list[str | int] = []
        if isinstance(document, dict) and part in document:
            unknown = [key for key in document if key != part]
            if unknown:
                raise SpecError(*(f"{path}: {key}: unknown field beside {part!r}" for key in unknown))
            document, root = document[part], [part]
        self.locate[part] = lambda steps: _in_document(path, lines, [*root, *steps])
        return document

    def _agents(self, reference: Any, scores: Any) -> Any:
        if reference is None:
            named = self._ids_of_scores("agents", scores)
            return None if named is None else AgentTable.of_ids(named)
        if not isinstance(reference, str | dict):
            return reference
        path, options = self._file("agents", reference, ("columns", "ignore_columns"))
        if path.suffix.lower() not in TABLE_SUFFIXES:
            return self._listed("agents", path)
        renamed, ignored = _column_options(options)
        name_of = {name: renamed.get(name, name) for name in Agent.model_fields}
        table = read_table(
            path,
            coded=[name_of[name] for name in (*TEXT_FIELDS, *LIST_FIELDS)],
            text=[name_of["id"]],
            numbers=[name_of[name] for name in NUMBER_FIELDS],
        )
        self.tables["agents"] = table
        self.locate["agents"] = lambda _: f"{path}: "
        missing = [column for column in (*renamed.values(), *(ignored or ())) if column not in table.columns]
        if missing:
            raise SpecError(
                *(f"{path}: no column {column!r}{did_you_mean(column, table.columns)}" for column in missing)
            )
        field_of = {column: name for name, column in name_of.items()}
        skipped = set(table.columns) - set(field_of) if ignored is None else set(ignored)
        return agent_table(
            {
                field_of.get(column, column): values
                for column, values in table.columns.items()
                if column not in skipped
            }
        )

    def _models(self, reference: Any, scores: Any) -> Any:
        if isinstance(reference, dict) and "from_scores" in reference:
            unknown = [
                f"models.{key}: unknown field" for key in reference if key not in {"from_scores", "capacity"}
            ]
            if reference["from_scores"] is not True:
                unknown.append(f"models.from_scores: expected true, got {describe(reference['from_scores'])}")
            named = self._ids_of_scores("models", scores)
            if named is None and "scores" not in self.locate:
                unknown.append("models.from_scores: expected scores that name their models, got none")
            if unknown or named is None:
                raise SpecError(*unknown)
            if "capacity" not in reference:
                msg = "models.capacity: required, but missing"
                raise SpecError(msg)
            return [{"id": name, "capacity": reference["capacity"]} for name in named]
        if isinstance(reference, str | dict):
            path, _ = self._file("models", reference, ())
            return self._listed("models", path)
        return reference

    _score_table: ScoreTable | None = None

    def _ids_of_scores(self, what: Literal["agents", "models"], _scores: Any) -> tuple[str, ...] | None:
        table = self._score_table
        if table is None:
            return None
        return table.agent_ids if what == "agents" else table.model_ids

    def _scores(self, reference: Any, _same: Any) -> Any:
        if isinstance(reference, str) or (isinstance(reference, dict) and "values" not in reference):
            options = ("agent", "model", "score", "layout")
            path, chosen = self._file("scores", reference, options)
            if path.suffix.lower() in TABLE_SUFFIXES:
                self.locate["scores"] = lambda _: f"{path}: "
                read = read_score_table(path, **score_options(chosen))
                self.tables["scores"], self._score_table = read
                return self._score_table
            if chosen:
                raise SpecError(*(f"scores.{key}: only for tables, got {path.name}" for key in chosen))
            reference = self._listed("scores", path)
        if reference is None:
            return None
        self._score_table = ScoreTable.read(reference)
        return self._score_table


def _beyond(parts: dict[str, Any], found: tuple[str, ...]) -> list[str]:
    """Return violations that those found hide: rules between parts are checked once every field is valid.

    Agents with faulty fields are replaced by plain ones of the same id, so that the rest speaks for itself.
    """
    faulty = {int(match[1]): match[2] for line in found if (match := _FAULTY_AGENT.match(line))}
    agents = parts.get("agents")
    if not faulty or not isinstance(agents, list) or "id" in faulty.values():
        return []
    plain = [{"id": agent["id"]} if i in faulty else agent for i, agent in enumerate(agents)]
    try:
        Problem.model_validate(parts | {"agents": plain})
    except SpecError as error:
        return [line for line in error.violations if line not in found]
    return []


def _names_a_file(path: str) -> bool:
    return any(mark in path for mark in (*_DOCUMENT_SUFFIXES, *TABLE_SUFFIXES)) or Path(path).exists()


def _column_options(options: dict[str, Any]) -> tuple[dict[str, str], list[str] | None]:
    """Return (column of each renamed field, columns to skip or None for all that are no fields)."""
    lines: list[str] = []
    columns = options.get("columns", {})
    if not isinstance(columns, dict) or not all(isinstance(name, str) for name in columns.values()):
        lines.append(f"agents.columns: expected a mapping of fields to columns, got {describe(columns)}")
        columns = {}
    lines.extend(
        f"agents.columns.{name}: unknown field{did_you_mean(name, Agent.model_fields)}"
        for name in columns
        if name not in Agent.model_fields
    )
    ignored = options.get("ignore_columns", [])
    if ignored != "all" and not (
        isinstance(ignored, list) and all(isinstance(name, str) for name in ignored)
    ):
        lines.append(f"agents.ignore_columns: expected a list of columns or 'all', got {describe(ignored)}")
    if lines:
        raise SpecError(*lines)
    return columns, None if ignored == "all" else ignored
