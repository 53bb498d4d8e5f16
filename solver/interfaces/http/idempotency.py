"""Requests with an ``Idempotency-Key``: carried out once, and answered again when they are repeated."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from solver.interfaces.http.problem_details import RequestRefused, retry_after
from solver.interfaces.http.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from solver.interfaces.http.limits import ServiceLimits
    from solver.interfaces.http.reply import Reply

REPLAYED = ("Idempotency-Replayed", "true")


class _Kept(NamedTuple):
    since_s: float
    digest: bytes
    reply: Reply


class RepeatedRequests:
    """Answers of requests with a key, given again when the same request is repeated. For one event loop.

    Parameters
    ----------
    limits : ServiceLimits
        How many are kept, and how long.
    """

    def __init__(self, limits: ServiceLimits) -> None:
        self._limits = limits
        self._running: dict[tuple[str, ...], bytes] = {}
        self._kept: OrderedDict[tuple[str, ...], _Kept] = OrderedDict()
        self._bytes = 0

    async def answer(
        self, key: tuple[str, ...], body: bytes, now_s: float, make: Callable[[], Awaitable[Reply]]
    ) -> Reply:
        """Return the answer of the first such request, or make it.

        Refusals that ask the client to come again, and errors, are not kept: the repetition is then a new try.

        Raises
        ------
        RequestRefused
            Status 422 where the key came with another body before, 409 while the first request is running.
        """
        digest = hashlib.sha256(body).digest()
        self._drop_old(now_s)
        kept = self._kept.get(key)
        first = self._running.get(key) if kept is None else kept.digest
        if first is not None and first != digest:
            raise RequestRefused(422, "this Idempotency-Key was used for another request")
        if kept is not None:
            return kept.reply._replace(headers=(*kept.reply.headers, REPLAYED))
        if first is not None:
            raise RequestRefused(
                409, "the first request with this key is still running", headers=retry_after(1)
            )
        self._running[key] = digest
        try:
            reply = await make()
        finally:
            del self._running[key]
        if reply.status != 429 and reply.status < 500:
            self._kept[key] = _Kept(now_s, digest, reply)
            self._bytes += len(reply.body)
        return reply

    def _drop_old(self, now_s: float) -> None:
        limits = self._limits
        while self._kept:
            key, oldest = next(iter(self._kept.items()))
            full = len(self._kept) >= limits.idempotency_kept or self._bytes > limits.idempotency_bytes
            if now_s - oldest.since_s < limits.idempotency_s and not full:
                return
            del self._kept[key]
            self._bytes -= len(oldest.reply.body)
