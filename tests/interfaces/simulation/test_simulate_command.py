"""``solver simulate``: the file it writes, the traces it reads, and what it says about bad input."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from solver import SpecError
from solver.interfaces.cli import main
from solver.interfaces.files.sources import Reading
from solver.interfaces.simulation.traces import TraceColumns, read_trace

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
"""
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:15:{k % 60:02d}.{k:07d},{100 + k},{10 + k}\n" for k in range(50)
)
CONTRACT = (
    "p50_latency_ms",
    "p95_latency_ms",
    "p99_latency_ms",
    "utilization",
    "overload_failures",
    "refused",
    "served",
    "quality",
    "cost_usd",
    "decision_us_p99",
)


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.yaml"
    path.write_text(FLEET)
    return path


def test_writes_the_contract(tmp_path: Path, fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace, out = tmp_path / "azure.csv", tmp_path / "out.json"
    trace.write_text(AZURE)
    arguments = ["simulate", "--trace", str(trace), "--fleet", str(fleet), "--load", "0.8", "--seeds", "2"]
    arguments += ["--policies", "weighted-optimal,constant:small", "--json", str(out)]
    assert main(arguments) == 0
    assert "weighted-optimal" in capsys.readouterr().out
    results = json.loads(out.read_text())["results"]
    assert [one["policy"] for one in results] == ["weighted-optimal", "constant:small"]
    assert (results[0]["trace"], results[0]["load"]) == ("azure.csv", 0.8)
    for one in results:
        for figure in CONTRACT:
            assert set(one[figure]) == {"mean", "low", "high"}
            assert one[figure]["low"] <= one[figure]["mean"] <= one[figure]["high"]
    assert main(arguments) == 2
    assert "exists; --force replaces it" in capsys.readouterr().err
    assert main([*arguments, "--force", "--quiet"]) == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--policies", "fastest"], "expected one of"),
        (["--trace", "nothing.csv"], "nothing.csv"),
        (["--trace", "often"], "expected a file, or one of poisson"),
        (["--load", "-1"], "expected > 0"),
        (["--slowdown", "-1"], "slowdown: expected"),
        (["--thin", "0"], "thin: expected"),
        (["--scores", "nothing.csv"], "nothing.csv"),
    ],
)
def test_a_users_mistake_is_one_line(
    fleet: Path, capsys: pytest.CaptureFixture[str], given: list[str], said: str
) -> None:
    assert main(["simulate", "--fleet", str(fleet), "--requests", "20", "--seeds", "1", *given]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_a_fleet_too_small_is_said_before(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["simulate", "--fleet", str(fleet), "--requests", "50", "--load", "3", "--seeds", "1"]
    assert main([*arguments, "--policies", "random"]) == 0
    assert "the fleet is too small" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "arrival", "noted"),
    [
        ("mooncake.jsonl", '{"timestamp": 0, "input_length": 5, "output_length": 2, "hash_ids": [1]}\n'
         '{"timestamp": 3000, "input_length": 6, "output_length": 3, "hash_ids": []}\n', [0.0, 3.0], "taken as ms"),
        ("burst.csv", "Timestamp,Model,Request tokens,Response tokens\n5,m,5,2\n8,m,6,3\n", [0.0, 3.0], "taken as s"),
        ("epoch.csv", "time,prompt_tokens,completion_tokens\n1700000003000,6,3\n1700000000000,5,2\n",
         [0.0, 3.0], "sorted"),
        ("gap.csv", "time_s,input_tokens,output_tokens\n0,5,2\n200000,6,3\n", [0.0, 200000.0], "2.3 days"),
    ],
)  # fmt: skip
def test_traces_of_several_kinds(
    tmp_path: Path, name: str, text: str, arrival: list[float], noted: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    reading = Reading()
    traffic = read_trace(path, reading=reading)
    assert traffic.arrival_s.tolist() == arrival
    assert traffic.input_tokens.tolist() == [5, 6]
    assert traffic.output_tokens.tolist() == [2, 3]
    assert any(noted in note for note in reading.notes)


def test_columns_by_option_and_a_batch_file(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("when,p,g\n0,1,2\n2000,3,4\n")
    columns = TraceColumns(time="when", input_tokens="p", output_tokens="g", time_unit="us")
    assert read_trace(path, columns).arrival_s.tolist() == [0.0, 0.002]
    batch = tmp_path / "batch.jsonl"
    body = {"messages": [{"role": "user", "content": "x" * 40}], "max_tokens": 7}
    batch.write_text(json.dumps({"custom_id": "1", "body": body}) + "\n")
    read = read_trace(batch)
    assert (read.input_tokens.tolist(), read.output_tokens.tolist()) == ([10], [7])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("time,input_tokens,output_tokens\n", "at least one request"),
        (
            "time,input_tokens,output_tokens\n0,-5,1\n",
            "input_tokens: expected a whole number from 0 to 1,000,000,000, got -5",
        ),
        (
            "time,input_tokens,output_tokens\n0,,1\n",
            "input_tokens: expected a whole number from 0 to 1,000,000,000",
        ),
        ("time,input_tokens,output_tokens\n-1,1,1\n0,1,1\n", "time: expected a time >= 0"),
        ("moment,input_tokens,output_tokens\n0,1,1\n", "no column found for time"),
    ],
)
def test_bad_traces_are_named_with_their_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        read_trace(path)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("header", "rows", "unit", "span_s"),
    [
        ("arrived_at_us,num_prefill_tokens,num_decode_tokens", ("0,5,2", "1500000,6,3"), "us", 1.5),
        ("arrivalTimeMs\tinputTokens\toutputTokens", ("0\t5\t2", "1500\t6\t3"), "ms", 1.5),
        ("Time (ns);Prompt Tokens;Completion Tokens", ("0;5;2", "1500000000;6;3"), "ns", 1.5),
        ("TIMESTAMP [seconds],Request tokens ,Response tokens", ("0,5,2", "1.5,6,3"), "s", 1.5),
        ("When (ms),prompt_len,output_len", ("0,5,2", "1500,6,3"), "ms", 1.5),
        (" ts ,input_length,output_length", ("0,5,2", "1500,6,3"), "ms", 1.5),
        ("created_at,tokens_in,tokens_out", ("1700000000,5,2", "1700000002,6,3"), "s", 2.0),
    ],
)
def test_odd_headers_and_units_are_understood(
    tmp_path: Path, header: str, rows: tuple[str, str], unit: str, span_s: float
) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    reading = Reading()
    traffic = read_trace(path, reading=reading)
    assert traffic.span_s == pytest.approx(span_s)
    assert (traffic.input_tokens.tolist(), traffic.output_tokens.tolist()) == ([5, 6], [2, 3])
    assert any(f"taken as {unit};" in note for note in reading.notes)


