"""The excess over the tail's threshold: what it is by definition, and who pays it."""

from __future__ import annotations

import numpy as np
import pytest

import solver
from solver.online.tail_latency import TailLatency

FIXED_S = np.array([[0.2, 0.5, 30.0], [0.0, 1.0, 2.0]])
S_PER_TOKEN = np.array([0.01, 0.02, 0.04])


def _learned(quantile: float = 0.9) -> TailLatency:
    tail, rng = TailLatency(quantile), np.random.default_rng(3)
    for _ in range(600):
        tail.learn(1_000, int(2.0 ** (rng.integers(14, 20) / 2.0)), float(rng.exponential(5.0)))
        tail.learn(100, int(2.0 ** (rng.integers(6, 12) / 2.0)), float(rng.exponential(5.0)))
    return tail


def test_nothing_is_in_a_tail_that_is_not_known() -> None:
    tail = TailLatency()
    for _ in range(19):
        tail.learn(100, 100, 3.0)
    assert not tail.excess_s([100, 5_000], FIXED_S, S_PER_TOKEN).any()
    tail.learn(100, 100, 3.0)
    assert tail.threshold_s == pytest.approx(3.0)
    assert tail.excess_s([100, 5_000], FIXED_S, S_PER_TOKEN).any()


def test_is_the_expected_excess_over_the_share_of_the_tail() -> None:
    quantile, tail = 0.9, _learned()
    rng = np.random.default_rng(4)
    answers = np.floor(2.0 ** (rng.integers(14, 20, 200_000) / 2.0))
    latency = FIXED_S[0] + answers[:, None] * S_PER_TOKEN
    expected = np.maximum(latency - tail.threshold_s, 0.0).mean(axis=0) / (1.0 - quantile)
    found = tail.excess_s([1_000], FIXED_S[:1], S_PER_TOKEN)[0]
    assert found == pytest.approx(expected, rel=0.05, abs=0.3)


def test_who_asks_for_short_answers_pays_little() -> None:
    long, short = _learned().excess_s([1_000, 100], FIXED_S, S_PER_TOKEN)
    assert long[1] > 1.0
    assert long[2] > long[1]
    assert (short < 0.05 * long[2]).all()


def test_follows_latencies_that_change() -> None:
    tail = _learned()
    for _ in range(1_000):
        tail.learn(100, 50, 60.0)
    assert tail.threshold_s == pytest.approx(60.0)


@pytest.mark.parametrize("tail_weight", [0.0, 0.05])
def test_a_router_with_a_price_on_the_tail_sends_long_answers_to_quick_models(tail_weight: float) -> None:
    models = [
        solver.Model(
            id=name,
            capacity=solver.Capacity(max_concurrent=100),
            capabilities={"coding": quality},
            latency_s=0.2,
            output_tokens_per_second=pace,
        )
        for name, quality, pace in (("good", 0.9, 25.0), ("quick", 0.8, 200.0))
    ]
    seconds_per_token = {"good": 0.04, "quick": 0.005}
    router = solver.OptimalRouter(
        solver.LoadTracker(clock=solver.ManualClock()),
        models,
        solver.Objective(latency_weight=0.0),
        tail_weight=tail_weight,
        background=False,
    )
    routed: dict[int, list[str | None]] = {50: [], 2_000: []}
    for i in range(300):
        prompt, answer = (2_000, 1_000) if i % 25 == 0 else (50, 20)
        decision = router.route(
            solver.Agent(id=f"a{i}", task_type="coding", input_tokens=prompt, output_tokens=400)
        )
        assert decision.model is not None
        latency_s = 0.2 + answer * seconds_per_token[decision.model]
        decision.release(latency_ms=1000.0 * latency_s, tokens=prompt + answer)
        routed[prompt].append(decision.model)
    assert set(routed[50]) == {"good"}
    assert set(routed[2_000][5:]) == {"quick" if tail_weight else "good"}
