"""Bounds of the HTTP service: what one request, one client and one process may use."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from solver.errors import SpecError, Violation
from solver.problem.values import unknown_name

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLimits:
    """Bounds of the HTTP service.

    Parameters
    ----------
    body_bytes : int
        Largest body of a request; ``batch_body_bytes`` for whole batches.
    batch_body_bytes : int
        Largest body of ``/v1/assign`` and ``auto-assign-all``.
    bytes_in_flight : int
        Bodies of all requests that are being read, together.
    body_s : float
        Seconds in which a body has to arrive.
    head_bytes : int
        Largest head of a request: its first line and headers.
    head_s : float
        Seconds in which a head has to arrive, and a new connection has to begin one.
    unread_s : float
        Seconds for which a client may leave waiting data unread.
    connections : int
        Most connections at one time; requests on further ones are refused with status 503.
    deadline_ms : float
        Time limit of a batch that names none, milliseconds.
    longest_deadline_ms : float
        Longest time limit a batch may ask for.
    batch_agents : int
        Most agents of one ``auto-assign-all``, which shares its process with the decisions.
    waiting_solves : int
        Batches that may wait for a solver process; more are refused with status 429.
    longest_ttl_s : float
        Longest time to live of a lease, seconds.
    decisions_kept, audit_kept, alerts_kept : int
        Entries of the logs; the oldest are dropped.
    decision_log_bytes, decision_log_files : int
        Size of one file of ``--decision-log``, and how many are kept.
    explained_bytes : int
        Largest request whose agent is kept with its decision, for `/v1/explain`.
    assignments_kept : int
        Most assignments of ``auto-assign-all`` at one time.
    models_known : int
        Most models, those of the fleet and of requests together.
    idempotency_kept : int
        Answers kept for repeated requests with an ``Idempotency-Key``, by all replicas of a store together.
    idempotency_bytes : int
        Bytes of those answers together.
    idempotency_s : float
        Seconds for which they are kept.
    subscribers : int
        Most open event streams.
    tick_s : float
        Seconds between two samples of the live load.
    """

    body_bytes: int = 1 << 20
    batch_body_bytes: int = 64 << 20
    bytes_in_flight: int = 256 << 20
    body_s: float = 20.0
    head_bytes: int = 64 << 10
    head_s: float = 10.0
    unread_s: float = 30.0
    connections: int = 4_000
    deadline_ms: float = 10_000.0
    longest_deadline_ms: float = 120_000.0
    batch_agents: int = 10_000
    waiting_solves: int = 16
    longest_ttl_s: float = 120.0
    decisions_kept: int = 10_000
    audit_kept: int = 1_000
    alerts_kept: int = 500
    decision_log_bytes: int = 64 << 20
    decision_log_files: int = 4
    explained_bytes: int = 8_192
    assignments_kept: int = 100_000
    models_known: int = 5_000
    idempotency_kept: int = 10_000
    idempotency_bytes: int = 64 << 20
    idempotency_s: float = 3_600.0
    subscribers: int = 64
    tick_s: float = 1.0


def checked_ttl(limits: ServiceLimits, ttl_s: float | None) -> float | None:
    """Return a time to live that is within the bound.

    Raises
    ------
    SpecError
        If it is not.
    """
    if ttl_s is not None and ttl_s > limits.longest_ttl_s:
        raise SpecError(Violation("ttl_s", f"expected at most {limits.longest_ttl_s:g} seconds", ttl_s))
    return ttl_s


def limits_of(stated: Iterable[str]) -> ServiceLimits:
    """Return the bounds that ``NAME=VALUE`` texts state, the others being the defaults.

    Raises
    ------
    SpecError
        One line per text that names no bound, or a value that is not above zero.

    Examples
    --------
    >>> limits_of(["body_s=5", "batch_agents=2000"]).batch_agents
    2000
    """
    defaults = {one.name: one.default for one in fields(ServiceLimits)}
    values: dict[str, Any] = {}
    problems = []
    for text in stated:
        name, _, value = text.partition("=")
        if name not in defaults:
            rule = f"expected NAME=VALUE with one of {', '.join(defaults)}"
            problems.append(unknown_name("limit", rule, name, defaults))
            continue
        whole = isinstance(defaults[name], int)
        try:
            number = int(value.replace("_", "")) if whole else float(value)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            problems.append(
                Violation(f"limit {name}", f"expected a {'whole ' if whole else ''}number > 0", value)
            )
        values[name] = number
    if problems:
        raise SpecError(*problems)
    return ServiceLimits(**values)
