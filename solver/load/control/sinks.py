"""Where alerts go: a logger, or a web hook that never delays anybody."""

from __future__ import annotations

import json
import logging
import queue
import threading
import urllib.error
import urllib.request
from dataclasses import asdict
from typing import TYPE_CHECKING

from solver.errors import SpecError
from solver.load.checks import amount_problems, positive_problems, whole_problems

if TYPE_CHECKING:
    from solver.load.control.alerts import Alert

__all__ = ["LogSink", "WebhookSink"]


class LogSink:
    """Writes alerts to a logger: warnings when raised, information when cleared.

    Parameters
    ----------
    logger : logging.Logger, optional
        Default: ``solver.load.control.sinks``.
    """

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or logging.getLogger(__name__)

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
    """Posts alerts as JSON to an URL, from a thread of its own: a slow or dead receiver delays nobody.

    Parameters
    ----------
    url : str
        ``http://`` or ``https://``.
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
        if not str(url).startswith(("http://", "https://")):
            problems.append(f"url: expected http:// or https://, got {url!r}")
        if problems:
            raise SpecError(*problems)
        self._url = url
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._backoff_s = backoff_s
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
            self._deliver(alert)

    def _deliver(self, alert: Alert) -> None:
        body = json.dumps(asdict(alert)).encode()
        for attempt in range(self._attempts):
            if attempt and self._closing.wait(self._backoff_s * 2 ** (attempt - 1)):
                break
            request = urllib.request.Request(  # noqa: S310 # the scheme was checked
                self._url, data=body, headers={"Content-Type": "application/json"}
            )
            try:
                with urllib.request.urlopen(request, timeout=self._timeout_s):  # noqa: S310 # as above
                    with self._count_lock:
                        self._delivered += 1
                    return
            except (OSError, urllib.error.URLError):
                continue
        self._lose()

    def _lose(self) -> None:
        with self._count_lock:
            self._given_up += 1
