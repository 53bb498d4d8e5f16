"""A model of an LLM server with continuous batching, and routers in front of it, in simulated time.

Each step serves one token to every decoding sequence and spends what is left of a token budget on prompts,
first come first served (chunked prefill). It takes ``overhead + max(memory, compute)`` seconds: memory is the
reading of weights and cached keys, compute grows with the tokens of the step (the roofline of Williams,
Waterman and Patterson 2009). At most ``max_sequences`` sequences and ``kv_blocks`` blocks of 16 tokens are
held; the youngest is preempted and recomputed when blocks run out. All else waits in a queue that no router sees.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BLOCK = 16
RETRY_AFTER_S = 0.5


@dataclass(slots=True)
class Server:
    """Rates are seconds; see the module. ``slow`` multiplies every step, ``busy`` sequences are somebody else's."""

    max_sequences: int = 64
    kv_blocks: int = 10**9
    budget: int = 512
    overhead_s: float = 0.004
    weights_s: float = 0.009
    sequence_s: float = 0.00025
    kv_token_s: float = 6e-8
    token_s: float = 4e-5
    refuse_above: int = 0
    slow: float = 1.0
    busy: int = 0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    queue: deque[Request] = field(default_factory=deque)
    running: list[Request] = field(default_factory=list)
    blocks: int = 0

    @property
    def inside(self) -> int:
        return len(self.queue) + len(self.running)

    def submit(self, request: Request) -> bool:
        if self.refuse_above and self.inside + self.busy >= self.refuse_above:
            return False
        self.queue.append(request)
        return True

    def _admit(self) -> None:
        while self.queue and len(self.running) + self.busy < self.max_sequences:
            request = self.queue[0]
            need = -(-(request.prompt + request.made) // BLOCK)
            if self.running and self.blocks + need > 0.98 * self.kv_blocks:
                return
            self.queue.popleft()
            request.blocks, request.left = need, request.prompt + request.made
            self.blocks += need
            self.running.append(request)

    def step(self) -> tuple[float, list[Request], list[Request]]:
        """Return the seconds of one step, and the requests with a first token and with their last."""
        self._admit()
        decoding = [request for request in self.running if request.left == 0]
        room, prefilled, born = self.budget - len(decoding) - self.busy, 0, []
        for request in self.running:
            if request.left and room > 0:
                part = min(request.left, room)
                request.left -= part
                room -= part
                prefilled += part
                if request.left == 0:
                    born.append(request)
        held = BLOCK * self.blocks + 800 * self.busy
        sequences = len(decoding) + self.busy
        memory = self.weights_s + self.kv_token_s * held + self.sequence_s * sequences
        compute = self.token_s * (prefilled + sequences)
        spent = (self.overhead_s + max(memory, compute)) * self.slow * self.rng.uniform(0.95, 1.05)
        done, first = [], []
        for request in decoding + born:
            request.made += 1
            if request.made == 1:
                first.append(request)
            if request.made >= request.output:
                done.append(request)
                self.running.remove(request)
                self.blocks -= request.blocks
            elif (request.prompt + request.made) // BLOCK >= request.blocks:
                request.blocks += 1
                self.blocks += 1
        while self.blocks > self.kv_blocks and len(self.running) > 1:
            youngest = self.running.pop()
            self.blocks -= youngest.blocks
            self.queue.appendleft(youngest)
        return spent, first, done


@dataclass(slots=True, eq=False)
class Request:
    prompt: int
    output: int
    arrived_s: float
    router: int = 0
    sent_s: float = 0.0
    first_s: float = -1.0
    done_s: float = -1.0
    made: int = 0
    left: int = 0
    blocks: int = 0
    ticket: Any = None


class Controller(Protocol):
    """What limits how much one router has in flight."""

    @property
    def limit(self) -> float: ...
    def admits(self, now: float, in_flight: int, prompt: int) -> bool: ...
    def sent(self, now: float, prompt: int) -> Any: ...
    def first(self, now: float, ticket: Any) -> None: ...
    def ended(self, now: float, ticket: Any, output: int) -> None: ...
    def refused(self, now: float, in_flight: int, retry_after_s: float) -> None: ...


@dataclass(slots=True, kw_only=True)
class Run:
    """What happened: finished requests, and (second, limit of each router, refusals so far) every second."""

    requests: list[Request]
    trace: list[tuple[float, list[float], int]]
    refused: int


def lengths(
    count: int, *, prompt: float, output: float, spread: float = 0.9, seed: int = 0
) -> list[tuple[int, int]]:
    """Return log-normal (prompt, output) tokens of a given mean."""
    rng = np.random.default_rng(seed)
    shift = spread**2 / 2.0
    prompts = np.clip(rng.lognormal(np.log(prompt) - shift, spread, count), 8, 12_000).astype(int)
    outputs = np.clip(rng.lognormal(np.log(output) - shift, spread, count), 2, 3_000).astype(int)
    return list(zip(prompts.tolist(), outputs.tolist(), strict=True))


def simulate(
    server: Server,
    controllers: Sequence[Controller],
    traffic: list[tuple[int, int]],
    seconds: float,
    *,
    changes: Sequence[tuple[float, dict[str, Any]]] = (),
    mixes: Sequence[tuple[float, list[tuple[int, int]]]] = (),
    rate: float | None = None,
    seed: int = 0,
    share: Callable[[float], None] | None = None,
    share_every_s: float = 1.0,
) -> Run:
    """Run routers, one controller each, in front of a server.

    ``rate``: requests a second (Poisson); None: every router always has a request ready. ``changes`` set
    attributes of the server at given seconds, ``mixes`` replace the traffic. ``share`` is called every
    ``share_every_s`` seconds.
    """
    rng = np.random.default_rng(seed)
    count = len(controllers)
    now, next_second, next_share, refused = 0.0, 0.0, 0.0, 0
    due_changes, due_mixes = deque(changes), deque(mixes)
    waiting: list[deque[Request]] = [deque() for _ in range(count)]
    in_flight, silent_until = [0] * count, [0.0] * count
    result = Run(requests=[], trace=[], refused=0)
    position = int(rng.integers(len(traffic)))
    arrival = rng.exponential(1.0 / rate) if rate else np.inf
    while now < seconds:
        while due_changes and due_changes[0][0] <= now:
            for name, value in due_changes.popleft()[1].items():
                setattr(server, name, value)
        while due_mixes and due_mixes[0][0] <= now:
            traffic = due_mixes.popleft()[1]
        while rate and arrival <= now:
            position = (position + 1) % len(traffic)
            waiting[int(rng.integers(count))].append(Request(*traffic[position], arrival))
            arrival += rng.exponential(1.0 / rate)
        offset = int(rng.integers(count)) if count > 1 else 0
        for k in range(count):
            i = (k + offset) % count
            controller, line = controllers[i], waiting[i]
            while now >= silent_until[i]:
                if not line:
                    if rate:
                        break
                    position = (position + 1) % len(traffic)
                    line.append(Request(*traffic[position], now))
                request = line[0]
                if not controller.admits(now, in_flight[i], request.prompt):
                    break
                if not server.submit(request):
                    refused += 1
                    silent_until[i] = now + RETRY_AFTER_S
                    controller.refused(now, in_flight[i], RETRY_AFTER_S)
                    break
                line.popleft()
                in_flight[i] += 1
                request.router, request.sent_s = i, now
                request.ticket = controller.sent(now, request.prompt)
        if share is not None and now >= next_share:
            share(now)
            next_share = now + share_every_s
        if now >= next_second:
            result.trace.append((now, [float(controller.limit) for controller in controllers], refused))
            next_second += 1.0
        if not server.inside:
            now = min(arrival, now + 0.05) if rate else now + 0.02
            continue
        spent, first, done = server.step()
        now += spent
        for request in first:
            if request.first_s < 0:
                request.first_s = now
                controllers[request.router].first(now, request.ticket)
        for request in done:
            request.done_s = now
            in_flight[request.router] -= 1
            controllers[request.router].ended(now, request.ticket, request.output)
            result.requests.append(request)
    result.refused = refused
    return result
