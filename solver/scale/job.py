"""One job: files of scores in, files of assignments and a manifest out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.engines.price.supply import Supply
from solver.errors import SpecError, Violation
from solver.scale.assignment_files import file_name
from solver.scale.fleet import LocalFleet
from solver.scale.judge import conclude
from solver.scale.manifest import MANIFEST, Manifest, write_manifest
from solver.scale.optimise import SampleBudget, finish_orders, optimise, take_survey
from solver.scale.pieces import ScoreColumns, files_of, pieces_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from solver.scale.fleet import Fleet
    from solver.scale.pieces import Piece
    from solver.scale.shard import PieceAnswer

__all__ = ["LargeBatch", "solve_files"]

_MAX_MODELS = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeBatch:
    """A batch in Parquet files, one slot an agent.

    Parameters
    ----------
    files : sequence of str
        Files, folders, or patterns such as ``batch/*.parquet``.
    columns : ScoreColumns
        What the files' columns hold.
    capacity : sequence of int
        Slots of each model of ``columns.models``.
    unassigned_penalty : float, optional
        What leaving an agent out costs, where no column says so. None: serve as many as possible first.
    load_cost : sequence of sequence of float
        What a slot costs in equal tiers of each model's slots; empty for nothing. See :func:`solver.assign`.
    """

    files: Sequence[str]
    columns: ScoreColumns
    capacity: Sequence[int]
    unassigned_penalty: float | None = None
    load_cost: Sequence[Sequence[float]] = field(default=())

    def checked(self) -> LargeBatch:
        """Return the batch if its numbers can be.

        Raises
        ------
        SpecError
            One line per rule that is broken.
        """
        m = len(self.columns.models)
        lines = []
        if not 0 < m <= _MAX_MODELS:
            lines.append(Violation("models", f"expected 1 to {_MAX_MODELS:,} models", m))
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
    def serve_first(self) -> bool:
        """Whether serving more agents comes before any score."""
        return self.unassigned_penalty is None and self.columns.penalty is None


def solve_files(
    batch: LargeBatch,
    output: str | Path,
    *,
    seed: int = 0,
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
        Folder of the plan, created if need be: a file of assignments for every piece of the input, and
        ``manifest.json``, which is written last.
    seed : int
        Same files and seed: same plan, whatever the workers.
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
    folder = _folder(Path(output))
    files = files_of(batch.files)
    report("reading footers")
    pieces = pieces_of(files, batch.columns)
    closed = batch.slots < 1
    budget = budget or SampleBudget()
    agents = sum(piece.rows for piece in pieces)
    workers = fleet(pieces, batch.columns, closed)
    try:
        report(f"surveying {agents:,} agents in {len(pieces):,} pieces")
        survey = take_survey(workers, agents, closed, batch.unassigned_penalty, seed=seed, budget=budget)
        shape = survey.shape(
            batch.slots, batch.tiers, serve_first=batch.serve_first, sense=batch.columns.sense
        )
        report("finding prices")
        found = optimise(workers, pieces, survey, shape, batch.unassigned_penalty, seed=seed, budget=budget)
        if found is None:
            return None
        orders, load = finish_orders(pieces, found.choice, Supply.of(shape), survey.twins)
        report(f"writing {len(pieces):,} files")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)
        # In serve-first mode a full service can only be compared with full services.
        judge_leaves = not (batch.serve_first and load[-1] == 0)
        answers: list[PieceAnswer] = workers.run(
            "finish",
            found.prices,
            found.valuation,
            found.may_leave,
            judge_leaves,
            str(folder.absolute()),
            each=orders,
        )
    finally:
        workers.close()
    parts = [answer.certificate for answer in sorted(answers, key=lambda one: one.number)]
    prices = found.prices.copy()
    if closed.any():  # what their first slot would be worth, the least that deters everyone
        prices[closed] = np.maximum(np.max([part.worth for part in parts], axis=0)[closed], 0.0)
    certificate = conclude(parts, shape, prices, batch.columns.models)
    _drop_other_files(folder, len(pieces))
    manifest = Manifest(
        request=_request(batch, pieces, seed),
        certificate=certificate,
        prices=tuple(prices.tolist()),
        files=tuple(answer.written for answer in sorted(answers, key=lambda one: one.number)),
        versions={"solver": version("batch-assignment-solver"), "pyarrow": version("pyarrow")},
    )
    write_manifest(folder, manifest)
    return manifest


def _folder(folder: Path) -> Path:
    """Return the folder if a plan can go there."""
    if folder.exists() and not folder.is_dir():
        raise SpecError(Violation(str(folder), "expected a folder for the plan", shown="a file"))
    known = {MANIFEST}
    if folder.is_dir():
        strange = sorted(
            one.name
            for one in folder.iterdir()
            if one.name not in known and not one.name.startswith(("assignments-", "."))
        )
        if strange:
            raise SpecError(
                Violation(str(folder), "expected an empty folder or an earlier plan", strange[:5])
            )
    return folder


def _drop_other_files(folder: Path, pieces: int) -> None:
    """Remove the files of an earlier plan with more pieces."""
    own = {file_name(number) for number in range(pieces)}
    for path in folder.glob("assignments-*.parquet"):
        if path.name not in own:
            path.unlink()


def _request(batch: LargeBatch, pieces: Sequence[Piece], seed: int) -> dict[str, Any]:
    """Return what was asked, as a manifest holds it."""
    return {
        "files": [[path, mark] for path, mark in {one.path: one.fingerprint for one in pieces}.items()],
        "columns": asdict(batch.columns),
        "capacity": [int(slots) for slots in batch.capacity],
        "unassigned_penalty": batch.unassigned_penalty,
        "load_cost": [list(map(float, tiers)) for tiers in batch.load_cost],
        "seed": seed,
    }
