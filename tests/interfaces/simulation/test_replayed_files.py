"""What ``solver simulate`` takes besides traces of requests, and that it gives the same answer again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import solver
from solver.clock import ManualClock
from solver.interfaces.cli import main
from solver.interfaces.files.sources import Reading
from solver.interfaces.simulation.traces import read_trace
from solver.online.decision_records import DecisionRecord, read_decisions
from solver.simulate.metrics import MEASURED

if TYPE_CHECKING:
    from pathlib import Path

FLEET = """
- id: large
  capacity: {max_concurrent: 2, max_queue: 2}
  capabilities: {general: 0.9}
  latency_s: 0.5
  output_tokens_per_second: 40
- id: small
  capacity: {max_concurrent: 3, max_queue: 3}
  capabilities: {general: 0.6}
  latency_s: 0.3
  output_tokens_per_second: 80
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.yaml"
    path.write_text(FLEET)
    return path


def results(fleet: Path, *given: str) -> list[dict[str, Any]]:
    """Return what the command writes; it has to succeed."""
    out = fleet.parent / "out.json"
    assert main(["simulate", "--fleet", str(fleet), "--quiet", "--force", "--json", str(out), *given]) == 0
    found: list[dict[str, Any]] = json.loads(out.read_text())["results"]
    return found


def test_client_rates_are_a_trace_of_another_window_for_each_seed(
    tmp_path: Path, fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        f"language,{model},{client},{600 * window},{rate},{cv},{family},0,0"
        for model, share in (("busy", 1.0), ("quiet", 0.01))
        for client, rate, cv, family in ((0, 0.3 * share, 2.0, "Gamma"), (1, 0.1 * share, 3.0, "Weibull"))
        for window in range(6)
    ]
    rates = tmp_path / "rates.csv"
    rates.write_text("\n".join(["category,model,client,t_s,rate_per_s,cv,family,p1,p2", *rows]) + "\n")
    [busy] = results(fleet, "--trace", str(rates), "--requests", "60", "--policies", "random", "--seeds", "4")
    assert busy["arrived"] == 60
    assert 0.1 < busy["rate_per_s"] < 2.0
    assert len(set(busy["per_seed"]["p50_latency_ms"])) == 4
    more = ["--client-model", "quiet", "--requests", "5", "--policies", "random", "--seeds", "1"]
    [quiet] = results(fleet, "--trace", str(rates), *more)
    assert quiet["rate_per_s"] < 0.1
    assert main(["simulate", "--fleet", str(fleet), "--trace", str(rates), "--client-model", "bussy"]) == 2
    assert "did you mean 'busy'" in capsys.readouterr().err
    rates.write_text(rates.read_text().replace("Weibull", "Pareto"))
    assert main(["simulate", "--fleet", str(fleet), "--trace", str(rates)]) == 2
    assert "family: expected Gamma or Weibull, got 'Pareto'" in capsys.readouterr().err


def test_a_log_of_decisions_is_a_trace_with_the_scores_of_then(tmp_path: Path, fleet: Path) -> None:
    log, clock = tmp_path / "decisions.jsonl", ManualClock(50.0)
    models = [
        solver.Model(
            id=name,
            capacity=solver.Capacity(max_concurrent=2),
            capabilities={"coding": coding, "prose": prose},
        )
        for name, coding, prose in (("large", 0.9, 0.2), ("small", 0.1, 0.8))
    ]
    tracker = solver.LoadTracker(clock=clock)
    own = {"prose": ("prose",)}
    with solver.OptimalRouter(tracker, models, background=False, decision_log=log, task_types=own) as router:
        for k in range(12):
            kind = "prose" if k % 2 else "coding"
            agent = solver.Agent(id=f"a{k}", task_type=kind, input_tokens=100 + k, output_tokens=30)
            decision = router.route(agent)
            clock.advance(4.0)
            if decision.model is not None:
                decision.release(latency_ms=900.0, tokens=100 + k + 70)
    traffic = read_trace(log, reading=Reading())
    assert traffic.arrival_s.tolist() == [4.0 * k for k in range(12)]
    assert traffic.input_tokens.tolist() == [100 + k for k in range(12)]
    assert set(traffic.output_tokens.tolist()) == {70}
    assert traffic.recorded is not None
    [one] = results(fleet, "--trace", str(log), "--policies", "constant:large", "--seeds", "1")
    known = [record.scores["large"] for record in read_decisions(log) if isinstance(record, DecisionRecord)]
    assert len(set(known)) == 2
    assert one["quality"]["mean"] == pytest.approx(sum(known) / 12)


