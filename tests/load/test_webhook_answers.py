"""A web hook's sender lives on whatever a receiver answers, and goes nowhere else."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from solver.errors import SpecError
from solver.load.control.alerts import Alert
from solver.load.control.sinks import WebhookSink

if TYPE_CHECKING:
    from collections.abc import Iterator

FINE = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def alert(value: float = 1.0) -> Alert:
    return Alert(rule="r", metric="p95_ms", model="m", raised=True, value=value, threshold=1.0, at_s=0.0)


@contextlib.contextmanager
def receiver(answers: list[bytes]) -> Iterator[tuple[str, threading.Event]]:
    """Answer each connection with the next bytes; the event is set when all were used."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = threading.Event()

        def serve() -> None:
            with contextlib.suppress(OSError):
                for answer in answers:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(65536)
                        connection.sendall(answer)
                done.set()

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/", done


def test_an_answer_that_is_not_http_is_tried_again() -> None:
    with receiver([b"garbage\r\n\r\n", FINE, FINE]) as (url, done):
        sink = WebhookSink(url, attempts=2, backoff_s=0.001)
        sink(alert())
        sink(alert(np.float32(2.0)))  # type: ignore[arg-type]  # as callers do
        assert done.wait(10)
        sink.close(timeout_s=10)
    assert (sink.delivered, sink.given_up) == (2, 0)


def test_a_receiver_that_drips_is_given_up_in_time() -> None:
    let_go = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    while not let_go.wait(0.05):
                        connection.sendall(b"H")

        threading.Thread(target=drip, daemon=True).start()
        sink = WebhookSink(f"http://127.0.0.1:{listener.getsockname()[1]}/", attempts=1, timeout_s=0.3)
        started = time.perf_counter()
        sink(alert())
        sink.close(timeout_s=10)
        let_go.set()
    assert sink.given_up == 1
    assert time.perf_counter() - started < 5.0


def test_a_redirect_is_a_failure() -> None:
    elsewhere = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    with receiver([elsewhere, FINE]) as (url, done):
        sink = WebhookSink(url, attempts=1)
        sink(alert())
        sink(alert())
        assert done.wait(10)
        sink.close(timeout_s=10)
    assert (sink.delivered, sink.given_up) == (1, 1)


@pytest.mark.parametrize("url", ["http://host:port/", "http://", "file:///etc/passwd", "http://host:99999/"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(SpecError, match="url: expected"):
        WebhookSink(url)
