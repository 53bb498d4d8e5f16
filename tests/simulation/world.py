"""A small world under one seed: time, coroutines, and the faults of processes, networks and clocks."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import redis

if TYPE_CHECKING:
    from solver.load.lease import Ask, LeaseState, ReleaseOutcome
    from solver.load.refusal import Refusal
    from solver.load.store.memory import MemoryStore

Coroutine = Generator[float, None, None]
"""Yields the seconds after which it goes on."""


class World:
    """True time, and coroutines that sleep in it; equal seeds give equal histories."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)  # noqa: S311 # reproducible on purpose
        self.now_s = 0.0
        self._order = itertools.count()
        self._sleeping: list[tuple[float, int, Coroutine]] = []

    def start(self, coroutine: Coroutine, after_s: float = 0.0) -> None:
        heapq.heappush(self._sleeping, (self.now_s + after_s, next(self._order), coroutine))

    def run(self, until_s: float) -> None:
        while self._sleeping and self._sleeping[0][0] <= until_s:
            self.now_s, _, coroutine = heapq.heappop(self._sleeping)
            try:
                self.start(coroutine, next(coroutine))
            except StopIteration:
                continue
        self.now_s = until_s

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability


@dataclass
class SkewedClock:
    """A clock that runs a little fast or slow, and may be set."""

    world: World
    rate: float = 1.0
    offset_s: float = 0.0

    def now(self) -> float:
        return self.world.now_s * self.rate + self.offset_s


@dataclass(frozen=True)
class Faults:
    """How often each message meets which fate."""

    request_lost: float = 0.0
    reply_lost: float = 0.0
    late: float = 0.0
    doubled: float = 0.0
    late_by_s: float = 8.0


class Lost(Exception):
    """No answer came."""


@dataclass
class Network:
    """Loses, delays and doubles requests; one that comes late, or twice, arrives after others."""

    world: World
    faults: Faults
    server_up: bool = True
    cut_off: set[str] = field(default_factory=set)
    """Names of those who reach nobody."""

    def send(self, work: Callable[[], Any], failure: Callable[[str], Exception], sender: str = "") -> Any:
        world, faults = self.world, self.faults
        if not self.server_up or sender in self.cut_off:
            raise failure("the server is down")
        if world.chance(faults.request_lost):
            raise failure("the request was lost")
        if world.chance(faults.late):
            self._later(work)
            raise failure("the request is late")
        answer = work()
        if world.chance(faults.doubled):
            self._later(work)
        if world.chance(faults.reply_lost):
            raise failure("the reply was lost")
        return answer

    def _later(self, work: Callable[[], Any]) -> None:
        def arrive() -> Coroutine:
            yield world.rng.random() * self.faults.late_by_s
            if self.server_up:
                work()

        world = self.world
        world.start(arrive())

    def mend(self) -> None:
        self.faults = Faults()
        self.server_up = True
        self.cut_off.clear()


class _Pool:
    """What the store asks of a pool of connections."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.connection_kwargs = options

    def disconnect(self, *, inuse_connections: bool) -> None:
        """Nothing is connected."""


@dataclass
class _Connection:
    """What the store asks of a connection that has just been made."""

    run_id: str

    def on_connect(self) -> None:
        """There is nothing to agree on."""

    def send_command(self, *command: str) -> None:
        """It is always the same."""

    def read_response(self) -> bytes:
        return f"# Server\r\nrun_id:{self.run_id}\r\n".encode()


@dataclass
class FaultyClient:
    """A Redis client over the network above; the server behind it is a real one, on the world's clock."""

    real: Any
    network: Network
    server_clock: SkewedClock
    run_id: Callable[[], str]
    name: str = ""
    connection_pool: Any = field(init=False)
    _connected_to: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self.connection_pool = _Pool({"host": "simulated"})
        self._connected_to = self.run_id()

    def evalsha(
        self, sha: str, keys: int, prefix: str, operation: str, epoch: str, _: str, *more: Any
    ) -> Any:
        server = self.run_id()
        if (
            server != self._connected_to
        ):  # its connection ended with the other: a client connects again in silence
            self._connected_to = server
            self.connection_pool.connection_kwargs["redis_connect_func"](_Connection(server))

        def work() -> Any:
            if self.run_id() != server:
                return None  # a message that is under way does not come to another server
            now = f"T{self.server_clock.now()!r}"  # stands for TIME: the store was given no clock
            try:
                return self.real.evalsha(sha, keys, prefix, operation, epoch, now, *more)
            except redis.exceptions.NoScriptError as error:
                return error

        answer = self.network.send(work, redis.exceptions.ConnectionError, self.name)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def info(self) -> dict[str, Any]:
        info: dict[str, Any] = self.network.send(
            lambda: {"run_id": self.run_id()}, redis.exceptions.ConnectionError, self.name
        )
        return info

    def script_load(self, script: str) -> Any:
        return self.real.script_load(script)

    def close(self) -> None:
        """The real client is shared."""


@dataclass
class FaultyMemoryStore:
    """A store of this process behind a network: answers may be lost, requests may come late or twice."""

    store: MemoryStore
    network: Network

    def _send(self, work: Callable[[], Any]) -> Any:
        return self.network.send(work, Lost)

    def acquire(self, ask: Ask) -> LeaseState | Refusal:
        answer: LeaseState | Refusal = self._send(lambda: self.store.acquire(ask))
        return answer

    def renew(self, lease_id: str, ttl_s: float) -> LeaseState:
        answer: LeaseState = self._send(lambda: self.store.renew(lease_id, ttl_s))
        return answer

    def release(self, lease_id: str, *, tokens: int | None, cost_nano_usd: int | None) -> ReleaseOutcome:
        answer: ReleaseOutcome = self._send(
            lambda: self.store.release(lease_id, tokens=tokens, cost_nano_usd=cost_nano_usd)
        )
        return answer

    def move(self, lease_id: str, ask: Ask) -> LeaseState | Refusal:
        return self.store.move(lease_id, ask)  # a call within the process: its answer cannot be lost

    def lease_state(self, lease_id: str) -> LeaseState:
        answer: LeaseState = self._send(lambda: self.store.lease_state(lease_id))
        return answer

    def adjust(self, model: str, *, active: int, queue: int) -> None:
        self.store.adjust(model, active=active, queue=queue)  # as above

    def close(self) -> None:
        """The store lives on."""
