"""Requests with an ``Idempotency-Key``: carried out once, and answered again when they are repeated."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

from solver.interfaces.http.json_codec import from_json, to_json
from solver.interfaces.http.problem_details import RequestRefused, retry_after
from solver.interfaces.http.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from solver.interfaces.http.limits import ServiceLimits
    from solver.load.store.redis_answers import Claim, SharedAnswers

REPLAYED = ("Idempotency-Replayed", "true")


_RENEWED_AFTER_S = 1.0
"""Seconds between two signs that a request with a key is still carried out."""


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
    shared : SharedAnswers or None
        Where other replicas, and this one after a restart, find them; None: here alone.
    off_loop : callable
        Runs what waits for a network.
    """

    def __init__(
        self,
        limits: ServiceLimits,
        shared: SharedAnswers | None,
        off_loop: Callable[[Callable[[], Any]], Awaitable[Any]],
    ) -> None:
        self._limits, self._shared, self._off_loop = limits, shared, off_loop
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
        if first is not None:
            _check(first == digest, running=kept is None)
        if kept is not None:
            return _again(kept.reply)
        self._running[key] = digest
        try:
            reply = await (
                make() if self._shared is None else self._made_once(self._shared, key, digest, make)
            )
        finally:
            del self._running[key]
        if _is_final(reply):
            self._kept[key] = _Kept(now_s, digest, reply)
            self._bytes += len(reply.body)
        return reply

    async def _made_once(
        self,
        shared: SharedAnswers,
        key: tuple[str, ...],
        digest: bytes,
        make: Callable[[], Awaitable[Reply]],
    ) -> Reply:
        """Make an answer that no replica has made, or return that one's."""
        from solver.load.store.redis_answers import Claim  # not without Redis

        name = hashlib.sha256("\0".join(key).encode("utf-8", "surrogatepass")).hexdigest()
        claim = Claim(name, digest.hex(), secrets.token_hex(8))
        found = await self._off_loop(lambda: shared.claim(claim))
        if found is not None:
            _check(found.digest == claim.digest, running=found.answer is None)
            head, _, body = found.answer.partition(b"\n")
            status, headers, media_type = from_json(head)
            return _again(Reply(status, body, tuple(map(tuple, headers)), media_type))
        renewing = asyncio.create_task(self._renew(shared, claim))
        answer = None
        try:
            reply = await make()
            if _is_final(reply):
                answer = to_json([reply.status, reply.headers, reply.media_type]) + b"\n" + reply.body
            return reply
        finally:
            renewing.cancel()
            await self._off_loop(lambda: self._end(shared, claim, answer))

    async def _renew(self, shared: SharedAnswers, claim: Claim) -> None:
        while True:
            await asyncio.sleep(_RENEWED_AFTER_S)
            await self._off_loop(lambda: shared.renew(claim))

    def _end(self, shared: SharedAnswers, claim: Claim, answer: bytes | None) -> None:
        limits = self._limits
        if answer is None:
            shared.give_up(claim)
        else:
            most, most_bytes = limits.idempotency_kept, limits.idempotency_bytes
            shared.finish(claim, answer, keep_s=limits.idempotency_s, most=most, most_bytes=most_bytes)

    def _drop_old(self, now_s: float) -> None:
        limits = self._limits
        while self._kept:
            key, oldest = next(iter(self._kept.items()))
            full = len(self._kept) >= limits.idempotency_kept or self._bytes > limits.idempotency_bytes
            if now_s - oldest.since_s < limits.idempotency_s and not full:
                return
            del self._kept[key]
            self._bytes -= len(oldest.reply.body)


def _check(same: bool, *, running: bool) -> None:
    """Refuse a key that was used for another request, or whose first request is still carried out."""
    if not same:
        raise RequestRefused(422, "this Idempotency-Key was used for another request")
    if running:
        raise RequestRefused(409, "the first request with this key is still running", headers=retry_after(1))


def _again(reply: Reply) -> Reply:
    headers = reply.headers if REPLAYED in reply.headers else (*reply.headers, REPLAYED)
    return reply._replace(headers=headers)


def _is_final(reply: Reply) -> bool:
    return reply.status != 429 and reply.status < 500
