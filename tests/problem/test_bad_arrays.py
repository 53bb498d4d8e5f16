"""Arguments of ``assign`` that break a rule: one clear error each, whatever they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import solver
from solver import Average, Budget, Changes, Commitment, Quota, Share, SpecError

if TYPE_CHECKING:
    from collections.abc import Callable

_SCORES = [[1.0, 2.0], [3.0, 4.0]]
_HUGE = 10**400


def _with(**arguments: Any) -> Callable[[], solver.Solution]:
    given: dict[str, Any] = {"scores": _SCORES, "capacity": [1, 1]} | arguments
    return lambda: solver.assign(**given)


_BAD: dict[str, tuple[Callable[[], solver.Solution], str]] = {
    "scores beyond floats": (_with(scores=[[_HUGE, 1], [1, 2]]), "scores"),
    "scores as text": (_with(scores=[["9", "1"], ["8", "2"]]), "scores: expected real numbers, got text"),
    "scores as dates": (
        _with(scores=np.array([["2020-01-01", "2021-01-01"]], "M8[D]"), capacity=[1, 1]),
        "dates",
    ),
    "scores of objects as text": (_with(scores=np.array([["9", 1], [8, 2]], object)), "scores"),
    "scores of 1e308": (_with(scores=[[1e308, -1e308], [1e308, -1e308]]), "scores: expected at most 1e"),
    "masked scores": (
        _with(scores=np.ma.array([[9.0, 1.0], [8.0, 2.0]], mask=[[True, False], [False, False]])),
        "scores: expected no masked entries",
    ),
    "masked eligibility": (
        _with(eligible=np.ma.array([[True, True], [True, True]], mask=[[True, False], [False, False]])),
        "eligible: expected no masked entries",
    ),
    "masked row in a list of scores": (
        _with(scores=[np.ma.array([9.0, 1.0], mask=[True, False]), [8.0, 2.0]]),
        "scores: expected no masked entries, got 1",
    ),
    "masked row deep in a demand": (
        _with(demand=[[np.ma.array([1.0, 1.0], mask=[True, False])] * 2] * 2, capacity=[[1, 1], [1, 1]]),
        "demand: expected no masked entries, got 4",
    ),
    "masked row in a list of eligibility": (
        _with(eligible=[np.ma.array([True, True], mask=[True, False]), [True, True]]),
        "eligible: expected no masked entries",
    ),
    "masked number in a list of floors": (_with(min_load=[np.ma.array(1, mask=True), 0]), "min_load"),
    "limit of masked agents": (
        _with(limits=[Quota(name="q", at_most=1, agents=np.ma.array([0, 1], mask=[True, False]))]),
        r"limits\[0\] \(q\).agents: expected indices or a mask of 2, got masked entries",
    ),
    "masked previous": (
        _with(limits=[Changes(name="c", previous=np.ma.array([0, 1], mask=[True, False]), at_most=1)]),
        "previous: .*, got masked entries",
    ),
    "previous below -1": (
        _with(limits=[Changes(name="c", previous=[0, -2], at_most=1)]),
        "previous: expected 2 model indices below 2 or -1, got -2",
    ),
    "nothing among the scores": (_with(scores=[[1, 2], [3, None]]), r"scores\[1, 1\]: .*, got None"),
    "nothing among the capacities": (_with(capacity=[1, None]), r"capacity\[1\]: .*, got None"),
    "ragged eligibility": (_with(eligible=[[True], [True, False]]), "eligible"),
    "capacity beyond floats": (_with(capacity=[_HUGE, 1]), "capacity"),
    "ragged capacity": (_with(capacity=[[1], [1, 2]], demand=[1, 1]), "capacity"),
    "demand of 1e300": (_with(demand=[1e300, 1.0]), r"demand\[0\]"),
    "deadline beyond floats": (_with(deadline_ms=_HUGE), "deadline_ms"),
    "load cost of 1e308": (_with(capacity=[2, 2], load_cost=[0, 1e308]), "load_cost"),
    "penalty of 1e308": (_with(unassigned_penalty=1e308), "unassigned_penalty"),
    "penalty too large with its priority": (
        _with(unassigned_penalty=1e99, priority=[100, 1]),
        r"unassigned_penalty\[0\]: expected at most 1e\+100 times its priority",
    ),
    "warm start of another type": (_with(warm_start=1), "warm_start: expected a Solution"),
    "negative seed": (_with(seed=-1), "seed: expected a whole number >= 0, got -1"),
    "seed as text": (_with(seed="x"), "seed"),
    "seed as truth value": (_with(seed=True), "seed"),
    "threads as text": (_with(threads="2"), "threads"),
    "threads as fraction": (_with(threads=1.5), "threads"),
    "engine as list": (_with(engine=["flow"]), "engine"),
    "no limits": (_with(limits=None), "limits: expected a sequence"),
    "limits as text": (_with(limits="b"), "limits: expected a sequence"),
    "budget as text": (_with(limits=[Budget(name="b", amount="5", cost=1)]), "amount"),  # type: ignore[arg-type]
    "budget of nothing": (_with(limits=[Budget(name="b", amount=None, cost=1)]), "amount"),  # type: ignore[arg-type]
    "budget with a number for a name": (_with(limits=[Budget(name=1, amount=5, cost=1)]), "name"),  # type: ignore[arg-type]
    "quota beyond floats": (_with(limits=[Quota(name="q", at_most=1, use=[_HUGE, 1])]), "use"),
    "quota as text": (_with(limits=[Quota(name="q", at_most="1")]), "at_most"),  # type: ignore[arg-type]
    "share as text": (_with(limits=[Share(name="s", at_least="0.5")]), "at_least"),  # type: ignore[arg-type]
    "average as text": (_with(limits=[Average(name="a", value=1, at_most="1")]), "at_most"),  # type: ignore[arg-type]
    "masked average": (
        _with(limits=[Average(name="a", value=np.ma.array([1.0, 2.0], mask=[True, False]), at_most=1)]),
        "masked",
    ),
    "commitment of 1e300": (_with(limits=[Commitment(name="c", at_least=1e300)]), "at_least"),
    "ragged previous": (_with(limits=[Changes(name="c", previous=[[1], [1, 2]], at_most=1)]), "previous"),
    "limit of ragged agents": (_with(limits=[Quota(name="q", at_most=1, agents=[[0], [0, 1]])]), "agents"),
    "cost with a dimension too many": (
        _with(limits=[Budget(name="b", amount=1, cost=np.ones((1, 1, 2)))]),
        "cost",
    ),
}


@pytest.mark.parametrize("case", sorted(_BAD))
def test_bad_arguments_get_one_clear_error(case: str) -> None:
    call, message = _BAD[case]
    with pytest.raises(SpecError, match=message):
        call()


def test_numbers_of_other_kinds_are_still_numbers() -> None:
    from fractions import Fraction

    exact = np.array([[Fraction(1, 2), 2], [3, 4]], object)
    assert solver.assign(exact, [1, 1], seed=np.int64(3)).objective == 5.0  # type: ignore[arg-type]
    whole = np.ma.array([[1.0, 2.0], [3.0, 4.0]], mask=False)
    assert solver.assign(whole, [1, 1]).objective == 5.0
