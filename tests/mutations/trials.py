"""One mutation after the other: the command line is run on it, and what it says and writes is checked."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import re
import resource
import signal
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.interfaces.cli import main as solver_main
from tests.mutations.corpus import Case, corpus
from tests.mutations.mutators import HARMFUL, HARMLESS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_SECONDS = 2.0
_MEGABYTES = 400.0
_HANG_S = 20
"""Processor seconds after which a run is taken for one without end."""

_MEMORY = Path("/dev/shm")  # noqa: S108 - files in memory: thousands of waits for a disk would show nothing
_BLOCK = 250
"""Mutations that one process makes before it takes more."""

_PLACE = re.compile(r"^:\d+: | row \d+: |^: (sheet|row group|column) |^: [\w-]+(\[\d+\])[\w.\[\], -]*: ")
"""What follows a file's name where an error says where in it: a line, a row, or the path of a field."""

_WHOLE_FILE = re.compile(
    r"^: (no such file|expected one of \.|expected a (problem file|table) |broken (gz|zst) data|expected (gz|zst) )"
)
"""Errors about a file as a whole; where another file names it, they say where."""

_NAMED_ELSEWHERE = re.compile(r"; .*:\d+ names it$")
"""How an error about a whole file ends where another file names it."""

_SURPRISE = re.compile(r"\(((?:Key|Attribute|Index|Type|Assertion|Name|ZeroDivision|UnboundLocal)Error)\)")
"""What the boundary says where a reader raised what no file should make it raise."""
_HARMLESS_SHARE = 0.25


@dataclass
class Findings:
    """What came out of many mutations."""

    rejected: int = 0
    accepted: int = 0
    unchanged: int = 0
    slowest_s: float = 0.0
    without_place: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    peak_mb: float = 0.0

    def add(self, other: Findings) -> None:
        """Add what another process found."""
        self.rejected += other.rejected
        self.accepted += other.accepted
        self.unchanged += other.unchanged
        self.slowest_s = max(self.slowest_s, other.slowest_s)
        self.peak_mb = max(self.peak_mb, other.peak_mb)
        self.without_place.update(other.without_place)
        self.kinds.update(other.kinds)
        self.faults.extend(other.faults)


def _run(arguments: Sequence[str]) -> tuple[int, str, str, float]:
    """Run the command line in this process; return its code, output, errors and the processor time in seconds."""
    out, err = io.StringIO(), io.StringIO()
    begin = time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = solver_main(arguments)
    return code, out.getvalue(), err.getvalue(), time.process_time() - begin


def _plan(folder: Path) -> dict[str, Any]:
    rows = json.loads((folder / "plan.json").read_text())["assignments"]
    return {row["agent"]: row["model"] for row in rows}


def _solve(folder: Path, arguments: Sequence[str]) -> tuple[int, str, str, float]:
    return _run(["solve", *arguments, "--json", "-o", str(folder / "plan.json")])


def _in_folder(folder: Path, case: Case, renamed: dict[str, str]) -> list[str]:
    """Return the arguments of a case with its files in a folder."""
    return [str(folder / renamed.get(one, one)) if one in case.files else one for one in case.arguments]


def _verify(folder: Path, arguments: list[str], summary: str) -> str | None:
    """Return what is wrong with the plan just written, None when it is what it says."""
    code, out, err, _ = _run(["verify", *arguments, str(folder / "plan.json"), "--json", "--no-bound"])
    if code != 0:
        return f"verify ended with {code}: {err.strip() or out.strip()}"
    claimed, found = json.loads(summary)["objective"], json.loads(out)["objective"]
    if claimed is None or abs(claimed - found) > 1e-9 * max(1.0, abs(found)):
        return f"objective {claimed} is {found} when recomputed"
    return None


