"""Parameters of the price engine: whatever they are, the answer is the optimum; nonsense is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from solver.clock import Deadline
from solver.engines.certificate import certify
from solver.engines.price.engine import PriceEngine
from solver.engines.price.params import DEFAULTS, BoxParams, PriceEngineParams, RecallParams, SamplingParams
from solver.errors import SpecError
from solver.problem.build import build_instance

TUNED = {
    "small samples": replace(
        DEFAULTS, sampling=SamplingParams(growth=3, first_sample=(20, 40), deviations=0.5, most_boxes=1)
    ),
    "coarse samples": replace(
        DEFAULTS, sampling=SamplingParams(coarse_unit=0.1, dense_pairs=0, most_temperatures=2)
    ),
    "tiny boxes": replace(DEFAULTS, boxes=BoxParams(widening=1.5, most_widenings=1, aim_share=0.1)),
    "no passes": replace(DEFAULTS, boxes=BoxParams(most_passes=0)),
    "no steps": replace(DEFAULTS, boxes=BoxParams(most_steps=0, recentred_passes=0)),
    "rough flows": replace(DEFAULTS, boxes=BoxParams(large_flow=0, rough_unit=0.01, rough_radius=1.0)),
    "trusting": replace(DEFAULTS, recall=RecallParams(changed_share=1.0, largest_drift=100.0)),
}


@pytest.mark.parametrize("name", TUNED)
def test_no_value_of_a_parameter_costs_exactness(name: str) -> None:
    rng = np.random.default_rng(7)
    scores = rng.random((4000, 8))
    instance = build_instance(scores, rng.integers(350, 600, 8))
    usual = PriceEngine().solve(instance, deadline=Deadline.after(None))
    assert usual is not None
    hint = replace(usual, prices=np.asarray(usual.prices) * 1.2)
    tuned = PriceEngine(TUNED[name]).solve(instance, deadline=Deadline.after(None), hint=hint)
    assert tuned is not None
    assert certify(instance, tuned).gap <= 1e-9
    assert certify(instance, tuned).objective == pytest.approx(certify(instance, usual).objective, rel=1e-12)


def test_parameters_out_of_range_are_refused() -> None:
    with pytest.raises(SpecError, match=r"BoxParams.aim_share: expected a number from 0 to 1, got 1.5"):
        BoxParams(aim_share=1.5)
    with pytest.raises(SpecError, match=r"SamplingParams.grid_units: expected a finite number >= 0"):
        SamplingParams(grid_units=(1.0, -0.1))
    with pytest.raises(SpecError, match=r"PriceEngineParams.boxes: expected"):
        PriceEngineParams(boxes=None)  # type: ignore[arg-type]  # as a careless caller
