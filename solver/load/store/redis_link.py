"""The connection to a Redis server: one round trip an operation, and joining again after any failure."""

from __future__ import annotations

import enum
import importlib.resources
import json
import secrets
import threading
from typing import TYPE_CHECKING, Any

from solver.clock import Clock, MonotonicClock
from solver.errors import MissingExtraError, SolverError, SpecError

if TYPE_CHECKING:
    from collections.abc import Callable

try:
    import redis
    import redis.backoff
    import redis.retry
except ImportError as error:
    raise MissingExtraError("redis", "redis") from error

__all__ = ["SCHEMA", "LinkState", "RedisLink", "StoreDownError"]

SCHEMA = "1"
"""Version of the layout of keys; stores of another version are refused."""

_DOWN = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.ReadOnlyError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.MasterDownError,
    redis.exceptions.TryAgainError,
)


class LinkState(enum.StrEnum):
    """What a shared store can promise at the moment."""

    CONNECTED = "connected"
    """Every operation is answered by the server."""
    UNAVAILABLE = "unavailable"
    """The server does not answer; nothing is granted."""
    LOCAL_SHARE = "local_share"
    """The server does not answer; this replica grants its own share of the capacity."""


class StoreDownError(SolverError, ConnectionError):
    """The shared store does not answer."""


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
    membership : str
        ``peers:seconds`` as the script expects it.
    timeout_s : float
        For connecting and for an answer; ignored with a client of the caller's making.
    retry_s : float
        Seconds between attempts while the server does not answer.
    clock : Clock or None
        Time of the script, for tests and replays; None: the server's own.
    order : callable
        Returns what this replica knows and holds, told to the server on joining.
    joined : callable
        Called, under ``lock``, after joining.
    """

    def __init__(
        self,
        server: Any,
        *,
        namespace: str,
        membership: str,
        timeout_s: float,
        retry_s: float,
        clock: Clock | None,
        order: Callable[[], dict[str, Any]],
        joined: Callable[[], None],
    ) -> None:
        self._client = _client(server, timeout_s)
        self._prefix = f"solver:{{{namespace}}}:"
        self.replica = secrets.token_hex(8)
        self._member = f"{self.replica}:{membership}"
        self._retry_s = retry_s
        self._script_clock = clock
        self.clock: Clock = clock or MonotonicClock()
        self._wall = MonotonicClock()
        self._order = order
        self._on_joined = joined
        self.lock = threading.RLock()
        self.up = False
        self.detail = "not joined yet"
        self.last_answer_s = self.clock.now()
        self._next_attempt_s = 0.0
        self._epoch = ""
        self._sha = ""

    def call(self, operation: str, *arguments: str | float) -> list[Any]:
        """Run one operation.

        Raises
        ------
        StoreDownError
            If the server does not answer. Whether the operation was carried out is then unknown.
        SpecError
            If the store has another schema, or the operation concerns an unknown model.
        """
        for _ in range(3):  # a restart, and a second one while joining
            if not self.up:
                self._join()
            try:
                reply = self._run(operation, *arguments)
            except redis.exceptions.NoScriptError:
                self._lost("the server has been restarted", at_once=True)
                continue
            except _DOWN as error:
                self._lost(f"{type(error).__name__}: {error}", at_once=True)
                continue
            if reply and reply[0] == "epoch":
                self._lost("the server has begun a new epoch", at_once=True)
                continue
            self.last_answer_s = self.clock.now()
            if reply and reply[0] == "unknown_model":
                raise SpecError(f"model: expected one whose capacity is set, got {reply[2]!r}")
            return reply
        raise StoreDownError(self.detail)

    def _run(self, operation: str, *arguments: str | float) -> list[Any]:
        now = "" if self._script_clock is None else repr(self._script_clock.now())
        reply = self._client.evalsha(
            self._sha, 1, self._prefix, operation, self._epoch, now, self._member, *arguments
        )
        return list(_text(reply))

    def _lost(self, detail: str, *, at_once: bool) -> None:
        self.up = False
        self.detail = detail
        self._next_attempt_s = self._wall.now() + (0.0 if at_once else self._retry_s)

    def _join(self) -> None:
        """Tell the server what this replica holds, and learn the epoch."""
        if self._wall.now() < self._next_attempt_s:
            raise StoreDownError(self.detail)
        with self.lock:
            if self.up:
                return
            if self._wall.now() < self._next_attempt_s:
                raise StoreDownError(self.detail)
            try:
                self._client.connection_pool.disconnect(inuse_connections=False)
                run_id = self._client.info("server")["run_id"]
                self._sha = self._client.script_load(_script())
                order = {
                    "schema": SCHEMA,
                    "run_id": run_id,
                    "epoch": self._epoch,
                    "token": secrets.token_hex(8),
                    **self._order(),
                }
                reply = self._run("join", json.dumps(order))
            except (*_DOWN, redis.exceptions.NoScriptError) as error:
                self._lost(f"{type(error).__name__}: {error}", at_once=False)
                raise StoreDownError(self.detail) from error
            if reply[0] == "schema":
                raise SpecError(f"store.schema: expected version {SCHEMA}, got {reply[1]!r}")
            self._epoch = reply[1]
            self.up = True
            self.detail = ""
            self.last_answer_s = self.clock.now()
            self._on_joined()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _client(server: Any, timeout_s: float) -> Any:
    if not isinstance(server, str):
        return server
    return redis.Redis.from_url(
        server,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),  # a repeated operation is decided here
    )


def _script() -> str:
    return importlib.resources.files("solver.load").joinpath("redis_script.lua").read_text("utf-8")


def _text(reply: Any) -> Any:
    """Return a reply with its byte strings as text."""
    if isinstance(reply, bytes):
        return reply.decode()
    return [_text(part) for part in reply] if isinstance(reply, list) else reply
