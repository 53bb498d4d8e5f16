"""An independent check of a plan in files: everything but the prices is recomputed, piece by piece."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import SpecError, Violation
from solver.scale.arrow_arrays import text_array
from solver.scale.assignment_files import checksum
from solver.scale.batch import LargeBatch
from solver.scale.certificate import PieceCertificate, PlanCertificate, block_terms, conclude
from solver.scale.computed_scores import ComputedScores
from solver.scale.coupled_certificate import conclude_coupled, paying_terms
from solver.scale.coupled_passes import amounts, paying
from solver.scale.coupling import BatchBudget, BatchResource
from solver.scale.first_pass import Survey, valuation_of
from solver.scale.manifest import MANIFEST, Manifest, read_manifest
from solver.scale.pieces import ScoreColumns, changed_file, pieces_of, read_batches, read_blocks
from solver.scale.storage import arrow, plan_folder
from solver.scale.unit_certificate import unit_terms
from solver.scale.unit_rows import RowUnits

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from solver.problem.instance import Instance
    from solver.scale.assignment_files import WrittenPiece
    from solver.scale.first_pass import Valuation
    from solver.scale.pieces import Piece
    from solver.scale.storage import PlanFolder

_OBJECTIVE_TOLERANCE = 1e-12
"""Relative difference allowed between a recomputed objective and that of the manifest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileVerification:
    """What a plan in files really holds.

    Parameters
    ----------
    certificate : PlanCertificate
        Recomputed from the files of scores and of assignments, at the manifest's prices.
    violations : tuple of str
        Everything that is wrong: constraints, files that changed, ids that differ, a manifest that says otherwise.
    """

    certificate: PlanCertificate
    violations: tuple[str, ...]

    @property
    def feasible(self) -> bool:
        """Whether nothing is wrong."""
        return not self.violations


def verify_plan(folder: str | Path) -> FileVerification:
    """Check a plan in files against its scores, with memory for a piece and a byte or two an agent.

    Parameters
    ----------
    folder : str or Path
        With a manifest, which names the files of the scores.

    Raises
    ------
    SpecError
        Without a manifest, and for scores that cannot be read or have changed since.
    """
    manifest = read_manifest(folder)
    place = plan_folder(folder)
    batch, pieces = _asked(place, manifest)
    lines: list[str] = []
    if len(pieces) != len(manifest.files):
        raise SpecError(Violation(place.path(MANIFEST), f"expected {len(pieces)} files", len(manifest.files)))
    closed = batch.slots < 1
    survey = Survey(m=len(closed), closed=closed)
    for k, piece in enumerate(pieces):
        content = 0
        for block in read_blocks(piece, batch.reading):
            content = block.checksum(content)
            survey.add(block, np.zeros(0, np.int64), batch.unassigned_penalty)
        if manifest.contents and manifest.contents[k : k + 1] != (f"{content:08x}",):
            raise SpecError(changed_file(piece.path, "the plan was made"))
    if batch.is_coupled:
        certificate = _certified_coupled(place, manifest, batch, pieces, survey, lines)
        return _compared(certificate, manifest, lines)
    shape = survey.shape(batch.slots, batch.tiers, serve_first=batch.serve_first, sense=batch.columns.sense)
    valuation = valuation_of(survey, shape, batch.unassigned_penalty)
    certificate = _certified(place, manifest, batch, pieces, shape, valuation, closed, lines)
    return _compared(certificate, manifest, lines)


def _compared(certificate: PlanCertificate, manifest: Manifest, lines: list[str]) -> FileVerification:
    """Note where a recomputed certificate differs from the manifest's."""
    said = manifest.certificate
    if abs(certificate.objective - said.objective) > _OBJECTIVE_TOLERANCE * max(1.0, abs(said.objective)):
        lines.append(f"objective: {certificate.objective!r}, but the manifest says {said.objective!r}")
    return FileVerification(certificate=certificate, violations=(*certificate.violations, *lines))


def _columns(document: dict[str, Any]) -> ScoreColumns:
    """Return the columns that a manifest names."""
    computed = document.get("computed")
    if computed is not None:
        computed = ComputedScores(fleet=computed["fleet"], fields=tuple(computed["fields"]))
    return ScoreColumns(
        **{
            **document,
            "models": tuple(document["models"]),
            "computed": computed,
            "amounts": tuple(document.get("amounts", ())),
        }
    )


