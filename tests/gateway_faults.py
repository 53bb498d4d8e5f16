"""Workers of a preloaded gunicorn on one Redis that is stopped, emptied, paused or evicts: never more than the slots.

::

    python -m tests.gateway_faults
    python -m tests.gateway_faults restart freeze --seconds 12

Every worker notes when each of its requests began and ended, by the clock that all processes of a machine share; what
ran at once is counted from these notes afterwards. About ten seconds a fault; exits with 1 where more ran than slots.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import http.client
import os
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import redis

from tests.redis_server import RedisServer, free_port, running

if TYPE_CHECKING:
    from collections.abc import Callable

SLOTS, WORKERS, CLIENTS = 6, 4, 14

APPLICATION = textwrap.dedent("""
    import os, time
    from solver import Capacity, LoadTracker
    from solver.load.lease import Lease
    from solver.load.store.redis import RedisStore

    tracker = LoadTracker(store=RedisStore(os.environ["STORE"], replicas=int(os.environ["WORKERS"]), max_ttl_s=8.0))
    tracker.set_capacity("m", Capacity(max_concurrent=int(os.environ["SLOTS"])))  # before the workers are forked

    def note(*fields):
        with open(f"notes.{os.getpid()}", "a") as notes:
            notes.write(" ".join(map(str, fields)) + "\\n")

    def application(environ, start_response):
        lease = tracker.try_acquire("m", ttl_s=6.0)
        if isinstance(lease, Lease):
            note("begin", lease.lease_id, time.monotonic())
            time.sleep(float(environ["QUERY_STRING"]))
            note("end", lease.lease_id, time.monotonic())
            lease.release()
        start_response("200 OK", [])
        return [b"served" if lease else lease.reason.value.encode()]
""")


def _client(server: RedisServer) -> redis.Redis:
    return redis.Redis(port=server.port, socket_timeout=10.0)


def restart(server: RedisServer) -> None:
    """Kill the server, which keeps nothing, and start it again."""
    server.stop()
    server.start()


def outage(server: RedisServer) -> None:
    """Leave the server down for four seconds."""
    server.stop()
    time.sleep(4.0)
    server.start()


def freeze(server: RedisServer) -> None:
    """Stop the server's process for three seconds."""
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    time.sleep(3.0)
    server.process.send_signal(signal.SIGCONT)


def pause(server: RedisServer) -> None:
    """Have the server answer nobody for 2.5 seconds."""
    with contextlib.closing(_client(server)) as client:
        client.client_pause(2500)


def flush(server: RedisServer) -> None:
    """Delete everything."""
    server.flush()


def evict(server: RedisServer) -> None:
    """Let the server evict keys for three seconds: its policy changes after everybody has joined."""
    with contextlib.closing(_client(server)) as client:
        client.config_set("maxmemory-policy", "allkeys-random")
        client.config_set("maxmemory", "1mb")
        time.sleep(3.0)
        client.config_set("maxmemory", "0")


FAULTS: dict[str, Callable[[RedisServer], None]] = {
    each.__name__: each for each in (restart, outage, freeze, pause, flush, evict)
}


def _request(port: int, held_s: float) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20.0)
    with contextlib.closing(connection):
        connection.request("GET", f"/?{held_s:.3f}")
        return connection.getresponse().read().decode()


def _work(port: int, until_s: float, seed: int, answers: collections.Counter[str]) -> None:
    rng = random.Random(seed)  # noqa: S311 # only times to hold
    while time.monotonic() < until_s:
        try:
            answer = _request(port, rng.uniform(0.02, 0.6))
        except (OSError, http.client.HTTPException) as error:
            answer = type(error).__name__
        answers[answer] += 1
        if answer != "served":
            time.sleep(0.02)


def _most_at_once(folder: Path) -> int:
    changes = []
    for notes in folder.glob("notes.*"):
        for line in notes.read_text().splitlines():
            kind, _, second = line.split()
            changes.append((float(second), 1 if kind == "begin" else -1))
    running_now = most = 0
    for _, change in sorted(changes):
        running_now += change
        most = max(most, running_now)
    return most


def run(fault: str, seconds: float) -> int:
    """Run the workers through one fault; return how many requests were served at once at most."""
    answers: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as name, running(Path(name)) as server:
        folder, port = Path(name), free_port()
        (folder / "app.py").write_text(APPLICATION)
        settings = {"STORE": server.url, "WORKERS": str(WORKERS), "SLOTS": str(SLOTS)}
        command = [sys.executable, "-m", "gunicorn", "--preload", "-k", "gthread", "--threads", "5"]
        command += ["--workers", str(WORKERS), "--bind", f"127.0.0.1:{port}", "--log-level", "error", "app"]
        path = f"{Path.cwd()}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        gateway = subprocess.Popen(command, cwd=folder, env={**os.environ, **settings, "PYTHONPATH": path})
        try:
            while gateway.poll() is None:
                with contextlib.suppress(OSError, http.client.HTTPException):
                    _request(port, 0.0)
                    break
                time.sleep(0.05)  # a real server's start
            until_s = time.monotonic() + seconds
            clients = [
                threading.Thread(target=_work, args=(port, until_s, k, answers)) for k in range(CLIENTS)
            ]
            for client in clients:
                client.start()
            time.sleep(0.3 * seconds)
            FAULTS[fault](server)
            for client in clients:
                client.join()
        finally:
            gateway.terminate()
            gateway.wait()
        most = _most_at_once(folder)
    print(f"{fault:8s} at most {most} of {SLOTS} at once; {dict(answers)}", flush=True)
    return most


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gateway_faults", description=__doc__)
    parser.add_argument("faults", nargs="*", metavar="fault", help=f"of {', '.join(FAULTS)}; all by default")
    parser.add_argument("--seconds", type=float, default=10.0, help="for which requests are sent")
    options = parser.parse_args()
    unknown = [fault for fault in options.faults if fault not in FAULTS]
    if unknown:
        parser.error(f"no such fault: {', '.join(unknown)}")
    most = [run(fault, options.seconds) for fault in options.faults or FAULTS]
    return int(max(most) > SLOTS)


if __name__ == "__main__":
    sys.exit(main())
