"""The excess over the tail's threshold: what it is by definition, and who pays it."""

from __future__ import annotations

import numpy as np
import pytest

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
