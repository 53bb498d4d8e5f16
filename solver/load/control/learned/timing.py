"""Two regressions and a queueing formula: what a backend's times say about its capacity."""

from __future__ import annotations

from math import exp, inf, sqrt

from solver.load.control.learned.parameters import MeasuringParams


class FirstTokenLine:
    """Regression of seconds to the first token on prompt tokens, of requests with none ahead of them; low side.

    Forgetting least squares; what the backend adds (waiting for a place, or for prefill of others) is not in
    it, since the samples are unobstructed and those above the line weigh a tenth.

    Parameters
    ----------
    params : MeasuringParams, optional
        From which weight on old observations are forgotten.
    """

    def __init__(self, params: MeasuringParams | None = None) -> None:
        self._remembered = (params or MeasuringParams()).remembered_weight
        self.constant = self.slope = 0.0
        self._sums = [0.0] * 5

    @property
    def variability(self) -> float:
        """Squared coefficient of variation of the prompts' sizes, at most 1."""
        weight, size, square = self._sums[:3]
        return min(1.0, max(0.0, square * weight / (size * size) - 1.0)) if size > 0.0 else 1.0

    def export(self) -> list[float]:
        """Return all that is known, as plain numbers."""
        return [self.constant, self.slope, *self._sums]

    def adopt(self, state: list[float]) -> None:
        """Take over what another has exported."""
        self.constant, self.slope = state[:2]
        self._sums = list(state[2:])

    def rescale(self, factor: float) -> None:
        """Multiply all times, of the past, too: the backend has become slower by this factor."""
        self.constant, self.slope = factor * self.constant, factor * self.slope
        for k in (3, 4):
            self._sums[k] *= factor

    def learn(self, sums: list[float], forget: float) -> None:
        """Add (Σv, Σvp, Σvpp, Σvt, Σvpt) of one window; prompt tokens p in thousands, times t in seconds."""
        fade = forget if self._sums[0] > self._remembered else 1.0
        total = [fade * old + new for old, new in zip(self._sums, sums, strict=True)]
        self._sums = total
        weight, size, square, time, product = total
        if weight <= 0.35:
            return
        ridge = 0.02 * (square + 1e-9 * weight)
        slope = max(0.0, (weight * product - size * time) / (weight * (square + ridge) - size * size))
        self.constant, self.slope = max(0.0, (time - slope * size) / weight), slope * 1e-3


