"""Interrupt the command line at random moments, and look at what it leaves behind.

Run it as ``python -m tests.interrupted_runs --count 200 --seed 0``. Each run solves a problem over existing files
and is sent SIGINT or SIGTERM at a random moment between its first milliseconds and its end. It must end with 130 or
143 (or by the signal itself, which a shell reports as the same number, where Python had not begun), or with 0 when it
was done, with both files new or both as they were, nothing else beside them, and no traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMMAND = [str(Path(sys.executable).with_name("solver"))]
FIRST_S = 0.1
"""Moment of the first interrupt: Python itself needs some 20 ms, and more on a busy machine, to start."""

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


def run(count: int, seed: int, *, agents: int) -> tuple[Counter[str], list[str]]:
    """Return how the runs ended, and what was wrong with them."""
    rng = random.Random(seed)  # noqa: S311 - moments, not secrets
    ends: Counter[str] = Counter()
    found: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        problem = make_problem(Path(name) / "problem", agents)
        folder = Path(name) / "out"
        folder.mkdir()
        output = folder / "plan.csv"
        begin = time.perf_counter()
        start(problem, output).communicate()
        whole = time.perf_counter() - begin
        for _ in range(count):
            sent = rng.choice((signal.SIGINT, signal.SIGTERM))
            moment = rng.uniform(FIRST_S, max(whole, 2 * FIRST_S))
            process = start(problem, output)
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                process.send_signal(sent)
            found += [
                f"at {moment:.3f} s of {whole:.2f}: {text}" for text in faults_of(process, sent, output)
            ]
            ends[f"{sent.name} {process.returncode}"] += 1
    return ends, found


def main() -> int:
    """Run the command and return 1 when anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.interrupted_runs", description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--agents", type=int, default=20_000)
    options = parser.parse_args()
    ends, found = run(options.count, options.seed, agents=options.agents)
    print(f"{sum(ends.values())} interrupts, seed {options.seed}: {dict(ends)}")
    print(f"{len(found)} faults")
    for text in found:
        print(f"  {text}")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
