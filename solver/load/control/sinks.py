"""Sinks of alerts: a logger, or a web hook that never delays the process that raises them."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Any

from solver.errors import SpecError, Violation
from solver.load.checks import amount_problems, positive_problems, whole_problems
from solver.load.control.outbox import Outbox
from solver.load.fork import renewed_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable

    from solver.load.control.alerts import Alert

_LOG = logging.getLogger("solver.load")


class LogSink:
    """Writes alerts to a logger: warnings when raised, information when cleared.

    Parameters
    ----------
    logger : logging.Logger, optional
        Default: ``solver.load.control.sinks``.
    """

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or _LOG

    def __call__(self, alert: Alert) -> None:
        """Log one alert."""
        self._logger.log(
            logging.WARNING if alert.raised else logging.INFO,
            "%s %s: %s of %s is %.4g (limit %.4g)",
            alert.rule,
            "raised" if alert.raised else "cleared",
            alert.metric,
            alert.model,
            alert.value,
            alert.threshold,
        )


class WebhookSink:
    """Posts alerts as JSON to an URL, from a thread of its own: a slow or dead receiver delays no caller.

    After a fork, parent and child each send what they are given.

    Only an answer with a status from 200 to 299 counts as delivered. Redirects are not followed: alerts go
    where they were meant to go, or are tried again.

    Parameters
    ----------
    url : str
        ``http://`` or ``https://``, with a host.
    timeout_s : float
        For each attempt.
    attempts : int
        How often each alert is tried before it is given up.
    backoff_s : float
        Seconds before the second attempt; doubled before each further one.
    backlog : int
        Alerts that may wait; when full, the oldest is given up for the newest.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 5.0,
        attempts: int = 5,
        backoff_s: float = 1.0,
        backlog: int = 1000,
    ) -> None:
        problems = positive_problems("timeout_s", timeout_s) + whole_problems("attempts", attempts, low=1)
        problems += amount_problems("backoff_s", backoff_s) + whole_problems("backlog", backlog, low=1)
        problems += _url_problems(url)
        if problems:
            raise SpecError(*problems)
        self._url = url
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._backoff_s = backoff_s
        self._connections = _Connections()
        self._opener = urllib.request.build_opener(
            _NoRedirects, _Handler(self._connections), _SecureHandler(self._connections)
        )
        self._outbox: Outbox[Alert] = Outbox(
            self._deliver, backlog=backlog, lose=self._lose, name="solver-webhook"
        )
        self._count_lock = renewed_after_fork(self, "_count_lock", threading.Lock)
        self._delivered = 0
        self._given_up = 0

    @property
    def delivered(self) -> int:
        """Alerts the receiver has accepted."""
        return self._delivered

    @property
    def given_up(self) -> int:
        """Alerts that were lost: every attempt failed, or the backlog was full."""
        return self._given_up

    def __call__(self, alert: Alert) -> None:
        """Take one alert for sending; never blocks."""
        self._outbox.put(alert)

    def close(self, *, timeout_s: float = 0.0) -> None:
        """Stop sending; alerts not sent within ``timeout_s`` are given up."""
        self._outbox.close(timeout_s)

    def _deliver(self, alert: Alert) -> None:
        body = json.dumps(asdict(alert), default=_plain).encode()
        for attempt in range(self._attempts):
            if attempt and self._outbox.closing.wait(self._backoff_s * 2 ** (attempt - 1)):
                break
            request = urllib.request.Request(  # noqa: S310 # the scheme was checked
                self._url, data=body, headers={"Content-Type": "application/json"}
            )
            # The time-out of a socket is for each piece of an answer: a receiver that drips would hold on for days.
            cut = threading.Timer(self._timeout_s, self._connections.cut)
            cut.daemon = True
            cut.start()
            try:
                with self._opener.open(request, timeout=self._timeout_s):
                    with self._count_lock:
                        self._delivered += 1
                    return
            except (OSError, http.client.HTTPException) as error:  # an answer that is not HTTP, too
                _LOG.info("the receiver of alerts did not accept one: %s", error)
            finally:
                cut.cancel()
                self._connections.opened.clear()
        self._lose(alert)

    def _lose(self, _: Alert) -> None:
        with self._count_lock:
            self._given_up += 1


class _Connections:
    """The connections of the attempt under way."""

    def __init__(self) -> None:
        self.opened: list[http.client.HTTPConnection] = []

    def cut(self) -> None:
        """End whatever is waited for."""
        for connection in list(self.opened):
            with contextlib.suppress(OSError, AttributeError):  # not connected, or no longer
                connection.sock.shutdown(socket.SHUT_RDWR)

    def noting(self, kind: Callable[..., Any]) -> Callable[..., Any]:
        """Return what makes connections of a kind, and notes them."""

        def connect(*arguments: Any, **options: Any) -> Any:
            self.opened.append(kind(*arguments, **options))
            return self.opened[-1]

        return connect


class _Handler(urllib.request.HTTPHandler):
    """Notes the connections that it opens."""

    def __init__(self, connections: _Connections) -> None:
        super().__init__()
        self._connections = connections

    def do_open(self, http_class: Any, req: Any, **options: Any) -> Any:
        return super().do_open(self._connections.noting(http_class), req, **options)


class _SecureHandler(urllib.request.HTTPSHandler):
    """As above, over TLS."""

    def __init__(self, connections: _Connections) -> None:
        super().__init__()
        self._connections = connections

    def do_open(self, http_class: Any, req: Any, **options: Any) -> Any:
        return super().do_open(self._connections.noting(http_class), req, **options)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Takes a redirect for the failure that it is."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> None:
        """Follow nothing; the answer becomes an error."""


def _url_problems(url: object) -> list[Violation]:
    """Return what is wrong with the address of a receiver: nothing, or one line."""
    try:
        parts = urllib.parse.urlsplit(str(url))
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError as error:
        return [Violation("url", "expected an address with a valid port", url, shown=f"{url!r} ({error})")]
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_fine:
        return [Violation("url", "expected http:// or https:// and a host", url)]
    return []


def _plain(value: object) -> object:
    """Return a value that JSON has no form for, such as a number of numpy, as one that it has."""
    item = getattr(value, "item", None)
    return item() if callable(item) else str(value)