def test_faults_of_all_columns_are_told_together(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("time,input_tokens,output_tokens\n0,-5,1\n1,2,ten\n,2,3\n")
    with pytest.raises(SpecError) as caught:
        read_trace(path)
    assert [str(line).split(": ", 1)[1] for line in caught.value.violations] == [
        "time: expected a time >= 0, got an empty cell",
        "input_tokens: expected a whole number from 0 to 1,000,000,000, got -5",
        "output_tokens: expected a whole number from 0 to 1,000,000,000, got 'ten'",
    ]


def test_batches_for_other_endpoints(tmp_path: Path) -> None:
    path = tmp_path / "batch.jsonl"
    bodies = [{"input": "x" * 40, "max_output_tokens": 7}, {"prompt": "y" * 8, "max_tokens": 3}]
    path.write_text("".join(json.dumps({"custom_id": "a", "body": body}) + "\n" for body in bodies))
    traffic = read_trace(path)
    assert (traffic.input_tokens.tolist(), traffic.output_tokens.tolist()) == ([10, 2], [7, 3])


def _said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main(["simulate", "--policies", "least-tokens", "--seeds", "1", *arguments])
    found = capsys.readouterr()
    return code, " ".join((found.out + found.err).split())


def test_a_mix_of_times_with_and_without_zone_is_said(
    tmp_path: Path, fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "t.csv"
    times = ("2024-03-01T12:00:00Z", "2024-03-01 12:00:01", "2024-03-01T14:00:02+02:00")
    trace.write_text("time,input_tokens,output_tokens\n" + "".join(f"{at},5,5\n" for at in times))
    code, said = _said(["--trace", str(trace), "--fleet", str(fleet)], capsys)
    assert code == 0
    assert "time: times without a zone are taken as UTC" in said
    assert "not in order" not in said


def test_a_load_that_suggests_another_unit_is_said(
    tmp_path: Path, fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "t.csv"
    rows = "".join(f"{1700 * k},100,100\n" for k in range(20))
    trace.write_text("time,input_tokens,output_tokens\n" + rows)
    arguments = ["--trace", str(trace), "--fleet", str(fleet)]
    assert "is the unit of time right?" in _said(arguments, capsys)[1]
    assert "is the unit of time right?" not in _said([*arguments, "--time-unit", "ms"], capsys)[1]


def test_a_missing_fleet_to_compare_is_named(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = _said(["--fleet", str(fleet), "--compare", f"{fleet},{fleet.parent}/gone.yaml"], capsys)
    assert code == 2
    assert "gone.yaml" in said
    assert "no such file" in said


def test_policies_run_beside_those_compared(
    tmp_path: Path, fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o.json"
    arguments = ["--fleet", str(fleet), "--requests", "40", "--compare", "random,round-robin"]
    assert _said([*arguments, "--policies", "least-tokens,random", "--json", str(out)], capsys)[0] == 0
    document = json.loads(out.read_text())
    assert [one["policy"] for one in document["results"]] == ["random", "round-robin", "least-tokens"]
    assert document["comparison"]["of"] == "round-robin"
    assert main(["simulate", *arguments, "--seeds", "1", "--json", str(out), "--force"]) == 0
    assert len(json.loads(out.read_text())["results"]) == 2


def test_one_seed_has_no_interval_of_a_difference(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--fleet", str(fleet), "--requests", "40", "--what-if", "slots.small=+2"]
    said = _said(arguments, capsys)[1]
    assert "one seed, no interval" in said
    assert "±" not in said.split("one seed, no interval")[1]
