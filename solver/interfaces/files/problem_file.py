"""Problem files: YAML or JSON that holds everything, or points to tables beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from solver.errors import SpecError
from solver.interfaces.files.assembly import DOCUMENT_SUFFIXES, Assembly
from solver.interfaces.files.documents import DocumentLines, read_document
from solver.interfaces.files.error_locations import in_document
from solver.interfaces.files.gap_format import Sense, read_gap
from solver.interfaces.files.library_errors import located_errors
from solver.interfaces.files.sources import Reading, content_suffix
from solver.interfaces.files.tables import is_table
from solver.problem.values import describe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from solver.problem.spec import Model, Problem

ProblemFormat = Literal["auto", "document", "gap"]
PROBLEM_FORMATS: tuple[ProblemFormat, ...] = ("auto", "document", "gap")
"""How a problem file is written: YAML or JSON, or the OR-Library's numbers; ``auto`` goes by its ending."""

_GAP_SUFFIXES = ("", ".txt", ".gap", ".dat")


def read_problem(
    path: str | Path,
    *,
    file_format: ProblemFormat = "auto",
    problem_set: int | None = None,
    sense: Sense | None = None,
    reading: Reading | None = None,
) -> Problem:
    """Return the problem a file describes.

    Parameters
    ----------
    path : str or Path
        YAML or JSON with the fields of :class:`~solver.problem.spec.Problem`, where ``agents``, ``models``
        and ``scores`` may be paths relative to the file, or ``{path: ..., options}``; or a problem in one of
        the OR-Library's formats.
    file_format : {"auto", "document", "gap"}
        How it is written. ``auto`` takes files that end in ``.yaml``, ``.yml`` or ``.json`` as documents,
        and those without an ending, or with ``.txt``, ``.gap`` or ``.dat``, as ``gap``.
    problem_set : int, optional
        Which set of an OR-Library file that holds several, from 1.
    sense : {"minimize", "maximize"}, optional
        Whether an OR-Library file holds costs, as by default, or values.
    reading : Reading, optional
        Encoding and dialect where they are known, limits, and where notes go.

    Raises
    ------
    SpecError
        Every violation in the file and the tables it points to, ``file:line: path: rule, value``.
    MissingExtraError
        When it points to Parquet or Excel and the library is not installed.
    """
    path = Path(path)
    reading = (Reading() if reading is None else reading).checked()
    if file_format not in PROBLEM_FORMATS:
        msg = f"file_format: expected one of {', '.join(PROBLEM_FORMATS)}, got {file_format!r}"
        raise SpecError(msg)
    if sense not in (None, "minimize", "maximize"):
        msg = f"sense: expected 'minimize' or 'maximize', got {describe(sense)}"
        raise SpecError(msg)
    suffix = content_suffix(path)
    if file_format == "gap" or (file_format == "auto" and _is_gap_suffix(suffix)):
        return read_gap(path, chosen=problem_set, sense=sense or "minimize", reading=reading)
    if sense is not None:
        msg = f"sense: expected objective.sense in {path.name} itself, got {sense!r} beside it"
        raise SpecError(msg)
    if problem_set is not None:
        msg = f"set: only for files of the OR-Library, got {problem_set!r} beside {path.name}"
        raise SpecError(msg)
    if file_format == "auto" and suffix not in DOCUMENT_SUFFIXES:
        hint = "; a table is read with its fleet, as --agents or --scores" if is_table(path) else ""
        endings = ", ".join(DOCUMENT_SUFFIXES)
        msg = f"{path}: expected a problem file ({endings} or OR-Library){hint}, got {suffix!r}"
        raise SpecError(msg)
    with located_errors(path):
        document = read_document(path, reading)
        if not isinstance(document, dict):
            msg = f"{path}:1: expected a mapping with the fields of a problem, got {describe(document)}"
            raise SpecError(msg)
        lines = DocumentLines(path, reading)
        assembly = Assembly(folder=path.parent, reading=reading)
        return assembly.problem(document, lambda steps: in_document(path, lines, steps))


def read_parts(
    *,
    agents: str | Path | Mapping[str, Any] | None = None,
    models: str | Path | Mapping[str, Any] | None = None,
    scores: str | Path | Mapping[str, Any] | None = None,
    slots: int | None = None,
    objective: Mapping[str, Any] | None = None,
    reading: Reading | None = None,
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
        Fields of :class:`~solver.Objective`.
    reading : Reading, optional
        Encoding and dialect where they are known, limits, and where notes go.

    Raises
    ------
    SpecError
        Every violation found.
    """
    reading = (Reading() if reading is None else reading).checked()
    document: dict[str, Any] = {}
    for name, part in (("agents", agents), ("models", models), ("scores", scores)):
        if part is not None:
            document[name] = str(part) if isinstance(part, str | Path) else dict(part)
    if slots is not None:
        if models is not None:
            msg = f"slots: only for models that come from the scores, got {slots} besides a fleet"
            raise SpecError(msg)
        document["models"] = {"from_scores": True, "capacity": {"max_concurrent": slots}}
    if objective:
        document["objective"] = dict(objective)
    named = next(
        (Path(str(part)) for part in (scores, agents, models) if isinstance(part, str | Path)), Path()
    )
    with located_errors(named):
        return Assembly(folder=Path(), reading=reading).problem(document, lambda _: "")


def read_fleet(models: str | Path, *, reading: Reading | None = None) -> tuple[Model, ...]:
    """Return the models of a fleet's file alone, without agents.

    Raises
    ------
    SpecError
        Every violation found.
    """
    reading = (Reading() if reading is None else reading).checked()
    document = {"models": str(models), "agents": [{"id": "-"}]}
    with located_errors(Path(models)):
        return Assembly(folder=Path(), reading=reading).problem(document, lambda _: "").models


def _is_gap_suffix(suffix: str) -> bool:
    # OR-Library names such as gap12-4 have no ending; .4 or the like is part of a name, not a format.
    return suffix in _GAP_SUFFIXES or suffix[1:].isdigit()
