"""Exact shares of the traffic for some models, such as 5 % for a canary."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from solver.load.fork import renewed_after_fork

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray


class TrafficShares:
    """An account of the requests that each model with a share has yet to get. Thread-safe.

    Parameters
    ----------
    shares : mapping of str to float
        Share of the requests that a model is to get, 0 to 1.
    before : TrafficShares, optional
        The account so far, which goes on for models whose share stays the same.
    """

    def __init__(self, shares: Mapping[str, float], before: TrafficShares | None = None) -> None:
        self._shares = dict(shares)
        self._due = dict.fromkeys(self._shares, 0.0)
        if before is not None:
            self._due |= {
                name: due for name, share, due in before.accounts() if self._shares.get(name) == share
            }
        self._lock = renewed_after_fork(self, "_lock", threading.Lock)

    def accounts(self) -> list[tuple[str, float, float]]:
        """Return (model, share, requests it has yet to get)."""
        with self._lock:
            return [(name, share, self._due[name]) for name, share in self._shares.items()]

    def restricted(
        self, eligible: NDArray[np.bool_], room: NDArray[np.int64], ids: Sequence[str], *, preview: bool
    ) -> NDArray[np.bool_]:
        """Return eligibility with models that have a share offered exactly to their share of the agents.

        A preview sees which agents would come next, and leaves the account as it is.
        """
        eligible = eligible.copy()
        columns = [(ids.index(name), name) for name in self._shares if name in ids]
        with self._lock:
            due = self._due.copy() if preview else self._due
            for row in eligible:
                could = [(j, name) for j, name in columns if row[j] and room[j] > 0]
                for _, name in could:
                    due[name] += self._shares[name]
                chosen = next((pair for pair in could if due[pair[1]] >= 1.0 - 1e-9), None)
                if chosen is not None:
                    due[chosen[1]] -= 1.0
                    row[:] = False
                    row[chosen[0]] = True
                    continue
                others = row.copy()
                others[[j for j, _ in columns]] = False
                if (others & (room > 0)).any():
                    row[:] = others
        return eligible