def _asked(folder: PlanFolder, manifest: Manifest) -> tuple[LargeBatch, list[Piece]]:
    """Return what the manifest says was asked, its files unchanged."""
    try:
        request = manifest.request
        columns = _columns(request["columns"])
        batch = LargeBatch(
            files=[path for path, _ in request["files"]],
            columns=columns,
            capacity=[np.inf if slots is None else slots for slots in request["capacity"]],
            unassigned_penalty=request["unassigned_penalty"],
            load_cost=request["load_cost"],
            min_load=request.get("min_load", ()),
            resources=[BatchResource.read(one) for one in request.get("resources", ())],
            budgets=[BatchBudget(**one) for one in request.get("budgets", ())],
        ).checked()
        marks = dict(request["files"])
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(Violation(folder.path(MANIFEST), "not the manifest of a plan in files")) from None
    count = len(batch.couplings.bound) if batch.is_coupled else len(columns.models)
    if len(manifest.prices) != count:
        raise SpecError(Violation(folder.path(MANIFEST), f"expected {count} prices"))
    floors = batch.floors if batch.floors is not None else np.zeros(count)
    if not all(
        np.isfinite(price) and (price >= 0 or floor > 0)
        for price, floor in zip(manifest.prices, floors, strict=True)
    ):
        raise SpecError(
            Violation(folder.path(MANIFEST), "expected finite prices, >= 0 for models without a floor")
        )
    pieces = pieces_of(list(marks), batch.reading)
    changed = {piece.path for piece in pieces if marks[piece.path] != piece.fingerprint}
    if changed:
        raise SpecError(*(changed_file(path, "the plan was made") for path in sorted(changed)))
    return batch, pieces


def _certified(
    folder: PlanFolder,
    manifest: Manifest,
    batch: LargeBatch,
    pieces: list[Piece],
    shape: Instance,
    valuation: Valuation,
    closed: NDArray[np.bool_],
    lines: list[str],
) -> PlanCertificate:
    """Return the certificate of the assignments in the files, and note what is wrong with the files themselves."""
    m = shape.m
    prices = np.array(manifest.prices)
    if batch.columns.has_units:
        taken = [
            _read_units(folder, piece, batch.columns, written, lines)
            for piece, written in zip(pieces, manifest.files, strict=True)
        ]
        everyone = sum(int(one.units.sum()) for one in taken) == shape.units
        parts = _unit_parts(batch, prices, pieces, taken, valuation, everyone)
        return conclude(parts, shape, prices, batch.columns.models, batch.floors)
    chosen = [
        _read_assignments(folder, piece, batch.columns, written, lines)
        for piece, written in zip(pieces, manifest.files, strict=True)
    ]
    all_served = all((models < m).all() for models in chosen)
    parts = []
    for piece, models in zip(pieces, chosen, strict=True):
        part = PieceCertificate.empty(m)
        for block in read_blocks(piece, batch.columns):
            at = block.first - piece.first
            choice = models[at : at + len(block.score)].astype(np.int64)
            certify_leaving = not (batch.serve_first and all_served)
            outside = valuation.worth(block)
            part.add(block_terms(block.score, choice, prices, closed, outside, certify_leaving))
        parts.append(part)
    return conclude(parts, shape, prices, batch.columns.models, batch.floors)


def _unit_parts(
    batch: LargeBatch,
    prices: NDArray[np.float64],
    pieces: list[Piece],
    chosen: list[RowUnits],
    valuation: Valuation,
    everyone: bool,
) -> list[PieceCertificate]:
    """Return the certificates of pieces whose rows take units."""
    parts = []
    for piece, taken in zip(pieces, chosen, strict=True):
        part = PieceCertificate.empty(len(prices))
        for block in read_blocks(piece, batch.columns):
            at = block.first - piece.first
            some = taken.within(at, at + len(block.score))
            outside = valuation.worth(block)
            may_leave = not (batch.serve_first and everyone)
            part.add(unit_terms(block, some, prices, batch.slots < 1, outside, may_leave))
        parts.append(part)
    return parts


def _certified_coupled(
    folder: PlanFolder,
    manifest: Manifest,
    batch: LargeBatch,
    pieces: list[Piece],
    survey: Survey,
    lines: list[str],
) -> PlanCertificate:
    """Do what ``_certified`` does where there are resources or budgets."""
    shape = survey.shape(batch.slots, None, serve_first=batch.serve_first, sense=batch.columns.sense)
    valuation = valuation_of(survey, shape, batch.unassigned_penalty)
    couplings, prices = batch.couplings, np.array(manifest.prices)
    charge, m = couplings.charge(prices), shape.m
    chosen = [
        _read_assignments(folder, piece, batch.columns, written, lines)
        for piece, written in zip(pieces, manifest.files, strict=True)
    ]
    certify_leaving = not batch.serve_first or any((models == m).any() for models in chosen)
    parts = []
    for piece, models in zip(pieces, chosen, strict=True):
        part = PieceCertificate.empty(m)
        for block in read_blocks(piece, batch.reading):
            at = block.first - piece.first
            # All amounts are looked at: whoever asks for more than a model has cannot go there.
            single = couplings.exceeded(amounts(block).max(axis=0))
            for agents in paying(block, valuation, single).parts():
                choice = models[at : at + len(agents.agent)].astype(np.int64)
                part.add(paying_terms(agents, choice, charge, may_leave=certify_leaving))
                at += len(choice)
        parts.append(part)
    return conclude_coupled(
        parts, couplings, prices, serve_first=batch.serve_first, sense=batch.columns.sense
    )


