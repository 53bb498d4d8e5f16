"""Connections that cannot be held open for nothing: bounds on heads, on trailers, and on readers that stop reading."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from solver.errors import MissingExtraError
from solver.interfaces.http.problem_details import MEDIA_TYPE, RequestRefused, retry_after

try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
except ImportError as error:
    raise MissingExtraError("httptools", "service") from error

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Transport

    from uvicorn._types import ASGI3Application
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from solver.interfaces.http.limits import ServiceLimits

_JOINED_BYTES = 64 << 10  # beyond, copying costs more than a system call
_MAX_TRAILERS = 32
"""Trailer fields after a chunked body at most; more would be an attempt to fill the memory."""


class JoinedWrites:
    """A transport that sends what is written in one turn of the event loop together.

    The web server writes the head and the body of an answer one after the other, and the event loop makes a system
    call of each: that was a third of the time of a decision.

    Parameters
    ----------
    transport : Transport
        What sends.
    loop : AbstractEventLoop
        The event loop of the connection.
    """

    def __init__(self, transport: Transport, loop: AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._held: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send before the loop turns again; at once where that is much."""
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)
        self._size += len(data)
        if self._size > _JOINED_BYTES:
            self._flush()

    def _flush(self) -> None:
        held, self._held, self._size = self._held, [], 0
        if held and not self._transport.is_closing():
            self._transport.write(held[0] if len(held) == 1 else b"".join(held))

    def close(self) -> None:
        """Send what is held, then close."""
        self._flush()
        self._transport.close()


class BoundedConnection(HttpToolsProtocol):
    """One connection of a client, closed when it exceeds a bound. See :func:`bounded_by`.

    The web server itself bounds neither the size of a head nor the time in which it has to arrive, and waits for a
    reader for ever. Time is checked by :meth:`check`, once a second for all connections, because a timer of its
    own for each request costs more than the request's head.
    """

    limits: ServiceLimits

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_since: float | None = None
        self._body_since: float | None = None
        self._unread_since: float | None = None
        self._head_bytes = self._trailers = 0
        self._answering: RequestResponseCycle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as the server has it
        """Begin to count, and to join writes."""
        super().connection_made(cast("Transport", JoinedWrites(transport, self.loop)))
        self._head_since = self.loop.time()

    def on_message_begin(self) -> None:
        """Begin a request's head."""
        super().on_message_begin()
        self._head_since = self.loop.time()
        self._trailers = 0

    def data_received(self, data: bytes) -> None:
        """Take what has arrived."""
        if self._head_since is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_since is not None and self._head_bytes > self.limits.head_bytes:
            self._refuse(431, f"expected a head of at most {self.limits.head_bytes:,} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field of the head; those after the body are of no use here."""
        if self._head_since is not None:
            super().on_header(name, value)
            return
        self._trailers += 1
        if self._trailers > _MAX_TRAILERS:
            self.transport.abort()

    def on_headers_complete(self) -> None:
        """End the head and begin the body."""
        self._head_since, self._head_bytes = None, 0
        self._body_since = self.loop.time()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End the body."""
        self._body_since = None
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        # Where there are too many connections, the web server has put an answer of its own in the application's place.
        super()._start_asgi_task(cycle, app if app is self.app else _too_many_connections)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request being answered, which is not the last one that was read where several were sent at once."""
        self.pipeline.clear()
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Go on to the next request; nothing more is read as long as some that were read already wait."""
        super().on_response_complete()
        if self.pipeline and not self.transport.is_closing():
            self.flow.pause_reading()

    def pause_writing(self) -> None:
        """Note since when the client reads nothing of what is waiting for it."""
        super().pause_writing()
        self._unread_since = self.loop.time()

    def resume_writing(self) -> None:
        """Note that it reads again."""
        super().resume_writing()
        self._unread_since = None

    def check(self, now_s: float) -> None:
        """Close the connection if a head, the rest of a refused body, or a reader keeps it waiting for too long."""
        limits = self.limits
        if self._unread_since is not None and now_s - self._unread_since > limits.unread_s:
            self.transport.abort()
        elif self._head_since is not None and now_s - self._head_since > limits.head_s:
            if self._head_bytes:
                self._refuse(408, f"the head did not arrive within {limits.head_s:g} s")
            else:
                self.transport.close()
        elif self._body_since is not None and now_s - self._body_since > limits.body_s:
            self._end_slow_body()

    def _end_slow_body(self) -> None:
        """Answer with status 408 where the request waits for its body; otherwise it is answered, or in a queue."""
        cycle = self.cycle
        if cycle is not self._answering or cycle.response_started:
            self.transport.abort()
            return
        state = cycle.scope["state"]
        state["status"] = 408  # for logs and metrics
        cycle.disconnected = True
        cycle.message_event.set()
        detail = f"the body did not arrive within {self.limits.body_s:g} s"
        self._refuse(408, detail, state.get("request_id", "none"))

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        self._refuse(400, msg)

    def _refuse(self, status: int, detail: str, request_id: str = "none") -> None:
        if self.transport.is_closing():
            return
        refused = RequestRefused(status, detail)
        body = refused.body(request_id)
        head = (
            f"HTTP/1.1 {status} {refused.title}\r\ncontent-type: {MEDIA_TYPE}\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
        self._head_since = self._body_since = None


async def _too_many_connections(_scope: Any, _receive: Any, send: Any) -> None:
    """Answer with status 503 as problem details, and close the connection."""
    refused = RequestRefused(503, "too many connections are open", headers=retry_after(1.0))
    reply = refused.reply("none")
    headers = [
        (b"content-type", reply.media_type.encode()),
        (b"content-length", b"%d" % len(reply.body)),
        (b"connection", b"close"),
        *((name.lower().encode(), value.encode()) for name, value in reply.headers),
    ]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


def bounded_by(limits: ServiceLimits) -> type[BoundedConnection]:
    """Return the class of connections with these bounds, as the web server is given it."""
    return type("BoundedConnection", (BoundedConnection,), {"limits": limits})
