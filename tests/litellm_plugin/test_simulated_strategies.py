"""LiteLLM's own strategies in the simulator: its real Router, on simulated time."""

from __future__ import annotations

import os

import numpy as np
import pytest

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
pytest.importorskip("litellm", reason="needs the extra [litellm]")

from solver import Capacity, Model
from solver.clock import ManualClock
from solver.simulate.experiment import Setup, make_scene, run_experiment
from solver.simulate.policies.litellm_router import LITELLM_STRATEGIES
from solver.simulate.policies.registry import make_policy
from solver.simulate.replay import SERVED, Replay, replay
from solver.simulate.schedule import Disruption
from solver.simulate.servers import Fleet
from solver.simulate.traffic_generators import generate_traffic

pytestmark = pytest.mark.filterwarnings("ignore")  # of LiteLLM and what it imports


def fleet(max_queue: int = 100) -> Fleet:
    """Return two models, the second one slower and cheaper."""
    return Fleet(
        [
            Model(
                id=f"m{j}",
                capacity=Capacity(max_concurrent=4, max_queue=max_queue),
                capabilities={"a": 0.9 - 0.2 * j},
                latency_s=0.2,
                output_tokens_per_second=80.0 / (1 + j),
                usd_per_million_input_tokens=4.0 / (1 + j),
                usd_per_million_output_tokens=8.0 / (1 + j),
            )
            for j in range(2)
        ]
    )


def replayed(strategy: str, *disruptions: Disruption, n: int = 60, max_queue: int = 100) -> Replay:
    setup = Setup(load=0.6, schedule=disruptions)
    scene = make_scene(generate_traffic("poisson", n, seed=2), fleet(max_queue), seed=2, setup=setup)
    clock = ManualClock()
    return replay(scene, make_policy(f"litellm:{strategy}", scene, clock), clock)


@pytest.mark.parametrize("strategy", LITELLM_STRATEGIES)
def test_every_strategy_serves_all_where_there_is_room(strategy: str) -> None:
    result = replayed(strategy)
    assert (result.outcome == SERVED).all()
    used = np.bincount(result.column, minlength=2)
    if strategy == "cost-based-routing":
        assert used.tolist() == [0, 60]  # all of them to the cheap one
    elif strategy.startswith(("simple", "usage")):  # the others may find the quick one at once
        assert (used > 0).all()


@pytest.mark.parametrize("strategy", ["simple-shuffle", "least-busy"])
def test_cooldowns_end_by_simulated_time(strategy: str) -> None:
    out = Disruption(model="m0", from_s=40.0, until_s=60.0, outage=True)
    result = replayed(strategy, out, n=120)
    lost = result.arrival_s[result.outcome != SERVED]
    assert lost.size, "the outage met nobody"
    assert lost.max() <= 60.0
    after = result.arrival_s > 60.0 + 5.0  # LiteLLM leaves a deployment that failed alone for 5 s
    assert after.sum() > 20
    assert (result.column[after] == 0).any()


def test_a_replay_leaves_nothing_behind_for_the_next() -> None:
    figures = [
        run_experiment(
            lambda seed: generate_traffic("poisson", 60, seed=seed),
            fleet(max_queue=1),
            ["litellm:least-busy"],
            seeds=1,
            first_seed=7,
            setup=Setup(load=0.9),
        )[0]
        for _ in range(2)
    ]
    assert figures[0]["served"] == figures[1]["served"]
    assert figures[0]["p99_latency_ms"] == figures[1]["p99_latency_ms"]
