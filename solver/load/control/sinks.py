"""Sinks of alerts: a logger, or a web hook that never delays the process that raises them."""

from __future__ import annotations

import http.client
import json
import logging
import queue
import threading
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import asdict
from typing import IO, TYPE_CHECKING

from solver.errors import SpecError, Violation
from solver.load.checks import amount_problems, positive_problems, whole_problems

if TYPE_CHECKING:
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
        self._opener = urllib.request.build_opener(_NoRedirects)
        self._queue: queue.Queue[Alert] = queue.Queue(backlog)
        self._closing = threading.Event()
        self._count_lock = threading.Lock()
        self._delivered = 0
        self._given_up = 0
        self._thread = threading.Thread(target=self._work, name="solver-webhook", daemon=True)
        self._thread.start()

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
        while True:
            try:
                self._queue.put_nowait(alert)
                return
            except queue.Full:
                try:
                    self._queue.get_nowait()
                    self._lose()
                except queue.Empty:
                    continue

    def close(self, *, timeout_s: float = 0.0) -> None:
        """Stop sending; alerts not sent within ``timeout_s`` are given up."""
        self._closing.set()
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while not (self._closing.is_set() and self._queue.empty()):
            try:
                alert = self._queue.get(timeout=0.1)
            except queue.Empty:
                continue
            try:
                self._deliver(alert)
            except Exception:  # noqa: BLE001 # whatever it is, the alerts after this one must be sent
                _LOG.exception("an alert could not be sent: %r", alert)
                self._lose()

    def _deliver(self, alert: Alert) -> None:
        body = json.dumps(asdict(alert), default=_plain).encode()
        for attempt in range(self._attempts):
            if attempt and self._closing.wait(self._backoff_s * 2 ** (attempt - 1)):
                break
            request = urllib.request.Request(  # noqa: S310 # the scheme was checked
                self._url, data=body, headers={"Content-Type": "application/json"}
            )
            try:
                with self._opener.open(request, timeout=self._timeout_s):
                    with self._count_lock:
                        self._delivered += 1
                    return
            except (OSError, http.client.HTTPException) as error:  # an answer that is not HTTP, too
                _LOG.info("the receiver of alerts did not accept one: %s", error)
        self._lose()

    def _lose(self) -> None:
        with self._count_lock:
            self._given_up += 1


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
