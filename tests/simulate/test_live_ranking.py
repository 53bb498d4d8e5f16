"""Replays order policies as servers do that really sleep."""

from __future__ import annotations

import numpy as np
import pytest

from tests.live_ranking import FIGURES, correlations, live, scene_of, simulated


def test_policies_rank_live_as_in_a_replay() -> None:
    """``python -m tests.live_ranking`` is the long version: six policies, slower and over more requests."""
    scene = scene_of(100, 0.9, 3)
    names = ("least-tokens", "route-balance", "constant:small")
    pairs = [(simulated(scene, name), live(scene, name, speed=25.0)) for name in names]
    taus = correlations(pairs)
    assert taus["mean latency s"] == pytest.approx(1.0)
    assert taus["quality"] == pytest.approx(1.0)
    for replayed, lived in pairs:
        assert lived["served"] == pytest.approx(replayed["served"], abs=6)
        assert lived["mean latency s"] == pytest.approx(replayed["mean latency s"], rel=0.3)


def test_another_order_is_noticed() -> None:
    rng = np.random.default_rng(0)
    first = [dict(zip(FIGURES, rng.random(4), strict=True)) for _ in range(6)]
    assert all(tau == pytest.approx(1.0) for tau in correlations([(one, one) for one in first]).values())
    turned = [(one, {name: -value for name, value in one.items()}) for one in first]
    assert all(tau == pytest.approx(-1.0) for tau in correlations(turned).values())
