"""All families of the price engine in files of three pieces and on two Ray workers, against the same in memory.

python -m tests.file_families --agents 200000 --models 40 --workers 2
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import solver
from solver.scale import LargeBatch, ScoreColumns, solve_files
from solver.scale.ray_workers import RayFleet, start_local
from tests.engines.test_price import KINDS, scores_of, slots_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_PIECES = 3
_SAME = 1e-12


class Family(NamedTuple):
    """A shape of instances: scores, agents per slot, and what else is special."""

    kind: str
    fill: float
    special: str = ""

    def drawn(self, n: int, m: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64], float | None]:
        """Return (n, m) scores, (m,) slots and the penalty of the unassigned."""
        generator = np.random.default_rng(seed)
        scores = scores_of(self.kind, generator, n, m)
        spread = "heavy" if self.special == "few large models" else "even"
        slots, penalty = slots_for(generator, n, m, self.fill, spread=spread), None
        if self.special == "sorted":
            scores = scores[np.argsort(scores[:, 0])]
        if self.special == "two decimals":
            scores = np.round(scores, 2)
        if self.special.startswith("one pair in twenty"):
            scores[generator.random((n, m)) > 0.05] = -np.inf
            penalty = 1000.0 if self.special.endswith("dear") else 1.0
        if self.special == "half the slots, penalty":
            slots, penalty = slots // 2, 0.5
        if self.special == "half the slots":
            slots = slots // 2
        return scores, slots, penalty


FAMILIES = (
    *(Family(kind, fill) for kind in KINDS for fill in (0.8, 1.0)),
    *(Family(kind, fill) for kind in ("smooth", "uniform") for fill in (0.3, 0.99)),
    Family("smooth", 0.8, "few large models"),
    Family("uniform", 0.99, "few large models"),
    Family("smooth", 0.8, "sorted"),
    Family("smooth", 0.8, "two decimals"),
    Family("smooth", 1.0, "two decimals"),
    Family("uniform", 0.8, "one pair in twenty, cheap"),
    Family("smooth", 0.8, "one pair in twenty, dear"),
    Family("smooth", 0.8, "half the slots, penalty"),
    Family("smooth", 0.8, "half the slots"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--agents", type=int, default=200_000)
    parser.add_argument("--models", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="Leave out so many families.")
    asked = parser.parse_args()
    ray = start_local(asked.workers)
    fleet = partial(RayFleet, workers=asked.workers)
    wrong = 0
    for family, line, fits in compared(asked.agents, asked.models, asked.seed, fleet, asked.first):
        wrong += not fits
        print(f"{family.kind:17} {family.fill:4.2f} {family.special:26} {line}", flush=True)
    ray.shutdown()
    print(
        f"{len(FAMILIES)} families of {asked.agents:,} × {asked.models}: {wrong} differ from the plan in memory"
    )
    assert not wrong


def compared(n: int, m: int, seed: int, fleet: Any, first: int) -> Iterator[tuple[Family, str, bool]]:
    """Yield each family with a line that says how it went, and whether both answers are proven and equal."""
    for number, family in enumerate(FAMILIES[first:], first):
        scores, slots, penalty = family.drawn(n, m, seed + number)
        began = time.monotonic()
        expected = solver.assign(scores, slots, unassigned_penalty=penalty)
        memory_s = time.monotonic() - began
        with tempfile.TemporaryDirectory() as name:
            batch = written(Path(name) / "batch", scores, slots, penalty)
            began = time.monotonic()
            manifest = solve_files(batch, Path(name) / "plan", fleet=fleet)
            files_s = time.monotonic() - began
        assert manifest is not None, family
        found = manifest.certificate
        off = abs(found.objective - expected.objective) / max(1.0, abs(expected.objective))
        served = int((np.asarray(expected.choice) >= 0).sum())
        fits = found.optimal and not found.violations and off <= _SAME and found.served == served
        line = (
            f"objective off by {off:.0e}, gap {found.gap:.0e}, {files_s:5.1f} s, in memory {memory_s:5.1f} s"
        )
        yield family, line if fits else f"{line}  DIFFERS", fits


def written(
    folder: Path, scores: NDArray[np.float64], slots: NDArray[np.int64], penalty: float | None
) -> LargeBatch:
    """Write scores as one file a piece and return the batch of them."""
    folder.mkdir()
    m = scores.shape[1]
    for k, rows in enumerate(np.array_split(np.arange(len(scores)), _PIECES)):
        data = pa.py_buffer(np.ascontiguousarray(scores[rows]))
        flat = pa.FixedSizeBinaryArray.from_buffers(pa.binary(8 * m), len(rows), [None, data])
        pq.write_table(
            pa.table({"agent": rows, "score": flat}), folder / f"{k}.parquet", use_dictionary=False
        )
    return LargeBatch(
        files=[str(folder)],
        columns=ScoreColumns(models=tuple(f"m{j}" for j in range(m)), scores="score"),
        capacity=slots.tolist(),
        unassigned_penalty=penalty,
    )


if __name__ == "__main__":
    main()
