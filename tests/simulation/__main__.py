"""Run schedules of faults and print those in which something went wrong; each replays from its seed.

::

    python -m tests.simulation --store memory --count 100000
    python -m tests.simulation --store redis --count 100000 --seed 5000
    python -m tests.simulation --store redis --count 100000 --dense
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from tests.redis_server import running
from tests.simulation.schedule import DENSE, RedisSchedules, Weather, run_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulation.judge import Verdict


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--store", choices=("memory", "redis"), required=True)
    parser.add_argument("--seed", type=int, default=0, help="of the first schedule; the next ones follow")
    parser.add_argument("--count", type=int, default=1000, help="schedules")
    parser.add_argument(
        "--simple", action="store_true", help="neither pools, tenants nor limits on usage, as at first"
    )
    parser.add_argument(
        "--dense", action="store_true", help="over Redis: two to three times as many troubles"
    )
    options = parser.parse_args()
    if options.dense and options.store != "redis":
        parser.error("--dense needs --store redis")
    more: dict[str, Weather] = {"weather": DENSE} if options.dense else {}
    started = time.perf_counter()
    wrong = grants = lossy = 0
    with ExitStack() as open_until_the_end:
        run: Callable[..., Verdict] = run_memory
        if options.store == "redis":
            folder = Path(open_until_the_end.enter_context(tempfile.TemporaryDirectory()))
            server = open_until_the_end.enter_context(running(folder))
            run = open_until_the_end.enter_context(closing(RedisSchedules(server.port))).run
        for seed in range(options.seed, options.seed + options.count):
            try:
                verdict = run(seed, simple=options.simple, **more)
            except Exception as error:
                error.add_note(f"in the schedule of seed {seed}")
                raise
            grants += verdict.grants
            lossy += verdict.lost_memory
            if verdict.wrong:
                wrong += 1
                print(f"seed {seed}: {'; '.join(verdict.wrong)}", flush=True)
    print(
        f"{options.count} schedules over {options.store} from seed {options.seed}: {grants} grants, "
        f"memory lost in {lossy}, something wrong in {wrong}, {time.perf_counter() - started:.0f} s"
    )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
