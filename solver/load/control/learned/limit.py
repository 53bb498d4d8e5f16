"""The control law: computes the concurrency limit from one window's measurements."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf, sqrt
from typing import TYPE_CHECKING, Any

from solver.load.control.learned import gauges as g
from solver.load.control.learned.timing import DecodeTime, FirstTokenLine, prefill_limit, waiting_at_prefill

if TYPE_CHECKING:
    from solver.load.control.learned.gauges import Sums
    from solver.load.control.learned.parameters import LearnParameters


_LASTING_WINDOWS = 4
_SAME_LOAD = 0.3
"""Windows that a queue must last to count where each alone shows too little, and the share by which the number in
flight may differ among them."""


@dataclass(frozen=True, slots=True)
class Window:
    """Time averages and counts over one window.

    Parameters
    ----------
    span_s : float
        Its length.
    in_flight, waiting, tokens : float
        Mean requests in flight, of these without a first token, and mean tokens in flight.
    held_back : float
        Share of the time in which the limit kept traffic back.
    first_rate : float
        First tokens a second.
    """

    span_s: float
    in_flight: float
    waiting: float
    tokens: float
    held_back: float
    first_rate: float

    @classmethod
    def of(cls, sums: Sums, span_s: float) -> Window:
        """Return the averages of sums over a window."""
        return cls(
            span_s,
            sums[g.IN_FLIGHT_S] / span_s,
            sums[g.WAITING_S] / span_s,
            sums[g.TOKENS_S] / span_s,
            min(1.0, sums[g.HELD_BACK_S] / span_s),
            sums[g.FIRST] / span_s,
        )


@dataclass(slots=True)
class LastingQueue:
    """Means over the last windows with about as much in flight: they show a queue too short for a single window.

    Waiting for prefill varies from window to window as prompts do, so that a single one shows only a queue that is
    long beside it.
    """

    windows: int = 0
    in_flight: float = 0.0
    queue: float = 0.0
    explained: float = 0.0

    def add(self, window: Window, queue: float, explained: float, time_constant_s: float) -> None:
        """Add what one window has measured."""
        if abs(window.in_flight - self.in_flight) > _SAME_LOAD * self.in_flight:
            self.windows = 0
        self.windows += 1
        weight = max(1.0 / self.windows, min(1.0, window.span_s / time_constant_s))
        self.in_flight += weight * (window.in_flight - self.in_flight)
        self.queue += weight * (queue - self.queue)
        self.explained += weight * (explained - self.explained)


class LearnedLimit:
    """How many requests, and tokens, a backend can usefully have in flight.

    Per window: a queue for a place, seen as requests without a first token beyond what prefill explains,
    measures the capacity; the regression of decode time on the number in flight, and the share of the time
    that prefill would stand idle, bound it from above; a refusal lowers it at once; and it rises only while
    it is what keeps traffic back.

    Parameters
    ----------
    parameters : LearnParameters
        Range, objective, and constants.
    """

    def __init__(self, parameters: LearnParameters) -> None:
        self._p = p = parameters
        self.line = FirstTokenLine(p.measuring)
        self.decode = DecodeTime(p.memory_s)
        self.base = float(min(max(p.start, p.low), p.high))
        """The limit without a dip."""
        self.tokens = inf
        """Tokens that may be in flight."""
        self.reason = "start"
        self.held_by_tokens = False
        """Whether the last request kept back was kept back by the tokens."""
        self._known = inf
        self._known_tokens = 0.0
        self._regain = inf
        self._doubling = True
        self._step = 1.0
        self._hold_until = 0.0
        self._hold_s = p.hold_s
        self._dip = 0.0
        self._prefill = self._decoding = 0.0  # seconds a request, smoothed
        self._taken = 0.0
        self._unstreamed = 0.0
        """Share of the answers that are not streamed."""
        self._lasting = LastingQueue()

    @property
    def limit(self) -> int:
        """Requests that may be in flight."""
        return max(self._p.low, int(self.base - self._dip + 0.5))

    def set_parameters(self, parameters: LearnParameters) -> None:
        """Set range, objective and constants anew; what was learned of the backend stays known."""
        self._p = parameters
        self.base = float(min(max(self.base, parameters.low), parameters.high))
        self._hold_until = 0.0

    # -- events between windows

    def accepted(self, in_flight: float) -> None:
        """Note that the backend took a request with so many in flight, itself included."""
        if in_flight > self._taken:
            self._taken = float(in_flight)

    def refused(self, now: float, in_flight: int) -> bool:
        """Learn from a refusal for being busy, with so many others in flight; return whether it was one.

        A backend that lately took a quarter more cannot have refused for the number in flight: that was a
        rate limit, which says nothing about concurrency.
        """
        if in_flight < 0.8 * self._taken - 1.0:
            return False
        self._taken = float(in_flight)
        self.base = max(self._p.low, min(self.base, in_flight))
        self._found(now, self.base, "refused by the backend", self._p.longest_hold_s)
        return True

    def idle(self, idle_s: float) -> None:
        """Fall back after idleness: what was known is old. What was known is regained by doubling."""
        p = self._p
        if idle_s > p.idle_s and self.base > p.start:
            self._regain, self._doubling = self.base, True
            self.base = max(float(p.start), self.base * 0.5 ** (idle_s / (4.0 * p.idle_s)))

    # -- a window

    def learn(self, now: float, sums: Sums, span_s: float) -> None:
        """Learn from one window."""
        window = Window.of(sums, span_s)
        self._taken += min(1.0, span_s / 10.0) * (window.in_flight - self._taken)
        self.line.learn(sums[g.FIRST_FIT], exp(-span_s / self._p.memory_s))
        self._note_service(sums, window)
        queue = self._queue(window)
        slower = self.decode.learn([0.0] * 6 if queue > 0.0 else sums[g.DECODE_FIT], span_s)
        if slower != 1.0:
            self.line.rescale(
                slower
            )  # what makes tokens slower makes prompts slower: a busy or throttled device
            self._hold_until = now
        ends = sums[g.ENDED] + sums[g.UNSTREAMED]
        if ends > 0.0:
            self._unstreamed += min(1.0, ends / 20.0) * (sums[g.UNSTREAMED] / ends - self._unstreamed)
        best, why = self._best(window.in_flight)
        if queue > 0.0:
            self._shrink_to_queue(now, window, queue)
            self._lasting = LastingQueue()
        elif best < 0.95 * self.base and window.in_flight > 0.5 * best:
            self.base = max(self._p.low, best, 0.5 * self.base)
            self._doubling, self.reason = False, why
        elif window.held_back > self._p.measuring.min_throttled_share and best > 1.05 * self.base:
            self._grow(now, best)
        self._set_dip()

    def _note_service(self, sums: Sums, window: Window) -> None:
        """Update the seconds a request spends in prefill and in decoding."""
        if sums[g.FIRST] > 0.0:
            prefill = self.line.slope * sums[g.PROMPT_TOKENS] / sums[g.FIRST]
            weight = sums[g.FIRST] / (sums[g.FIRST] + 20.0)
            self._prefill += (weight if self._prefill else 1.0) * (prefill - self._prefill)
        if sums[g.DECODED] > 0.0:
            decoding = sums[g.DECODE_S] / sums[g.DECODED]
            weight = sums[g.DECODED] / (sums[g.DECODED] + 20.0)
            self._decoding += (weight if self._decoding else 1.0) * (decoding - self._decoding)

    @property
    def _decode_over_prefill(self) -> float:
        if (
            self._prefill <= self._p.measuring.least_prefill_share * self._decoding
        ):  # the formulas would subtract equal numbers
            return inf
        return (self._decoding + self.line.constant) / self._prefill

    def _queue(self, window: Window) -> float:
        """Return the mean number of requests that wait for a place, 0 below the detection threshold."""
        p, n = self._p, window.in_flight
        if not p.streamed or n <= 0.9 * p.low or self._unstreamed > p.measuring.most_unstreamed_share:
            return 0.0
        if self.line.constant + self.line.slope <= 0.0:  # nothing to compare with: most must not wait
            return (
                window.waiting - self._p.measuring.max_waiting_share_unfitted * n
                if window.waiting > max(1.0, 0.5 * n)
                else 0.0
            )
        ratio = self._decode_over_prefill
        own = window.first_rate * self.line.constant
        explained = own + (waiting_at_prefill(n, ratio) if ratio < inf else 0.0)
        queue, measuring = window.waiting - explained, p.measuring
        if queue > max(p.queue_share * n, 1.0) + (measuring.explained_wait_factor - 1.0) * explained:
            return queue
        lasting = self._lasting
        lasting.add(window, queue, explained, measuring.lasting_queue_s)
        worth = max(p.queue_share * lasting.in_flight, 0.5)
        worth += (measuring.lasting_wait_factor - 1.0) * lasting.explained
        return lasting.queue if lasting.windows >= _LASTING_WINDOWS and lasting.queue > worth else 0.0

    def _best(self, level: float) -> tuple[float, str]:
        """Return the largest useful number in flight by decode time and prefill, and which of them limits."""
        p, most, why = self._p, float(self._p.high), "grow"
        ratio = self._decode_over_prefill
        if p.streamed and ratio < inf:
            most = prefill_limit(ratio, p.prefill_idle, p.high, self.line.variability)
            why = "prefill is never idle"
        decode = self.decode
        if not decode.known or level < 0.5:
            return most, why
        if p.slo_s_per_token is None:
            best = decode.ratio
        else:
            pace = decode.pace_s(level)
            goal = p.slo_s_per_token * exp(
                -p.measuring.p99_deviations * sqrt(min(max(decode.variance, 1e-3), 0.06))
            )
            slope = min(max(decode.speed * decode.slope, 0.2 * pace / level), pace / level)
            best = max(0.5 * level, level + 0.7 * (goal - pace) / slope)
        return max(p.low, min(best, most)), "decode time" if best < most else why

    def _shrink_to_queue(self, now: float, window: Window, queue: float) -> None:
        """Take what ran beside a queue as the capacity, in requests or in tokens, whichever was short."""
        p, n = self._p, window.in_flight
        running, tokens = n - queue, window.tokens * (1.0 - queue / n)
        at_tokens = p.tokens and tokens >= 0.8 * self._known_tokens
        at_slots = not at_tokens or running > 0.8 * self._known or self._known == inf
        if p.tokens and not at_slots:
            self.tokens = self._known_tokens = tokens
            self._hold_until, self.reason = now + self._hold_s, "queue for memory"
        elif at_tokens:
            self._known_tokens = max(tokens, 0.95 * self._known_tokens)
            self.tokens = 1.2 * self._known_tokens  # which of the two was short is not known: some room
        level = max(p.low, running, 0.4 * self.base)
        if at_slots and level < self.base:
            self.base = level
            longest_s = min(p.longest_hold_s, max(p.longest_hold_of_many_s, p.hold_of_one_s / level))
            self._found(now, level, "queue for a slot", longest_s)

    def _found(self, now: float, level: float, reason: str, longest_hold_s: float) -> None:
        if not abs(level - self._known) <= 0.2 * self._known:
            self._hold_s = self._p.hold_s
        elif now >= self._hold_until:  # a probe failed at the same place
            self._hold_s = min(2.0 * self._hold_s, longest_hold_s)
        self._known, self._doubling, self._step = level, False, 1.0
        self._hold_until, self.reason = now + self._hold_s, reason

    def _grow(self, now: float, best: float) -> None:
        p = self._p
        if self._unstreamed > p.measuring.most_unstreamed_share:
            self.reason = "too few answers are streamed"
            return
        step = min(p.growth * self._step, 0.25)
        if self.held_by_tokens:
            if now >= self._hold_until:
                self.tokens *= 1.0 + step
                self._step = min(2.0 * self._step, 4.0)
        elif self._doubling:
            self.base = min(2.0 * self.base, best, p.high)
            if self.base > self._regain:
                self.base, self._doubling, self._regain = self._regain, False, inf
        elif now >= self._hold_until or self.base < 0.8 * self._known:
            self.base = min(self.base + max(1.0, step * self.base), best, p.high)
            self._step = min(2.0 * self._step, 4.0)
        self.reason = "held traffic back"

    def _set_dip(self) -> None:
        """Without an objective the slope itself is needed, and it shows only where the load varies."""
        at_knee = 0.8 * self.base < self._known < 1.2 * self.base
        wanted = self._p.slo_s_per_token is None and not self._doubling and not at_knee
        self._dip = self._p.dip_share * self.base if wanted and self.decode.windows % 40 < 8 else 0.0

    # -- state, to be kept over restarts

    def export(self) -> dict[str, Any]:
        """Return what has been learned, as plain numbers."""
        return {
            "limit": self.base,
            "tokens": None if self.tokens == inf else self.tokens,
            "known": None if self._known == inf else self._known,
            "known_tokens": self._known_tokens,
            "line": [self.line.constant, self.line.slope],
            "decode": [self.decode.constant, self.decode.slope * 1.0, self.decode.variance],
            "times": {
                "first": self.line.export(),
                "decode": self.decode.export(),
                "service": [self._prefill, self._decoding],
            },
        }

    def adopt(self, state: dict[str, Any]) -> None:
        """Take over what another router has learned of the same backend just now."""
        self.base = float(state["limit"])
        self.tokens = inf if state["tokens"] is None else float(state["tokens"])
        self._known = inf if state["known"] is None else float(state["known"])
        self._known_tokens = float(state["known_tokens"])
        self._doubling, self._dip, self.reason = False, 0.0, "shared"
        times = state["times"]
        self.line.adopt(times["first"])
        self.decode.adopt(times["decode"])
        self._prefill, self._decoding = times["service"]

    def restore(self, state: dict[str, Any]) -> None:
        """Begin from what was exported; what was known is regained by doubling, not taken for granted."""
        p = self._p
        self._regain = min(max(float(state["limit"]), p.low), p.high)
        self.base = max(float(p.low), min(self._regain, max(float(p.start), 0.5 * self._regain)))
        self.tokens = inf if state["tokens"] is None else float(state["tokens"])
        self._known = inf if state["known"] is None else float(state["known"])
        self._known_tokens = float(state["known_tokens"])
        self.line.constant, self.line.slope = (float(value) for value in state["line"])
        self.reason = "restored"
