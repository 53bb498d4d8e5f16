"""The status of a router's background work."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterStatus:
    """How the background work is doing.

    Parameters
    ----------
    refreshes : int
        Prices computed so far.
    refresh_ms : float
        How long the last took, milliseconds of wall clock.
    failures : int
        Refreshes that raised an error; the prices before stayed in use.
    last_error : str or None
        Of the last failure.
    arrivals : int
        Agents routed or refused so far.
    spent_usd : float
        Money spent or promised in the present budget period; 0 without a budget.
    log_dropped : int
        Records that the decision log could not keep.
    log_error : str or None
        Why the last of them could not.
    """

    refreshes: int
    refresh_ms: float
    failures: int
    last_error: str | None
    arrivals: int
    spent_usd: float
    log_dropped: int = 0
    log_error: str | None = None
