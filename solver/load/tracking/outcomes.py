"""How requests went: recorded, passed on to listeners, and turned into pauses of models that fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

from solver.errors import SpecError
from solver.load.checks import amount_problems, whole_problems
from solver.load.control.circuit_breaker import BUSY_STATUSES
from solver.load.listeners import notify
from solver.load.request_outcome import Outcome
from solver.load.tracking.state import TrackerState

if TYPE_CHECKING:
    from collections.abc import Callable

    from solver.load.lease import Lease

_LATENCY_WEIGHT = 0.2
"""Weight of the newest sample in the moving average of latencies."""


class Outcomes(TrackerState):
    """Outcomes of requests, and what follows from them."""

    def record(
        self,
        model: str,
        *,
        latency_ms: float,
        success: bool = True,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        cost_usd: float | None = None,
        task_type: str | None = None,
        status: int | None = None,
        retry_after_s: float | None = None,
        lease: Lease | None = None,
    ) -> Outcome:
        """Note how a request went, and pass it on to whoever listens.

        Status 429, 503 and 529 pause the model: for ``retry_after_s`` where the server named it (the longest
        deadline wins), else for a second, doubling while it repeats. Failures in a row open a circuit
        breaker: one probe at a time until one succeeds, then a slow start. Errors that are the request's own
        fault, such as 400, do neither. Who is stopped, why and until when is in ``snapshot().stops``.

        Parameters
        ----------
        model : str
            Who served it.
        latency_ms : float
            From sending to the end of the answer, milliseconds.
        success : bool
            Whether the answer was usable; a status of 400 or more says no.
        input_tokens, output_tokens, cost_usd, task_type
            As in ``Outcome``.
        status : int, optional
            HTTP status of the answer.
        retry_after_s : float, optional
            Seconds the server asked to wait, as in the header ``Retry-After``.
        lease : Lease, optional
            The request's lease: a capacity that is learned learns from the refusal.

        Raises
        ------
        SpecError
            If a figure is NaN, infinite or negative; nothing is noted then.
        """
        problems = [] if status is None else whole_problems("status", status, low=100)
        if retry_after_s is not None:
            problems += amount_problems("retry_after_s", retry_after_s)
        if problems:
            raise SpecError(*problems)
        if status is not None and status >= 400:
            success = False
        outcome = Outcome(
            model=model,
            latency_ms=latency_ms,
            success=success,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cost_usd=cost_usd,
            task_type=task_type,
            at_s=self._clock.now(),
        )
        if model in self._forgotten:
            notify(self._plain_listeners, outcome)
            return outcome
        with self._lock:
            if success:  # a model that fails at once is not a fast one
                mean = self._latency_ms.get(model, latency_ms)
                self._latency_ms[model] = mean + _LATENCY_WEIGHT * (latency_ms - mean)
            self._last_outcome_s[model] = outcome.at_s
        self._upstream.observe(outcome, status, retry_after_s)
        if lease is not None and status in BUSY_STATUSES:
            self._learned.turned_away(lease.lease_id, retry_after_s or 0.0, None)
        notify(self._listeners, outcome)
        return outcome

    def last_resort(self, models: tuple[str, ...]) -> str | None:
        """Open one of the models that only their breakers keep away, for one probe; None: there is none.

        For callers that find every model stopped: trying beats refusing. Balancers do so by themselves.
        """
        return self._upstream.last_resort(models)

    def listen(
        self, listener: Callable[[Outcome], object], *, forget: Callable[[str], object] | None = None
    ) -> None:
        """Call ``listener`` with every outcome from now on, in the recording thread, which waits for its return.

        Parameters
        ----------
        listener : callable
            Takes an ``Outcome``.
        forget : callable, optional
            Called with every model that is forgotten, so that what the listener keeps of it goes, too; late
            outcomes of such a model are not passed on to this listener then.
        """
        with self._lock:
            self._listeners = (*self._listeners, listener)
            if forget is None:
                self._plain_listeners = (*self._plain_listeners, listener)
            else:
                self._forgetters = (*self._forgetters, forget)
