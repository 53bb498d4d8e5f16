"""The command line under mutated files; ``python -m tests.mutations --count 20000`` does the same at length."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from solver.interfaces.files import assembly
from solver.interfaces.files.score_tables import read_score_table
from tests.mutations.corpus import corpus
from tests.mutations.mutators import HARMFUL, HARMLESS
from tests.mutations.trials import run

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_thousand_mutations_find_nothing() -> None:
    found = run(1000, 12)
    assert found.faults == []
    assert found.rejected > 300
    assert found.unchanged > 100
    assert found.without_place == {}


def test_every_mutation_applies_to_something() -> None:
    rng = np.random.default_rng(0)
    for mutation in (HARMFUL | HARMLESS).values():
        assert any(mutation(case.target, case.files[case.target], rng) is not None for case in corpus(rng))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda *_: dict[str, str]()["agents"], "a reader raised KeyError"),
        (lambda _, scores: scores.values[::-1], "another plan though harmless"),
    ],
)
def test_faults_would_be_found(
    monkeypatch: pytest.MonkeyPatch, fault: Callable[..., object], words: str
) -> None:
    read = read_score_table
    calls = []

    def faulty(*arguments: object, **options: object) -> object:
        table, scores = read(*arguments, **options)  # type: ignore[arg-type]
        calls.append(table)
        if "KeyError" in words:
            fault(table, scores)
        elif len(calls) % 2 == 0:
            object.__setattr__(scores, "values", fault(table, scores))
        return table, scores

    monkeypatch.setattr(assembly, "read_score_table", faulty)
    found = run(60, 5)
    assert any(words in text for text in found.faults), json.dumps(found.faults[:3])
