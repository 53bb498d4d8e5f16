"""Workers of a local Ray cluster and drivers killed: every plan must be that of an undisturbed job.

python -m tests.killed_workers --kills 10 --agents 300000 --seed 0

A worker is killed once in each kind of pass, then workers at random moments of random passes, several in one job, until
so many have died at work. A driver is killed before, while and after the files of the plan are written, and resumes:
files that it had finished must not be written again. About five minutes on two busy cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_scale import batch_of, generate
from solver.scale import LargeBatch, job, solve_files
from solver.scale.ray_workers import RayFleet, start_local

_FILES = 8
_KILLS_A_JOB = 4
_JOBS = 12
"""Jobs after which kills that came too late are given up."""

Pass = tuple[str, float]
"""Method of a call of the workers, and how long it took, in seconds."""

Strikes = Mapping[int, tuple[float, int]]
"""By the number of a pass: after how many seconds of it a worker is killed, and which one."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="Random kills that met a worker at work.")
    parser.add_argument("--agents", type=int, default=300_000)
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    began = time.monotonic()
    ray = start_local(2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = -(-asked.agents // _FILES)
        generate(folder / "batch", asked.agents, asked.models, "binary", rows_a_file=rows)
        struck_job = Job(batch_of(folder / "batch", asked.agents, asked.models, "binary"), folder)
        kinds = struck_job.kill_in_each_pass()
        kills = struck_job.kill_at_random(asked.kills, np.random.default_rng(asked.seed))
        address = ray.get_runtime_context().gcs_address
        for moment in ("before", "while", "after"):
            struck_job.kill_driver(moment, address)
    ray.shutdown()
    seconds = time.monotonic() - began
    print(
        f"{kinds} + {kills} kills of workers, 3 of drivers in {seconds:.0f} s: the manifest, with its checksums,"
    )
    print("is that of the undisturbed job each time")


class Job:
    """A batch, and what comes of it undisturbed."""

    def __init__(self, batch: LargeBatch, folder: Path) -> None:
        self.batch, self.folder = batch, folder
        self.passes: list[Pass] = []
        self.expected = solve_files(batch, folder / "plan", fleet=partial(struck, {}, self.passes, []))
        assert self.expected is not None
        print(f"undisturbed: {len(self.passes)} passes, {len(self.expected.files)} files", flush=True)

    def struck(self, strikes: Strikes) -> list[int]:
        """Solve while workers are killed, compare, and return the passes in which one died at work."""
        killed: list[int] = []
        passes: list[Pass] = []
        found = solve_files(self.batch, self.folder / "plan", fleet=partial(struck, strikes, passes, killed))
        assert found == self.expected, f"another plan after {strikes}"
        assert [method for method, _ in passes] == [method for method, _ in self.passes]
        named = ", ".join(f"{self.passes[k][0]} after {strikes[k][0]:.3f} s" for k in killed)
        print(f"the same plan, killed at work: {named or 'none'}", flush=True)
        return killed

    def kill_in_each_pass(self) -> int:
        """Kill a worker in the longest pass of each kind, the driver's note of checksums apart."""
        longest: dict[str, int] = {}
        for k, (method, took) in enumerate(self.passes):
            if method != "expect" and (method not in longest or took > self.passes[longest[method]][1]):
                longest[method] = k
        left = set(longest.values())
        for _ in range(_JOBS):
            left -= set(self.struck({k: (0.4 * self.passes[k][1], k % 2) for k in left}))
            if not left:
                return len(longest)
        raise AssertionError(f"passes too short to be met: {[self.passes[k][0] for k in left]}")

    def kill_at_random(self, count: int, generator: np.random.Generator) -> int:
        """Kill workers at random moments, of a pass as likely as it is long, until so many have died at work."""
        kills = 0
        seconds = np.array([took for _, took in self.passes])
        for _ in range(_JOBS):
            drawn = generator.choice(len(seconds), _KILLS_A_JOB, replace=False, p=seconds / seconds.sum())
            drawn = drawn[: count - kills]
            strikes = {int(k): (generator.random() * seconds[k], int(generator.integers(2))) for k in drawn}
            kills += len(self.struck(strikes))
            if kills >= count:
                return kills
        raise AssertionError(f"only {kills} workers died at work")

    def kill_driver(self, moment: str, address: str) -> None:
        """Kill a driver before, while or after files are written, and have another one resume."""
        plan, workers = self.folder / moment, self.folder / f"{moment}.pids"
        process = multiprocessing.get_context("spawn").Process(
            target=doomed_driver, args=(self.batch, plan, workers, moment, address)
        )
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, process.exitcode
        while any(Path(f"/proc/{one}").exists() for one in workers.read_text().split()):
            time.sleep(0.05)  # Ray ends the actors of a lost driver, which may be writing
        assert not (plan / "manifest.json").exists()
        kept = {path: path.stat().st_mtime_ns for path in plan.glob("assignments-*.parquet")}
        passes: list[Pass] = []
        found = solve_files(self.batch, plan, resume=True, fleet=partial(struck, {}, passes, []))
        assert found == self.expected, f"another plan after a driver was killed {moment} files were written"
        assert all(path.stat().st_mtime_ns == before for path, before in kept.items()), "written twice"
        assert "survey" not in [method for method, _ in passes], "prices were looked for again"
        print(f"the same plan, driver killed {moment} writing: {len(kept)} files kept", flush=True)


def struck(strikes: Strikes, passes: list[Pass], killed: list[int], *arguments: Any) -> RayFleet:
    """Return two actors that are killed during some passes; note the passes, and those in which one died at work."""

    class Struck(RayFleet):
        def run(self, method: str, *arguments: Any, each: Mapping[int, Any] | None = None) -> list[Any]:
            number = len(passes)
            began = time.monotonic()
            if number not in strikes:
                found = super().run(method, *arguments, each=each)
                passes.append((method, time.monotonic() - began))
                return found
            after_s, place = strikes[number]
            process = self._ray.get(self.actors[place].process.remote())
            over = threading.Event()

            def kill() -> None:
                if not over.wait(after_s):
                    os.kill(process, signal.SIGKILL)
                    killed.append(number)

            killer = threading.Thread(target=kill)
            killer.start()
            found = super().run(method, *arguments, each=each)
            over.set()
            killer.join()
            passes.append((method, time.monotonic() - began))
            return found

    return Struck(*arguments, workers=2)


def doomed_driver(batch: LargeBatch, plan: Path, workers: Path, moment: str, address: str) -> None:
    """Solve on a running cluster in a process that is killed at a moment, leaving its workers' ids in a file."""

    def kill(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    class Doomed(RayFleet):
        def run(self, method: str, *arguments: Any, each: Mapping[int, Any] | None = None) -> list[Any]:
            if method == "finish":
                processes = self._ray.get([actor.process.remote() for actor in self.actors])
                workers.write_text(" ".join(map(str, processes)))
                if moment == "before":
                    kill()
                if moment == "while":
                    threading.Thread(target=kill_once_written, daemon=True).start()
            return super().run(method, *arguments, each=each)

    def kill_once_written() -> None:
        while not any(plan.glob(".assignments-*.json")):
            time.sleep(0.001)
        kill()

    if moment == "after":
        vars(job)["write_manifest"] = kill
    solve_files(batch, plan, fleet=partial(Doomed, workers=2, address=address))


if __name__ == "__main__":
    main()
