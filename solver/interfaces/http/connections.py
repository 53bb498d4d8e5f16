"""Connections that cannot be held open for nothing: bounds on heads, on trailers, and on readers that stop reading."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

from solver.errors import MissingExtraError
from solver.interfaces.http.problem_details import MEDIA_TYPE, RequestRefused, retry_after

try:
    import httptools
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
except ImportError as error:
    raise MissingExtraError("httptools", "service") from error

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Transport

    from uvicorn._types import ASGI3Application
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from solver.interfaces.http.limits import ServiceLimits

_JOINED_BYTES = 64 << 10  # beyond, copying costs more than a system call
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(:[0-9]*)?")
"""A name or an address with a port, as RFC 9110 has them in section 7.2."""


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
        self._framing_bytes = (
            0  # of a head, or between two parts of a body, the segment in which it began left out
        )
        self._known_host = b"localhost"  # the last that was found right
        self._answering: RequestResponseCycle | None = None
        self._refusal: bytes | None = None  # waits until what came before is answered

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as the server has it
        """Begin to count, and to join writes."""
        super().connection_made(cast("Transport", JoinedWrites(transport, self.loop)))
        self._head_since = self.loop.time()

    def on_message_begin(self) -> None:
        """Begin a request's head."""
        super().on_message_begin()
        self._head_since = self.loop.time()

    def data_received(self, data: bytes) -> None:
        """Take what has arrived."""
        self._framing_bytes += len(data)
        super().data_received(data)
        if self._framing_bytes <= self.limits.head_bytes:
            return
        if self._head_since is not None:
            self._refuse(431, f"expected a head of at most {self.limits.head_bytes:,} bytes")
        elif self._body_since is not None:  # extensions of a chunk, or trailers
            self._refuse_body(400, f"over {self.limits.head_bytes:,} bytes without any of the body")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field of the head; those after the body are of no use here."""
        if self._head_since is not None:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """End the head and begin the body, unless the head is against RFC 9112.

        Raises
        ------
        ValueError
            If it is, for the parser to stop; the request is refused already.
        """
        refused = self._refused_head()
        if refused is not None:
            self._refuse(*refused)
            raise ValueError(refused[1])
        self._head_since, self._framing_bytes = None, 0
        self._body_since = self.loop.time()
        super().on_headers_complete()

    def _refused_head(self) -> tuple[int, str] | None:
        """Return how the head breaks the rules of HTTP/1.1 that the parser leaves to its user; None: it does not."""
        version = self.parser.get_http_version()
        if version not in ("1.1", "1.0"):
            return 505, "expected HTTP/1.1 or HTTP/1.0"
        hosts, size = 0, len(self.url)
        for name, value in self.headers:
            size += len(name) + len(value)
            if name == b"host":
                hosts += 1
                if value != self._known_host and not _HOST.fullmatch(value):
                    return 400, "Host: expected a name or an address, and perhaps a port"
                self._known_host = value
            elif name == b"transfer-encoding":
                if version == "1.0":
                    return 400, "Transfer-Encoding: not a part of HTTP/1.0"
                if value.strip().lower() != b"chunked":
                    return 501, "Transfer-Encoding: expected chunked alone"
        if version == "1.0":
            self.expect_100_continue = False  # which such a client does not know
        if size > self.limits.head_bytes:
            return 431, f"expected a head of at most {self.limits.head_bytes:,} bytes"
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            return 400, f"Host: expected exactly one, got {hosts}"
        if not self.url.startswith(b"/"):
            self._take_absolute_form()
        return None

    def _take_absolute_form(self) -> None:
        """Take the address of a request to a proxy, in which the Host counts for nothing."""
        target = httptools.parse_url(self.url)
        if target.host:
            authority = target.host + (b":%d" % target.port if target.port else b"")
            self.headers[:] = [
                (name, authority if name == b"host" else value) for name, value in self.headers
            ]
            self.url = (target.path or b"/") + (b"?" + target.query if target.query else b"")

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._framing_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the body."""
        self._body_since, self._framing_bytes = None, 0
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
        last = not self.pipeline
        super().on_response_complete()
        if last and self._refusal is not None and not self.transport.is_closing():
            self._end(self._refusal)
        elif self.pipeline and not self.transport.is_closing():
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
            if self._framing_bytes:
                self._refuse(408, f"the head did not arrive within {limits.head_s:g} s")
            else:
                self.transport.close()
        elif self._body_since is not None and now_s - self._body_since > limits.body_s:
            self._refuse_body(408, f"the body did not arrive within {limits.body_s:g} s")

    def _refuse_body(self, status: int, detail: str) -> None:
        """Answer where the request waits for its body, or in a queue; close the connection where it is answered."""
        cycle = self.cycle
        if cycle.response_complete:
            self.transport.close()
            return
        if cycle.response_started:
            self.transport.abort()
            return
        if cycle is not self._answering:
            self.pipeline.popleft()  # the newest
        state = cycle.scope["state"]
        state["status"] = status  # for logs and metrics
        cycle.disconnected = True
        cycle.message_event.set()
        self._refuse(status, detail, state.get("request_id", "none"))

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        if self._body_since is None:
            self._refuse(400, msg)
        else:
            self._refuse_body(400, msg)

    def _refuse(self, status: int, detail: str, request_id: str = "none") -> None:
        if self.transport.is_closing() or self._refusal is not None:
            return
        refused = RequestRefused(status, detail)
        body = refused.body(request_id)
        head = (
            f"HTTP/1.1 {status} {refused.title}\r\ncontent-type: {MEDIA_TYPE}\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        answering, self._refusal = self._answering, head.encode() + body
        if answering is None or answering.disconnected or answering.response_complete:
            self._end(self._refusal)
        else:
            self.flow.pause_reading()
        self._head_since = self._body_since = None

    def _end(self, answer: bytes) -> None:
        self.transport.write(answer)
        self.transport.close()


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
