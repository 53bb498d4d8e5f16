"""Putting a problem together from a document and the files it points to, with every error at its place."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from solver.errors import SpecError, Violation, ViolationKind, missing_value, unknown_field
from solver.interfaces.files.columns import ColumnKinds, Table
from solver.interfaces.files.documents import DocumentLines, read_document
from solver.interfaces.files.error_locations import PlacedError, Places, in_document, steps_of
from solver.interfaces.files.fleet_tables import FLEET_KINDS, fleet_rows
from solver.interfaces.files.score_layouts import SCORE_FIELDS, score_layout
from solver.interfaces.files.score_tables import read_score_table
from solver.interfaces.files.sources import READING_FIELDS, Reading, content_suffix
from solver.interfaces.files.table_options import TABLE_OPTIONS, check_columns, column_options
from solver.interfaces.files.tables import TABLE_SUFFIXES, conversion_hint, is_table, read_table
from solver.problem.agent_columns import LIST_FIELDS, NUMBER_FIELDS, TEXT_FIELDS, agent_table
from solver.problem.agents import Agent, AgentTable
from solver.problem.scores import ScoreTable
from solver.problem.spec import Capacity, Model, Problem
from solver.problem.values import describe, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from solver.interfaces.files.error_locations import Locate

DOCUMENT_SUFFIXES = (".yaml", ".yml", ".json")
"""File endings of problem files and of lists of agents, models or scores."""

_FAULTY_AGENT = re.compile(r"agents\[(\d+)\]\.(\w+)")
_LONGEST_PATH = 4096
"""Characters above which a text is no path: no system opens longer ones."""


_EXPECTED = {
    "agents": "expected a list of agents, each with its id as a field, or the path of a file",
    "models": "expected a list of models, each with its id as a field, or the path of a file",
    "scores": "expected a matrix, a list of {agent, model, score}, {agents, models, values}, or the path of a table",
}


@dataclass
class Assembly:
    """A problem being put together: what was read, where from, and what is wrong so far.

    Parameters
    ----------
    folder : Path
        What paths are relative to.
    reading : Reading
        How files are read.
    """

    folder: Path
    reading: Reading
    _lines: list[Violation] = field(default_factory=list)
    _places: Places = field(default_factory=Places)
    _score_table: ScoreTable | None = None

    def problem(self, document: dict[Any, Any], locate: Locate) -> Problem:
        """Return the problem of a document, or raise every violation found in it and its tables.

        Parameters
        ----------
        document : dict
            Fields of a problem, or the files they are in.
        locate : callable
            Names the place of a value in the document.

        Raises
        ------
        SpecError
            Every violation, with its file and line.
        """
        self._places.locate[""] = locate
        parts = {str(key): value for key, value in document.items()}
        failed: set[str] = set()
        readers = {"scores": self._scores, "agents": self._agents, "models": self._models}
        for part, read in readers.items():
            if part == "scores" and part not in parts:
                continue
            if part == "agents" and parts.get(part) is None and "scores" in failed:
                failed.add(part)  # the agents are those of the scores, which could not be read
                continue
            try:
                value = read(parts.get(part))
                if value is not None:
                    parts[part] = value
            except PlacedError as error:
                failed.add(part)
                self._lines.extend(error.violations)
            except SpecError as error:
                failed.add(part)
                self._lines.extend(self._places.of_all(error.violations))
        if failed:  # what is left is checked all the same, so that one run shows all there is to mend
            rest = {part: value for part, value in parts.items() if part not in failed}
            raise SpecError(*dict.fromkeys([*self._lines, *self._rest(rest, failed)]))
        try:
            problem = Problem.model_validate(parts)
            self.reading.places.append(lambda found: self._places.of_arrays(found, parts))
            return problem
        except SpecError as error:
            lines = [*error.violations, *_beyond(parts, error.violations)]
            raise SpecError(*self._places.of_all(lines)) from None

    def _rest(self, rest: dict[str, Any], failed: set[str]) -> list[Violation]:
        """Return what is wrong with the parts that could be read, taken without those that could not.

        Rules between a part that failed and another say nothing, so what they need is left out too.
        """
        lines: list[Violation] = []
        if failed & {"agents", "models"}:
            for part in ("demand", "scores", "limits"):
                rest.pop(part, None)
        if "models" in failed:
            rest.pop("task_types", None)
            if "agents" in rest:
                try:
                    AgentTable.read(rest["agents"])
                except SpecError as error:
                    lines.extend(error.violations)
                rest["agents"] = AgentTable.of_ids(["-"])
            rest["models"] = [{"id": "-", "capacity": {"max_concurrent": 0}}]
        if "agents" in failed:
            rest["agents"] = AgentTable.of_ids(["-"])
        if "scores" not in rest and isinstance(rest.get("objective"), dict):
            rest["objective"] = {key: value for key, value in rest["objective"].items() if key != "quality"}
        try:
            Problem.model_validate(rest)
        except SpecError as error:
            lines.extend(found for found in error.violations if steps_of(found.path)[0] not in failed)
        return self._places.of_all(lines)

    def _file(self, part: str, reference: Any, options: tuple[str, ...]) -> tuple[Path, dict[str, Any]]:
        """Return the file a part points to, and the options beside the path."""
        if isinstance(reference, str):
            reference = {"path": reference}
        known = ["path", *options]
        if "path" not in reference and not any(did_you_mean(key, known) for key in reference):
            got = f"a mapping of {describe(next(iter(reference)))}" if reference else "an empty mapping"
            raise SpecError(Violation(part, _EXPECTED[part], shown=got, kind=ViolationKind.TYPE))
        lines = [
            unknown_field(f"{part}.{describe(key)[1:-1]}", did_you_mean(key, known))
            for key in reference
            if key not in {"path", *options}
        ]
        target = reference.get("path")
        if not isinstance(target, str) or not 0 < len(target) <= _LONGEST_PATH:
            lines.append(Violation(f"{part}.path", "expected the path of a file", target))
        if lines:
            raise SpecError(*lines)
        return self.folder / str(target), {key: reference[key] for key in options if key in reference}

    def _listed(self, part: str, path: Path) -> Any:
        """Return the list in a YAML or JSON file: the file itself, or its field of the part's name."""
        if content_suffix(path) not in DOCUMENT_SUFFIXES:
            endings = ", ".join((*DOCUMENT_SUFFIXES, *TABLE_SUFFIXES))
            rule = f"expected one of {endings}"
            msg = Violation(
                str(path), rule, path.suffix, kind=ViolationKind.UNKNOWN, hint=conversion_hint(path)
            )
            with self._places.naming(part, path):
                raise SpecError(msg)
        with self._places.naming(part, path):
            document = read_document(path, self.reading)
        lines = DocumentLines(path, self.reading)
        root: list[str | int] = []
        if isinstance(document, dict) and part in document:
            unknown = [key for key in document if key != part]
            if unknown:
                raise PlacedError(
                    *(
                        Violation(
                            in_document(path, lines, [str(key)]).removesuffix(": "),
                            f"{describe(key)}: unknown field beside {part!r}",
                            kind=ViolationKind.UNKNOWN,
                        )
                        for key in unknown
                    )
                )
            document, root = document[part], [part]
        self._places.locate[part] = lambda steps: in_document(path, lines, [*root, *steps])
        return document

    def _table(self, part: str, path: Path, kinds: ColumnKinds, options: Mapping[str, Any]) -> Table:
        """Return the columns of a table, and remember where its rows are."""
        reading = self.reading.updated(part, options)
        with self._places.naming(part, path):
            table = read_table(path, kinds, reading=reading)
        self._places.tables[part] = table
        self._places.locate[part] = lambda _: f"{path}: "
        return table

    def _agents(self, reference: Any) -> Any:
        if reference is None:
            named = self._ids_of_scores("agents")
            return None if named is None else AgentTable.of_ids(named)
        if not isinstance(reference, str | dict):
            return reference
        path, options = self._file("agents", reference, TABLE_OPTIONS)
        if not is_table(path):
            return self._listed("agents", path)
        renamed, ignored = column_options("agents", options, list(Agent.model_fields))
        name_of = {name: renamed.get(name, name) for name in Agent.model_fields}
        numbers = {name_of[name] for name in NUMBER_FIELDS}
        kinds = ColumnKinds(
            coded=frozenset(name_of[name] for name in (*TEXT_FIELDS, *LIST_FIELDS)),
            text=frozenset({name_of["id"]}),
            number=lambda name: name in numbers or name.startswith("resources."),
        )
        table = self._table("agents", path, kinds, options)
        check_columns(table, (*renamed.values(), *(ignored or ())))
        field_of = {column: name for name, column in name_of.items()}
        known = {name for name in table.columns if name in field_of or name.startswith("resources.")}
        skipped = set(table.columns) - known if ignored is None else set(ignored)
        return agent_table(
            {
                field_of.get(column, column): values
                for column, values in table.columns.items()
                if column not in skipped
            }
        )

    def _models(self, reference: Any) -> Any:
        if isinstance(reference, dict) and "from_scores" in reference:
            return self._models_of_scores(reference)
        if not isinstance(reference, str | dict):
            return reference
        path, options = self._file("models", reference, TABLE_OPTIONS)
        if not is_table(path):
            return self._listed("models", path)
        fields = list(dict.fromkeys([*Model.model_fields, *Capacity.model_fields]))
        renamed, ignored = column_options("models", options, fields)
        field_of = {column: name for name, column in renamed.items()}
        kinds = ColumnKinds(
            text=frozenset(renamed.get(name, name) for name in FLEET_KINDS.text),
            number=lambda name: FLEET_KINDS.is_number(field_of.get(name, name)),
        )
        table = self._table("models", path, kinds, options)
        check_columns(table, (*renamed.values(), *(ignored or ())))
        return fleet_rows(table, field_of, ignored)

    def _models_of_scores(self, reference: dict[Any, Any]) -> list[dict[str, Any]]:
        """Return the models that the scores name, all of one capacity."""
        lines = [
            unknown_field(f"models.{key}") for key in reference if key not in {"from_scores", "capacity"}
        ]
        if reference["from_scores"] is not True:
            lines.append(Violation("models.from_scores", "expected true", reference["from_scores"]))
        named = self._ids_of_scores("models")
        if named is None and "scores" not in self._places.locate:
            lines.append(
                Violation("models.from_scores", "expected scores that name their models", shown="none")
            )
        if "capacity" not in reference:
            lines.append(missing_value("models.capacity"))
        if not lines:
            try:
                Capacity.model_validate(reference["capacity"])
            except SpecError as error:  # once, not for every model
                lines.extend(one.at(f"models.capacity.{one.path}") for one in error.violations)
        if lines or named is None:
            raise SpecError(*lines)
        return [{"id": name, "capacity": reference["capacity"]} for name in named]

    def _ids_of_scores(self, what: Literal["agents", "models"]) -> tuple[str, ...] | None:
        table = self._score_table
        if table is None:
            return None
        return table.agent_ids if what == "agents" else table.model_ids

    def _scores(self, reference: Any) -> Any:
        self._places.locate["scores"] = lambda steps: self._places.locate[""](["scores", *steps])
        file = None
        if isinstance(reference, str) or (isinstance(reference, dict) and "values" not in reference):
            path, chosen = self._file("scores", reference, (*SCORE_FIELDS, *READING_FIELDS))
            if is_table(path):
                reading = self.reading.updated("scores", chosen)
                layout = score_layout({name: chosen[name] for name in SCORE_FIELDS if name in chosen})
                self._places.locate["scores"] = lambda _: f"{path}: "
                with self._places.naming("scores", path):
                    self._places.tables["scores"], self._score_table = read_score_table(
                        path, layout, reading=reading
                    )
                return self._score_table
            if chosen:
                raise SpecError(*(Violation(f"scores.{key}", "only for tables", path.name) for key in chosen))
            file, reference = path, self._listed("scores", path)
        if reference is None:
            if file is not None:
                raise SpecError(Violation("scores", _EXPECTED["scores"], shown="nothing"))
            return None
        self._score_table = ScoreTable.read(reference)
        return self._score_table


def _beyond(parts: dict[str, Any], found: tuple[Violation, ...]) -> list[Violation]:
    """Return violations that those found hide: rules between parts are checked once every field is valid.

    Agents with faulty fields are replaced by plain ones of the same id, so that the rest speaks for itself.
    """
    faulty = {(int(match[1]), match[2]) for one in found if (match := _FAULTY_AGENT.match(one.path))}
    agents = parts.get("agents")
    if not faulty or not isinstance(agents, list) or any(name == "id" for _, name in faulty):
        return []
    rows = {row for row, _ in faulty}
    plain = [{"id": agent["id"]} if i in rows else agent for i, agent in enumerate(agents)]
    try:
        Problem.model_validate(parts | {"agents": plain})
    except SpecError as error:
        return [line for line in error.violations if line not in found]
    return []
