from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from solver.clock import ManualClock
from solver.load.memory_store import MemoryStore

if TYPE_CHECKING:
    from solver.load.store import Store


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1000.0)


@pytest.fixture(params=["memory"])
def store(request: pytest.FixtureRequest, clock: ManualClock) -> Store:
    """Every store, on a clock that only the test moves."""
    return MemoryStore(clock=clock)
