"""Interrupt the command line at random moments, and look at what it leaves behind.

Run it as ``python -m tests.interrupted_runs --count 200 --seed 0``. Each run solves a problem over existing files
and is sent SIGINT or SIGTERM at a random moment between the start of Python and its end, imports included. It must
end with 130 or 143 (or by the signal itself, which a shell reports as the same number, where Python had not begun),
or with 0 when it was done, with both files new or both as they were, nothing else beside them, and no traceback.

Moments are chosen in processor time of the run, of which a whole run takes much the same on an idle machine and on a
busy one; so nearly every signal meets a process at work.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMMAND = [str(Path(sys.executable).with_name("solver"))]
FIRST_S = 0.04
"""Processor time before the first interrupt, in seconds: Python itself needs 20 to 30 ms to start."""

MEASURED_RUNS = 3
"""Whole runs whose median is taken for the length of a run."""

OLD = "old\n"


def make_problem(folder: Path, agents: int) -> Path:
    """Write a problem and return its file."""
    command = [*COMMAND, "generate", str(folder), "--agents", str(agents), "--models", "12"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder / "problem.yaml"


def start(problem: Path, output: Path) -> subprocess.Popen[bytes]:
    """Start a solve that writes over existing files."""
    output.write_text(OLD)
    output.with_suffix(".summary.json").write_text(OLD)
    output.chmod(0o640)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*COMMAND, "solve", str(problem), "-o", str(output)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        # A shell that runs this in the background ignores SIGINT for its children; a terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def faults_of(process: subprocess.Popen[bytes], sent: signal.Signals, output: Path) -> list[str]:
    """Return what is wrong once a process has been sent a signal."""
    _, errors = process.communicate(timeout=120)
    found = []
    if process.returncode not in (0, 128 + sent, -sent):
        found.append(f"exit {process.returncode} after {sent.name}: {errors.decode()[-400:]}")
    if b"Traceback" in errors:
        found.append(f"traceback: {errors.decode()[-400:]}")
    summary = output.with_suffix(".summary.json")
    beside = {path.name for path in output.parent.iterdir()} - {output.name, summary.name}
    if beside:
        found.append(f"left behind: {sorted(beside)}")
    texts = (output.read_text(), summary.read_text())
    if OLD in texts and texts != (OLD, OLD):
        found.append("one of the two files is new")
    if texts != (OLD, OLD):
        rows = texts[0].count("\n") - 1
        if rows != json.loads(texts[1])["agents"] or not texts[0].endswith("\n"):
            found.append(f"half a file of {rows} rows")
    if process.returncode == 0 and OLD in texts:
        found.append("exit 0 without new files")
    if output.stat().st_mode & 0o777 != 0o640:
        found.append("another mode than that of the file replaced")
    return found


def processor_s(process: subprocess.Popen[bytes]) -> float | None:
    """Return the processor time that the main thread of a running process took, None when it has ended."""
    try:
        text = Path(f"/proc/{process.pid}/schedstat").read_text()
    except OSError:
        return None
    return int(text.split()[0]) / 1e9 if process.poll() is None else None


def wait_until(process: subprocess.Popen[bytes], moment: float) -> float:
    """Wait until a process took some processor time or has ended; return the last that was seen, in seconds."""
    last = 0.0
    while (taken := processor_s(process)) is not None:
        last = taken
        if taken >= moment:
            break
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.002)
    return last


@dataclass(frozen=True)
class Outcome:
    """What came of many interrupts.

    Parameters
    ----------
    ends : Counter of str
        How often each signal ended in each exit code.
    met : int
        Signals that were sent to a process still at work.
    run_s : float
        Processor time of a whole run, the median of several, in seconds.
    faults : list of str
        What was wrong.
    """

    ends: Counter[str]
    met: int
    run_s: float
    faults: list[str]


def run(count: int, seed: int, *, agents: int) -> Outcome:
    """Interrupt a solve ``count`` times at moments drawn from ``seed``, and return what came of it."""
    rng = random.Random(seed)  # noqa: S311 - moments, not secrets
    ends: Counter[str] = Counter()
    found: list[str] = []
    met = 0
    with tempfile.TemporaryDirectory() as name:
        problem = make_problem(Path(name) / "problem", agents)
        folder = Path(name) / "out"
        folder.mkdir()
        output = folder / "plan.csv"
        lengths = []
        for _ in range(min(MEASURED_RUNS, count)):
            process = start(problem, output)
            lengths.append(wait_until(process, float("inf")))
            process.communicate()
        whole = statistics.median(lengths)
        for _ in range(count):
            sent = rng.choice((signal.SIGINT, signal.SIGTERM))
            moment = rng.uniform(FIRST_S, whole)
            process = start(problem, output)
            wait_until(process, moment)
            if process.poll() is None:
                met += 1
                process.send_signal(sent)
            found += [
                f"at {moment:.3f} s of {whole:.2f}: {text}" for text in faults_of(process, sent, output)
            ]
            ends[f"{sent.name} {process.returncode}"] += 1
    return Outcome(ends, met, whole, found)


def main() -> int:
    """Run the command and return 1 when anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.interrupted_runs", description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--agents", type=int, default=20_000)
    options = parser.parse_args()
    found = run(options.count, options.seed, agents=options.agents)
    print(
        f"{options.count} interrupts over runs of {found.run_s:.2f} s of processor time, seed {options.seed}: "
        f"{found.met} met a process at work"
    )
    for end, times in sorted(found.ends.items()):
        print(f"{times:6} {end}")
    print(f"{len(found.faults)} faults")
    for text in found.faults:
        print(f"  {text}")
    return 1 if found.faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
