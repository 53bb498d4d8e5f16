"""What the router decided for one agent: the model and its lease, or why no model serves it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from types import TracebackType

    from solver.load.lease import Lease, ReleaseOutcome
    from solver.online.models_to_try import ModelsToTry
    from solver.online.refusal import RouteRefusal


class _Settling(Protocol):
    """What a decision needs of what made it."""

    ids: tuple[str, ...]

    def settle(
        self,
        decision: Decision,
        *,
        latency_ms: float | None,
        tokens: int | None,
        cost_usd: float | None,
        success: bool,
    ) -> ReleaseOutcome | None: ...


class Decision:
    """One routed agent. A context manager, plain or asynchronous, that releases on the way out.

    Attributes
    ----------
    agent_id : str or None
        The agent.
    model : str or None
        Id of the model; None when refused.
    lease : Lease or None
        The capacity held; it expires by itself unless renewed.
    reason : str
        In words.
    refusal : RouteRefusal or None
        Why no model serves the agent.
    """

    __slots__ = (
        "__weakref__",
        "_candidates",
        "_column",
        "_entered_by",
        "_net",
        "_released",
        "_router",
        "agent_id",
        "lease",
        "model",
        "reason",
        "refusal",
    )

    def __init__(
        self,
        agent_id: str | None,
        router: _Settling,
        candidates: ModelsToTry,
        *,
        lease: Lease | None = None,
        column: int = -1,
        net: float = 0.0,
        reason: str = "best after price",
        refusal: RouteRefusal | None = None,
    ) -> None:
        self.agent_id, self.lease, self.reason, self.refusal = agent_id, lease, reason, refusal
        self._router, self._candidates, self._column, self._net = router, candidates, column, net
        self._released = False
        self._entered_by = 0
        self.model = None if lease is None else lease.model

    @property
    def score(self) -> float:
        """Score of the pair; 0 when refused."""
        return 0.0 if self.lease is None else self._candidates.row.scores.item(self._column)

    @property
    def price(self) -> float:
        """What the capacity is worth to others, in score: ``score − price`` was maximal. 0 when refused."""
        return self.score - self._net

    @property
    def runner_up(self) -> str | None:
        """The next best model; None where there is none, or the agent was refused."""
        column = self._candidates.runner_up()[0] if self.lease is not None else -1
        return None if column < 0 else self._router.ids[column]

    @property
    def margin(self) -> float:
        """By how much the choice beat the runner-up, or refusing, in score; 0 when refused.

        Infinite where there is no other way; below zero where agents were placed jointly, and others
        needed the better model more.
        """
        return self._net - self._candidates.runner_up()[1] if self.lease is not None else 0.0

    @property
    def expected_usd(self) -> float:
        """Expected cost in US dollars; 0 when refused, or where none was given."""
        cost = self._candidates.row.cost_usd
        return 0.0 if cost is None or self._column < 0 else cost.item(self._column)

    def __repr__(self) -> str:
        """Return what was decided."""
        shown = ("agent_id", "model", "score", "price", "runner_up", "margin", "reason")
        return f"Decision({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

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
        self._entered_by = os.getpid()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._entered_by == os.getpid():  # not at the end of a child that was forked within the block
            self.release(success=error is None)

    async def __aenter__(self) -> Self:
        self._entered_by = os.getpid()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._entered_by == os.getpid():
            await self.release_async(success=error is None)
