"""What no client should send: wrong documents by the thousand, and connections that are held open for nothing."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from tests.fuzz_service import mutations, resident_mb, schemathesis
from tests.http_service import TOKENS, HttpService, running

if TYPE_CHECKING:
    from collections.abc import Iterator

CASES = int(
    os.environ.get("SERVICE_FUZZ_CASES", "1000")
)  # the full bar is 10,000: python -m tests.fuzz_service
LIMITS = ("head_s=1", "body_s=1", "unread_s=1", "head_bytes=8192", "connections=12")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpService]:
    options = [word for limit in LIMITS for word in ("--limit", limit)]
    with running(tmp_path_factory.mktemp("strict"), *options) as started:
        yield started


def connected(service: HttpService) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=20)


def head(size: str, *, method: str = "POST", path: str = "/v1/decide") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {TOKENS['operate']}"]
    return "\r\n".join([*lines, "Content-Type: application/json", size, "", ""]).encode()


def until_closed(connection: socket.socket) -> bytes:
    """Return all that is received until the service closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            received += part
    return received


def test_what_is_not_in_the_document_is_refused_and_never_an_error_of_the_server(
    service: HttpService,
) -> None:
    tried, found = schemathesis(service, CASES, seed=1)
    assert tried >= 1000
    assert found == []


def test_mutated_bodies_are_refused_and_memory_is_bounded(service: HttpService) -> None:
    before = resident_mb(service.process.pid)
    seen, wrong = mutations(service, CASES, seed=1)
    assert wrong == []
    assert seen[422] > CASES / 4
    assert resident_mb(service.process.pid) < before + 60


def test_heads_that_are_slow_or_large_or_not_http(service: HttpService) -> None:
    with connected(service) as slow, connected(service) as silent:
        slow.sendall(b"POST /v1/decide HTTP/1.1\r\nHost:")
        assert until_closed(slow).startswith(b"HTTP/1.1 408 ")
        assert until_closed(silent) == b""
    with connected(service) as large:
        with contextlib.suppress(ConnectionError):
            large.sendall(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200_000)
        assert until_closed(large)[:13] in (b"HTTP/1.1 431 ", b"")  # reset, where it was still sending
    with connected(service) as other:
        other.sendall(b"\x16\x03\x01\x02\x00\x01")
        answer = until_closed(other)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in answer


@pytest.mark.parametrize(
    ("size", "sent", "status"),
    [
        ("Content-Length: 100", b'{"agent"', b"408"),
        ("Transfer-Encoding: chunked", b"5\r\n[[[[[\r\n", b"408"),
        ("Transfer-Encoding: chunked", b"100000\r\n" + b" " * 0x100000 + b"\r\n1\r\n \r\n", b"413"),
        ("Content-Length: 999999999999", b"", b"413"),
        ("Content-Length: -1", b"", b"400"),
    ],
)
def test_bodies_that_are_slow_or_large(service: HttpService, size: str, sent: bytes, status: bytes) -> None:
    with connected(service) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(head(size) + sent)
        assert connection.recv(65536).startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\n", b"400"),  # RFC 9112, section 3.2
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nhost: a\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\nHost: a b\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\nHost: user@a\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\nHost: a:http\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\nHost: [::1]:8080\r\n", b"200"),
        (b"GET /healthz HTTP/1.0\r\n", b"200"),
        (b"GET /healthz HTTP/1.0\r\nHost: a\r\nHost: b\r\n", b"400"),
        (b"GET /healthz HTTP/2.0\r\nHost: a\r\n", b"505"),
        (b"GET /healthz\r\n", b"505"),
        (b"GET http://a HTTP/1.1\r\nHost: b\r\n", b"200"),
        (b"GET http://a:80/healthz?x=1 HTTP/1.1\r\nHost: b\r\n", b"200"),
        (b"HEAD /healthz HTTP/1.1\r\nHost: a\r\n", b"200"),
        (b"HEAD /v1/load HTTP/1.1\r\nHost: a\r\n", b"401"),
        (b"TRACE /healthz HTTP/1.1\r\nHost: a\r\n", b"405"),
        (b"POST /v1/decide HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n", b"501"),
        (b"POST /v1/decide HTTP/1.0\r\nTransfer-Encoding: chunked\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 9_000 + b"\r\n", b"431"),
        (b"GET /" + b"y" * 9_000 + b" HTTP/1.1\r\nHost: a\r\n", b"431"),
    ],
)
def test_heads_are_held_to_the_rules_of_http(
    service: HttpService, request_head: bytes, status: bytes
) -> None:
    with connected(service) as connection:
        connection.sendall(request_head + b"Connection: close\r\n\r\n")
        answer = until_closed(connection)
    assert answer.startswith(b"HTTP/1.1 " + status)
    if request_head.startswith(b"HEAD"):
        assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\n\r\n", b"400"),
        (b"\x16\x03\x01\r\n\r\n", b"400"),
        (head("Transfer-Encoding: chunked") + b"5;x=y\r\n[[[[[\r\nzz\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 9_000 + b"\r\n\r\n", b"431"),
    ],
)
def test_what_came_before_a_wrong_request_is_answered_first(
    service: HttpService, wrong: bytes, status: bytes
) -> None:
    with connected(service) as connection:
        connection.sendall(head("Accept: */*", method="GET", path="/v1/load") + wrong)
        answers = until_closed(connection).split(b"HTTP/1.1 ")[1:]
    assert [one[:3] for one in answers] == [b"200", status]


@pytest.mark.parametrize(
    "endless", [b"5;" + b"x" * 1_000_000, b"0\r\nX: " + b"y" * 1_000_000, b"0\r\n" + b"X: y\r\n" * 100_000]
)
def test_framing_without_a_body_is_bounded(service: HttpService, endless: bytes) -> None:
    """Extensions of a chunk and trailers: nobody reads them, and a parser would keep them whole."""
    before = resident_mb(service.process.pid)
    for _ in range(20):
        with connected(service) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(head("Transfer-Encoding: chunked") + endless)
            assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")
    assert resident_mb(service.process.pid) < before + 20


def test_a_body_or_trailers_without_end_are_cut(service: HttpService) -> None:
    for endless in (b"1\r\nx\r\n", b"0\r\n" + b"X: y\r\n" * 10_000):
        begun = time.monotonic()
        with connected(service) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(head("Transfer-Encoding: chunked"))
            while time.monotonic() - begun < 20:
                connection.sendall(endless)
        assert time.monotonic() - begun < 15


def test_a_reader_that_reads_nothing_is_disconnected(service: HttpService) -> None:
    begun = time.monotonic()
    with connected(service) as connection, contextlib.suppress(ConnectionError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        while time.monotonic() - begun < 20:
            connection.sendall(head("Accept: */*", method="GET", path="/openapi.json") * 10)
    assert time.monotonic() - begun < 15


def test_too_many_connections_are_refused_and_others_go_on(service: HttpService) -> None:
    with service.client() as client, contextlib.ExitStack() as stack:
        assert client.get("/v1/load").status_code == 200
        crowd = [stack.enter_context(connected(service)) for _ in range(20)]
        crowd[-1].sendall(head("Accept: */*", method="GET", path="/healthz"))
        refused = until_closed(crowd[-1])
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"content-type: application/problem+json" in refused
        assert b"retry-after: 1" in refused
    with service.client() as client:
        assert client.get("/v1/load").status_code in (200, 503)
        while client.get("/v1/load").status_code == 503:
            pass  # the crowd's connections end in their own time
        assert client.get("/v1/load").status_code == 200
