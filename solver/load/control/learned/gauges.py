"""One router's measurements of its requests at one backend: gauges, and sums that add up over routers."""

from __future__ import annotations

from math import exp

from solver.load.control.learned.parameters import MeasuringParams

Sums = list[float]
"""Sums since the start, see :meth:`Gauges.sums`. Those of several routers may be added."""

(
    IN_FLIGHT_S,
    WAITING_S,
    TOKENS_S,
    HELD_BACK_S,
    FIRST,
    PROMPT_TOKENS,
    ENDED,
    OUTPUT_TOKENS,
    DECODED,
    DECODE_S,
) = range(10)
DECODE_FIT = slice(10, 16)
FIRST_FIT = slice(16, 21)
UNSTREAMED = 21
N_SUMS = 22


class Flight:
    """One request between sending and end."""

    __slots__ = ("ahead", "area", "first_s", "prompt", "sent_s")

    def __init__(self, sent_s: float, prompt: int, area: float, ahead: float) -> None:
        self.sent_s = sent_s
        self.prompt = prompt
        self.area = area
        """Integral of the number in flight at the first token (not streamed: at sending)."""
        self.ahead = ahead
        """Prompt tokens of the requests that waited for their first token when it was sent."""
        self.first_s = -1.0


class Gauges:
    """Counts of requests in flight, their integrals over time, and sums for two regressions.

    O(1) an event. Not thread-safe. Times are seconds by any clock that does not go backwards.

    Parameters
    ----------
    streamed : bool
        Whether first tokens are reported.
    params : MeasuringParams, optional
        What counts, and how much.
    """

    __slots__ = (
        "_ahead",
        "_decode",
        "_first",
        "_held_since",
        "_params",
        "_sums",
        "_unstreamed",
        "_unstreamed_s",
        "_unstreamed_since",
        "_unstreamed_until",
        "elsewhere",
        "elsewhere_tokens",
        "elsewhere_waiting",
        "in_flight",
        "line",
        "mean_output",
        "now",
        "prompt",
        "streamed",
        "total_area",
        "waiting",
    )

    def __init__(self, *, streamed: bool = True, params: MeasuringParams | None = None) -> None:
        self._params = params or MeasuringParams()
        self.streamed = streamed
        self.in_flight = self.waiting = 0
        self.prompt = 0.0
        """Prompt tokens of the requests in flight."""
        self.elsewhere = self.elsewhere_waiting = self.elsewhere_tokens = 0.0
        """Requests in flight, waiting, and tokens held through other routers, as last heard."""
        self.mean_output = 200.0
        """Running mean of output tokens; they count by half while in flight."""
        self.line = (0.0, 0.0)
        """Time to first token of an unobstructed request: seconds, and seconds per prompt token."""
        self.now = 0.0
        self.total_area = 0.0
        self._held_since = -1.0
        self._ahead = 0.0
        self._sums: Sums = [0.0] * 10
        self._decode = [0.0] * 6
        self._first = [0.0] * 5
        self._unstreamed = 0.0
        self._unstreamed_s = self._unstreamed_since = self._unstreamed_until = 0.0
        """Durations of answers that came at once, fading; since when they are counted, and as of when."""

    @property
    def ended_count(self) -> float:
        """Requests that have ended after a first token."""
        return self._sums[ENDED]

    @property
    def tokens(self) -> float:
        """Tokens held by the requests in flight here: prompts, and half of the expected outputs."""
        return self.prompt + self.in_flight * 0.5 * self.mean_output

    def sums(self, now: float) -> Sums:
        """Return all sums up to now: the integrals, the counts, and the two regressions."""
        self.advance(now)
        return [*self._sums, *self._decode, *self._first, self._unstreamed]

    def held_back(self, now: float) -> None:
        """Note that a limit keeps traffic back from now until the next event."""
        if self._held_since < 0:
            self._held_since = now

    def sent(self, now: float, prompt: int) -> Flight:
        """Note a request sent to the backend, with its prompt tokens."""
        self.advance(now)
        ahead = self._ahead
        if self.elsewhere_waiting >= 0.5:
            ahead += self.elsewhere_waiting * prompt
        self.in_flight += 1
        self.prompt += prompt
        if self.streamed:
            self.waiting += 1
            self._ahead += prompt
        return Flight(now, prompt, self.total_area, ahead)

    def first_token(self, now: float, flight: Flight) -> None:
        """Note the first token of a request; a second call for the same request changes nothing."""
        if flight.first_s >= 0 or not self.streamed:
            return
        self.advance(now)
        self.waiting -= 1
        self._ahead -= flight.prompt
        flight.first_s, flight.area = now, self.total_area
        sums = self._sums
        sums[FIRST] += 1.0
        sums[PROMPT_TOKENS] += flight.prompt
        first, took = self._first, now - flight.sent_s
        params = self._params
        few = first[0] < params.min_uncontended_weight and not (
            self.elsewhere > 0.0 and self.line[0] + self.line[1] > 0.0
        )
        if flight.ahead == 0.0:
            size = flight.prompt * 1e-3
            expected = self.line[0] + self.line[1] * flight.prompt
            weight = 1.0 if took < expected or few else params.late_weight
            if weight < 1.0 and self.elsewhere > 0.0:  # others may have been ahead, unheard of so far
                weight *= min(1.0, (expected + 1e-3) / (took + 1e-3))
        elif few:  # so far nothing better is known than who had to wait for others' prompts
            size, weight = (flight.prompt + flight.ahead) * 1e-3, params.late_weight
        else:
            return
        first[0] += weight
        first[1] += weight * size
        first[2] += weight * size * size
        first[3] += weight * took
        first[4] += weight * took * size

    def ended(self, now: float, flight: Flight, output: int) -> None:
        """Note the end of a request, with its output tokens; 0 where it failed."""
        self.advance(now)
        self.in_flight -= 1
        self.prompt -= flight.prompt
        start, size = flight.first_s, output - 1.0
        if not self.streamed:  # the whole latency over all tokens, a prompt token counting a twentieth
            start, size = flight.sent_s, output + flight.prompt / 20.0
        elif start < 0:
            self.waiting -= 1
            self._ahead -= flight.prompt
            if output > 0:
                self._came_at_once(now, now - flight.sent_s)
            return
        sums = self._sums
        sums[ENDED] += 1.0
        if output <= 0:
            return
        self.mean_output += 0.02 * (output - self.mean_output)
        sums[OUTPUT_TOKENS] += output
        span = now - start
        sums[DECODED] += 1.0
        sums[DECODE_S] += span
        if output >= self._params.least_output and span > 0.0:
            weight = min(1.0, output / self._params.full_weight_output)
            pace, level, fit = span / size, (self.total_area - flight.area) / span, self._decode
            fit[0] += weight
            fit[1] += weight * level
            fit[2] += weight * level * level
            weight *= pace
            fit[3] += weight
            fit[4] += weight * level
            fit[5] += weight * pace

    def _came_at_once(self, now: float, took_s: float) -> None:
        """Note an answer that was not streamed: it seemed to wait for its first token all the time."""
        if not self._unstreamed:
            self._unstreamed_since = self._unstreamed_until = now - took_s - 1e-9
        self._unstreamed += 1.0
        self._unstreamed_s = took_s + self._unstreamed_s * exp(
            (self._unstreamed_until - now) / self._params.unstreamed_memory_s
        )
        self._unstreamed_until = now

    def _without_stream(self, now: float) -> float:
        """Return how many of the requests in flight will be answered at once, by Little's law."""
        memory_s = self._params.unstreamed_memory_s
        counted_s = memory_s * (1.0 - exp((self._unstreamed_since - now) / memory_s))
        return self._unstreamed_s * exp((self._unstreamed_until - now) / memory_s) / counted_s

    def advance(self, now: float) -> None:
        """Carry the integrals forward to now."""
        span = now - self.now
        if span <= 0.0:
            return
        sums = self._sums
        count = self.in_flight
        sums[IN_FLIGHT_S] += count * span
        waiting: float = self.waiting
        if self._unstreamed:
            waiting = max(0.0, waiting - self._without_stream(now))
        sums[WAITING_S] += waiting * span
        sums[TOKENS_S] += (self.prompt + count * 0.5 * self.mean_output) * span
        self.total_area += (count + self.elsewhere) * span
        if self._held_since >= 0.0:
            sums[HELD_BACK_S] += now - self._held_since
            self._held_since = -1.0
        self.now = now
