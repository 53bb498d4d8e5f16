"""One job: files of scores in, files of assignments and a manifest out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.engines.slot_supply import Supply
from solver.errors import SpecError, Violation
from solver.scale.assignment_files import file_name
from solver.scale.checkpoint import Checkpoint, forget, read_checkpoint, write_checkpoint
from solver.scale.finished import finished_pieces
from solver.scale.floors import with_floors
from solver.scale.judge import conclude
from solver.scale.local_fleet import LocalFleet
from solver.scale.manifest import MANIFEST, Manifest, write_manifest
from solver.scale.optimise import SampleBudget, finish_orders, optimise, take_survey
from solver.scale.pieces import ScoreColumns, files_of, pieces_of
from solver.scale.storage import plan_folder
from solver.scale.unique_ids import check_unique_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from solver.problem.instance import Instance
    from solver.scale.finished import PieceAnswer
    from solver.scale.fleet import Fleet
    from solver.scale.pieces import Piece
    from solver.scale.storage import PlanFolder
    from solver.scale.survey import Survey

__all__ = ["LargeBatch", "solve_files"]

_MOST_STREAMED_MODELS = 5_000
"""Models at most: prices of samples take memory for the square of their number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeBatch:
    """A batch in Parquet files, one slot an agent.

    Parameters
    ----------
    files : sequence of str
        Files, folders, or patterns such as ``batch/*.parquet``; paths or URLs such as ``s3://bucket/batch``.
    columns : ScoreColumns
        What the files' columns hold.
    capacity : sequence of int
        Slots of each model of ``columns.models``.
    unassigned_penalty : float, optional
        What leaving an agent out costs, where no column says so. None: serve as many as possible first.
    load_cost : sequence of sequence of float
        What a slot costs in equal tiers of each model's slots; empty for nothing. See :func:`solver.assign`.
    min_load : sequence of int
        Agents that each model has to serve; empty for none.
    """

    files: Sequence[str]
    columns: ScoreColumns
    capacity: Sequence[int]
    unassigned_penalty: float | None = None
    load_cost: Sequence[Sequence[float]] = field(default=())
    min_load: Sequence[int] = field(default=())

    def checked(self) -> LargeBatch:
        """Return the batch if its numbers can be.

        Raises
        ------
        SpecError
            One line per rule that is broken.
        """
        m = len(self.columns.models)
        lines = []
        if not 0 < m <= _MOST_STREAMED_MODELS:
            lines.append(Violation("models", f"expected 1 to {_MOST_STREAMED_MODELS:,} models", m))
        if len(self.capacity) != m:
            lines.append(
                Violation("capacity", f"expected one number for each of {m} models", len(self.capacity))
            )
        lines += [
            Violation(f"capacity[{j}]", "expected a whole number of slots >= 0", slots)
            for j, slots in enumerate(self.capacity)
            if not (0 <= slots <= 2**53 and slots == int(slots))
        ]
        if self.unassigned_penalty is not None and not self.unassigned_penalty >= 0:
            lines.append(Violation("unassigned_penalty", "expected >= 0", self.unassigned_penalty))
        if len(self.min_load) not in (0, m):
            lines.append(
                Violation("min_load", f"expected one number for each of {m} models", len(self.min_load))
            )
        lines += [
            Violation(f"min_load[{j}]", f"expected a whole number from 0 to its {slots:g} slots", least)
            for j, (least, slots) in enumerate(zip(self.min_load, self.capacity, strict=False))
            if not (0 <= least <= slots and least == int(least))
        ]
        if self.columns.sense not in ("maximize", "minimize"):
            lines.append(Violation("sense", "expected maximize or minimize", self.columns.sense))
        if len(set(self.columns.models)) < m:
            lines.append(Violation("models", "expected different ids", list(self.columns.models)))
        if lines:
            raise SpecError(*lines)
        return self

    @property
    def slots(self) -> NDArray[np.float64]:
        """(m,) float64, slots of each model."""
        return np.asarray(self.capacity, np.float64)

    @property
    def tiers(self) -> NDArray[np.float64] | None:
        """(m, t) float64, costs of the tiers, or None."""
        return np.asarray(self.load_cost, np.float64) if len(self.load_cost) else None

    @property
    def floors(self) -> NDArray[np.int64] | None:
        """(m,) int64, agents that each model has to serve, or None."""
        return np.asarray(self.min_load, np.int64) if any(self.min_load) else None

    @property
    def serve_first(self) -> bool:
        """Whether serving more agents comes before any score."""
        return self.unassigned_penalty is None and self.columns.penalty is None


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
        Told what is going on.

    Returns
    -------
    Manifest or None
        None if not everyone who must be served can be; nothing is written then.

    Raises
    ------
    SpecError
        For files, numbers and folders that are unfit, by name; there is no manifest then.

    Notes
    -----
    Three passes over the files as a rule: O(n m) time. Memory is that of the samples and of the agents whom the
    samples leave contested, a few per cent of n.
    """
    batch.checked()
    folder = _checked_folder(output)
    files = files_of(batch.files)
    report("reading footers")
    pieces = pieces_of(files, batch.columns)
    closed = batch.slots < 1
    budget = budget or SampleBudget()
    agents = sum(piece.rows for piece in pieces)
    request = _request(batch, pieces, seed)
    state = read_checkpoint(folder, request) if resume else None
    workers = fleet(pieces, batch.columns, closed)
    try:
        done: list[PieceAnswer] = []
        if unique_ids and state is None:
            report(f"looking for repeated ids among {agents:,} agents")
            _make(folder)
            check_unique_ids(workers, pieces, batch.columns.agent, folder.location)
        if state is None:
            report(f"surveying {agents:,} agents in {len(pieces):,} pieces")
            survey = take_survey(workers, agents, closed, batch.unassigned_penalty, seed=seed, budget=budget)
            report("finding prices")
            found = optimise(
                workers,
                pieces,
                survey,
                _shape(batch, survey),
                batch.unassigned_penalty,
                batch.floors,
                seed=seed,
                budget=budget,
            )
            if found is None:
                return None
            state = Checkpoint(survey=survey, found=found)
            _make(folder)
            forget(folder)
            write_checkpoint(folder, request, state)
        else:
            done = finished_pieces(folder, pieces)
        report(f"writing {len(pieces) - len(done):,} files")
        answers = [*done, *_finish(workers, batch, pieces, folder, state, {one.number for one in done})]
    finally:
        workers.close()
    return _publish(batch, pieces, folder, request, state, sorted(answers, key=lambda one: one.number))


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
    supply = Supply.of(_shape(batch, state.survey))
    if batch.floors is not None:
        supply = with_floors(supply, batch.floors, found.valuation.shift)
    orders, load = finish_orders(pieces, found.choice, supply, state.survey.twins)
    # In serve-first mode a full service can only be compared with full services.
    judge_leaves = not (batch.serve_first and load[-1] == 0)
    answers: list[PieceAnswer] = workers.run(
        "finish",
        found.prices,
        found.valuation,
        found.may_leave,
        judge_leaves,
        folder.location,
        each={number: order for number, order in orders.items() if number not in done},
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
    prices, closed = state.found.prices.copy(), batch.slots < 1
    if closed.any():  # what their first slot would be worth, the least that deters everyone
        prices[closed] = np.maximum(np.max([part.worth for part in parts], axis=0)[closed], 0.0)
    manifest = Manifest(
        request=request,
        certificate=conclude(parts, _shape(batch, state.survey), prices, batch.columns.models, batch.floors),
        prices=tuple(prices.tolist()),
        files=tuple(answer.written for answer in answers),
        versions={"solver": version("batch-assignment-solver"), "pyarrow": version("pyarrow")},
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
        "capacity": [int(slots) for slots in batch.capacity],
        "unassigned_penalty": batch.unassigned_penalty,
        "load_cost": [list(map(float, tiers)) for tiers in batch.load_cost],
        "min_load": [int(least) for least in batch.min_load],
        "seed": seed,
    }
