"""Replays order policies as servers do that really sleep."""

from __future__ import annotations

import numpy as np
import pytest

from tests.live_ranking import FIGURES, correlations, live, scene_of, simulated

_LATE_SHARE = 0.05
"""Share of the mean latency that servers may oversleep."""


def test_policies_rank_live_as_in_a_replay() -> None:
    """``python -m tests.live_ranking`` is the long version: six policies, slower and over more requests."""
    scene = scene_of(100, 0.9, 3)
    names = ("least-tokens", "route-balance", "constant:small")
    for speed in (
        25.0,
        10.0,
        4.0,
        1.5,
    ):  # servers that oversleep, on a machine with other work, are no evidence
        pairs = [(simulated(scene, name), live(scene, name, speed=speed)) for name in names]
        if all(lived["overslept s"] < _LATE_SHARE * lived["mean latency s"] for _, lived in pairs):
            break
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
