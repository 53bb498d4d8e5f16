"""One request over 500 deployments: LiteLLM's choice against ours, on one machine in turns.

LiteLLM's ``get_available_deployment`` chooses and reserves nothing; ours chooses, reserves, and is timed with
the release. LiteLLM need not share an environment with this package: name an interpreter that has it,
``LITELLM_PYTHON=/path/to/python python -m pytest benchmarks/bench_load_litellm.py --benchmark-only -s``. Without
one the benchmark is skipped. Nothing is sent over the network.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import pytest

from benchmarks.bench_load import crowd, fleet
from benchmarks.conftest import SMOKE
from solver.load.balance.balancer import LoadBalancer
from solver.load.tracker import LoadTracker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_benchmark.fixture import BenchmarkFixture

DEPLOYMENTS = 500
MODELS = fleet(DEPLOYMENTS, 10)
TURNS, CALLS = (1, 2) if SMOKE else (6, 40)
PEERS = ("simple-shuffle", "least-busy", "usage-based-routing-v2", "latency-based-routing")
OURS = (("least_loaded", "greedy"), ("weighted", "optimal"), ("predictive", "balanced"))


def interpreter() -> str | None:
    """Return a Python that has LiteLLM, None when there is none."""
    here = sys.executable if importlib.util.find_spec("litellm") else None
    return os.environ.get("LITELLM_PYTHON") or here


@pytest.fixture(scope="module")
def peer() -> Iterator[tuple[IO[str], IO[str]]]:
    python = interpreter()
    if python is None:
        pytest.skip("LiteLLM is not installed here, and LITELLM_PYTHON names no interpreter that has it")
    script = Path(__file__).with_name("litellm_peer.py")
    with subprocess.Popen(
        [python, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdin is not None
        assert run.stdout is not None
        yield run.stdin, run.stdout
        run.stdin.close()


def of_peer(pipes: tuple[IO[str], IO[str]], strategy: str, calls: int) -> list[float]:
    """Return processor seconds of single calls of LiteLLM."""
    order = {"strategy": strategy, "deployments": DEPLOYMENTS, "calls": calls}
    pipes[0].write(json.dumps(order) + "\n")
    pipes[0].flush()
    return [float(took) for took in json.loads(pipes[1].readline())["took_s"]]


def of_ours(balancer: LoadBalancer, calls: int) -> list[float]:
    """Return processor seconds of single calls of ours, reservation and release included."""
    agents, took = crowd(1), []
    for k in range(calls + 3):
        started = time.process_time()
        [reservation] = balancer.assign_and_reserve(agents, MODELS)
        assert reservation.lease is not None
        reservation.lease.release()
        if k >= 3:
            took.append(time.process_time() - started)
    return took


def bench_one_request_over_five_hundred(benchmark: BenchmarkFixture, peer: tuple[IO[str], IO[str]]) -> None:
    balancers = {pair: LoadBalancer(LoadTracker(), *pair) for pair in OURS}
    took: dict[str, list[float]] = {}
    for strategy in PEERS:
        of_peer(peer, strategy, 2)  # builds its router
    for _ in range(TURNS):
        for strategy in PEERS:
            took.setdefault(f"litellm {strategy}", []).extend(of_peer(peer, strategy, CALLS))
        for pair, balancer in balancers.items():
            took.setdefault(f"ours {'+'.join(pair)}", []).extend(of_ours(balancer, 10 * CALLS))
    for name, seconds in took.items():
        p50, p99 = np.percentile(seconds, [50, 99]) * 1e6
        benchmark.extra_info[name] = {"p50_us": round(float(p50), 1), "p99_us": round(float(p99), 1)}
        print(f"{name}: p50 {p50:.0f} µs, p99 {p99:.0f} µs")
    benchmark.pedantic(of_ours, args=(balancers["weighted", "optimal"], 1), rounds=3)
