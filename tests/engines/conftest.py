"""What tests of deadlines share."""

from __future__ import annotations

import gc
import time

import pytest

from solver.clock import MonotonicClock


@pytest.fixture
def processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count processor time instead of time, and set aside what other tests have left to be collected.

    What other processes take does not show then, nor does a walk through another test's objects within a call.
    """
    gc.collect()
    gc.freeze()
    monkeypatch.setattr(MonotonicClock, "now", lambda self: time.process_time())