class DecodeTime:
    """Seconds per output token, ``speed × (constant + slope × in flight)``, and their spread.

    The shape is remembered for ``memory_s``. A change of speed at unchanged load (another machine, thermal
    throttling) rescales what was remembered, so that it is not taken for an effect of load.
    """

    def __init__(self, memory_s: float) -> None:
        self._memory_s = memory_s
        self._sums = [0.0] * 6
        self.constant = self.slope = 0.0
        self.speed = 1.0
        self.variance = 0.01
        """Relative variance of a request's time per token about the line."""
        self.ratio = inf
        """``constant ÷ slope``, the number in flight of greatest power; moved slowly, a trait of the model."""
        self.windows = 0

    @property
    def known(self) -> bool:
        """Whether enough has been seen for a decision."""
        return self.constant > 0.0 and self._sums[0] >= 4.0

    def export(self) -> list[float]:
        """Return all that is known, as plain numbers; a ratio of 0 is one that is not known."""
        ratio = 0.0 if self.ratio == inf else self.ratio
        return [self.constant, self.slope, self.speed, self.variance, ratio, self.windows, *self._sums]

    def adopt(self, state: list[float]) -> None:
        """Take over what another has exported."""
        self.constant, self.slope, self.speed, self.variance, ratio, windows, *self._sums = state
        self.ratio, self.windows = ratio or inf, int(windows)

    def pace_s(self, level: float) -> float:
        """Return the expected seconds per output token with ``level`` in flight, at today's speed."""
        return self.speed * (self.constant + self.slope * level)

    def learn(self, sums: list[float], span_s: float) -> float:
        """Add (Σv, Σvr, Σvrr, Σvy, Σvry, Σvyy) of one window; return the factor by which tokens take longer now."""
        changed = self._note_speed(sums)
        fade = exp(-span_s / self._memory_s)
        self._sums = [fade * old + new for old, new in zip(self._sums, sums, strict=True)]
        self.windows += 1
        if self._sums[0] > 2.0:
            self._solve(learnt=sums[0] > 0.0)
        return changed

    def _note_speed(self, sums: list[float]) -> float:
        if sums[0] <= 0.0 or self.constant <= 0.0:
            return 1.0
        measured = sums[3] / (self.constant * sums[0] + self.slope * sums[1])
        self.speed += sums[0] / (sums[0] + 3.0) * (measured - self.speed)
        mean, level = self._sums[1] / self._sums[0], sums[1] / sums[0]
        if abs(level - mean) >= 0.35 * (mean + 0.5) or abs(self.speed - 1.0) <= 0.12:
            return 1.0
        for k, power in ((3, 1), (4, 1), (5, 2)):
            self._sums[k] *= self.speed**power
        factor, self.speed = self.speed, 1.0
        return factor

    def _solve(self, *, learnt: bool) -> None:
        weight, level, square, time, product, energy = self._sums
        mean, mean_time = level / weight, time / weight
        spread, together = square - level * mean, product - time * mean
        ridge = 0.01 * weight  # the slope stays what it was until the load has varied
        slope = (together + ridge * self.slope) / (spread + ridge)
        self.slope = slope = min(max(0.0, slope), 0.95 * mean_time / max(mean, 0.5))
        miss = energy - time * mean_time - slope * (2.0 * together - slope * spread)
        miss = max(miss, 1e-4 * weight * mean_time**2) / weight
        self.constant, self.variance = mean_time - slope * mean, miss / mean_time**2
        error = sqrt(miss / (spread + ridge))
        gentle = slope - error  # a slope a standard error lower: the larger of the likely limits
        ratio = (mean_time - gentle * mean) / max(gentle, 0.02 * mean_time / (mean + 1.0))
        if self.ratio == inf:
            if learnt and self.windows > 3:
                self.ratio = ratio
        elif learnt and spread > weight * (0.1 * mean) ** 2:
            self.ratio *= min(1.04, max(0.96, ratio / self.ratio))


def waiting_at_prefill(in_flight: float, decode_over_prefill: float) -> float:
    """Return the mean number at the prefill station of a closed network, served or waiting.

    The machine-repairman model: one server (prefill) and a delay (decoding) ``decode_over_prefill`` times as
    long. With N in flight the server is idle with the probability of the Erlang loss formula B(N, r)
    (Gross and Harris, Fundamentals of Queueing Theory, section 2.7). O(N).
    """
    ratio = decode_over_prefill
    whole = int(in_flight)
    blocked = 1.0
    for servers in range(1, whole + 1):
        blocked = ratio * blocked / (servers + ratio * blocked)
    after = ratio * blocked / (whole + 1.0 + ratio * blocked)
    idle = blocked + (in_flight - whole) * (after - blocked)
    return in_flight - ratio * (1.0 - idle)


def prefill_limit(decode_over_prefill: float, idle: float, most: int, variability: float = 1.0) -> float:
    """Return the least number in flight with which prefill is idle for at most a share ``idle`` of the time.

    For exponential service by the Erlang loss formula, for constant service ``1 + decode_over_prefill``;
    in between by the squared coefficient of variation of the service, ``variability`` from 0 to 1.
    """
    blocked, servers = 1.0, 0
    while blocked > idle and servers < most:
        servers += 1
        blocked = decode_over_prefill * blocked / (servers + decode_over_prefill * blocked)
    constant = min(1.0 + decode_over_prefill, float(servers))
    return max(constant + variability * (servers - constant), 1.0)
