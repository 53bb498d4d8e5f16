"""Mutate problem files and tables, and see that the command line says what is wrong or solves what is right.

Run it as ``python -m tests.mutations --count 20000 --seed 0``. It prints what was done and found, and ends with 1
when anything was: a traceback, an error that does not name its file and a place in it, more than 2 s or 500 MB, an
accepted file whose plan does not verify, or a harmless mutation that changed the plan. The mutations of a seed are
the same however many processes share them (``--jobs``).
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.mutations.trials import Findings, run


def main() -> int:
    """Run the command and return 1 when anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the work")
    options = parser.parse_args()
    begin = time.perf_counter()
    told = 0

    def progress(found: Findings) -> None:
        done = sum(found.kinds.values())
        text = (
            f"{done:,} of {options.count:,}, {len(found.faults)} faults, {time.perf_counter() - begin:.0f} s"
        )
        print(text, file=sys.stderr, flush=True)
        nonlocal told
        for fault in found.faults[told:]:
            print(f"  {fault}", file=sys.stderr, flush=True)
        told = len(found.faults)

    found = run(options.count, options.seed, jobs=options.jobs, report=progress)
    print(f"{sum(found.kinds.values()):,} mutations of {len(found.kinds)} kinds, seed {options.seed}")
    print(f"{found.rejected:,} rejected, {found.accepted:,} accepted, of those {found.unchanged:,} harmless")
    print(
        f"slowest {found.slowest_s:.2f} s of processor time, at most {found.peak_mb:.0f} MB, "
        f"{time.perf_counter() - begin:.0f} s in all"
    )
    print(f"{sum(found.without_place.values())} errors name the file without a place in it:")
    for text, times in found.without_place.most_common(40):
        print(f"  {times:6} {text}")
    print(f"{len(found.faults)} faults")
    for text in found.faults[:60]:
        print(f"  {text}")
    return 1 if found.faults or found.without_place else 0


if __name__ == "__main__":
    raise SystemExit(main())
