"""A Redis server as a store needs it: the client, the script it runs, and what it must be set to."""

from __future__ import annotations

import copy
import hashlib
import importlib.resources
import inspect
import re
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from solver.errors import MissingExtraError, SpecError, Violation
from solver.load.store.outage_causes import OutageCause

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

try:
    import redis
    import redis.backoff
    import redis.cluster
    import redis.retry
    import redis.sentinel
except ImportError as error:
    raise MissingExtraError("redis", "redis") from error


def setting_problem(info: dict[str, Any]) -> tuple[Violation, OutageCause] | None:
    """Return why a server cannot keep what is written, from its ``INFO``; None where it can.

    Raises
    ------
    redis.exceptions.ReadOnlyError
        If it is a replica at present: though it may take writes, it will lose them.
    """
    if info.get("role") == "slave":
        raise redis.exceptions.ReadOnlyError("the server is a replica")
    if int(info.get("cluster_enabled", 0)):
        return _no_single("a node of a Redis Cluster"), OutageCause.CLUSTER
    if info.get("redis_mode") == "sentinel":
        return _no_single("a Sentinel: give a client of its master_for()"), OutageCause.FAULT
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if int(info.get("maxmemory", 0)) > 0 and policy.startswith("allkeys-"):
        violation = Violation(
            "server",
            "expected maxmemory-policy noeviction",
            policy,
            shown=f"{policy}: leases would be deleted when memory is full, and more granted than there is capacity",
        )
        return violation, OutageCause.EVICTING
    return None


def _no_single(shown: str) -> Violation:
    return Violation("server", "expected a single server or one behind Sentinel", shown=shown)


def client_of(server: Any, timeout_s: float) -> Any:
    """Return the client of a URL, or the caller's own. SpecError for what is neither, or a cluster's."""
    if isinstance(server, redis.cluster.RedisCluster):
        raise SpecError(_no_single("a client of a Redis Cluster"))
    if not isinstance(server, str):
        if not callable(getattr(server, "evalsha", None)):
            raise SpecError(
                Violation(
                    "server",
                    "expected a URL or a client, as redis.Redis or Sentinel.master_for() make",
                    server,
                )
            )
        if inspect.iscoroutinefunction(getattr(server, "execute_command", None)):
            rule = "expected redis.Redis, whose calls the asyncio methods make in threads of their own"
            raise SpecError(Violation("server", rule, shown="a client of redis.asyncio"))
        return _with_own_connections(server, timeout_s) if type(server) is redis.Redis else server
    try:
        return redis.Redis.from_url(
            server, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=_no_retry()
        )
    except ValueError as error:
        raise SpecError(
            Violation(
                "server",
                "expected a URL such as redis://localhost:6379/0",
                server,
                shown=f"{server!r} ({error})",
            )
        ) from error


def _no_retry() -> Any:
    return redis.retry.Retry(redis.backoff.NoBackoff(), 0)  # a repeated operation is decided by the store


_NOT_STATED = (None, getattr(redis.connection, "DEFAULT_SOCKET_TIMEOUT", None))
"""Time-outs of clients that were made without one."""


def _with_own_connections(client: Any, timeout_s: float) -> Any:
    """Return a client of the same server, which repeats nothing and never waits without an end.

    What redis-py makes by default repeats ten times, for two minutes where a server hangs.
    """
    pool = client.connection_pool
    options = {**pool.connection_kwargs, "retry": _no_retry()}
    options |= {"connection_class": pool.connection_class, "max_connections": pool.max_connections}
    options |= {"encoding": "utf-8", "decode_responses": False}
    for key in ("socket_timeout", "socket_connect_timeout"):
        if options.get(key) in _NOT_STATED:
            options[key] = timeout_s
    own: redis.ConnectionPool
    if type(pool) is redis.sentinel.SentinelConnectionPool:
        sentinels = copy.copy(pool.sentinel_manager)
        sentinels.sentinels = [_with_own_connections(each, timeout_s) for each in sentinels.sentinels]
        options |= {"is_master": pool.is_master, "check_connection": pool.check_connection}
        own = redis.sentinel.SentinelConnectionPool(pool.service_name, sentinels, **options)
    elif type(pool) is redis.BlockingConnectionPool:
        own = redis.BlockingConnectionPool(timeout=pool.timeout, **options)
    elif type(pool) is redis.ConnectionPool:
        own = redis.ConnectionPool(**options)
    else:  # of a kind that only its maker can make
        return client
    return redis.Redis.from_pool(own)


def address_of(client: Any) -> str:
    """Return what distinguishes one server from another, as far as a client knows."""
    pool = getattr(client, "connection_pool", None)
    options = getattr(pool, "connection_kwargs", {})
    known = [options.get(key, "") for key in ("host", "port", "path", "db")]
    if isinstance(pool, redis.sentinel.SentinelConnectionPool):
        known += [pool.service_name, *(address_of(sentinel) for sentinel in pool.sentinel_manager.sentinels)]
    return " ".join(map(str, known))


class ServerIdentity(NamedTuple):
    """Which server answers, and since which promotion."""

    run_id: str = ""
    promotion: str = ""
    """Of the last time it became a primary: it may have lost its last writes as a replica. Empty if unknown."""

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Self:
        """Read it from ``INFO``."""
        replaced = str(info.get("master_replid2", "")).strip("0")
        promotion = f"{replaced} {info.get('second_repl_offset', '')}" if replaced else ""
        return cls(str(info.get("run_id", "")), promotion)

    def may_have_lost(self, joined: ServerIdentity) -> bool:
        """Return whether what was written to the server that was joined may be missing here."""
        return self.run_id != joined.run_id or self.promotion not in ("", joined.promotion)


def watch_connections(client: Any, check: Callable[[ServerIdentity], None]) -> None:
    """Have ``check`` called with whichever server answers on each new connection of a client.

    Clients connect anew in silence when a connection was closed while it was not used: what is sent next goes to
    the server that has taken over, which may lack the last writes of the one before.
    """
    pool = client.connection_pool
    begin = pool.connection_kwargs.get("redis_connect_func")

    def connected(connection: Any) -> None:
        if begin is None:
            connection.on_connect()
        else:
            begin(connection)
        info: dict[str, str] = {}
        for section in ("server", "replication"):
            connection.send_command("INFO", section)
            info.update(
                re.findall(r"^(\w+):([^\r\n]*)", str(text_of(connection.read_response())), re.MULTILINE)
            )
        check(ServerIdentity.of(info))

    pool.connection_kwargs["redis_connect_func"] = connected
    made = [*getattr(pool, "_available_connections", ()), *getattr(pool, "_connections", ())]  # used before
    for connection in [*made, getattr(client, "connection", None)]:
        if connection is not None:
            connection.redis_connect_func = connected


@cache
def script() -> str:
    """Return the source of the script that carries out every operation on the server."""
    folder = importlib.resources.files("solver.load.store").joinpath("scripts")
    parts = sorted(
        (part for part in folder.iterdir() if part.name.endswith(".lua")), key=lambda part: part.name
    )
    return "\n".join(part.read_text("utf-8") for part in parts)


@cache
def script_hash() -> str:
    """Return the name that servers give to the script."""
    return hashlib.sha1(script().encode(), usedforsecurity=False).hexdigest()


def text_of(reply: Any) -> Any:
    """Return a reply with its byte strings as text."""
    if isinstance(reply, bytes):
        return reply.decode()
    return [text_of(part) for part in reply] if isinstance(reply, list) else reply
