"""What two replicas see of a server that has lost its last writes, and answers as if nothing had happened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from solver.load.lease import Lease, LeaseState, Refusal
from solver.load.refusal import RefusalReason

if TYPE_CHECKING:
    from solver.load.tracker import LoadTracker


def still_holds(first: LoadTracker, second: LoadTracker, held: Lease) -> None:
    """Assert that the slot of ``m`` that the first replica holds is granted to the second only after its release."""
    refused = second.try_acquire("m")
    assert isinstance(refused, Refusal)
    assert refused.reason is RefusalReason.RECOVERING
    assert held.state() is LeaseState.RUNNING
    assert second.try_acquire("m").reason is RefusalReason.CONCURRENCY  # type: ignore[union-attr]
    held.release()
    assert isinstance(second.try_acquire("m"), Lease)
    assert first.snapshot().active.tolist() == [1]
