"""Interrupts at random moments; ``python -m tests.interrupted_runs --count 200`` does the same at length."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from solver.interfaces.files.atomic_files import UnfinishedFiles
from tests.interrupted_runs import COMMAND, ROOT, run

if TYPE_CHECKING:
    from pathlib import Path


def test_interrupts_leave_all_or_nothing() -> None:
    outcome = run(8, 3, agents=5000)
    assert outcome.faults == []
    assert sum(outcome.ends.values()) == 8
    assert outcome.met >= 6


def test_an_interrupt_during_imports_is_no_traceback(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from solver.interfaces import entry; "
        "sys.meta_path.insert(0, type('Late', (), {'find_spec': staticmethod("
        "lambda name, *_: os.kill(os.getpid(), signal.SIGINT) if name == 'numpy' else None)})); "
        "sys.argv = ['solver', 'solve', 'x.yaml']; sys.exit(entry.main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert (done.returncode, done.stderr) == (130, b"interrupted; no file was changed\n")


def test_a_signal_that_the_parent_ignores_stays_ignored(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("agents: [{id: a}]\nmodels: [{id: m, capacity: {max_concurrent: 1}}]\n")
    process = subprocess.Popen(
        [*COMMAND, "solve", "p.yaml", "-q"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0


def test_what_is_abandoned_is_gone_and_what_is_finished_stays(tmp_path: Path) -> None:
    files = UnfinishedFiles()
    names = [tmp_path / name for name in ("one.tmp", "two.tmp", "three.tmp")]
    for name in names:
        os.close(files.create(name))
    files.finish([(names[0], tmp_path / "one.csv")])
    files.remove(names[1])
    assert files.abandon() == 1
    assert [path.name for path in tmp_path.iterdir()] == ["one.csv"]
