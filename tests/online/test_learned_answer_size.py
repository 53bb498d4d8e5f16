"""Answer sizes are learned by the size of the prompt, as far as there are answers to learn from."""

from __future__ import annotations

import numpy as np
import pytest

from solver.online.learned_answer_size import AnswerSize


def test_begins_with_what_it_is_told() -> None:
    assert AnswerSize().expected(700) == pytest.approx(256.0)
    assert AnswerSize(100.0).expected(0) == pytest.approx(100.0)


def test_prompts_of_one_size_have_an_answer_of_their_own() -> None:
    size = AnswerSize()
    for _ in range(200):
        size.learn(1_100, 400)
        size.learn(150, 80)
    assert size.expected(1_100) == pytest.approx(400, rel=0.05)
    assert size.expected(1_200) == size.expected(1_100)
    assert size.expected(150) == pytest.approx(80, rel=0.15)
    assert size.expected(9_000) == pytest.approx(size.tokens)  # no such prompt so far
    assert size.tokens == pytest.approx(240, rel=0.02)


def test_a_few_answers_count_for_little() -> None:
    size = AnswerSize()
    for _ in range(500):
        size.learn(150, 100)
    size.learn(5_000, 2_000)
    assert size.expected(5_000) < 300
    for _ in range(100):
        size.learn(5_000, 2_000)
    assert size.expected(5_000) > 1_700


def test_forgets() -> None:
    size = AnswerSize()
    for answer in [100] * 3_000 + [500] * 4_000:
        size.learn(64, answer)
    assert size.expected(64) == pytest.approx(500, rel=0.05)


def test_is_no_worse_than_the_mean_where_prompts_say_nothing() -> None:
    rng = np.random.default_rng(5)
    size, prompts, answers = AnswerSize(), rng.lognormal(6, 1, 4_000), rng.lognormal(5, 0.7, 4_000)
    of_class = of_all = 0.0
    for prompt, answer in zip(prompts.astype(int).tolist(), answers.astype(int).tolist(), strict=True):
        of_class += (size.expected(prompt) - answer) ** 2
        of_all += (size.tokens - answer) ** 2
        size.learn(prompt, answer)
    assert of_class < 1.02 * of_all
