"""Real processes on a real Redis server: races, deaths, and a restart in the middle of the load."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from solver.load.lease import Lease, Refusal, RefusalReason
from solver.problem.spec import Capacity
from tests.forked import FORKED
from tests.redis_clients import CAP, MODELS, connect, holder, racer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.redis_server import RedisServer

PROCESSES = 6
# The full bar is 20,000 turns a process; set the variable for it.
TURNS = int(os.environ.get("SOLVER_STRESS_TURNS", "400"))
GRANTS = int(os.environ.get("SOLVER_STRESS_GRANTS", "200"))  # between two restarts of the server


def until(condition: Callable[[], bool], within_s: float = 30.0) -> float:
    """Wait for another process; return the seconds it took."""
    started = time.perf_counter()
    while not condition():
        assert time.perf_counter() - started < within_s, "it did not happen in time"
        time.sleep(0.005)
    return time.perf_counter() - started


def test_six_processes_never_exceed_a_cap_and_leak_nothing(
    shared_server: RedisServer, namespace: str
) -> None:
    tracker, store = connect(shared_server.url, namespace)
    for j in range(MODELS):
        tracker.set_capacity(f"m{j}", Capacity(max_concurrent=CAP))
    holders, start, report = FORKED.Array("i", MODELS), FORKED.Barrier(PROCESSES), FORKED.Queue()
    processes = [
        FORKED.Process(
            target=racer, args=(k, shared_server.url, namespace, TURNS, start, holders, report), daemon=True
        )
        for k in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    answers = [report.get(timeout=60 + TURNS / 20) for _ in processes]
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert max(highest for _, highest in answers) <= CAP
    assert sum(granted for granted, _ in answers) > 0.5 * PROCESSES * TURNS
    assert tracker.snapshot().active.tolist() == [0] * MODELS
    store.close()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_killed_clients_give_everything_back_within_their_time_to_live(
    shared_server: RedisServer, namespace: str
) -> None:
    clients, ttl_s = 20, 3.0
    tracker, store = connect(shared_server.url, namespace)
    tracker.set_capacity("a", Capacity(max_concurrent=2 * clients))
    ready, done = FORKED.SimpleQueue(), FORKED.RawValue("i", 0)
    processes = [
        FORKED.Process(target=holder, args=(shared_server.url, namespace, ttl_s, ready, done), daemon=True)
        for _ in range(clients)
    ]
    for process in processes:
        process.start()
    for _ in processes:
        until(lambda: not ready.empty())
        assert ready.get() == 2
    assert tracker.is_full("a")
    for process in processes[: clients // 2]:
        process.kill()
    took_s = until(lambda: int(tracker.snapshot().active[0]) == clients, within_s=ttl_s + 1)
    assert took_s <= ttl_s + 1
    # the others still hold theirs, and everything that came back can be taken
    answers = [tracker.acquire("a", ttl_s=60) for _ in range(clients + 1)]
    assert sum(answer is not None for answer in answers) == clients
    done.value = 1
    for process in processes:
        process.join(30)
    assert int(tracker.snapshot().active[0]) == clients
    store.close()


def test_a_restart_in_the_middle_of_the_load(own_server: RedisServer, namespace: str) -> None:
    """Three replicas under load; twice the server loses its memory: no cap is exceeded, it recovers alone."""
    replicas, cap = 3, 5
    gauge, gauge_lock, highest = [0], threading.Lock(), [0]
    reasons: Counter[str] = Counter()
    grants = [0] * replicas
    stop = threading.Event()
    links = [
        connect(own_server.url, namespace, replicas=replicas, max_ttl_s=30.0, retry_s=0.02, timeout_s=1.0)
        for _ in range(replicas)
    ]
    for tracker, _ in links:
        tracker.set_capacity("a", Capacity(max_concurrent=cap))

    def hold(lease: Lease) -> None:
        with gauge_lock:
            gauge[0] += 1
            highest[0] = max(highest[0], gauge[0])

    def let_go(lease: Lease) -> None:
        with gauge_lock:
            gauge[0] -= 1
        lease.release()

    def client(number: int) -> None:
        tracker, held = links[number][0], []
        while not stop.is_set():
            if number == 0 and grants[0] % 50 == 0:
                for lease in long_running:
                    assert lease is not None
                    lease.renew()
            answer = tracker.try_acquire("a", ttl_s=20.0)
            if isinstance(answer, Refusal):
                reasons[answer.reason.value] += 1
                stop.wait(0.002)
            else:
                grants[number] += 1
                hold(answer)
                held.append(answer)
            if held and (len(held) > 2 or isinstance(answer, Refusal)):
                let_go(held.pop(0))
        for lease in held:
            let_go(lease)

    long_running = [links[0][0].acquire("a", ttl_s=30.0) for _ in range(2)]
    for lease in long_running:
        assert lease is not None
        hold(lease)
    threads = [threading.Thread(target=client, args=(k,)) for k in range(replicas)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            before = sum(grants)
            until(lambda before=before: sum(grants) > before + GRANTS, 120)  # type: ignore[misc]  # bound on purpose
            own_server.stop()
            away = reasons["store_unavailable"]
            until(lambda away=away: reasons["store_unavailable"] > away + 5)  # type: ignore[misc]  # as above
            own_server.start()
    finally:
        before = sum(grants)
        with contextlib.suppress(AssertionError):
            until(lambda: sum(grants) > before + GRANTS, 120)
        stop.set()
        for thread in threads:
            thread.join()
    assert sum(grants) > before + GRANTS  # it recovered without a person
    assert highest[0] == cap  # reached, never exceeded, the long-running leases included
    assert set(reasons) <= {
        RefusalReason.CONCURRENCY,
        RefusalReason.STORE_UNAVAILABLE,
        RefusalReason.RECOVERING,
    }
    assert int(links[1][0].snapshot().active[0]) == 2  # nothing leaked but what still runs
    for _, store in links:
        store.close()
