from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from solver.clock import ManualClock
from solver.errors import SpecError
from solver.load.observe.feedback import AdaptiveScorer
from solver.load.request_outcome import Outcome
from solver.problem.score_formulas import AdaptiveWeights


def observe(scorer: AdaptiveScorer, n: int, model: str = "a", **facts: Any) -> None:
    for _ in range(n):
        scorer.observe(Outcome(model=model, **{"latency_ms": 250.0, **facts}))


def test_the_formula_from_ten_requests_on() -> None:
    """0.60·80 + 0.25·100 + 0.15·75 at 250 ms, half the acceptable latency."""
    scorer = AdaptiveScorer(clock=ManualClock())
    observe(scorer, 9)
    assert scorer.score([80.0], ["a"]).tolist() == [80.0]
    observe(scorer, 1)
    assert scorer.score([80.0], ["a"]).tolist() == pytest.approx([0.6 * 80 + 25 + 0.15 * 75])


def test_below_ninety_percent_success_it_is_halved() -> None:
    scorer = AdaptiveScorer(clock=ManualClock())
    observe(scorer, 8)
    observe(scorer, 2, success=False)
    assert scorer.score([80.0], ["a"])[0] == pytest.approx(0.5 * (48 + 20 + 0.15 * 75))


def test_above_the_acceptable_latency_it_is_lowered() -> None:
    scorer = AdaptiveScorer(clock=ManualClock())
    observe(scorer, 10, latency_ms=750.0)
    assert scorer.score([80.0], ["a"])[0] == pytest.approx(0.8 * (48 + 25 + 0.15 * 25))


def test_a_matrix_is_scored_at_once_and_unknown_models_keep_their_score() -> None:
    scorer = AdaptiveScorer(AdaptiveWeights(min_requests=1), clock=ManualClock())
    observe(scorer, 1, latency_ms=0.0)
    scored = scorer.score(np.full((3, 2), 50.0), ["a", "new"])
    assert scored[:, 0].tolist() == pytest.approx([70.0] * 3)
    assert scored[:, 1].tolist() == [50.0] * 3


def test_a_failing_model_recovers_with_time() -> None:
    clock = ManualClock()
    scorer = AdaptiveScorer(half_life_s=100, clock=clock)
    observe(scorer, 20, success=False)
    failing = scorer.score([80.0], ["a"])[0]
    clock.advance(201)  # fewer than five of twenty requests are left
    assert failing < 40
    assert scorer.score([80.0], ["a"])[0] == 80.0


def test_ten_requests_over_some_minutes_are_ten() -> None:
    clock = ManualClock()
    scorer = AdaptiveScorer(half_life_s=900, clock=clock)
    for _ in range(10):
        clock.advance(30)
        observe(scorer, 1)
    assert scorer.score([80.0], ["a"])[0] == pytest.approx(0.6 * 80 + 25 + 0.15 * 75)


def test_new_observations_outweigh_old_ones() -> None:
    clock = ManualClock()
    scorer = AdaptiveScorer(half_life_s=10, clock=clock)
    observe(scorer, 100, success=False)
    clock.advance(100)
    observe(scorer, 20)
    assert scorer.feedback(["a"]).success_rate[0] > 0.99


def test_task_types_are_learned_apart_when_asked_for() -> None:
    scorer = AdaptiveScorer(by_task_type=True, clock=ManualClock())
    observe(scorer, 20, task_type="coding")
    observe(scorer, 20, task_type="math", success=False)
    coding, maths, other = scorer.score(np.full((3, 1), 80.0), ["a"], task_types=["coding", "math", None])[
        :, 0
    ]
    assert coding > other > maths


def test_exploration_is_off_by_default_and_favours_the_unknown() -> None:
    clock = ManualClock()
    scorer = AdaptiveScorer(exploration=5.0, clock=clock)
    observe(scorer, 50, latency_ms=0.0)
    bonus_known = scorer.score([0.0], ["a"])[0] - 40.0
    known, new = scorer.score([80.0, 80.0], ["a", "new"])
    assert new - 80.0 > 5.0 > bonus_known > 0
    assert AdaptiveScorer(clock=clock).score([80.0], ["new"])[0] == 80.0
    assert known > 80


def test_recent_answers_may_be_reused_for_a_moment() -> None:
    clock = ManualClock()
    scorer = AdaptiveScorer(clock=clock)
    assert scorer.feedback(["a"], max_age_s=0.25).requests[0] == 0
    observe(scorer, 5)
    assert scorer.feedback(["a"], max_age_s=0.25).requests[0] == 0
    assert scorer.feedback(["a"]).requests[0] == 5
    clock.advance(0.3)
    assert scorer.feedback(["a"], max_age_s=0.25).requests[0] == 5


def test_state_survives_saving_and_loading() -> None:
    clock = ManualClock()
    scorer = AdaptiveScorer(by_task_type=True, clock=clock)
    observe(scorer, 15, task_type="coding")
    observe(scorer, 12, model="b", success=False)
    other = AdaptiveScorer(by_task_type=True, clock=ManualClock(1e6))
    other.load_json(scorer.to_json())
    columns = ["a", "b", "c"]
    score = np.full((2, 3), 60.0)
    assert other.score(score, columns, task_types=["coding", None]).tolist() == (
        scorer.score(score, columns, task_types=["coding", None]).tolist()
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": 1, "models": [["a", null, 1, 0, 3]]}',
        '{"format": 1, "models": [["a", null, 1, 2, 3, 1]]}',
        '{"format": 1, "models": [["a", null, NaN, 0, 3, 1]]}',
        '{"format": 99, "models": []}',
    ],
)
def test_other_text_is_no_state_and_changes_nothing(text: str) -> None:
    scorer = AdaptiveScorer(clock=ManualClock())
    observe(scorer, 10)
    before = scorer.to_json()
    with pytest.raises(SpecError, match="state"):
        scorer.load_json(text)
    assert json.loads(scorer.to_json()) == json.loads(before)


@pytest.mark.parametrize("options", [{"half_life_s": 0}, {"half_life_s": math.nan}, {"exploration": -1}])
def test_options_are_checked(options: dict[str, float]) -> None:
    with pytest.raises(SpecError, match="expected"):
        AdaptiveScorer(**options)  # type: ignore[arg-type]  # keywords of one test
