"""The connection to a Redis server: one round trip an operation, and joining again after any failure."""

from __future__ import annotations

import itertools
import json
import logging
import math
import secrets
import threading
import weakref
from typing import TYPE_CHECKING, Any

from solver.clock import Clock, MonotonicClock
from solver.errors import MissingExtraError, SpecError, StoreDownError, Violation
from solver.load.store.outage_causes import AnotherServerError, OutageCause, StoreFullError, cause_of
from solver.load.store.redis_server import (
    ServerIdentity,
    address_of,
    client_of,
    script,
    script_hash,
    setting_problem,
    text_of,
    watch_connections,
)
from solver.load.store.replica_name import ReplicaName
from solver.load.store.server_time import ServerTime

if TYPE_CHECKING:
    from collections.abc import Callable

try:
    import redis
except ImportError as error:
    raise MissingExtraError("redis", "redis") from error

FAILURES: tuple[type[Exception], ...] = (
    OSError,
    *(
        kind
        for kind in vars(redis.exceptions).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ),
)
"""What a client raises for a server that does not answer, or not as asked: not all of it has one root."""

SCHEMA = "2"
"""Version of the layout of keys; stores of another version are refused."""

_ONCE_ONLY = frozenset(
    {
        "acquire",
        "acquire_many",
        "move",
        "configure",
        "end_leases",
        "forget",
        "forget_pool",
        "reset_usage",
        "reset_pool",
        "stop",
        "resume",
        "exchange",
    }
)
"""Commands that do harm when a delayed copy arrives after something else; the others answer a copy as the first."""

_ATTEMPTS_PER_COMMAND = 3
"""Attempts of one command: a restart of the server, and a second one while joining again."""

_LOG = logging.getLogger("solver.load")