def _try(
    case: Case, kind: str, harmless: bool, folder: Path, rng: np.random.Generator, found: Findings
) -> None:
    mutation = (HARMLESS if harmless else HARMFUL)[kind]
    data = mutation(case.target, case.files[case.target], rng)
    if data is None:
        return
    renamed = {}
    if kind == "compressed":
        if any(case.target in text for text in case.files.values()):
            return  # another file refers to it by its name
        renamed[case.target] = f"{case.target}.gz"
    for name, text in case.files.items():
        (folder / name).write_text(text)
    target = folder / renamed.get(case.target, case.target)
    target.write_bytes(data)
    found.kinds[f"{case.name}, {kind}"] += 1
    arguments = _in_folder(folder, case, renamed)
    expected = None
    if harmless:
        reference = folder / "reference"
        reference.mkdir(exist_ok=True)
        for name, text in case.files.items():
            (reference / name).write_text(text)
        code, _, err, _ = _solve(reference, _in_folder(reference, case, {}))
        if code != 0:
            surprise = _SURPRISE.search(err)
            what = f"a reader raised {surprise[1]}" if surprise else err.strip()[-300:]
            found.faults.append(f"{case.name} is refused as it is: {what}")
            return
        expected = _plan(reference)
    label = f"{case.name}, {kind}: {data[:200]!r}{'...' if len(data) > 200 else ''}"
    code, out, err, seconds = _solve(folder, arguments)
    if surprise := _SURPRISE.search(err):
        found.faults.append(f"a reader raised {surprise[1]}, {err.strip()[-300:]}: {label}")
    found.slowest_s = max(found.slowest_s, seconds)
    if seconds > _SECONDS:
        found.faults.append(f"{seconds:.1f} s: {label}")
    if "Traceback" in err or "error: unexpected " in err or code not in (0, 2, 3):
        found.faults.append(f"exit {code}, {err.strip()[-300:]}: {label}")
    elif code == 2:
        found.rejected += 1
        lines = [line for line in err.splitlines() if line.startswith("error:")]
        if not lines or not all(str(folder) in line for line in lines):
            found.faults.append(f"no file in {lines[:3]}: {label}")
        found.without_place.update(
            re.sub(r"\d+|'.*'", "_", line.replace(str(folder), ""))[:90]
            for line in lines
            if not _has_place(line, target, folder)
        )
        if harmless:
            found.faults.append(f"refused though harmless, {lines[:2]}: {label}")
    else:
        found.accepted += 1
        wrong = _verify(folder, arguments, out) if code == 0 else None
        if wrong:
            found.faults.append(f"{wrong}: {label}")
        if harmless:
            found.unchanged += 1
            if _plan(folder) != expected:
                found.faults.append(f"another plan though harmless: {label}")


def _has_place(line: str, target: Path, folder: Path) -> bool:
    """Return whether an error says where in a file its reason stands."""
    if _NAMED_ELSEWHERE.search(line):
        return True
    _, found, rest = line.partition(f"error: {folder}/")
    name = re.match(r"[\w.]*\w", rest) if found else None
    if name is None:
        return False
    rest = rest[name.end() :]
    if _WHOLE_FILE.match(rest):
        return str(folder / name[0]) == str(target)
    return _PLACE.search(rest) is not None


def _block(job: tuple[int, int, int]) -> Findings:
    """Return what came out of one block of mutations: (count, seed, number of the block)."""
    count, seed, number = job
    found = Findings()
    before = _peak_mb()  # other tests may have run in this process
    attempt = 0
    signal.signal(signal.SIGPROF, _hang)
    import pandas  # noqa: F401 - before any timer runs: an interrupted import would leave half of it behind

    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as name:
        while sum(found.kinds.values()) < count:
            rng = np.random.default_rng([seed, number, attempt])
            attempt += 1
            cases = corpus(rng)
            case = cases[int(rng.integers(len(cases)))]
            harmless = bool(rng.random() < _HARMLESS_SHARE)
            kinds = list(HARMLESS if harmless else HARMFUL)
            kind = kinds[int(rng.integers(len(kinds)))]
            folder = Path(name) / "run"
            folder.mkdir(exist_ok=True)
            signal.setitimer(signal.ITIMER_PROF, _HANG_S)
            try:
                _try(case, kind, harmless, folder, rng, found)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
    found.peak_mb = _peak_mb()
    if found.peak_mb - before > _MEGABYTES:
        found.faults.append(
            f"{found.peak_mb - before:.0f} MB more than before, of which {_MEGABYTES:g} are allowed"
        )
    return found


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(
    count: int, seed: int, *, jobs: int = 1, report: Callable[[Findings], None] | None = None
) -> Findings:
    """Return what came out of ``count`` mutations, shared by ``jobs`` processes.

    Parameters
    ----------
    count, seed : int
        How many, and which.
    jobs : int
        Processes; with one, this process does everything.
    report : callable, optional
        Called with what was found so far, after every block.
    """
    blocks = [(min(_BLOCK, count - start), seed, start // _BLOCK) for start in range(0, count, _BLOCK)]
    found = Findings()
    with contextlib.ExitStack() as stack:
        results: Iterator[Findings] = map(_block, blocks)
        if jobs > 1:
            pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(jobs))
            results = pool.imap(_block, blocks)
        for one in results:
            found.add(one)
            if report is not None:
                report(found)
    return found


class _EndlessRun(BaseException):
    """A run without end; no boundary of the command line takes it for an error of a file."""


def _hang(_number: int, _frame: Any) -> None:
    msg = f"no end after {_HANG_S} s of processor time"
    raise _EndlessRun(msg)
