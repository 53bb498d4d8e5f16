"""Batches and plans in an object store: a local server that speaks the protocol of S3."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from typer.testing import CliRunner

from solver.errors import SpecError
from solver.interfaces.cli import app
from solver.scale import LargeBatch, ScoreColumns, read_manifest, solve_files, verify_plan

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

fs = pytest.importorskip("pyarrow.fs", reason="needs the extra [parquet]")
pytest.importorskip("moto.server", reason="needs moto[server]")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

MODELS = ("m0", "m1", "m2")
CAPACITY = [500, 300, 350]
COLUMNS = ScoreColumns(models=MODELS)
READY_S = 30.0


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Start the server on a free port of the loopback interface."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        give_up = time.monotonic() + READY_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
                break
            except OSError:
                assert process.poll() is None, "the server ended"
                assert time.monotonic() < give_up, "the server does not answer"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(READY_S)


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Return the URL of an empty bucket."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    name = f"batches-{abs(hash(request.node.name)) % 10**9}"
    fs.S3FileSystem(endpoint_override=server, allow_bucket_creation=True).create_dir(name)
    return f"s3://{name}"


def table(n: int, seed: int = 0) -> Any:
    scores = np.random.default_rng(seed).random((n, 3), np.float32)
    return pa.table({"agent": np.arange(n), **{name: scores[:, j] for j, name in enumerate(MODELS)}})


def put(url: str, part: Any) -> None:
    files, inner = fs.FileSystem.from_uri(url)
    with files.open_output_stream(inner) as stream:
        pq.write_table(part, stream, row_group_size=100)


def fill(bucket: str) -> None:
    whole = table(1000)
    put(f"{bucket}/batch/a.parquet", whole.slice(0, 400))
    put(f"{bucket}/batch/b.parquet", whole.slice(400))
    put(f"{bucket}/batch/notes.txt", whole.slice(0, 1))


@pytest.mark.parametrize("pattern", ["batch", "batch/", "batch/*.parquet"])
def test_the_plan_is_the_one_of_local_files(bucket: str, tmp_path: Path, pattern: str) -> None:
    fill(bucket)
    whole = table(1000)
    for name, part in (("a", whole.slice(0, 400)), ("b", whole.slice(400))):
        pq.write_table(part, tmp_path / f"{name}.parquet", row_group_size=100)
    here = LargeBatch(files=[str(tmp_path)], columns=COLUMNS, capacity=CAPACITY)
    there = LargeBatch(files=[f"{bucket}/{pattern}"], columns=COLUMNS, capacity=CAPACITY)
    local = solve_files(here, tmp_path / "plan")
    remote = solve_files(there, f"{bucket}/plans/first")
    assert local is not None
    assert remote is not None
    assert remote.files == local.files
    assert remote.certificate == local.certificate
    assert verify_plan(f"{bucket}/plans/first").feasible
    assert read_manifest(f"{bucket}/plans/first").certificate == remote.certificate


def test_a_later_plan_replaces_an_earlier_one(bucket: str) -> None:
    fill(bucket)
    batch = LargeBatch(files=[f"{bucket}/batch"], columns=COLUMNS, capacity=CAPACITY)
    assert solve_files(batch, f"{bucket}/plan") is not None
    smaller = LargeBatch(files=[f"{bucket}/batch/a.parquet"], columns=COLUMNS, capacity=CAPACITY)
    assert solve_files(smaller, f"{bucket}/plan") is not None
    files, inner = fs.FileSystem.from_uri(f"{bucket}/plan")
    names = sorted(one.base_name for one in files.get_file_info(fs.FileSelector(inner)))
    assert names == ["assignments-000000.parquet", "manifest.json"]
    assert verify_plan(f"{bucket}/plan").feasible


def test_a_plan_that_was_tampered_with_is_found_out(bucket: str) -> None:
    fill(bucket)
    batch = LargeBatch(files=[f"{bucket}/batch"], columns=COLUMNS, capacity=CAPACITY)
    assert solve_files(batch, f"{bucket}/plan") is not None
    put(f"{bucket}/plan/assignments-000001.parquet", pa.table({"agent": [1], "model": ["m0"]}))
    assert any(
        "not the one that the manifest names" in line for line in verify_plan(f"{bucket}/plan").violations
    )


def test_the_command_line_takes_urls(bucket: str) -> None:
    fill(bucket)
    options = ["--scores", f"{bucket}/batch/*.parquet", "--slots", "400", "--output", f"{bucket}/plan"]
    solved = CliRunner().invoke(app, ["solve", *options, "--stream"], catch_exceptions=False)
    assert solved.exit_code == 0, solved.output
    checked = CliRunner().invoke(app, ["verify", f"{bucket}/plan"], catch_exceptions=False)
    assert checked.exit_code == 0, checked.output


@pytest.mark.parametrize(
    ("url", "output", "message"),
    [
        ("{bucket}/nothing/*.parquet", "{bucket}/plan", "expected Parquet files, got none"),
        ("{bucket}/nothing.parquet", "{bucket}/plan", "expected Parquet files, got none"),
        ("{bucket}/batch/notes.txt/x", "{bucket}/plan", "expected Parquet files, got none"),
        ("s3://no-such-bucket-at-all/x.parquet", "{bucket}/plan", "expected Parquet files, got none"),
        ("nowhere://bucket/x.parquet", "{bucket}/plan", "nowhere://bucket/x.parquet: cannot be read: Unrec"),
        ("{bucket}/batch", "nowhere://bucket/plan", "nowhere://bucket/plan: cannot be reached: Unrecognized"),
        ("{bucket}/batch", "{bucket}/batch", "expected an empty folder or an earlier plan"),
        ("{bucket}/batch", "{bucket}/batch/a.parquet", "expected a folder for the plan, got a file"),
        ("{bucket}/batch", "s3://no-such-bucket-at-all/plan", "cannot be written"),
    ],
)
def test_what_cannot_be_reached_is_named(bucket: str, url: str, output: str, message: str) -> None:
    fill(bucket)
    with pytest.raises(SpecError, match=message):
        solve_files(
            LargeBatch(files=[url.format(bucket=bucket)], columns=COLUMNS, capacity=CAPACITY),
            output.format(bucket=bucket),
        )


def test_ids_are_compared_where_workers_share_a_path(bucket: str) -> None:
    fill(bucket)
    batch = LargeBatch(files=[f"{bucket}/batch"], columns=COLUMNS, capacity=CAPACITY)
    with pytest.raises(SpecError, match="unique_ids: expected a path rather than a URL"):
        solve_files(batch, f"{bucket}/plan", unique_ids=True)
