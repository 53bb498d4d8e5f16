"""Routing in an event loop: tasks of one pass are placed jointly, and nothing waits for a remote store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from solver.load.lease import Lease, RefusalReason

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from solver.load.lease import Demand
    from solver.load.refusal import Refusal
    from solver.load.tracker import LoadTracker
    from solver.online.choices import Candidates, Choice
    from solver.online.decision import Decision, RouteRefusalReason
    from solver.online.gathering import Gathering
    from solver.online.rows import RowMaker
    from solver.online.window import AgentRow
    from solver.problem.spec import Agent

__all__ = ["LASTING", "AsyncRouting"]

LASTING = frozenset({RefusalReason.STORE_UNAVAILABLE, RefusalReason.RECOVERING})
"""Refusals that no other model would answer differently."""


class AsyncRouting:
    """The asynchronous side of :class:`~solver.online.router.OptimalRouter`, which provides the rest."""

    _tracker: LoadTracker
    _rows: RowMaker
    _ids: tuple[str, ...]
    _gathering: Gathering
    _ttl_s: float
    _queue: bool

    async def route_async(
        self,
        agent: Agent | None = None,
        *,
        scores: ArrayLike | None = None,
        cost_usd: ArrayLike | None = None,
        service_s: ArrayLike | None = None,
        tokens: int = 0,
        tenant: str | None = None,
        priority: float = 1.0,
        ttl_s: float | None = None,
    ) -> Decision:
        """Do :meth:`~solver.OptimalRouter.route` without blocking the event loop on a remote store.

        Tasks that wait in the same pass of the event loop are placed jointly, as by
        :meth:`~solver.OptimalRouter.route_many`. When the awaiting task is cancelled meanwhile, whatever is
        granted is released again.
        """
        row = self._rows.of_one(agent, scores, cost_usd, service_s, tokens, tenant, priority)
        ttl = self._ttl_s if ttl_s is None else ttl_s
        self._refresh_if_due()
        column = await self._gathering.column(row)
        candidates = self._candidates_now(row)
        candidates.begin_with(column)
        decision = await self._reserve_async(agent, row, candidates, ttl)
        return self._logged(agent, row, candidates, decision)

    async def _reserve_async(
        self, agent: Agent | None, row: AgentRow, candidates: Candidates, ttl_s: float
    ) -> Decision:
        """Reserve the best model that is not lost to another client meanwhile."""
        last: Refusal | None = None
        while (choice := candidates.following()) is not None:
            if not self._claim(choice.column, row):
                continue
            try:
                answer = await self._tracker.try_acquire_async(
                    self._ids[choice.column], self._demand(row, choice.column), ttl_s, queue=self._queue
                )
            except BaseException:  # cancelled, too: the tracker releases what it still grants
                self._unclaim(choice.column, row)
                raise
            if isinstance(answer, Lease):
                return self._decision(agent, row, choice, answer)
            self._unclaim(choice.column, row)
            last = answer
            if answer.reason in LASTING:
                break
        return self._refused(agent, row, candidates.refusal, last)

    if TYPE_CHECKING:  # what the router provides

        def _refresh_if_due(self) -> None: ...
        def _candidates_now(self, row: AgentRow) -> Candidates: ...
        def _claim(self, column: int, row: AgentRow) -> bool: ...
        def _unclaim(self, column: int, row: AgentRow) -> None: ...
        def _demand(self, row: AgentRow, column: int) -> Demand: ...
        def _decision(self, agent: Agent | None, row: AgentRow, choice: Choice, lease: Lease) -> Decision: ...
        def _refused(
            self, agent: Agent | None, row: AgentRow, reason: RouteRefusalReason, cause: Refusal | None
        ) -> Decision: ...
        def _logged(
            self, agent: Agent | None, row: AgentRow, candidates: Candidates, decision: Decision
        ) -> Decision: ...
