"""A herd that was refused at once, and a tenant beside one that sends ten times its share."""

from __future__ import annotations

import pytest

from benchmarks.fairness import HERDS, SERVICE_S, SLOTS, herd, waits


@pytest.mark.parametrize("name", HERDS)
def test_few_of_a_herd_are_refused_again(name: str) -> None:
    assert herd(*HERDS[name]) <= 0.2


def test_a_noisy_tenant_costs_another_little() -> None:
    share = SLOTS / 2 / SERVICE_S
    beside = waits(SLOTS, 0.8 * share, 10 * share, seed=2).mean()
    assert beside <= 1.3 * waits(SLOTS // 2, 0.8 * share, 0.0, seed=2).mean()
    assert beside <= 0.1 * waits(SLOTS, 0.8 * share, 10 * share, named=False, seed=2).mean()
