"""What the router decided for one agent: the model and its lease, or why nobody serves it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from types import TracebackType

    from solver.load.lease import Lease, Refusal, ReleaseOutcome

__all__ = ["Decision", "RouteRefusal", "RouteRefusalReason"]


class RouteRefusalReason(enum.StrEnum):
    """Why no model serves an agent."""

    NO_ELIGIBLE_MODEL = "no eligible model"
    """No model meets the hard requirements or the minimum score."""
    FULL = "every eligible model is full"
    """Slots, queue places or rate limits of all eligible models are taken."""
    SLOTS_USED_UP = "every eligible model's slots of this horizon are used up"
    """Nothing comes back before the horizon ends."""
    NOT_WORTH_ITS_PRICE = "worth less than its capacity is to others"
    """Serving nobody is better than the best model at its price."""
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


class _Settling(Protocol):
    """What a decision needs of the router that made it."""

    def settle(
        self,
        decision: Decision,
        *,
        latency_ms: float | None,
        tokens: int | None,
        cost_usd: float | None,
        success: bool,
    ) -> ReleaseOutcome | None: ...


@dataclass(slots=True, eq=False)
class Decision:
    """One routed agent. A context manager, plain or asynchronous, that releases on the way out.

    Parameters
    ----------
    agent_id : str or None
        Whom it is about.
    model : str or None
        Id of the model; None when refused.
    lease : Lease or None
        The capacity held; it expires by itself unless renewed.
    score : float
        Of the pair; 0 when refused.
    price : float
        What the capacity is worth to others, in score: ``score − price`` was maximal.
    runner_up : str or None
        The next best model.
    margin : float
        By how much the choice beat the runner-up, or serving nobody, in score.
    reason : str
        In words.
    refusal : RouteRefusal or None
        Why nobody serves the agent.
    """

    agent_id: str | None
    model: str | None
    lease: Lease | None
    score: float
    price: float
    runner_up: str | None
    margin: float
    reason: str
    refusal: RouteRefusal | None = None
    _router: _Settling | None = field(default=None, repr=False)
    _column: int = field(default=-1, repr=False)
    _expected_usd: float = field(default=0.0, repr=False)
    _released: bool = field(default=False, repr=False)

    def __bool__(self) -> bool:
        """Return whether a model serves the agent."""
        return self.model is not None

    def release(
        self,
        *,
        latency_ms: float | None = None,
        tokens: int | None = None,
        cost_usd: float | None = None,
        success: bool = True,
    ) -> ReleaseOutcome | None:
        """Give the capacity back and record what happened. The second call changes nothing.

        Parameters
        ----------
        latency_ms : float, optional
            How long it took; given, the outcome is recorded, and predictions learn from it.
        tokens : int, optional
            Tokens really used, in and out.
        cost_usd : float, optional
            US dollars really spent; default: what was expected.
        success : bool
            Whether the answer was usable.

        Returns
        -------
        ReleaseOutcome or None
            What the tracker found; None for a refusal.

        Raises
        ------
        SpecError
            If a figure is negative or not finite; nothing is released then.
        """
        if self._router is None:
            return None
        return self._router.settle(
            self, latency_ms=latency_ms, tokens=tokens, cost_usd=cost_usd, success=success
        )

    async def release_async(
        self,
        *,
        latency_ms: float | None = None,
        tokens: int | None = None,
        cost_usd: float | None = None,
        success: bool = True,
    ) -> ReleaseOutcome | None:
        """Do :meth:`release` without blocking the event loop; it is carried out even if cancelled."""
        if self.lease is None:
            return None
        import asyncio  # most processes that import this package never need it

        work = asyncio.get_running_loop().run_in_executor(
            None,
            lambda: self.release(latency_ms=latency_ms, tokens=tokens, cost_usd=cost_usd, success=success),
        )
        return await asyncio.shield(work)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release(success=error is None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.release_async(success=error is None)
