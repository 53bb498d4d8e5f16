"""The settings of a learned limit, and its tuning constants."""

from __future__ import annotations

from dataclasses import dataclass, field

from solver.errors import SpecError, Violation
from solver.load.checks import positive_problems, whole_problems
from solver.params import Params


@dataclass(frozen=True, kw_only=True)
class MeasuringParams(Params):
    """What is taken from a backend's times. Measured by ``bench_learned_capacity.py``."""

    least_output: int = 8
    """Shortest answer, tokens, whose time per token says something."""
    full_weight_output: float = 64.0
    """Output tokens from which a request counts fully in the fit of decode times."""
    min_uncontended_weight: float = 4.0
    """Weight of requests that found no other request ahead, below which the others count, too."""
    late_weight: float = 0.1
    """Weight of a time to first token above the line: an expectile of about 0.1 (Newey and Powell 1987)."""
    remembered_weight: float = 30.0
    """Weight of observations of first tokens from which old ones are forgotten."""
    p99_deviations: float = 2.33
    """Standard normal quantile of 0.99: the spread of a request's time per token is taken as log-normal."""
    unstreamed_memory_s: float = 20.0
    """Time constant of the mean duration of answers that are not streamed, seconds."""
    most_unstreamed_share: float = 0.7
    """Share of answers that are not streamed above which the limit does not rise: too few would show a queue."""
    least_prefill_share: float = 1e-4
    """Prefill shorter than this share of decoding never limits anything."""
    min_throttled_share: float = 0.3
    """Least share of a window in which the limit kept requests back for the limit to rise."""
    max_waiting_share_unfitted: float = 0.35
    """Largest share of the requests in flight that may wait while the time to first token is not yet fitted."""
    explained_wait_factor: float = 1.6
    """Waiting up to this multiple of the waiting that prefill explains does not count as queueing in one window."""
    lasting_wait_factor: float = 1.25
    lasting_queue_s: float = 5.0
    """The same for the mean over several windows, and the time constant of that mean, seconds."""
    longest_pause_s: float = 60.0
    """Longest pause after a refusal, seconds, whatever its Retry-After says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnParameters:
    """How a limit on what is in flight is learned. The defaults are those of ``bench_learned_capacity.py``.

    Raises
    ------
    SpecError
        Naming each value out of range.
    """

    low: int = 1
    high: int = 1024
    """The limit never leaves this range."""
    start: int = 4
    """Limit before anything is known, and after long idleness."""
    slo_s_per_token: float | None = None
    """Objective for the 99th percentile of the time per output token, seconds. None: the limit is the one of greatest
    power, throughput over latency (Kleinrock 1979)."""
    streamed: bool = True
    """Whether first tokens are reported. Without them a queue at the backend cannot be seen: an objective is needed
    then."""
    tokens: bool = True
    """Whether the tokens in flight are limited, too."""
    window_s: float = 1.0
    window_share: float = 0.3
    """A window is closed after this many seconds, once ``window_share × limit`` requests have ended in it."""
    longest_window_s: float = 10.0
    """A window is closed after this many seconds, whatever has ended in it."""
    queue_share: float = 0.08
    """Share of the requests in flight that may wait beyond what prefill explains."""
    prefill_idle: float = 0.03
    """Share of the time that prefill may stand idle; a limit beyond that buys no throughput."""
    memory_s: float = 240.0
    """Time constant after which decode times are forgotten."""
    growth: float = 0.06
    """Relative step of a probe above a known limit; it doubles up to four times while probes succeed."""
    hold_s: float = 5.0
    longest_hold_s: float = 60.0
    """Pause after a limit was found; it doubles while probes fail at the same place."""
    longest_hold_of_many_s: float = 40.0
    hold_of_one_s: float = 300.0
    """After a queue the pause is at most the second over the limit, or the first where that is longer: one request
    more than 16 delays the others less than one more than 4."""
    idle_s: float = 30.0
    """Idleness after which the limit falls back by half every ``4 × idle_s``."""
    dip_share: float = 0.3
    """Without an objective: how far the limit dips, in eight of forty windows, to see the slope of the decode time
    where traffic does not vary by itself."""
    measuring: MeasuringParams = field(default_factory=MeasuringParams)
    """What is taken from a backend's times."""

    def __post_init__(self) -> None:
        problems = whole_problems("low", self.low, low=1) + whole_problems("high", self.high, low=1)
        problems += whole_problems("start", self.start, low=1)
        if not problems and self.low > self.high:
            problems.append(Violation("low", f"expected <= high ({self.high})", self.low))
        if self.slo_s_per_token is not None:
            problems += positive_problems("slo_s_per_token", self.slo_s_per_token)
        if not self.streamed and self.slo_s_per_token is None:
            problems.append(
                Violation(
                    "streamed", "expected true, or an objective for the time per output token", shown="false"
                )
            )
        for name in ("window_s", "window_share", "longest_window_s", "queue_share", "prefill_idle"):
            problems += positive_problems(name, getattr(self, name))
        for name in (
            "memory_s",
            "growth",
            "hold_s",
            "longest_hold_s",
            "longest_hold_of_many_s",
            "hold_of_one_s",
            "idle_s",
        ):
            problems += positive_problems(name, getattr(self, name))
        if problems:
            raise SpecError(*problems)
