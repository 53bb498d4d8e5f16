"""Work that waits in queues, and how it moves to other models."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from solver.load.fork import renewed_after_fork
from solver.load.lease import Lease, LeaseState
from solver.problem.instance import UNASSIGNED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.load.balance.batches import BatchBuilder
    from solver.load.balance.model_pool import ModelPool
    from solver.load.balance.placement import Placer
    from solver.load.tracker import LoadTracker
    from solver.problem.spec import Agent


class _Waiting(NamedTuple):
    """An agent that waits in a queue, and what it was placed on."""

    agent: Agent
    pool: ModelPool
    given: NDArray[np.float64] | None


class WaitingWork:
    """The leases of a balancer that wait, with what they were placed on. Thread-safe.

    An entry goes with the holder of its lease.
    """

    def __init__(self, tracker: LoadTracker, batches: BatchBuilder, placer: Placer) -> None:
        self._tracker = tracker
        self._batches = batches
        self._placer = placer
        self._lock = renewed_after_fork(self, "_lock", threading.Lock)
        self._waiting: WeakKeyDictionary[Lease, _Waiting] = WeakKeyDictionary()

    def note(self, agent: Agent, lease: Lease, pool: ModelPool, given: NDArray[np.float64] | None) -> None:
        """Remember who waits, so that it can be moved."""
        if lease.granted is LeaseState.QUEUED:
            with self._lock:
                self._waiting[lease] = _Waiting(agent, pool, given)

    def redistribute(self, model: str) -> list[str]:
        """Move what fits elsewhere of the work that waits for a model; return the ids of the agents moved."""
        with self._lock:
            waiting = [(entry, lease) for lease, entry in self._waiting.items() if lease.model == model]
        live = [(entry, lease) for entry, lease in waiting if lease.state() is LeaseState.QUEUED]
        self._forget([lease for _, lease in waiting], keep=[lease for _, lease in live])
        together: dict[tuple[int, bool], list[tuple[_Waiting, Lease]]] = {}
        for entry, lease in live:  # those who chose among the same models, on scores of the same kind
            together.setdefault((id(entry.pool), entry.given is None), []).append((entry, lease))
        return [name for group in together.values() for name in self._moved(model, group)]

    def _moved(self, model: str, group: list[tuple[_Waiting, Lease]]) -> list[str]:
        """Move what fits elsewhere of some who wait for a model; return the ids of the agents moved."""
        pool = group[0][0].pool
        live = [(entry.agent, lease) for entry, lease in group]
        rows = [entry.given for entry, _ in group if entry.given is not None]
        given = np.stack(rows) if rows else None
        work = self._batches.work(
            [agent for agent, _ in live], pool, self._batches.current(pool), given, preview=True
        )
        work.room[pool.ids.index(model)] = 0
        work = replace(work, usable=work.eligible & (work.room > 0))
        placement = self._placer.place(work, None)
        moved = []
        for (agent, lease), j in zip(live, placement.choice.tolist(), strict=True):
            if j != UNASSIGNED and isinstance(self._tracker.move(lease, pool.ids[j]), Lease):
                if lease.model != model:  # otherwise it had ended meanwhile
                    moved.append(agent.id)
                self._forget([lease], keep=[])
        return moved

    def _forget(self, leases: list[Lease], *, keep: list[Lease]) -> None:
        with self._lock:
            for lease in leases:
                if all(lease is not kept for kept in keep):
                    self._waiting.pop(lease, None)
