"""The capacities of models and shared pools: set, read, reset, forgotten, and learned."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import SpecError
from solver.load.checks import LARGEST_WHOLE, name_problems, names_problems, whole_problems
from solver.load.listeners import notify
from solver.load.store.usage_limit_checks import usage_limits, usage_problems
from solver.load.tracking.model_stops import ModelStops

if TYPE_CHECKING:
    from collections.abc import Sequence

    from solver.load.control.learned.learner import LearnedState
    from solver.load.store.base import StoreRow
    from solver.load.store.queue_rules import QueueRules
    from solver.load.store.usage_limits import UsageLimit
    from solver.problem.spec import Capacity

_REMEMBERED_FORGOTTEN = 1024
"""Latest models that were forgotten whose late feedback is recognised."""


class FleetSettings(ModelStops):
    """Capacities, limits and pools of a fleet."""

    # -- capacity

    def set_capacity(
        self,
        model: str,
        capacity: Capacity,
        *,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        budget_usd: float | None = None,
        budget_period_s: float | None = None,
        rules: QueueRules | None = None,
        limits: Sequence[UsageLimit] = (),
        pools: Sequence[str] = (),
    ) -> None:
        """Set what a model can take, now or again. What is running keeps running.

        Parameters
        ----------
        model : str
            Its id.
        capacity : Capacity
            Slots, queue places and target; zero slots mean drained: nothing new is let in.
        requests_per_minute, tokens_per_minute : int, optional
            Most in any 60 seconds.
        budget_usd : float, optional
            Most US dollars in any ``budget_period_s``.
        budget_period_s : float, optional
            Seconds; None: the budget is spent once.
        rules : QueueRules, optional
            In which order waiting requests start.
        limits : sequence of UsageLimit, optional
            Further limits, of a second, a day, or the calendar's day, week or month; all hold at once. Set
            again with another amount, a limit keeps what was used of it.
        pools : sequence of str
            Pools of :meth:`set_pool` that every lease on it draws on, too.

        Raises
        ------
        SpecError
            One line per limit that is out of range.
        """
        problems = name_problems("model", model)
        usage = usage_problems(requests_per_minute, tokens_per_minute, budget_usd, budget_period_s)
        if problems := problems + usage + names_problems("pools", pools):
            raise SpecError(*problems)
        enforced = replace(
            usage_limits(requests_per_minute, tokens_per_minute, budget_usd, budget_period_s, limits),
            max_concurrent=self._learned.configure(model, capacity),
            max_queue=capacity.max_queue,
            rules=rules,
            pools=tuple(pools),
        )
        with contextlib.suppress(SpecError):  # a new model
            before = self._store.limits(model)
            if before.full_slots is not None:  # a breaker goes on to probe
                slots = enforced.max_concurrent
                enforced = replace(
                    enforced, max_concurrent=before.max_concurrent, full_slots=before.full_slots
                ).with_slots(slots)
        self._store.configure(model, enforced)
        with self._lock:
            self._forgotten.pop(model, None)
            self._capacities[model] = capacity
            self._targets = ((), np.empty(0))

    def capacity(self, model: str) -> Capacity | None:
        """Return the capacity set here, None for a model this tracker does not know."""
        return self._capacities.get(model)

    def reset_usage(self, model: str) -> None:
        """Count what a model has used of its rates and budgets from nothing again, whatever the period.

        What requests in flight were charged with before is not taken back when they end.
        """
        self._store.reset_usage(model)

    # -- pools

    def set_pool(
        self,
        pool: str,
        *,
        max_concurrent: int | None = None,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        budget_usd: float | None = None,
        budget_period_s: float | None = None,
        limits: Sequence[UsageLimit] = (),
        within: Sequence[str] = (),
    ) -> None:
        """Set limits that several models share, such as one provider's quota behind many deployments.

        A lease on a model whose ``pools`` name this one draws on the model and on the pool in one atomic
        step, or on neither; it is renewed, moved, settled and released as one. A refusal names the pool.

        Parameters
        ----------
        pool : str
            Its name.
        max_concurrent : int, optional
            Most slots of all its models together.
        requests_per_minute, tokens_per_minute, budget_usd, budget_period_s, limits
            As in :meth:`set_capacity`, for all its models together.
        within : sequence of str
            Pools that this one draws on in turn, set before.

        Raises
        ------
        SpecError
            If a value is out of range, a pool is unknown, or one would draw on itself.
        """
        problems = name_problems("pool", pool)
        if max_concurrent is not None:
            problems += whole_problems("max_concurrent", max_concurrent)
        problems += usage_problems(requests_per_minute, tokens_per_minute, budget_usd, budget_period_s)
        if problems := problems + names_problems("within", within):
            raise SpecError(*problems)
        enforced = replace(
            usage_limits(requests_per_minute, tokens_per_minute, budget_usd, budget_period_s, limits),
            max_concurrent=LARGEST_WHOLE if max_concurrent is None else int(max_concurrent),
            pools=tuple(within),
        )
        self._store.configure_pool(pool, enforced)

    def pool(self, pool: str) -> StoreRow:
        """Return what a pool limits, what is taken of it, and how many wait on its models."""
        return self._store.pool_row(pool)

    def reset_pool(self, pool: str) -> None:
        """Do :meth:`reset_usage` for a pool."""
        self._store.reset_pool(pool)

    def forget_pool(self, pool: str) -> None:
        """Remove a pool; nothing happens when it is unknown. SpecError while models or pools draw on it."""
        self._store.forget_pool(pool)

    def forget(self, model: str) -> None:
        """Remove a model: its capacity, leases, usage, stops and latencies; releasing its leases is harmless.

        For fleets whose models come and go under new names. Nothing happens when it is unknown. What is recorded
        of it afterwards is passed on to plain listeners, and kept nowhere, until its capacity is set again.
        """
        with self._lock:
            self._forgotten[model] = None
            while len(self._forgotten) > _REMEMBERED_FORGOTTEN:
                del self._forgotten[next(iter(self._forgotten))]
        self._store.forget(model)
        self._learned.forget(model)
        self._upstream.forget(model)
        self._lengths.forget(model)
        self._line.forget(model)
        with self._lock:
            for known in (self._capacities, self._latency_ms, self._last_outcome_s, self._hold_s):
                known.pop(model, None)
            self._rows = {key: row for key, row in self._rows.items() if key[0] != model}
            self._refusals = Counter({key: n for key, n in self._refusals.items() if key[0] != model})
            self._targets = ((), np.empty(0))
        notify(self._forgetters, model)
        if self._draining:
            self._look_at_drains()

    # -- learned capacity

    def learned(self, model: str) -> LearnedState | None:
        """Return what is learned about a model and why its limit is what it is; None: nothing is learned."""
        return self._learned.state(model)

    def export_learned(self) -> dict[str, Any]:
        """Return all that has been learned, as plain numbers to be kept over restarts."""
        return self._learned.export()

    def restore_learned(self, states: dict[str, Any]) -> None:
        """Begin from what :meth:`export_learned` returned before a restart, after the capacities are set."""
        self._learned.restore(states)
