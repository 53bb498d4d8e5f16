"""Workers of a local Ray cluster killed at random moments: every plan must be that of an undisturbed job.

python -m tests.killed_workers --kills 10 --agents 1000000 --seed 0
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_scale import batch_of, generate
from solver.scale import solve_files
from solver.scale.ray_workers import RayFleet, start_local


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="Kills that met a worker at work.")
    parser.add_argument("--agents", type=int, default=1_000_000)
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    generator = np.random.default_rng(asked.seed)
    ray = start_local(2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(folder / "batch", asked.agents, asked.models, "binary", rows_a_file=asked.agents // 4)
        batch = batch_of(folder / "batch", asked.agents, asked.models, "binary")
        began = time.monotonic()
        expected = solve_files(batch, folder / "plan", fleet=partial(RayFleet, workers=2))
        usual_s = time.monotonic() - began
        kills = runs = 0
        while kills < asked.kills and runs < 4 * asked.kills:
            runs += 1
            killed: list[int] = []
            fleet = partial(struck, ray, generator.random() * usual_s, int(generator.integers(2)), killed)
            assert solve_files(batch, folder / "plan", fleet=fleet) == expected, "another plan"
            kills += len(killed)
            print(f"run {runs}: {'killed' if killed else 'over before the kill'}, the same plan", flush=True)
    ray.shutdown()
    print(
        f"{kills} real kills in {runs} runs: every manifest, with its checksums, is that of the undisturbed job"
    )
    assert kills >= asked.kills


def struck(ray: Any, after_s: float, place: int, killed: list[int], *arguments: Any) -> Any:
    """Return actors of which one is killed after so many seconds, if the job still has them."""

    class Struck(RayFleet):
        def close(self) -> None:
            timer.cancel()
            timer.join()
            super().close()

    fleet = Struck(*arguments, workers=2)
    processes = ray.get([actor.process.remote() for actor in fleet.actors])

    def kill() -> None:
        os.kill(processes[place], signal.SIGKILL)
        killed.append(processes[place])

    timer = threading.Timer(after_s, kill)
    timer.start()
    return fleet


if __name__ == "__main__":
    main()
