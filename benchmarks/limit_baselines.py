"""Adaptive concurrency limits from the literature, after their sources, as peers of the learned limit.

AIMD, Vegas and Gradient2 follow Netflix's concurrency-limits, the gradient controller follows Envoy's adaptive
concurrency filter. Latency is taken per token (a prompt token counts a twentieth), which is kinder to them on
requests of such different length than the round trips they were made for.
"""

from __future__ import annotations

import math
import statistics

import numpy as np

Ticket = tuple[float, int]


class Fixed:
    """A constant limit."""

    def __init__(self, limit: float = 4.0) -> None:
        self.limit = limit
        self.running = 0

    def admits(self, now: float, in_flight: int, prompt: int) -> bool:
        return in_flight < max(1, int(self.limit))

    def sent(self, now: float, prompt: int) -> Ticket:
        self.running += 1
        return now, prompt

    def first(self, now: float, ticket: Ticket) -> None:
        pass

    def ended(self, now: float, ticket: Ticket, output: int) -> None:
        self.running -= 1
        self.sample(now, (now - ticket[0]) / (output + ticket[1] / 20.0), self.running + 1, ticket[0])

    def refused(self, now: float, in_flight: int, retry_after_s: float) -> None:
        self.limit = max(1.0, 0.9 * self.limit)

    def sample(self, now: float, latency: float, in_flight: int, sent_s: float) -> None:
        pass

    def _set(self, limit: float) -> None:
        self.limit = max(1.0, min(1024.0, limit))


class Constant(Fixed):
    """A constant limit that refusals do not move."""

    def refused(self, now: float, in_flight: int, retry_after_s: float) -> None:
        pass


class AIMD(Fixed):
    """One more per round while latency is below a threshold, nine tenths of it above."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def sample(self, now: float, latency: float, in_flight: int, sent_s: float) -> None:
        if latency > self.threshold:
            self._set(0.9 * self.limit)
        elif 2 * in_flight >= self.limit:
            self._set(self.limit + 1.0 / self.limit)


class Vegas(Fixed):
    """Queue estimated as ``limit × (1 − least latency / latency)``, kept between 3 and 6 × log10(limit)."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        self.least, self.count, self.jitter = 0.0, 0, 0.75
        self.rng = np.random.default_rng(seed)

    def sample(self, now: float, latency: float, in_flight: int, sent_s: float) -> None:
        self.count += 1
        if self.count >= 30 * self.jitter * self.limit:
            self.jitter, self.count, self.least = float(self.rng.uniform(0.5, 1.0)), 0, latency
            return
        if self.least == 0.0 or latency < self.least:
            self.least = latency
            return
        if 2 * in_flight < self.limit:
            return
        step = max(1, int(math.log10(max(1.0, self.limit))))
        queue = math.ceil(self.limit * (1.0 - self.least / latency))
        if queue <= step:
            self._set(self.limit + 6 * step)
        elif queue < 3 * step:
            self._set(self.limit + step)
        elif queue > 6 * step:
            self._set(self.limit - step)


class Gradient2(Fixed):
    """The limit times long-term over short-term latency, plus a queue of four, smoothed."""

    def __init__(self) -> None:
        super().__init__()
        self.long, self.count, self.since = 0.0, 0, 0.0
        self.window: list[float] = []

    def sample(self, now: float, latency: float, in_flight: int, sent_s: float) -> None:
        self.window.append(latency)
        if now - self.since < 1.0 or len(self.window) < 10:
            return
        short = statistics.fmean(self.window)
        self.window, self.since, self.count = [], now, self.count + 1
        weight = 1.0 / self.count if self.count <= 10 else 2.0 / 601.0
        self.long += weight * (short - self.long)
        if self.long > 2.0 * short:
            self.long *= 0.9
        if 2 * in_flight >= self.limit:
            gradient = max(0.5, min(1.0, self.long / short))
            self._set(0.8 * self.limit + 0.2 * (gradient * self.limit + 4.0))


class Envoy(Fixed):
    """Least latency measured every minute at a limit of three; the limit follows least × 1.25 over median."""

    def __init__(self) -> None:
        super().__init__()
        self.least, self.probing, self.saved = 0.0, True, 4.0
        self.limit, self.since, self.next_s, self.at_least = 3.0, 0.0, 0.0, 0
        self.window: list[float] = []

    def sample(self, now: float, latency: float, in_flight: int, sent_s: float) -> None:
        if self.probing:
            if sent_s >= self.since:
                self.window.append(latency)
            if len(self.window) >= 10:
                self.least, self.probing = statistics.median(self.window), False
                self._set(max(3.0, self.saved))
                self.window, self.since, self.next_s = [], now, now + 60.0
            return
        if now >= self.next_s or self.at_least >= 5:
            self.probing, self.saved, self.limit = True, self.limit, 3.0
            self.window, self.since, self.at_least = [], now, 0
            return
        self.window.append(latency)
        if now - self.since < 5.0 or len(self.window) < 3:
            return
        gradient = max(0.5, min(2.0, 1.25 * self.least / statistics.median(self.window)))
        self.window, self.since = [], now
        self._set(max(3.0, gradient * self.limit + math.sqrt(self.limit)))
        self.at_least = self.at_least + 1 if self.limit <= 3.0 else 0
