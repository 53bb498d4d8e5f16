"""Server time of one acquire and one release over Redis, as the server itself counts it.

::

    python -m benchmarks.redis_script
    python -m benchmarks.redis_script --against 922b1f3

prints ``usec_per_call`` of EVALSHA by INFO commandstats: medians over rounds of 50 acquires, then 50 releases, on a
plain model, one with limits a minute and a budget, and one with a queue and named tenants. With ``--against``, the
code of another commit runs in turns with this one on the same server, since times of a shared machine drift.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from tests.redis_server import running

ROUNDS, CALLS, TURNS = 60, 50, 5

CHILD = """
import json, sys
import redis
from solver.load.lease import Demand
from solver.load.tracker import LoadTracker
from solver.problem.spec import Capacity
try:
    from solver.load.store.redis import RedisStore
except ImportError:
    from solver.load.redis_store import RedisStore
url, rounds, calls = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
server = redis.Redis.from_url(url)
server.flushall()
tracker = LoadTracker(store=RedisStore(url, replicas=1, timeout_s=5.0))
for k in range(20):
    tracker.set_capacity(f"m{k}", Capacity(max_concurrent=1000))
limits = {"requests_per_minute": 10**9, "tokens_per_minute": 10**12, "budget_usd": 1e6}
tracker.set_capacity("metered", Capacity(max_concurrent=1000), **limits)
tracker.set_capacity("tenants", Capacity(max_concurrent=1000, max_queue=100))
demand = Demand(tokens=700, cost_usd=0.001)
kinds = {
    "plain": lambda k: tracker.acquire("m7"),
    "metered": lambda k: tracker.acquire("metered", demand),
    "tenants": lambda k: tracker.acquire("tenants", queue=True, tenant=f"t{k % 3}"),
}

def us():
    figure = server.info("commandstats")["cmdstat_evalsha"]["usec_per_call"]
    server.config_resetstat()
    return figure

figures = {}
for name, take in kinds.items():
    try:
        take(0).release()
    except TypeError:
        continue
    figures[name] = []
    for _ in range(rounds):
        server.config_resetstat()
        leases = [take(k) for k in range(calls)]
        acquired = us()
        for lease in leases:
            lease.release()
        figures[name].append((acquired, us()))
print(json.dumps(figures))
"""


def measure(code: Path, url: str) -> dict[str, list[list[float]]]:
    """Return microseconds of acquires and of releases, round by round, with the package in a folder."""
    command = [sys.executable, "-c", CHILD, url, str(ROUNDS), str(CALLS)]
    environment = {**os.environ, "PYTHONPATH": str(code)}
    done = subprocess.run(command, env=environment, cwd=code, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    figures: dict[str, list[list[float]]] = json.loads(done.stdout)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.redis_script", description=__doc__)
    parser.add_argument("--against", metavar="COMMIT", help="measure this one, too")
    against = parser.parse_args().against
    here = Path(__file__).parent.parent
    figures: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as server:
        sides = {"this code": here}
        if against:
            sides[against] = Path(folder) / "other"
            archive = subprocess.run(
                ["git", "archive", against, "solver"], cwd=here, check=True, capture_output=True
            )
            sides[against].mkdir()
            subprocess.run(["tar", "-x", "-C", str(sides[against])], input=archive.stdout, check=True)
        for _ in range(TURNS):
            for side, code in sides.items():
                for kind, rounds in measure(code, server.url).items():
                    figures[kind, side] += rounds
    print(f"{'model':10s}{'code':14s}{'acquire':>10s}{'release':>10s}   microseconds in the script, median")
    for (kind, side), rounds in figures.items():
        acquired, released = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"{kind:10s}{side:14s}{acquired:10.1f}{released:10.1f}")


if __name__ == "__main__":
    main()
