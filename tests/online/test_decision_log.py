"""The log of decisions: every field, bounded on disk and in memory, read back whole, explained by the command line."""

from __future__ import annotations

import json
import os
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import solver
from solver.clock import ManualClock
from solver.interfaces.cli import main
from solver.online.decision_log import DecisionLog
from solver.online.decision_records import DecisionRecord, ReleaseRecord, find_decision, read_decisions

if TYPE_CHECKING:
    from pathlib import Path


def router_with(log: Any, slots: Any = (1, 1), **options: Any) -> Any:
    models = [
        solver.Model(
            id=f"m{j}", capacity=solver.Capacity(max_concurrent=count), capabilities={"coding": 0.9 - 0.2 * j}
        )
        for j, count in enumerate(slots)
    ]
    tracker = solver.LoadTracker(clock=ManualClock(100.0))
    return solver.OptimalRouter(tracker, models, background=False, decision_log=log, **options)


def test_decisions_refusals_and_releases_are_logged_with_what_they_were_made_from(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    agent = solver.Agent(id="a1", task_type="coding", input_tokens=300, output_tokens=50, tenant="t")
    with router_with(path) as router:
        first = router.route(agent)
        second = router.route(scores=[0.9, 0.4], service_s=[1.0, 2.0], cost_usd=[0.1, 0.2], tokens=7)
        refused = router.route(scores=[0.9, -np.inf])
        first.release(latency_ms=120.0, tokens=350, success=True)
        first.release()
        second.release(success=False)
    one, two, three, released, failed = read_decisions(path)
    assert isinstance(one, DecisionRecord)
    assert (one.agent, one.task_type, one.tenant, one.tokens) == ("a1", "coding", "t", 350)
    assert (one.input_tokens, one.output_tokens) == (300, 50)
    assert one.scores["m0"] == first.score > one.scores["m1"]
    assert (one.chosen, one.runner_up, one.lease) == ("m0", "m1", first.lease.lease_id)
    assert (one.score, one.price) == (first.score, first.price)
    assert one.margin == pytest.approx(first.margin)
    assert one.scores["m0"] - one.prices["m0"] > one.scores["m1"] - one.prices["m1"]
    assert (one.propensity, one.reason, one.at_s) == (1.0, "best after price", 100.0)
    assert isinstance(two, DecisionRecord)
    assert (two.agent, two.chosen, set(two.prices)) == (None, "m1", {"m1"})
    assert (two.service_s, two.expected_usd) == ({"m0": 1.0, "m1": 2.0}, {"m0": 0.1, "m1": 0.2})
    assert isinstance(three, DecisionRecord)
    assert (three.chosen, three.lease, three.reason) == (None, None, refused.refusal.reason.value)
    assert three.retry_after_s == pytest.approx(refused.refusal.retry_after_s)
    assert len({one.features, two.features, three.features}) == 3
    assert isinstance(released, ReleaseRecord)
    assert (released.lease, released.latency_ms, released.tokens) == (one.lease, 120.0, 350)
    assert isinstance(failed, ReleaseRecord)
    assert (failed.lease, failed.success) == (two.lease, False)


def test_joint_placement_and_tasks_are_logged_once_each(tmp_path: Path) -> None:
    import asyncio

    path = tmp_path / "decisions.jsonl"
    router = router_with(path, (2, 1))

    async def ask() -> list[Any]:
        return list(await asyncio.gather(*(router.route_async(scores=[0.9, 0.5]) for _ in range(2))))

    decisions = [*router.route_many(scores=[[0.9, 0.8], [0.9, 0.1]]), *asyncio.run(ask())]
    router.close()
    records = [one for one in read_decisions(path) if isinstance(one, DecisionRecord)]
    assert sorted(str(one.lease) for one in records) == sorted(
        str(one.lease.lease_id if one else None) for one in decisions
    )
    assert [one.chosen for one in records].count(None) == 1


def test_files_are_rotated_and_bounded(tmp_path: Path) -> None:
    path = tmp_path / "log" / "decisions.jsonl"
    path.parent.mkdir()
    log = DecisionLog(path, max_bytes=4096, files=3)
    router = router_with(log, (100, 100))
    for _ in range(100):
        router.route(scores=[0.5, 0.25])
        log.flush()
    router.close()
    sizes = [file.stat().st_size for file in path.parent.iterdir()]
    assert len(sizes) == 3
    assert max(sizes) <= 4096
    kept = list(read_decisions(path))
    assert kept[-1].lease is not None
    assert [find_decision(path, str(one.lease))[0] for one in kept] == kept  # oldest first, none twice
    assert router.status().log_dropped == 0


def test_a_disk_that_is_too_slow_costs_records_and_nothing_else(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "decisions.jsonl", buffer=5)
    router = router_with(log, (100, 100))
    gate = threading.Event()
    write = log._file.line

    def slow(text: str) -> None:
        gate.wait(30)
        write(text)

    log._file.line = slow  # type: ignore[method-assign]
    for _ in range(50):
        assert router.route(scores=[0.5, 0.25])
    assert router.status().log_dropped >= 44
    assert router.status().log_error == "the buffer is full"
    gate.set()
    router.close()
    assert len(list(read_decisions(log.path))) == 50 - router.status().log_dropped
    assert router.route(scores=[0.5, 0.25])
    assert router.status().log_error == "the log is closed"


def test_a_line_cut_off_by_a_crash_is_removed_and_a_file_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    for _ in range(2):
        with router_with(path) as router:
            router.route(scores=[0.5, 0.25])
        with path.open("a") as file:
            file.write('{"event":"decis')
    assert len(list(read_decisions(path))) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_writes_its_own_lines(tmp_path: Path) -> None:
    import subprocess
    import sys

    script = """
import os, sys, solver
from solver.load.store.memory import MemoryStore
models = [solver.Model(id="a", capacity=solver.Capacity(max_concurrent=9))]
tracker = solver.LoadTracker(MemoryStore(per_process=True))
router = solver.OptimalRouter(tracker, models, background=False, decision_log=sys.argv[1])
router.route(scores=[0.5])
child = os.fork()
if child == 0:
    router.route(scores=[0.5])
    router.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
router.route(scores=[0.5])
"""
    path = tmp_path / "decisions.jsonl"
    subprocess.run([sys.executable, "-W", "ignore", "-c", script, str(path)], check=True, timeout=60)
    records = [one for one in read_decisions(path) if isinstance(one, DecisionRecord)]
    assert len({one.id for one in records}) == 3  # the last is written when the process ends


def test_the_command_line_explains_a_decision(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "decisions.jsonl"
    with router_with(path) as router:
        held = router.route(solver.Agent(id="a1", task_type="coding"))
        router.route(solver.Agent(id="a2", allowed_models=("m0",)))
        held.release(latency_ms=12.0)
    assert main(["explain", "a1", "--decision", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "a1 → m0" in printed
    assert printed.index("→ m0") < printed.index("2nd")
    assert held.lease.lease_id in printed
    assert "succeeded, 12 ms" in printed
    assert main(["explain", held.lease.lease_id, "--decision", str(path)]) == 0
    assert "a1 → m0" in capsys.readouterr().out
    assert main(["explain", "a2", "--decision", str(path)]) == 0
    assert "a2 → refused" in capsys.readouterr().out


def test_bad_logs_are_refused_with_file_and_line(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "decisions.jsonl"
    assert main(["explain", "a1", "--decision", str(path)]) == 2
    assert "no such log" in capsys.readouterr().err
    with router_with(path) as router:
        router.route(scores=[0.5, 0.25])
    good = path.read_text()
    assert main(["explain", "zebra", "--decision", str(path)]) == 2
    assert "'zebra'" in capsys.readouterr().err
    assert main(["explain", "a1", "problem.yaml", "--decision", str(path)]) == 2
    assert "problem: expected none" in capsys.readouterr().err
    wrong = json.loads(good) | {"scores": [1.0]}
    for text, message in (
        ("nonsense\n", ":2: expected a JSON object"),
        ('{"event": "other"}\n', ":2: expected a record"),
        ('{"event": "decision", "version": 99}\n', ":2: expected version 1 or less, got 99"),
        (json.dumps(wrong) + "\n", ":2: scores"),
    ):
        path.write_text(good + text)
        assert main(["explain", "a1", "--decision", str(path)]) == 2
        assert message in capsys.readouterr().err.replace("\n", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_bytes": 1}, "max_bytes: expected a whole number >= 4096"),
        ({"files": 1}, "files: expected a whole number >= 2"),
        ({"buffer": 0}, "buffer: expected a whole number >= 1"),
    ],
)
def test_bad_parameters_are_refused(tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(solver.SpecError, match=message):
        DecisionLog(tmp_path / "x", **options)


def test_a_file_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(solver.SpecError, match="decision_log: expected a file that can be written"):
        router_with(tmp_path / "nowhere" / "x")
    log = DecisionLog(tmp_path / "x")
    router_with(log).close()
    with pytest.raises(solver.SpecError, match="a log of its own"):
        router_with(log, (1, 1, 1))
