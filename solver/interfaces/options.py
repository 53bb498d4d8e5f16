"""Options of every command that takes a problem: where the problem is, and how its files are read."""

from __future__ import annotations

import functools
import inspect
import re
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path  # noqa: TC003 - typer reads it at run time
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_type_hints

import typer

from solver.errors import SpecError
from solver.interfaces.files.problem_file import read_parts, read_problem
from solver.interfaces.files.score_layouts import LAYOUTS
from solver.interfaces.files.sources import Reading
from solver.problem.instance import MAX_CAPACITY
from solver.problem.values import describe, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from solver.problem.spec import Problem

_TABLES = "Tables instead of a problem file"
_READING = "How files are read"
_LIBRARY = "OR-Library files"
_PART_OF_PLAN = re.compile(r"(agent|model of .*): ")
_PART_OF_PROBLEM = re.compile(
    r"(scores|demand|capacity|priority|unassigned_penalty|load_cost|opening_cost|min_load|copies|count|limits)\b"
)


def _option(*names: str, group: str, text: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=group, metavar=metavar)


@dataclass(frozen=True, kw_only=True)
class ProblemSource:
    """Where a problem is, as the options of a command say; each field is an option."""

    problem: Annotated[
        Path | None, typer.Argument(metavar="PROBLEM", help="Problem file: YAML, JSON, or OR-Library.")
    ] = None
    agents: Annotated[
        Path | None,
        _option("--agents", group=_TABLES, text="Agents: CSV, Excel, Parquet, JSON Lines; YAML, JSON."),
    ] = None
    models: Annotated[
        Path | None, _option("--models", group=_TABLES, text="Fleet: YAML, JSON, or a table.")
    ] = None
    scores: Annotated[Path | None, _option("--scores", group=_TABLES, text="Table of scores.")] = None
    layout: Annotated[
        str | None,
        _option(
            "--layout",
            group=_TABLES,
            text="Of the scores: long (a pair a row), wide (a model a column), ranked (a choice a column).",
        ),
    ] = None
    agent_column: Annotated[
        str | None,
        _option("--agent-column", group=_TABLES, text="Column of the scores that names the agent."),
    ] = None
    model_column: Annotated[
        str | None,
        _option("--model-column", group=_TABLES, text="Column of the scores that names the model."),
    ] = None
    score_column: Annotated[
        str | None,
        _option("--score-column", group=_TABLES, text="Column of the scores that holds the score."),
    ] = None
    ignore_column: Annotated[
        list[str] | None,
        _option("--ignore-column", group=_TABLES, text="Column of wide scores that is no model; repeatable."),
    ] = None
    choice_column: Annotated[
        list[str] | None,
        _option(
            "--choice-column", group=_TABLES, text="Column of ranked scores, first choice first; repeatable."
        ),
    ] = None
    count_column: Annotated[
        str | None,
        _option("--count-column", group=_TABLES, text="With --stream: column of how many agents a row is."),
    ] = None
    copies_column: Annotated[
        str | None,
        _option(
            "--copies-column", group=_TABLES, text="With --stream: column of how many models each needs."
        ),
    ] = None
    slots: Annotated[
        int | None,
        _option("--slots", group=_TABLES, text="Slots of every model, where the scores name the models."),
    ] = None
    gap_file: Annotated[
        Path | None,
        _option("--gap-file", group=_LIBRARY, text="File in an OR-Library format, whatever its name."),
    ] = None
    problem_set: Annotated[
        int | None, _option("--set", group=_LIBRARY, text="Which problem set of several, from 1.")
    ] = None
    sense: Annotated[
        str | None,
        _option(
            "--sense",
            group=_LIBRARY,
            text="minimize costs, or maximize scores, beside --scores or --gap-file.",
        ),
    ] = None
    encoding: Annotated[
        str | None, _option("--encoding", group=_READING, text="Of text files, such as cp1252 or utf-16.")
    ] = None
    separator: Annotated[
        str | None,
        _option("--separator", group=_READING, text="Of CSV; found in the file where it is not given."),
    ] = None
    decimal: Annotated[
        str | None, _option("--decimal", group=_READING, text="Decimal mark in CSV: . or ,", metavar="MARK")
    ] = None
    sheet: Annotated[str | None, _option("--sheet", group=_READING, text="Sheet of Excel workbooks.")] = None
    max_file_mb: Annotated[
        float | None,
        _option("--max-file-mb", group=_READING, text="Largest file read; 1000, and 100 for YAML and JSON."),
    ] = None
    _reading: list[Reading] = field(default_factory=list, repr=False)

    @property
    def reading(self) -> Reading:
        """How files are read; the same object at every call, which collects notes.

        Raises
        ------
        SpecError
            For options that cannot be.
        """
        if not self._reading:
            limit = Reading().max_mb if self.max_file_mb is None else self.max_file_mb
            reading = Reading(
                encoding=self.encoding,
                separator=self.separator,
                decimal=self.decimal,
                sheet=self.sheet,
                max_mb=limit,
            )
            self._reading.append(reading.checked())
        return self._reading[0]

    def read(self) -> Problem:
        """Return the problem.

        Raises
        ------
        SpecError
            Every violation in its files, and for options that contradict each other.
        """
        tables = {"--agents": self.agents, "--models": self.models, "--scores": self.scores}
        given = [name for name, path in tables.items() if path is not None]
        if sum((self.problem is not None, self.gap_file is not None, bool(given))) != 1:
            msg = "PROBLEM: expected a problem file, or --gap-file, or --agents/--models/--scores, one of the three"
            raise SpecError(msg)
        self._check_unused()
        path = self.problem or self.gap_file
        if path is not None:
            return read_problem(
                path,
                file_format="auto" if self.gap_file is None else "gap",
                problem_set=self.problem_set,
                sense=cast(Literal["minimize", "maximize"] | None, self.sense),
                reading=self.reading,
            )
        return read_parts(
            agents=self.agents,
            models=self.models,
            scores=self._scores(),
            slots=self.slots,
            objective=None if self.sense is None else {"sense": self.sense},
            reading=self.reading,
        )

    @contextmanager
    def named_in_errors(self, plan: Path | None = None) -> Iterator[None]:
        """Name the problem's file in errors about what it says that come up only when it is solved.

        Parameters
        ----------
        plan : Path, optional
            Named in errors about assignments.
        """
        try:
            yield
        except SpecError as error:
            file = self.problem or self.gap_file or self.scores or self.agents
            lines: list[str] = []
            for line in error.violations:
                found = line
                if _PART_OF_PROBLEM.match(line.path):
                    for placed in self.reading.places[:1]:
                        found = placed(line)
                    found = line.at(f"{file}: {line.path}") if found.path == line.path else found
                lines.append(found)
            if plan is not None:
                lines = [f"{plan}: {line}" if _PART_OF_PLAN.match(line) else line for line in lines]
            raise SpecError(*lines) from None

    def expect_nothing(self, because: str) -> None:
        """Raise where any option names a problem, or how to read one.

        Raises
        ------
        SpecError
            One line per option.
        """
        names = [one.name for one in fields(self) if not one.name.startswith("_")]
        given = [name for name in names if getattr(self, name) not in (None, [])]
        if given:
            raise SpecError(*(f"{name.replace('_', '-')}: expected none, since {because}" for name in given))

    def _check_unused(self) -> None:
        """Refuse options that would have no effect, and say which are missing."""
        score_options = {
            "--layout": self.layout,
            "--agent-column": self.agent_column,
            "--model-column": self.model_column,
            "--score-column": self.score_column,
            "--ignore-column": self.ignore_column,
            "--choice-column": self.choice_column,
            "--slots": self.slots,
        }
        lines = self._faulty_values()
        if self.scores is None:
            what = (
                f"{self.problem or self.gap_file} says that itself"
                if self.agents is None
                else "there is none"
            )
            lines += [
                f"{name}: only beside --scores, but {what}"
                for name, value in score_options.items()
                if value not in (None, [])
            ]
        elif self.models is None and self.slots is None:
            lines.append(
                "--slots: required beside --scores without --models: how many agents each model takes"
            )
        lines += [
            f"--{name}-column: only beside --stream; a table of --agents has a column {name}"
            for name in ("count", "copies")
            if getattr(self, f"{name}_column") is not None
        ]
        if self.agents is not None and self.models is None and self.scores is None:
            lines.append("--models: required beside --agents: the fleet that serves them")
        if self.models is not None and self.agents is None and self.scores is None:
            lines.append("--agents: required beside --models, or --scores that name them")
        if self.problem_set is not None and self.problem is None and self.gap_file is None:
            lines.append(f"--set: only for files of the OR-Library, got {self.problem_set!r}")
        if lines:
            raise SpecError(*lines)

    def _faulty_values(self) -> list[str]:
        """Return a line per option whose value is wrong whatever the others are."""
        lines = []
        if self.slots is not None and self.slots < 0:
            lines.append(f"--slots: expected a number >= 0, got {self.slots}")
        if self.slots is not None and self.slots > MAX_CAPACITY:
            lines.append(f"--slots: expected at most {MAX_CAPACITY}, got {describe(self.slots)}")
        if self.layout is not None and self.layout not in LAYOUTS:
            hint = did_you_mean(self.layout, LAYOUTS)
            lines.append(f"--layout: expected {', '.join(LAYOUTS)}, got {describe(self.layout)}{hint}")
        return lines

    def _scores(self) -> dict[str, Any] | None:
        """Return the table of scores as a problem file would name it."""
        if self.scores is None:
            return None
        options = {
            "layout": self.layout,
            "agent": self.agent_column,
            "model": self.model_column,
            "score": self.score_column,
            "ignore_columns": self.ignore_column,
            "choices": self.choice_column,
        }
        return {"path": str(self.scores), **{name: value for name, value in options.items() if value}}


