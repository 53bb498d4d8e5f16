from __future__ import annotations

import asyncio
import http.server
import json
import logging
import os
import threading
import time
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from solver.clock import ManualClock
from solver.errors import SpecError
from solver.load.control.alerts import Alert, AlertMonitor, AlertRule
from solver.load.control.sinks import LogSink, WebhookSink
from solver.load.observe.trends import Trends
from solver.load.tracker import LoadTracker
from solver.problem.spec import Capacity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BUSY = AlertRule(name="busy", metric="utilization", threshold=0.9, clear=0.7, hold_s=10)
SENT = Alert(rule="busy", metric="utilization", model="a", raised=True, value=1.0, threshold=0.9, at_s=0.0)


def test_one_alert_on_crossing_and_one_on_clearing() -> None:
    clock = ManualClock()
    heard: list[Alert] = []
    monitor = AlertMonitor([BUSY], [heard.append], clock=clock)
    for value in (0.5, 0.95, 0.95, 0.99, 0.85, 0.92, 0.75, 0.69, 0.5):
        monitor.update(BUSY, "a", value)
        clock.advance(6)
    assert [(alert.raised, alert.value) for alert in heard] == [(True, 0.99), (False, 0.69)]
    assert heard[0].threshold == 0.9
    assert heard[1].threshold == 0.7


def test_a_short_peak_is_no_alert_and_unknown_figures_change_nothing() -> None:
    clock = ManualClock()
    monitor = AlertMonitor([BUSY], clock=clock)
    assert monitor.update(BUSY, "a", 1.0) is None
    clock.advance(9)
    assert monitor.update(BUSY, "a", 0.5) is None
    clock.advance(9)
    assert monitor.update(BUSY, "a", 1.0) is None
    assert monitor.update(BUSY, "a", None) is None
    clock.advance(10)
    assert monitor.update(BUSY, "a", 1.0) is not None
    assert monitor.raised() == [("busy", "a")]


def test_every_metric_is_read_from_the_trends() -> None:
    clock = ManualClock()
    tracker, trends = LoadTracker(clock=clock), Trends(clock=clock)
    tracker.listen(trends.observe)
    tracker.set_capacity("a", Capacity(max_concurrent=2))
    tracker.update_load("a", 2)
    trends.sample(tracker.snapshot())
    clock.advance(1)
    trends.sample(tracker.snapshot())
    tracker.record("a", latency_ms=3000.0, success=False)
    rules = [
        AlertRule(name=metric, metric=metric, threshold=threshold)
        for metric, threshold in (
            ("utilization", 0.9),
            ("p50_ms", 2000.0),
            ("p95_ms", 2000.0),
            ("p99_ms", 2000.0),
            ("mean_ms", 2000.0),
            ("failure_rate", 0.5),
        )
    ]
    alerts = AlertMonitor(rules, clock=clock).check(tracker, trends)
    assert [alert.rule for alert in alerts] == [rule.name for rule in rules]
    assert all(alert.value >= alert.threshold for alert in alerts)


def test_a_few_requests_say_nothing() -> None:
    clock = ManualClock()
    tracker, trends = LoadTracker(clock=clock), Trends(clock=clock)
    tracker.listen(trends.observe)
    tracker.set_capacity("a", Capacity(max_concurrent=2))
    rule = AlertRule(name="failing", metric="failure_rate", threshold=0.2, min_requests=3)
    monitor = AlertMonitor([rule], clock=clock)
    for number in range(1, 5):
        tracker.record("a", latency_ms=10.0, success=False)
        assert len(monitor.check(tracker, trends)) == (number == 3)
    clock.advance(61)
    tracker.record("a", latency_ms=10.0, success=True)
    assert monitor.check(tracker, trends) == []  # one success does not clear it either
    for _ in range(2):
        tracker.record("a", latency_ms=10.0, success=True)
    assert [alert.raised for alert in monitor.check(tracker, trends)] == [False]
    with pytest.raises(SpecError, match="min_requests: expected"):
        AlertRule(name="r", metric="p99_ms", threshold=1.0, min_requests=0)


def test_a_sink_that_raises_does_not_silence_the_others(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Alert] = []

    def broken(alert: Alert) -> None:
        raise RuntimeError("no")

    rule = AlertRule(name="r", metric="p99_ms", threshold=1.0)
    AlertMonitor([rule], [broken, heard.append], clock=ManualClock()).update(rule, "a", 2.0)
    assert len(heard) == 1
    assert "an alert sink failed" in caplog.text


def test_a_sink_that_hangs_delays_the_others_once_and_gets_its_alerts_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[Alert] = []
    late: list[Alert] = []
    gate = threading.Event()

    def hangs(alert: Alert) -> None:
        gate.wait(30)
        late.append(alert)

    rule = AlertRule(name="r", metric="p99_ms", threshold=1.0)
    monitor = AlertMonitor([rule], [hangs, heard.append], clock=ManualClock(), patience_s=0.2)
    started = time.perf_counter()
    for k in range(100):
        monitor.update(rule, f"m{k}", 2.0)
    assert time.perf_counter() - started < 10.0  # waiting for each would take twenty seconds
    assert len(heard) == 100
    assert "an alert sink has not returned" in caplog.text
    assert late == []
    gate.set()
    until(lambda: len(late) == 100)


