"""The guarantees of a shared store while its server is unavailable, and the causes of an outage."""

from __future__ import annotations

import enum
import re

from solver.errors import MissingExtraError, StoreDownError

try:
    import redis
except ImportError as error:
    raise MissingExtraError("redis", "redis") from error


class LinkState(enum.StrEnum):
    """What a shared store can promise at the moment."""

    CONNECTED = "connected"
    """Every operation is answered by the server."""
    UNAVAILABLE = "unavailable"
    """The server does not answer; nothing is granted."""
    LOCAL_SHARE = "local_share"
    """The server does not answer; this replica grants its own share of the capacity."""


class OutageCause(enum.StrEnum):
    """Why a server does not do what it is asked for."""

    UNREACHABLE = "unreachable"
    """No connection, or no answer within the time-out."""
    BUSY = "busy"
    """It is loading its data, or another script keeps it busy."""
    READ_ONLY = "read_only"
    """It is a replica, or its primary is gone; a fail-over may be under way."""
    NO_REPLICAS = "no_replicas"
    """It has fewer replicas of its own than its configuration requires."""
    FULL = "full"
    """Its memory is full; releases get through."""
    MISCONFIGURED = "misconfigured"
    """It cannot write its data to disk, and refuses to go on without."""
    NOT_ALLOWED = "not_allowed"
    """The user or password may not do this."""
    CLUSTER = "cluster"
    """It is a node of a cluster."""
    EVICTING = "evicting"
    """It would delete leases when its memory is full."""
    FAULT = "fault"
    """It answered with an error that is not known; the log has it."""


class AnotherServerError(redis.exceptions.RedisError):  # type: ignore[misc] # it has no types
    """A new connection leads to another server: an error that no client repeats by itself."""


_CAUSES = {
    "BUSY": OutageCause.BUSY,
    "UNKILLABLE": OutageCause.BUSY,
    "LOADING": OutageCause.BUSY,
    "READONLY": OutageCause.READ_ONLY,
    "MASTERDOWN": OutageCause.READ_ONLY,
    "NOREPLICAS": OutageCause.NO_REPLICAS,
    "OOM": OutageCause.FULL,
    "MISCONF": OutageCause.MISCONFIGURED,
    "NOPERM": OutageCause.NOT_ALLOWED,
    "NOAUTH": OutageCause.NOT_ALLOWED,
    "WRONGPASS": OutageCause.NOT_ALLOWED,
    "MOVED": OutageCause.CLUSTER,
    "ASK": OutageCause.CLUSTER,
    "CLUSTERDOWN": OutageCause.CLUSTER,
    "CROSSSLOT": OutageCause.CLUSTER,
    "TRYAGAIN": OutageCause.CLUSTER,
}
_TYPES: tuple[tuple[type[Exception], OutageCause], ...] = (
    (AnotherServerError, OutageCause.UNREACHABLE),
    (redis.exceptions.BusyLoadingError, OutageCause.BUSY),
    (redis.exceptions.ReadOnlyError, OutageCause.READ_ONLY),
    (redis.exceptions.MasterDownError, OutageCause.READ_ONLY),
    (redis.exceptions.OutOfMemoryError, OutageCause.FULL),
    (redis.exceptions.NoPermissionError, OutageCause.NOT_ALLOWED),
    (redis.exceptions.AuthenticationError, OutageCause.NOT_ALLOWED),
    (redis.exceptions.AskError, OutageCause.CLUSTER),
    (redis.exceptions.ClusterDownError, OutageCause.CLUSTER),
    (redis.exceptions.TryAgainError, OutageCause.CLUSTER),
    (redis.exceptions.ConnectionError, OutageCause.UNREACHABLE),
    (redis.exceptions.TimeoutError, OutageCause.UNREACHABLE),
)


def cause_of(error: Exception) -> OutageCause:
    """Return what a failed call says about the server."""
    code = re.match(r"(?:.*@user_script\S* -)?([A-Z]+)\b", str(error))
    if code and code[1] in _CAUSES:
        return _CAUSES[code[1]]
    if "user executing the script can't" in str(error):  # as versions 7 and later have it
        return OutageCause.NOT_ALLOWED
    return next((cause for kind, cause in _TYPES if isinstance(error, kind)), OutageCause.FAULT)


class StoreFullError(StoreDownError):
    """The server's memory is full: it takes nothing new, and everything else goes on."""
