"""Completion times from the first answers on: lines begin as stated facts say, scaled to what was observed."""

from __future__ import annotations

import numpy as np
import pytest

from solver import Capacity, Model
from solver.clock import ManualClock
from solver.load.balance.prediction import CompletionPredictor
from solver.load.request_outcome import Outcome

STATED = Model(id="stated", capacity=Capacity(max_concurrent=4), latency_s=1.0, output_tokens_per_second=50.0)
SILENT = Model(id="silent", capacity=Capacity(max_concurrent=4))


def _observe(
    predictor: CompletionPredictor, model: str, tokens: int, latency_ms: float, prompt: int = 0
) -> None:
    predictor.observe(
        Outcome(model=model, latency_ms=latency_ms, success=True, input_tokens=prompt, output_tokens=tokens)
    )


@pytest.mark.parametrize("asked_first", [False, True])
def test_one_short_answer_does_not_make_long_ones_short(asked_first: bool) -> None:
    predictor, models = CompletionPredictor(clock=ManualClock()), (STATED,)
    if asked_first:
        predictor.predict_ms(models, [0], [1000])
    _observe(predictor, "stated", 50, 4000.0)  # twice as long as stated
    short, long = predictor.predict_ms(models, [0, 0], [50, 1000])[:, 0]
    assert short == pytest.approx(4000.0, rel=0.01)
    assert long == pytest.approx(42_000.0, rel=0.02)


def test_a_model_that_states_nothing_is_thought_to_take_its_time_by_tokens() -> None:
    predictor = CompletionPredictor(clock=ManualClock())
    _observe(predictor, "silent", 100, 5000.0)
    short, long = predictor.predict_ms((SILENT,), [0, 0], [100, 1000])[:, 0]
    assert short == pytest.approx(5000.0, rel=0.01)
    assert long > 3.0 * short


def test_a_fleet_that_is_known_late_brings_its_facts() -> None:
    predictor, before = (
        CompletionPredictor(clock=ManualClock()),
        (SILENT.model_copy(update={"id": "stated"}),),
    )
    _observe(predictor, "stated", 100, 6000.0)
    first = predictor.predict_ms(before, [0], [1000])[0, 0]
    assert predictor.predict_ms((STATED,), [0], [1000])[0, 0] == pytest.approx(42_000.0, rel=0.01)
    assert first != pytest.approx(42_000.0, rel=0.01)


def test_observations_outweigh_what_is_stated() -> None:
    predictor, rng = CompletionPredictor(clock=ManualClock()), np.random.default_rng(0)
    for _ in range(400):
        prompt, tokens = int(rng.integers(10, 4000)), int(rng.integers(10, 1000))
        _observe(predictor, "stated", tokens, 300.0 + 0.2 * prompt + 5.0 * tokens, prompt)
    predicted = predictor.predict_ms((STATED,), [0, 4000, 100], [10, 100, 1000])[:, 0]
    assert predicted == pytest.approx([350.0, 1600.0, 5320.0], rel=0.05)


def test_times_without_tokens_are_their_mean() -> None:
    predictor = CompletionPredictor(clock=ManualClock())
    for latency_ms in (100.0, 200.0, 300.0):
        predictor.observe(Outcome(model="silent", latency_ms=latency_ms, success=True))
    assert predictor.predict_ms((SILENT,), [0, 10], [0, 256])[:, 0] == pytest.approx([200.0, 200.0])


def test_a_stated_latency_of_zero_is_no_reason_to_expect_nothing() -> None:
    model = STATED.model_copy(update={"id": "zero", "latency_s": 0.0})
    predictor = CompletionPredictor(clock=ManualClock())
    predictor.predict_ms((model,), [0], [0])
    predictor.observe(Outcome(model="zero", latency_ms=200.0, success=True))
    assert predictor.predict_ms((model,), [0], [0])[0, 0] == pytest.approx(200.0)


def test_an_answer_of_unknown_length_counts_as_usual() -> None:
    predictor, models = CompletionPredictor(clock=ManualClock()), (STATED,)
    predictor.predict_ms(models, [0], [0])
    for _ in range(10):
        _observe(predictor, "stated", 100, 3000.0)
        predictor.observe(Outcome(model="stated", latency_ms=3000.0, success=True))
    assert predictor.predict_ms(models, [0, 0], [100, 1000])[:, 0] == pytest.approx(
        [3000.0, 21_000.0], rel=0.02
    )


def test_the_longest_answer_is_told_after_a_few() -> None:
    predictor = CompletionPredictor(clock=ManualClock())
    for tokens in (30, 80, 10, 20, 30, 40, 50):
        _observe(predictor, "stated", tokens, 3000.0)
    assert predictor.longest_answer == float("inf")
    _observe(predictor, "stated", 60, 3000.0)
    assert predictor.longest_answer == 80


def test_a_model_without_errors_is_as_uncertain_as_the_others_on_average() -> None:
    predictor = CompletionPredictor(clock=ManualClock())
    assert predictor.error_ms("stated") == 0.0  # nothing is known of any
    for _ in range(50):
        _observe(predictor, "stated", 100, 2000.0)
        _observe(predictor, "stated", 100, 4000.0)
    own = predictor.error_ms("stated")
    assert 900.0 < own < 1200.0  # every answer is a second away from the mean
    _observe(predictor, "silent", 100, 5000.0)  # the first is predicted by no one
    assert predictor.error_ms("silent") == predictor.error_ms("other") == own
    _observe(predictor, "silent", 100, 5000.0)
    assert predictor.error_ms("silent") < 1.0
    assert predictor.error_ms("other") == pytest.approx((own + predictor.error_ms("silent")) / 2.0)
