"""Why no model serves an agent."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from solver.load.lease import Refusal


class RouteRefusalReason(enum.StrEnum):
    """Why no model serves an agent."""

    NO_ELIGIBLE_MODEL = "no eligible model"
    """No model meets the hard requirements or the minimum score."""
    FULL = "every eligible model is full"
    """Slots, queue places or rate limits of all eligible models are taken."""
    SLOTS_USED_UP = "every eligible model's slots of this horizon are used up"
    """Nothing comes back before the horizon ends."""
    NOT_WORTH_ITS_PRICE = "worth less than its capacity is to others"
    """Refusing is better than the best model at its price."""
    BUDGET = "the budget does not allow it"
    """Every eligible model with room costs more than is left."""
    STORE_UNAVAILABLE = "the store of live load cannot be reached"
    """Nothing can be reserved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteRefusal:
    """A refusal as data; falsy, as a tracker's refusal is.

    Parameters
    ----------
    reason : RouteRefusalReason
        What stood in the way.
    retry_after_s : float or None
        Seconds until the same request may fit, where that is known.
    cause : Refusal or None
        The tracker's last answer, where it refused.
    """

    reason: RouteRefusalReason
    retry_after_s: float | None = None
    cause: Refusal | None = None

    def __bool__(self) -> bool:
        """Return False: a refusal is no decision to serve."""
        return False