def takes_problem(command: Callable[..., None], *, without: tuple[str, ...] = ()) -> Callable[..., None]:
    """Return a command whose parameter ``source`` is filled from the options of :class:`ProblemSource`.

    Parameters
    ----------
    command : callable
        With a parameter ``source``, in whose place the options go.
    without : tuple of str
        Fields that the command gives itself.
    """
    hints = get_type_hints(ProblemSource, include_extras=True)
    shared = [
        inspect.Parameter(
            one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=hints[one.name]
        )
        for one in fields(ProblemSource)
        if not one.name.startswith("_") and one.name not in without
    ]
    own = get_type_hints(command, include_extras=True)
    mine = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=own[one.name])
        for one in inspect.signature(command).parameters.values()
        if one.name != "source"
    ]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        source = ProblemSource(**{one.name: given.pop(one.name) for one in shared})
        command(source=source, **given)

    first = [one for one in mine if one.default is inspect.Parameter.empty]
    rest = [one for one in mine if one.default is not inspect.Parameter.empty]
    signature = inspect.Signature([*first, *shared, *rest])
    run.__signature__ = signature  # type: ignore[attr-defined]  # what typer reads
    run.__annotations__ = {name: one.annotation for name, one in signature.parameters.items()}
    del run.__wrapped__  # its annotations are not these
    return run