def test_a_schedule_from_a_file_takes_a_model_away(
    tmp_path: Path, fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--requests", "80", "--load", "0.3", "--seeds", "1", "--policies", "constant:large"]
    plan = tmp_path / "schedule.yaml"
    plan.write_text("- {model: large, from_s: 0, outage: true}\n")
    [down] = results(fleet, *asked, "--schedule", str(plan))
    assert (down["served"]["mean"], down["throttled"]["mean"]) == (0, 80)
    table = tmp_path / "schedule.csv"
    table.write_text("model,from_s,until_s,failure_rate\nlarge,0,1000000,1\n")
    [failing] = results(fleet, *asked, "--schedule", str(table))
    assert failing["failed"]["mean"] > 40
    plan.write_text("- {model: lrge, from_s: 0, outage: true}\n- {model: large, from_s: -1, outage: true}\n")
    assert main(["simulate", "--fleet", str(fleet), "--schedule", str(plan)]) == 2
    assert "schedule[1].from_s: expected a time >= 0, got -1" in capsys.readouterr().err


def test_same_seed_same_report_in_other_processes(fleet: Path) -> None:
    """Byte for byte, but for what is measured, whatever the order of Python's hashes."""
    policies = "weighted-optimal,optimal-router,least-tokens,random"
    documents = []
    for hash_seed in ("1", "2"):
        out = fleet.parent / f"{hash_seed}.json"
        command = ["-m", "solver", "simulate", "--fleet", str(fleet), "--trace", "bursts", "--requests", "40"]
        command += ["--load", "0.9", "--seeds", "2", "--policies", policies, "--quiet", "--json", str(out)]
        subprocess.run([sys.executable, *command], check=True, env=os.environ | {"PYTHONHASHSEED": hash_seed})
        document = json.loads(out.read_text())
        for one in document["results"]:
            assert (one["refreshes"]["mean"] > 0) == (one["policy"] == "optimal-router")
            for figure in MEASURED:
                measured = one.pop(figure)["mean"]
                if figure.startswith("refresh_us"):
                    assert (measured is not None) == (one["policy"] == "optimal-router")
                else:
                    assert measured is not None or figure == "decision_us_p99_batch"
        documents.append(json.dumps(document))
    assert documents[0] == documents[1]


def test_an_interrupt_leaves_no_file(fleet: Path) -> None:
    out, page = fleet.parent / "out.json", fleet.parent / "out.html"
    command = [sys.executable, "-m", "solver", "simulate", "--fleet", str(fleet), "--requests", "1000000"]
    command += ["--policies", "random", "--load", "0.8", "--json", str(out), "--html", str(page)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "5 replays of 1,000,000 requests" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert sorted(path.name for path in fleet.parent.iterdir()) == ["fleet.yaml"]


def test_models_without_slots_and_without_speed_are_named(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.write_text(FLEET.replace("{max_concurrent: 3, max_queue: 3}", "{max_concurrent: 0}"))
    asked = ["simulate", "--fleet", str(fleet), "--requests", "20", "--seeds", "1", "--policies", "random"]
    assert main(asked) == 0
    assert "small never serves: max_concurrent is 0" in capsys.readouterr().err
    fleet.write_text(FLEET.replace("output_tokens_per_second: 40", "output_tokens_per_second: 0"))
    assert main(asked) == 2
    assert "models[0].output_tokens_per_second: expected > 0, got 0" in capsys.readouterr().err


def test_a_score_table_without_a_model_of_the_fleet_is_refused(
    tmp_path: Path, fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = tmp_path / "scores.csv"
    scores.write_text("agent,large\na,0.5\nb,0.6\n")
    assert main(["simulate", "--fleet", str(fleet), "--scores", str(scores)]) == 2
    assert "small: expected scores of every model of the fleet, got none" in capsys.readouterr().err
