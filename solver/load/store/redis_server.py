"""A Redis server as a store needs it: the client, the script it runs, and what it must be set to."""

from __future__ import annotations

import hashlib
import importlib.resources
import inspect
import re
from functools import cache
from typing import TYPE_CHECKING, Any

from solver.errors import MissingExtraError, SpecError, Violation
from solver.load.store.outage_causes import OutageCause

if TYPE_CHECKING:
    from collections.abc import Callable

try:
    import redis
    import redis.backoff
    import redis.cluster
    import redis.retry
except ImportError as error:
    raise MissingExtraError("redis", "redis") from error


def setting_problem(info: dict[str, Any]) -> tuple[Violation, OutageCause] | None:
    """Return why a server cannot keep what is written, from its ``INFO``; None where it can."""
    if int(info.get("cluster_enabled", 0)):
        return _no_cluster("a node of a Redis Cluster"), OutageCause.CLUSTER
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


def _no_cluster(shown: str) -> Violation:
    return Violation("server", "expected a single server or one behind Sentinel", shown=shown)


def client_of(server: Any, timeout_s: float) -> Any:
    """Return the client of a URL, or the caller's own. SpecError for what is neither, or a cluster's."""
    if isinstance(server, redis.cluster.RedisCluster):
        raise SpecError(_no_cluster("a client of a Redis Cluster"))
    if not isinstance(server, str):
        if not callable(getattr(server, "evalsha", None)):
            raise SpecError(Violation("server", "expected a URL or a redis.Redis client", server))
        if inspect.iscoroutinefunction(getattr(server, "execute_command", None)):
            rule = "expected redis.Redis, whose calls the asyncio methods make in threads of their own"
            raise SpecError(Violation("server", rule, shown="a client of redis.asyncio"))
        return server
    try:
        return redis.Redis.from_url(
            server,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),  # a repeated operation is decided here
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


def address_of(client: Any) -> str:
    """Return what distinguishes one server from another, as far as a client knows."""
    options = getattr(getattr(client, "connection_pool", None), "connection_kwargs", {})
    return " ".join(str(options.get(key, "")) for key in ("host", "port", "path", "db"))


def watch_connections(client: Any, check: Callable[[str], None]) -> None:
    """Have ``check`` called with the run id of whichever server answers on each new connection of a client.

    Clients connect anew in silence when a connection was closed while it was not used: what is sent next goes to
    the server that has taken over, which may lack the last writes of the one before.
    """
    options = client.connection_pool.connection_kwargs
    begin = options.get("redis_connect_func")

    def connected(connection: Any) -> None:
        if begin is None:
            connection.on_connect()
        else:
            begin(connection)
        connection.send_command("INFO", "server")
        found = re.search(r"^run_id:(\w+)", str(text_of(connection.read_response())), re.MULTILINE)
        check(found[1] if found else "")

    options["redis_connect_func"] = connected


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
