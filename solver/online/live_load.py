"""The live load as the router reads it: occupancy from the tracker, or an estimate where the store is remote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from solver.load.store.base import nano_usd
from solver.load.store.memory import MemoryStore

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.load.store.base import StoreView
    from solver.load.tracker import LoadTracker

_FRESH_READING_S = 0.1
"""Seconds for which a reading of a remote store is believed when it says that every model is full."""


class LiveLoad:
    """Occupancy and limits of the router's models, in its order.

    A local store is read for every decision. A remote one is read by the background refresh only; in
    between, what this router took and gave back is added to the last reading, so that a decision costs the
    one round trip of its reservation.

    Parameters
    ----------
    tracker : LoadTracker
        The live load.
    ids : tuple of str
        Models, in column order; all known to the tracker.
    queue : bool
        Whether queue places count as room.

    Attributes
    ----------
    remote : bool
        Whether a reading of the store costs a round trip.
    metered : bool
        Whether any model has a limit on requests, tokens or money.
    slots, limit : (m,) int64
        Slots, 0 where new work is being rejected; and slots plus queue places. New arrays whenever they
        change.
    gone : list of int
        Models that were forgotten: they have no slots until their capacity is set again.
    """

    def __init__(self, tracker: LoadTracker, ids: tuple[str, ...], *, queue: bool) -> None:
        self._tracker, self._ids, self._queue = tracker, ids, queue
        self.remote = tracker.store.remote
        self._where: NDArray[np.intp] | None = None
        self._models: tuple[str, ...] | None = None
        self.gone: list[int] = []
        self._slots_seen: NDArray[np.int64] | None = None
        self._accepting_seen: NDArray[np.bool_] | None = None
        self._since = np.zeros(len(ids), np.int64)
        self.slots = np.zeros(len(ids), np.int64)
        self.limit = self.slots
        store = tracker.store
        self._counts = store.counts if isinstance(store, MemoryStore) else None
        self._settings: object = None
        self._read_s = tracker.clock.now()
        self._view = store.view()
        self._taken = self._view.active
        self._plain = False
        """Whether slots and queue places are all that limits requests."""
        self._read(self._view)

    def look(self) -> None:
        """Read the store, unless that would cost a round trip."""
        if self.remote:
            return
        if self._counts is None:
            self._read(self._tracker.store.view())
            return
        settings, taken = self._counts(queued=self._queue)
        if settings is self._settings and self._plain:
            self._taken = taken if self._where is None else taken[self._where]
            return
        self._settings = settings
        self._read(self._tracker.store.view())

    def fetch(self) -> tuple[StoreView, NDArray[np.int64]]:
        """Return the state of the store, over the network where it is remote, and what was noted before."""
        noted = self._since.copy()
        return self._tracker.store.view(), noted

    def accept(self, fetched: tuple[StoreView, NDArray[np.int64]]) -> None:
        """Use a state that was fetched. What was noted meanwhile stays noted."""
        view, noted = fetched
        self._since -= noted
        self._read_s = self._tracker.clock.now()
        self._read(view)

    def note(self, column: int, delta: int) -> None:
        """Remember what this router took (+1) or gave back (−1) where the store is not read every time."""
        if self.remote:
            self._since[column] += delta

    def _read(self, view: StoreView) -> None:
        if view.models is not self._models:
            self._models = view.models
            index = {name: j for j, name in enumerate(view.models)}
            self.gone = [j for j, name in enumerate(self._ids) if name not in index]
            self._where = None
            if view.models != self._ids:
                self._where = np.array([index.get(name, 0) for name in self._ids])
            self._slots_seen = None
        self._view = view
        active = view.active
        if view.pool_free is not None and not self._queue:  # what is taken of a pool is taken of its models
            active = np.maximum(active, view.max_concurrent - view.pool_free)
        self.metered = bool(view.metered)
        self._plain = not view.metered and view.pool_free is None
        taken = active + view.queued if self._queue else active
        self._taken = self._mine(taken)
        if view.max_concurrent is not self._slots_seen or view.accepting is not self._accepting_seen:
            self._slots_seen, self._accepting_seen = view.max_concurrent, view.accepting
            slots = self._mine(np.where(view.accepting, view.max_concurrent, 0))
            slots[self.gone] = 0
            limit = slots + self._mine(view.max_queue) * (slots > 0) if self._queue else slots
            if not (np.array_equal(slots, self.slots) and np.array_equal(limit, self.limit)):
                self.slots, self.limit = slots, limit

    def _mine(self, array: NDArray[Any]) -> NDArray[Any]:
        if self._where is None:
            return array
        return array[self._where] if len(array) else np.zeros(len(self._where), array.dtype)

    def may_have_opened(self, scores: NDArray[np.float64], net: NDArray[np.float64]) -> bool:
        """Return whether the store is to be asked, although no eligible model had room when it was last read.

        So it is where it took no new work at all, as while it recovers: asking it costs a round trip, and says why and
        for how long. And where the reading is old: what other processes gave back meanwhile is not in it.
        """
        eligible = scores > -np.inf
        if not self.limit[eligible].any():
            return True
        old = self._tracker.clock.now() - self._read_s > _FRESH_READING_S
        return old and not (net[eligible] > -np.inf).any()

    def taken(self) -> NDArray[np.int64]:
        """Return the slots and queue places taken, (m,) int64; not to be written to."""
        return np.maximum(self._taken + self._since, 0) if self.remote else self._taken

    def forbid_metered(
        self, net: NDArray[np.float64], tokens: float, cost_usd: NDArray[np.float64] | None
    ) -> None:
        """Write ``-inf`` where requests, tokens or money of a model do not allow one more."""
        view = self._view
        for kind in view.metered:
            left = self._mine(view.meter_limit[kind] - view.meter_used[kind])
            if kind == 2:
                need = 0.0 if cost_usd is None else np.array([nano_usd(cost) for cost in cost_usd.tolist()])
            else:
                need = (1.0, tokens)[kind]
            net[left < need] = -np.inf
