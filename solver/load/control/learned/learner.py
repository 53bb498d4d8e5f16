"""LearnedCapacity: one backend as seen by one router, or by several that share what they see."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

from solver.load.control.learned import gauges as g
from solver.load.control.learned.gauges import Flight, Gauges, Sums
from solver.load.control.learned.limit import LearnedLimit
from solver.load.control.learned.parameters import LearnParameters


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedState:
    """What is learned about a backend, for a person or a page.

    Parameters
    ----------
    limit : int
        Requests that may be in flight.
    tokens : float
        Tokens that may be in flight, prompts and half of the expected outputs; ``inf`` while unknown.
    in_flight, waiting : int
        Requests in flight, and of these without a first token, through this router.
    reason : str
        Why the limit is what it is.
    paused_until_s : float
        Reading of the clock until which the backend asked for silence; in the past when it did not.
    seconds_per_token, seconds_to_first_token : float
        Expected at the present load, and of a request with a prompt of 1,000 tokens and no request ahead.
    """

    limit: int
    tokens: float
    in_flight: int
    waiting: int
    reason: str
    paused_until_s: float
    seconds_per_token: float
    seconds_to_first_token: float


class LearnedCapacity:
    """Learns the capacity of one backend from the requests of one router.

    Not thread-safe; the tracker calls it under a lock. About 5 µs a request over all its events. Several
    routers in front of one backend share :meth:`sums`: the one that leads learns from all of them through
    :meth:`merge_peer_sums`, the others take its limit through :meth:`follow`.

    Parameters
    ----------
    parameters : LearnParameters, optional
        Range, objective, and constants.

    Examples
    --------
    >>> from solver.load.control.learned.learner import LearnedCapacity
    >>> learned = LearnedCapacity()
    >>> flight = learned.sent(0.0, prompt=800)
    >>> learned.first_token(0.3, flight)
    >>> learned.ended(2.1, flight, output=120)
    >>> learned.limit
    4
    """

    def __init__(self, parameters: LearnParameters | None = None) -> None:
        self._p = p = parameters or LearnParameters()
        self._gauges = Gauges(streamed=p.streamed, params=p.measuring)
        self._law = LearnedLimit(p)
        self._opened_s = -inf
        self._before: Sums = [0.0] * g.N_SUMS
        self._elsewhere: Sums = [0.0] * g.N_SUMS
        self._due_s = inf
        self._due_ended = inf
        self._follows = False
        self._hears = False
        self._refusals: tuple[int, int] = (0, 0)
        self.paused_until_s = -inf
        self.windows = 0
        """Windows learned from."""
        self.enforced = self.limit
        """The limit that was last passed on to be enforced."""

    # -- reading

    @property
    def parameters(self) -> LearnParameters:
        """Range, objective, and constants."""
        return self._p

    @property
    def limit(self) -> int:
        """Requests that may be in flight."""
        return self._law.limit

    @property
    def in_flight(self) -> int:
        """Requests in flight through this router."""
        return self._gauges.in_flight

    @property
    def reason(self) -> str:
        """Why the limit is what it is."""
        return self._law.reason

    def set_parameters(self, parameters: LearnParameters) -> None:
        """Set range, objective and constants anew; what was learned, and what is in flight, stays known."""
        if parameters != self._p:
            self._p = parameters
            self._law.set_parameters(parameters)

    def state(self) -> LearnedState:
        """Return all that is worth showing."""
        law, gauges = self._law, self._gauges
        return LearnedState(
            limit=law.limit,
            tokens=law.tokens,
            in_flight=gauges.in_flight,
            waiting=gauges.waiting,
            reason=law.reason,
            paused_until_s=self.paused_until_s,
            seconds_per_token=law.decode.pace_s(gauges.in_flight + gauges.elsewhere),
            seconds_to_first_token=law.line.constant + 1000.0 * law.line.slope,
        )

    # -- events

    def admits(self, now: float, prompt: int) -> bool:
        """Return whether one more request of so many prompt tokens may be sent; a refusal is noted."""
        if now < self.paused_until_s:
            return False
        law, gauges = self._law, self._gauges
        count = gauges.in_flight + gauges.elsewhere
        if count < self._p.low:
            return True
        if count >= law.limit:
            law.held_by_tokens = False
        elif gauges.tokens + gauges.elsewhere_tokens + prompt <= law.tokens or count == 0:
            return True
        else:
            law.held_by_tokens = True
        gauges.held_back(now)
        return False

    def has_room_for(self, prompt: int) -> bool:
        """Return whether the tokens in flight leave room for a request of so many prompt tokens."""
        gauges = self._gauges
        if gauges.in_flight + gauges.elsewhere < self._p.low:
            return True
        return gauges.tokens + gauges.elsewhere_tokens + prompt <= self._law.tokens

    def held_back(self, now: float, *, by_tokens: bool = False) -> None:
        """Note that the component that enforces the limit kept a request back."""
        self._law.held_by_tokens = by_tokens
        self._gauges.held_back(now)

    def sent(self, now: float, prompt: int) -> Flight:
        """Note a request sent to the backend; the result names it in the calls to come."""
        gauges = self._gauges
        if gauges.in_flight == 0:
            if now - gauges.now > self._p.idle_s and gauges.now > 0.0:
                self._law.idle(now - gauges.now)
            if self._opened_s == -inf:
                gauges.now = now
                self._open(now)
        flight = gauges.sent(now, prompt)
        self._law.accepted(gauges.in_flight + gauges.elsewhere)
        return flight

    def first_token(self, now: float, flight: Flight) -> None:
        """Note the first token of an answer, of content or reasoning."""
        self._gauges.first_token(now, flight)

    def ended(self, now: float, flight: Flight, output: int) -> None:
        """Note the end of a request with its output tokens, 0 where it failed."""
        gauges = self._gauges
        gauges.ended(now, flight, output)
        if now >= self._due_s and not self._hears:
            self._close_if_due(now)

    def refused(
        self, now: float, flight: Flight, *, retry_after_s: float = 0.0, rate: bool | None = None
    ) -> bool:
        """Note that the backend turned a request away, by status 429 or 503.

        Parameters
        ----------
        now : float
            The time, seconds.
        flight : Flight
            The request.
        retry_after_s : float
            Silence the backend asks for; at most a minute is kept.
        rate : bool, optional
            Whether a rate was exceeded, which says nothing about concurrency. None: judged by whether the
            backend has lately taken more at a time.

        Returns
        -------
        bool
            Whether the limit was lowered.
        """
        gauges = self._gauges
        gauges.ended(now, flight, 0)
        self.paused_until_s = max(
            self.paused_until_s, now + min(retry_after_s, self.parameters.measuring.longest_pause_s)
        )
        if rate:
            return False
        level = int(gauges.in_flight + gauges.elsewhere)
        self._refusals = self._refusals[0] + 1, level
        return self._law.refused(now, level)

    @property
    def refusals(self) -> tuple[int, int]:
        """Requests turned away that may say something about concurrency, and what was in flight at the last."""
        return self._refusals

    def refused_elsewhere(self, now: float, in_flight: int) -> bool:
        """Note that a request of another router was turned away, with so many in flight through all of them."""
        return self._law.refused(now, in_flight)

    # -- windows

    def _open(self, now: float) -> None:
        p = self._p
        self._opened_s = now
        self._before = self._all(now)
        self._due_s = now + p.window_s
        self._due_ended = self._before[g.ENDED] + max(4.0, p.window_share * self._law.base)

    def _all(self, now: float) -> Sums:
        own = self._gauges.sums(now)
        return [a + b for a, b in zip(own, self._elsewhere, strict=True)]

    def _close_if_due(self, now: float) -> None:
        if self._follows:
            return
        late = now - self._opened_s > self._p.longest_window_s
        if not late and self._gauges_ended() < self._due_ended:
            return
        sums, span = self._all(now), now - self._opened_s
        self._law.learn(now, [a - b for a, b in zip(sums, self._before, strict=True)], span)
        self._gauges.line = (self._law.line.constant, self._law.line.slope)
        self.windows += 1
        self._open(now)

    def _gauges_ended(self) -> float:
        return self._gauges.ended_count + self._elsewhere[g.ENDED]

    # -- several routers

    def sums(self, now: float) -> Sums:
        """Return what this router has seen since it started: to be shared with the others."""
        gauges = self._gauges
        return [*gauges.sums(now), float(gauges.in_flight), float(gauges.waiting), gauges.tokens]

    def merge_peer_sums(self, others: list[Sums], now: float) -> None:
        """Merge the sums of the other routers, each from its :meth:`sums`, and lead from now on.

        With others, windows are closed here alone, where the sums of all belong to about the same time.
        """
        self._note_elsewhere(others, now)
        if self._follows:  # from now on it leads
            self._follows = False
            if self._opened_s > -inf:
                self._open(now)
        if self._opened_s == -inf and self._gauges.elsewhere > 0:
            self._gauges.now = now
            self._open(now)
        if now >= self._due_s - 0.5 * self._p.window_s:  # totals come about once a window, not to the moment
            self._close_if_due(now)

    def _note_elsewhere(self, others: list[Sums], now: float) -> None:
        gauges = self._gauges
        gauges.advance(now)
        self._hears = bool(others)
        columns = [sum(column) for column in zip(*others, strict=True)] or [0.0] * (g.N_SUMS + 3)
        gauges.elsewhere, gauges.elsewhere_waiting, gauges.elsewhere_tokens = columns[-3:]
        self._elsewhere = columns[: g.N_SUMS]

    def follow(
        self, state: dict[str, Any], others: list[Sums] | None = None, now: float | None = None
    ) -> None:
        """Take the limits of the router that leads, from its :meth:`export`; with what the others have seen."""
        self._law.adopt(state)
        self._gauges.line = (self._law.line.constant, self._law.line.slope)
        self._follows = True
        if others is not None and now is not None:
            self._note_elsewhere(others, now)

    def export(self) -> dict[str, Any]:
        """Return what has been learned, as plain numbers."""
        return {**self._law.export(), "mean_output": self._gauges.mean_output}

    def restore(self, state: dict[str, Any]) -> None:
        """Begin from what was exported before a restart."""
        self._law.restore(state)
        self._gauges.line = (self._law.line.constant, self._law.line.slope)
        self._gauges.mean_output = float(state["mean_output"])
