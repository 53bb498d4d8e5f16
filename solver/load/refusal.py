"""Refusals as data: why nothing was granted, and when asking again makes sense."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from solver.load.stops import reopens_in_s

if TYPE_CHECKING:
    from solver.load.stops import Stop


class RefusalReason(enum.StrEnum):
    """Why an acquisition was refused."""

    CONCURRENCY = "concurrency"
    """Every slot that the request may fill is taken, or others wait in the queue before it."""
    QUEUE = "queue"
    """A queue place was asked for, and slots and queue are full."""
    REQUESTS = "requests"
    """The requests of the last minute leave no room."""
    TOKENS = "tokens"
    """The tokens of the last minute leave no room."""
    MEMORY = "memory"
    """The tokens in flight leave no room in the memory that was learned for the model."""
    BUDGET = "budget"
    """The estimate does not fit what is left of the budget."""
    TOO_LARGE = "too_large"
    """It asks for more than the whole capacity: waiting does not help."""
    NOT_ACCEPTING = "not_accepting"
    """New work is being rejected on purpose; ``Refusal.stops`` names the owner, the reason and the end."""
    PLAN = "plan"
    """It would have fitted, but another part of an all-or-nothing plan did not."""
    STORE_UNAVAILABLE = "store_unavailable"
    """The shared store cannot be reached."""
    RECOVERING = "recovering"
    """The shared store was restarted, and leases granted before are still being counted again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why nothing was granted. Falsy, so that ``lease = tracker.try_acquire(...)`` can be tested.

    Parameters
    ----------
    model : str
        The model asked for.
    reason : RefusalReason
        The first limit that stood in the way.
    retry_after_s : float or None
        Seconds until the same request can fit, where that is known: rates, budgets with a period, and stops
        that end by themselves.
    stops : tuple of Stop
        With ``NOT_ACCEPTING``: every stop that stands, in the order in which they were set.
    pool : str or None
        The shared pool whose limit stood in the way; None: it was the model's own.
    """

    model: str
    reason: RefusalReason
    retry_after_s: float | None = None
    stops: tuple[Stop, ...] = ()
    pool: str | None = None

    def __bool__(self) -> bool:
        """Return False: a refusal is not a lease."""
        return False


def stopped(model: str, stops: tuple[Stop, ...], now_s: float) -> Refusal:
    """Return the refusal of a model that is kept from new work, until the last of its stops ends."""
    wait_s = reopens_in_s(stops, now_s)
    return Refusal(model=model, reason=RefusalReason.NOT_ACCEPTING, retry_after_s=wait_s, stops=stops)