class RedisLink:
    """Runs operations of the script on the server, and joins (again) whenever that is needed.

    A restart of the server is noticed without asking on every call: the server forgets its scripts, and the
    epoch it was joined under with them.

    Parameters
    ----------
    server : str or redis.Redis
        URL, or a client of the caller's making.
    namespace : str
        Separates trackers that share a server.
    replicas : int
        Processes that share the store.
    name : str or None
        Of this replica; None: the host and a number.
    peers : int
        Replicas that may grant a share of their own while they are silent; 0 for none.
    absent_s : float
        Seconds until a silent replica counts as absent.
    timeout_s : float
        For connecting and for an answer; ignored with a client of the caller's making.
    retry_s : float
        Seconds between attempts while the server does not answer.
    clock : Clock or None
        Time of the script, for tests and replays; None: the server's own.
    order : callable
        Returns what this replica knows and holds, sent to the server on joining.
    joined : callable
        Called, under ``lock``, after joining; the first time with what replicas of this name have added to the
        work from outside: [model, active, queued, changes] of each.
    """

    def __init__(
        self,
        server: Any,
        *,
        namespace: str,
        replicas: int,
        name: str | None,
        peers: int,
        absent_s: float,
        timeout_s: float,
        retry_s: float,
        clock: Clock | None,
        order: Callable[[], dict[str, Any]],
        joined: Callable[[list[list[str]]], None],
    ) -> None:
        self._given, self._timeout_s = server, timeout_s
        self._client: Any = None
        self._connect()
        self.prefix = f"solver:{{{namespace}}}:"
        self.replica = ReplicaName(f"{address_of(self._client)} {namespace}", name)
        self._replicas = replicas
        self._peers = (str(peers), f"{absent_s:.6f}")
        self._retry_s = retry_s
        self._script_clock = clock
        self.clock: Clock = clock or MonotonicClock()
        self._wall = MonotonicClock()
        self._order = order
        self._on_joined = joined
        self._ever_joined = False
        self.last_answer_s = self.clock.now()
        self.begin_process()

    def begin_process(self) -> None:
        """Set what no two processes may share, also in the child of a fork."""
        self.lock = threading.RLock()
        self._sending = threading.local()
        self.up = False
        self._reporting = False
        self.detail = "not joined yet"
        self.cause: OutageCause | None = None
        self._next_attempt_s = -math.inf
        self.epoch, self._server = "", ServerIdentity()
        self._process, self._joinings, self._joined = secrets.token_hex(8), 0, 0
        self._operations = itertools.count()
        self._time = ServerTime(self._timeout_s)

    def _connect(self) -> None:
        """Make the client, if it is the store's own; also in the child of a fork, where locks in it may stay taken."""
        client = client_of(self._given, self._timeout_s)
        if client is self._client:
            return
        if self._client is not None:
            self._client.auto_close_connection_pool = False  # that would wait for such a lock
        this = weakref.WeakMethod(self._check_connection)  # the client may live longer
        watch_connections(client, lambda server: check(server) if (check := this()) else None)
        self._client = client

    def after_fork(self) -> None:
        """Have the child join anew, under another name, on connections of its own."""
        self._connect()
        self.begin_process()
        self.leave()

    @property
    def server_now_s(self) -> float:
        """The server's time, by the last answer and this machine's clock."""
        server_s = self._time.at(self._wall.now()) if self._script_clock is None else None
        return self.clock.now() if server_s is None else server_s

    def call(self, operation: str, *arguments: str | float) -> list[Any]:
        """Run one operation. See :meth:`call_counted`."""
        return self.call_counted(operation, *arguments)[0]

    def call_counted(self, operation: str, *arguments: str | float) -> tuple[list[Any], int]:
        """Run one operation; return its answer, and how often it was sent.

        Raises
        ------
        StoreDownError
            If the server does not answer. Whether the operation was carried out is then unknown.
        SpecError
            If the store has another schema, or the operation concerns an unknown model.
        """
        name = f"{self._process}-{next(self._operations)}" if operation in _ONCE_ONLY else ""
        for attempt in range(1, _ATTEMPTS_PER_COMMAND + 1):
            if not self.up:
                self._join()
            try:
                reply = self._run(operation, name, attempt, *arguments)
            except redis.exceptions.NoScriptError:
                self._lost("the server has been restarted", OutageCause.UNREACHABLE, at_once=True)
                continue
            except AnotherServerError:
                continue
            except FAILURES as error:
                cause = cause_of(error)
                if cause is OutageCause.FULL:
                    raise StoreFullError(f"{type(error).__name__}: {error}") from error
                at_once = cause is OutageCause.UNREACHABLE
                self._lost(f"{type(error).__name__}: {error}", cause, at_once=at_once)
                if at_once:
                    continue
                raise StoreDownError(self.detail) from error
            if reply and reply[0] == "epoch":
                self._lost("the server has lost memory", OutageCause.UNREACHABLE, at_once=True)
                continue
            self.last_answer_s = self.clock.now()
            if reply and reply[0] == "copy":  # of this attempt: the client has repeated it by itself
                continue
            if reply and reply[0] == "unknown_model":
                raise SpecError(Violation("model", "expected one whose capacity is set", reply[2]))
            if reply and reply[0] == "unknown_pool" and operation != "configure":
                raise SpecError(Violation("pool", "expected one that was set before", reply[2]))
            return reply, attempt
        raise StoreDownError(self.detail)

    def _run(self, operation: str, name: str, attempt: int, *arguments: str | float) -> list[Any]:
        for _ in range(_ATTEMPTS_PER_COMMAND):
            reply = self._exchange(operation, name, attempt, *arguments)
            if not reply or reply[0] != "late":
                return reply
            # It is not late, since this caller waits for the answer: the server's clock has been set forward.
            self._time.clock_set(float(reply[1]), self._wall.now())
        raise redis.exceptions.ConnectionError("the server's clock does not keep still")

    def _exchange(self, operation: str, *arguments: str | float) -> list[Any]:
        sent_s = self._wall.now()
        clock, earliest, latest = "", "", ""
        if self._script_clock is not None:
            clock = repr(self._script_clock.now())
        else:
            earliest, latest = self._time.bounds(sent_s)
        self._sending.inside = True
        try:
            reply = self._client.evalsha(
                script_hash(),
                1,
                self.prefix,
                operation,
                self.epoch,
                clock,
                self.replica.name,
                *self._peers,
                earliest,
                latest,
                *arguments,
            )
        finally:
            self._sending.inside = False
        time, answer = text_of(reply)
        if answer and answer[0] != "late":
            self._time.heard(time, sent_s, self._wall.now())
        return list(answer)

    def _lost(self, detail: str, cause: OutageCause, *, at_once: bool) -> None:
        if self.up or cause is not self.cause:
            _LOG.log(
                logging.ERROR if cause is OutageCause.FAULT else logging.WARNING,
                "the shared store does not answer (%s): %s",
                cause.value,
                detail,
            )
        self.up = False
        self.detail, self.cause = detail, cause
        self._next_attempt_s = self._wall.now() + (0.0 if at_once else self._retry_s)

    def _check_connection(self, server: ServerIdentity) -> None:
        """Send no operation on a connection to another server than the one that was joined.

        Whatever else the client is used for goes on.
        """
        if not server.may_have_lost(self._server):
            return
        detail = "another server answers, after a restart or a fail-over"
        if self.up:
            self._lost(detail, OutageCause.UNREACHABLE, at_once=True)
        if getattr(self._sending, "inside", False):
            raise AnotherServerError(detail)

    def _join(self) -> None:
        """Report to the server what this replica holds, and learn the epoch."""
        if self._wall.now() < self._next_attempt_s:
            raise StoreDownError(self.detail)
        with self.lock:
            if self.up:
                return
            # While reporting, what was to be sent after joining was lost: the whole of it is tried again later.
            if self._reporting or self._wall.now() < self._next_attempt_s:
                raise StoreDownError(self.detail)
            try:
                self._client.connection_pool.disconnect(inuse_connections=False)
                info = self._client.info()
                self._check_server(info)
                self._server = ServerIdentity.of(info)
                reply = self._report(self._server)
            except FAILURES as error:
                self._lost(f"{type(error).__name__}: {error}", cause_of(error), at_once=False)
                raise StoreDownError(self.detail) from error
            if reply[0] == "schema":
                raise SpecError(Violation("store.schema", f"expected version {SCHEMA}", reply[1]))
            if self._ever_joined:
                _LOG.info("the shared store answers again")
            # Later the caller knows better what it has added: some of it may still be under way.
            outside = [] if self._ever_joined else reply[2]
            self.epoch, self._joined = reply[1], self._joinings
            self.up = self._ever_joined = True
            self.detail, self.cause = "", None
            self.last_answer_s = self.clock.now()
            self._reporting = True
            try:
                self._on_joined(outside)
            finally:
                self._reporting = False

    def _report(self, server: ServerIdentity) -> list[Any]:
        """Send the order until it is taken, and return the answer."""
        for _ in range(_ATTEMPTS_PER_COMMAND):
            reply = self._send_order(server)
            if reply[0] == "stale":  # another process has joined under this name
                self._process, self._joinings, self._joined = secrets.token_hex(8), 0, 0
            elif reply[0] == "forbidden":
                detail = f"this user may not run {reply[1]} in {self.prefix}*, on keys or channels"
                raise redis.exceptions.NoPermissionError(detail)
            elif reply[0] != "epoch":  # after the loss of an unknown lease, every replica reports again
                return reply
        raise redis.exceptions.ConnectionError(f"the server does not accept the report: {reply[0]}")

    def _send_order(self, server: ServerIdentity) -> list[Any]:
        self.replica.take()
        number = self.replica.number
        self._joinings += 1
        order = {
            "process": self._process,
            "number": self._joinings,
            "joined": self._joined,
            "schema": SCHEMA,
            **server._asdict(),
            "epoch": self.epoch,
            "token": secrets.token_hex(8),
            "counted": number is None
            or number < self._replicas,  # more than were declared wait with the others
            **self._order(),
        }
        text = json.dumps(order)
        try:
            return self._run("join", "", 1, text)
        except redis.exceptions.NoScriptError:  # a server that has just started, or has flushed its scripts
            self._client.script_load(script())
            return self._run("join", "", 1, text)

    def _check_server(self, info: dict[str, Any]) -> None:
        """Refuse a server that cannot keep what is written: with an error at first, as an outage later."""
        found = setting_problem(info)
        if found is None:
            return
        problem, cause = found
        if not self._ever_joined:
            raise SpecError(problem)
        self._lost(problem, cause, at_once=False)
        raise StoreDownError(problem)

    def leave(self) -> None:
        """Give up the name; it is chosen, and the server joined, anew with the next operation."""
        self.up = False
        self._next_attempt_s = -math.inf
        self.replica.give_up()

    def scripts(self, *sources: str) -> list[Callable[..., Any]]:
        """Return scripts beside that of the store, which need neither its epoch nor its clock."""
        return [self._client.register_script(source) for source in sources]

    def subscribe(self, channel: str) -> Any:
        """Return a subscription to a channel of this namespace."""
        subscription = self._client.pubsub(ignore_subscribe_messages=True)
        subscription.subscribe(self.prefix + channel)
        return subscription

    def close(self) -> None:
        """Close the connections, and leave the name to others; an operation after that joins anew."""
        self.leave()
        self._client.close()