def test_a_sink_may_start_a_task_of_the_event_loop_that_checks() -> None:
    heard: list[Alert] = []
    tasks: list[asyncio.Task[None]] = []

    async def notify(alert: Alert) -> None:
        heard.append(alert)

    async def main() -> None:
        rule = AlertRule(name="r", metric="p99_ms", threshold=1.0)
        sink = AlertMonitor(
            [rule], [lambda alert: tasks.append(asyncio.create_task(notify(alert)))], clock=ManualClock()
        )
        sink.update(rule, "a", 2.0)
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert len(heard) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_sinks_made_before_a_fork_deliver_in_the_child() -> None:
    with receiver([200]) as (url, bodies):
        web, rule = WebhookSink(url, backoff_s=0.0), AlertRule(name="r", metric="p99_ms", threshold=1.0)
        monitor = AlertMonitor([rule], [web], clock=ManualClock())
        monitor.update(rule, "parent", 2.0)
        until(lambda: web.delivered == 1)
        child = fork()
        if child == 0:
            monitor.update(rule, "child", 2.0)
            web.close(timeout_s=10)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert [body["model"] for body in bodies] == ["parent", "child"]
        web.close(timeout_s=5)


def fork() -> int:
    """Fork, although threads run: that is what is tested."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def test_the_log_says_it_in_a_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        LogSink()(SENT)
    assert "busy raised: utilization of a is 1 (limit 0.9)" in caplog.text


def until(condition: Callable[[], bool]) -> None:
    """Wait for a real event of another thread, at most ten seconds."""
    deadline = time.perf_counter() + 10
    while not condition():
        assert time.perf_counter() < deadline, "the event did not happen"
        time.sleep(0.002)


@contextmanager
def receiver(statuses: list[int], gate: threading.Event | None = None) -> Iterator[tuple[str, list[Any]]]:
    """A web server on this machine that answers with these statuses in turn, the last one for ever."""
    bodies: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if gate is not None:
                gate.wait(10)
            status = statuses.pop(0) if len(statuses) > 1 else statuses[0]
            if status == 200:
                bodies.append(body)
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/", bodies
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_webhook_is_tried_again_until_it_is_accepted() -> None:
    with receiver([500, 503, 200]) as (url, bodies):
        sink = WebhookSink(url, backoff_s=0.0)
        sink(SENT)
        until(lambda: sink.delivered == 1)
        sink.close(timeout_s=5)
    assert bodies[0]["model"] == "a"
    assert bodies[0]["raised"] is True
    assert sink.given_up == 0


def test_a_webhook_that_refuses_for_ever_is_given_up() -> None:
    with receiver([500]) as (url, _):
        sink = WebhookSink(url, attempts=3, backoff_s=0.0)
        sink(SENT)
        until(lambda: sink.given_up == 1)
        sink.close(timeout_s=5)
    assert sink.delivered == 0


def test_a_webhook_that_hangs_delays_nobody() -> None:
    gate = threading.Event()
    with receiver([200], gate) as (url, _):
        sink = WebhookSink(url, timeout_s=1.0, attempts=1, backlog=5)
        started = time.perf_counter()
        for _ in range(100):
            sink(SENT)
        assert time.perf_counter() - started < 10.0  # blocking would take a hundred seconds
        until(lambda: sink.given_up >= 94)  # the backlog holds five, one is being tried
        sink.close(timeout_s=0)
        gate.set()


def test_a_webhook_that_nobody_answers_is_given_up() -> None:
    sink = WebhookSink("http://127.0.0.1:9/", attempts=2, backoff_s=0.0, timeout_s=0.5)
    sink(SENT)
    until(lambda: sink.given_up == 1)
    sink.close(timeout_s=5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AlertRule(name="", metric="p99_ms", threshold=1), "name: expected"),
        (lambda: AlertRule(name="x", metric="p98_ms", threshold=1), "metric: expected"),
        (lambda: AlertRule(name="x", metric="p99_ms", threshold=float("nan")), "threshold: expected"),
        (lambda: AlertRule(name="x", metric="p99_ms", threshold=1, clear=2), "clear: expected"),
        (lambda: AlertRule(name="x", metric="p99_ms", threshold=1, window_s=7), "window_s: expected"),
        (lambda: AlertMonitor([BUSY, BUSY]), "rules: expected unique names"),
        (lambda: WebhookSink("ftp://x"), "url: expected http"),
        (lambda: WebhookSink("http://x", attempts=0), "attempts: expected"),
        (lambda: AlertMonitor([BUSY]).update(BUSY, "a", float("nan")), "value: expected a number"),
    ],
)
def test_bad_values_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make()
