"""One job: files of scores in, files of assignments and a manifest out."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.engines.slot_supply import Supply
from solver.errors import SpecError, Violation
from solver.scale.assignment_files import file_name
from solver.scale.certificate import conclude
from solver.scale.checkpoint import Checkpoint, forget, read_checkpoint, write_checkpoint
from solver.scale.coupled import CoupledOptimum, optimise_coupled, take_facts
from solver.scale.coupled_certificate import conclude_coupled
from solver.scale.first_pass import valuation_of
from solver.scale.floors import with_floors
from solver.scale.local_workers import LocalFleet
from solver.scale.manifest import MANIFEST, Manifest, write_manifest
from solver.scale.optimise import finish_orders, has_few_levels, optimise, take_survey
from solver.scale.pieces import ScoreColumns, files_of, pieces_of, size_of
from solver.scale.progress import Progress
from solver.scale.sample_plan import SampleBudget
from solver.scale.shard import PayingOrder
from solver.scale.storage import plan_folder
from solver.scale.unique_ids import check_unique_ids
from solver.scale.unit_optimum import UnitOptimum, optimise_units
from solver.scale.written_pieces import finished_pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from solver.problem.instance import Instance
    from solver.scale.batch import LargeBatch
    from solver.scale.certificate import PlanCertificate
    from solver.scale.first_pass import Survey
    from solver.scale.pieces import Piece
    from solver.scale.storage import PlanFolder
    from solver.scale.workers import Fleet
    from solver.scale.written_pieces import PieceAnswer


def solve_files(
    batch: LargeBatch,
    output: str | Path,
    *,
    seed: int = 0,
    resume: bool = False,
    unique_ids: bool = False,
    fleet: Callable[[Sequence[Piece], ScoreColumns, NDArray[np.bool_]], Fleet] = LocalFleet,
    budget: SampleBudget | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Manifest | None:
    """Assign the agents of a batch in files, and write a plan in files with a proof.

    Parameters
    ----------
    batch : LargeBatch
        What is asked.
    output : str or Path
        Folder of the plan, a path or a URL, created if need be: a file of assignments for every piece of the input, and
        ``manifest.json``, which is written last.
    seed : int
        Same files and seed: same plan, whatever the workers.
    resume : bool
        Go on with a job that was interrupted in this folder after its prices were found: files that it wrote stay
        as they are. Where there is none, start anew.
    unique_ids : bool
        Check first that no agent occurs twice in all files together, exactly: one pass over the ids, which takes 12
        bytes an agent of the plan's folder meanwhile.
    fleet : callable
        Makes the workers that carry out the passes.
    budget : SampleBudget, optional
        How much of the data the driver holds.
    report : callable
        Told what is going on: the stage, and within passes what is read and about how long it takes still.

    Returns
    -------
    Manifest or None
        None if not all agents that must be served can be; nothing is written then.

    Raises
    ------
    SpecError
        For files, numbers and folders that are unfit, by name; there is no manifest then.

    Notes
    -----
    Three passes over the files as a rule: O(n m) time. Memory is that of the samples and of the agents that the
    samples leave contested, a few per cent of n.
    """
    batch.checked()
    folder = _checked_folder(output)
    files = files_of(batch.files)
    report("reading footers")
    pieces = pieces_of(files, batch.reading)
    agents = sum(piece.rows for piece in pieces)
    progress = Progress(report, agents, size_of(pieces))
    request = _request(batch, pieces, seed)
    state = read_checkpoint(folder, request) if resume else None
    workers = fleet(pieces, batch.reading, batch.slots < 1)
    workers.watch = progress
    try:
        done: list[PieceAnswer] = []
        if unique_ids and state is None:
            progress.stage(f"looking for repeated ids among {agents:,} agents")
            _make(folder)
            check_unique_ids(workers, pieces, batch.columns.agent, folder.location)
        if state is None:
            progress.stage(f"surveying {agents:,} agents in {len(pieces):,} pieces")
            solve = _solve_coupled if batch.is_coupled else _solve_slots
            state = solve(workers, batch, pieces, seed, budget or SampleBudget(), progress.stage)
            if state is None:
                return None
            _make(folder)
            forget(folder)
            write_checkpoint(folder, request, state)
        else:
            done = finished_pieces(folder, pieces)
        workers.run("expect", state.survey.contents)
        progress.stage(f"writing {len(pieces) - len(done):,} files")
        answers = [*done, *_finish(workers, batch, pieces, folder, state, {one.number for one in done})]
    finally:
        workers.close()
    return _publish(batch, pieces, folder, request, state, sorted(answers, key=lambda one: one.number))


def _solve_slots(
    workers: Fleet,
    batch: LargeBatch,
    pieces: Sequence[Piece],
    seed: int,
    budget: SampleBudget,
    report: Callable[[str], None],
) -> Checkpoint | None:
    agents, penalty = sum(piece.rows for piece in pieces), batch.unassigned_penalty
    survey = take_survey(workers, agents, batch.slots < 1, penalty, seed=seed, budget=budget)
    report("finding prices")
    shape = _shape(batch, survey)
    plan = budget.plan(agents, len(batch.capacity), seed)
    if batch.columns.has_units or has_few_levels(survey, budget):
        units = optimise_units(workers, pieces, survey, shape, plan, penalty, batch.floors)
        return None if units is None else Checkpoint(survey=survey, found=units)
    found = optimise(workers, pieces, survey, shape, penalty, batch.floors, seed=seed, budget=budget)
    return None if found is None else Checkpoint(survey=survey, found=found)


def _solve_coupled(
    workers: Fleet,
    batch: LargeBatch,
    pieces: Sequence[Piece],
    seed: int,
    budget: SampleBudget,
    report: Callable[[str], None],
) -> Checkpoint | None:
    survey, facts = take_facts(workers, batch.unassigned_penalty)
    valuation = valuation_of(survey, _shape(batch, survey), batch.unassigned_penalty)
    found = optimise_coupled(workers, batch.couplings, survey, facts, valuation, seed=seed, report=report)
    return None if found is None else Checkpoint(survey=survey, found=found)


def _shape(batch: LargeBatch, survey: Survey) -> Instance:
    return survey.shape(batch.slots, batch.tiers, serve_first=batch.serve_first, sense=batch.columns.sense)


def _make(folder: PlanFolder) -> None:
    """Create the folder of a plan; an earlier plan in it ends here."""
    folder.make()
    folder.remove(MANIFEST)


def _finish(
    workers: Fleet,
    batch: LargeBatch,
    pieces: Sequence[Piece],
    folder: PlanFolder,
    state: Checkpoint,
    done: set[int],
) -> list[PieceAnswer]:
    """Have all pieces written but those that are."""
    found = state.found
    if isinstance(found, CoupledOptimum):
        return _finish_coupled(workers, batch, pieces, folder, found, done)
    if isinstance(found, UnitOptimum):
        return workers.run(
            "finish_units",
            found.box,
            found.prices,
            not (batch.serve_first and found.left == 0),
            folder.location,
            each={number: flow for number, flow in found.flow.items() if number not in done},
        )
    supply = Supply.of(_shape(batch, state.survey))
    if batch.floors is not None:
        supply = with_floors(supply, batch.floors, found.valuation.shift)
    orders, load = finish_orders(pieces, found.choice, supply, state.survey.first_duplicate)
    # In serve-first mode a full service can only be compared with full services.
    certify_leaving = not (batch.serve_first and load[-1] == 0)
    answers: list[PieceAnswer] = workers.run(
        "finish",
        found.prices,
        found.valuation,
        found.may_leave,
        certify_leaving,
        folder.location,
        each={number: order for number, order in orders.items() if number not in done},
    )
    return answers


def _finish_coupled(
    workers: Fleet,
    batch: LargeBatch,
    pieces: Sequence[Piece],
    folder: PlanFolder,
    found: CoupledOptimum,
    done: set[int],
) -> list[PieceAnswer]:
    couplings, orders = batch.couplings, {}
    for piece in pieces:
        begin, end = np.searchsorted(found.agent, (piece.first, piece.first + piece.rows))
        if piece.number not in done:
            agent = found.agent[begin:end] - piece.first
            orders[piece.number] = PayingOrder(
                low=found.low, agent=agent, model=found.model[begin:end], jitter=found.jitter
            )
    answers: list[PieceAnswer] = workers.run(
        "finish_paying",
        couplings.charge(found.prices),
        found.valuation,
        couplings.exceeded(found.largest),
        found.leaves or not batch.serve_first,
        folder.location,
        each=orders,
    )
    return answers


def _publish(
    batch: LargeBatch,
    pieces: Sequence[Piece],
    folder: PlanFolder,
    request: dict[str, Any],
    state: Checkpoint,
    answers: list[PieceAnswer],
) -> Manifest:
    """Conclude the proof and write the manifest, which makes the plan complete."""
    parts = [answer.certificate for answer in answers]
    if isinstance(state.found, CoupledOptimum):
        prices = state.found.prices
        certificate = conclude_coupled(
            parts, batch.couplings, prices, serve_first=batch.serve_first, sense=batch.columns.sense
        )
        return _published(pieces, folder, request, state, certificate, prices, answers)
    prices, closed = state.found.prices.copy(), batch.slots < 1
    if closed.any():  # what their first slot would be worth, the least that deters every agent
        prices[closed] = np.maximum(np.max([part.worth for part in parts], axis=0)[closed], 0.0)
    certificate = conclude(parts, _shape(batch, state.survey), prices, batch.columns.models, batch.floors)
    return _published(pieces, folder, request, state, certificate, prices, answers)


def _published(
    pieces: Sequence[Piece],
    folder: PlanFolder,
    request: dict[str, Any],
    state: Checkpoint,
    certificate: PlanCertificate,
    prices: NDArray[np.float64],
    answers: list[PieceAnswer],
) -> Manifest:
    manifest = Manifest(
        request=request,
        certificate=certificate,
        prices=tuple(prices.tolist()),
        files=tuple(answer.written for answer in answers),
        versions={"solver": version("batch-assignment-solver"), "pyarrow": version("pyarrow")},
        contents=tuple(f"{state.survey.contents[piece.number]:08x}" for piece in pieces),
    )
    _drop_other_files(folder, len(pieces))
    write_manifest(folder, manifest)
    forget(folder)
    return manifest


def _checked_folder(output: str | Path) -> PlanFolder:
    """Return the folder if a plan can go there."""
    folder = plan_folder(output)
    strange = [
        name for name in folder.names() if name != MANIFEST and not name.startswith(("assignments-", "."))
    ]
    if strange:
        rule = "expected an empty folder or an earlier plan"
        raise SpecError(Violation(folder.location, rule, strange[:5]))
    folder.check_writable()
    return folder


def _drop_other_files(folder: PlanFolder, pieces: int) -> None:
    """Remove the files of an earlier plan with more pieces."""
    own = {file_name(number) for number in range(pieces)}
    for name in folder.names():
        if name.startswith("assignments-") and name.endswith(".parquet") and name not in own:
            folder.remove(name)


def _request(batch: LargeBatch, pieces: Sequence[Piece], seed: int) -> dict[str, Any]:
    """Return what was asked, as a manifest holds it."""
    return {
        "files": [[path, mark] for path, mark in {one.path: one.fingerprint for one in pieces}.items()],
        "columns": asdict(batch.columns),
        "capacity": [int(slots) if slots < np.inf else None for slots in batch.capacity],
        "unassigned_penalty": batch.unassigned_penalty,
        "load_cost": [list(map(float, tiers)) for tiers in batch.load_cost],
        "min_load": [int(least) for least in batch.min_load],
        "resources": [one.document() for one in batch.resources],
        "budgets": [one.document() for one in batch.budgets],
        "seed": seed,
    }