def _read_assignments(
    folder: PlanFolder, piece: Piece, columns: ScoreColumns, written: WrittenPiece, lines: list[str]
) -> NDArray[np.unsignedinteger]:
    """Return the (rows,) models of a piece's file, m for unassigned, its ids compared with those of the scores."""
    m = len(columns.models)
    table = _read_table(folder, piece, columns, written, lines)
    if table is None:
        return np.full(piece.rows, m, np.min_scalar_type(m))
    return _codes(table.column("model").combine_chunks(), columns, folder.path(written.name), lines)


def _read_units(
    folder: PlanFolder, piece: Piece, columns: ScoreColumns, written: WrittenPiece, lines: list[str]
) -> RowUnits:
    """Return the units of a piece's file, by row and then by model; those of models that are unknown are left out."""
    pa, _ = arrow()
    table = _read_table(folder, piece, columns, written, lines)
    path, m = folder.path(written.name), len(columns.models)
    nothing = RowUnits(row=np.zeros(0, np.uint8), model=np.zeros(0, np.uint8), units=np.zeros(0, np.uint8))
    if table is None:
        return nothing
    lists = table.column("model").combine_chunks()
    model = _codes(lists.flatten(), columns, path, lines)
    row = pa.compute.list_parent_indices(lists).to_numpy(zero_copy_only=False)
    units = np.ones(len(model), np.int64)
    if columns.count is not None:
        counts = table.column("units").combine_chunks()
        if not lists.value_lengths().equals(counts.value_lengths()) or counts.flatten().null_count:
            lines.append(f"{path}: expected as many units as models in every row")
            return nothing
        units = counts.flatten().to_numpy(zero_copy_only=False)
    known = np.flatnonzero(model < m)
    found = RowUnits(row=row[known], model=model[known].astype(np.int64), units=units[known])
    return found.ordered(np.lexsort((found.model, found.row)))


def _codes(model: Any, columns: ScoreColumns, path: str, lines: list[str]) -> NDArray[np.unsignedinteger]:
    """Return the places of models by their names, m for none and for names that are unknown, which are noted."""
    pa, _ = arrow()
    m = len(columns.models)
    model = model.cast(pa.string())
    codes = pa.compute.index_in(model, value_set=text_array(columns.models))
    unknown = codes.null_count - model.null_count
    if unknown:
        lines.append(f"{path}: {unknown:,} agents have a model that is not in the fleet")
    found: NDArray[np.unsignedinteger] = (
        codes.fill_null(m).to_numpy(zero_copy_only=False).astype(np.min_scalar_type(m))
    )
    return found


def _read_table(
    folder: PlanFolder, piece: Piece, columns: ScoreColumns, written: WrittenPiece, lines: list[str]
) -> Any:
    """Return a piece's file, its ids compared with those of the scores; None, and why, if it is none of a plan."""
    pa, pq = arrow()
    path = folder.path(written.name)
    try:
        if checksum(folder, written.name) != (written.crc32, written.bytes):
            lines.append(f"{path}: the file is not the one that the manifest names")
        with folder.open(written.name) as file:
            table = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        lines.append(f"{path}: not readable: {(str(error).splitlines() or [''])[0]}")
        return None
    names = [columns.agent, "model", *(["units"] if columns.count is not None else [])]
    listed = all(pa.types.is_list(table.field(name).type) for name in table.column_names[1:])
    if table.column_names != names or table.num_rows != piece.rows or listed != columns.has_units:
        kind = "lists in columns" if columns.has_units else "columns"
        lines.append(f"{path}: expected {kind} {' and '.join(names)} in {piece.rows} rows")
        return None
    at = 0
    for batch in read_batches(piece, [columns.agent]):
        ids = pa.chunked_array([batch.column(columns.agent)])
        if not table.column(columns.agent).slice(at, len(ids)).equals(ids):
            lines.append(f"{path}: rows from {at + 1}: ids differ from those of {piece.path}")
            break
        at += len(ids)
    return table
