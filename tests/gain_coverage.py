"""Intervals of ``solver evaluate`` on tables without an effect: ``python -m tests.gain_coverage --draws 200``.

Agents differ, models differ, and beyond that there is noise: who is assigned to whom makes no difference, so the gain
of the joint assignment over simple rules, and that of the shuffled control, are zero. Counts how often an interval of
95 % does not contain zero, and compares its half with 1.96 times the standard deviation of the gain over the draws.
Exits with 0 where at most ``--most`` of the intervals miss zero.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

import numpy as np

from solver.simulate.evaluate import EvaluationParams, evaluate

if TYPE_CHECKING:
    from numpy.typing import NDArray

MODELS, GROUPS = 4, 4
HELD = ("greedy", "first-come", "constant", "shuffled")


def gains_of(
    agents: int, draws: int, params: EvaluationParams
) -> dict[tuple[float, str], NDArray[np.float64]]:
    """Return (draws, 3) gains with both ends of their intervals, by capacity and policy."""
    found: dict[tuple[float, str], list[tuple[float, float, float]]] = {}
    for draw in range(draws):
        rng = np.random.default_rng([draw, 17])
        scores = (
            rng.normal(size=(agents, 1)) + np.linspace(0.0, 1.0, MODELS) + rng.normal(size=(agents, MODELS))
        )
        results = evaluate(scores, group=rng.integers(0, GROUPS, agents), params=params)["results"]
        for row in results:
            if row["policy"] in HELD:
                interval = (row["gain"], row["gain_low"], row["gain_high"])
                found.setdefault((row["capacity"], row["policy"]), []).append(interval)
    return {key: np.array(rows) for key, rows in found.items()}


def missed(gains: NDArray[np.float64]) -> float:
    """Return the share of the intervals that do not contain zero."""
    return float(((gains[:, 1] > 0) | (gains[:, 2] < 0)).mean())


def breadth(gains: NDArray[np.float64]) -> float:
    """Return the mean half of the intervals over what it should be: 1.96 standard deviations of the gain."""
    return float((gains[:, 2] - gains[:, 0]).mean() / (1.96 * gains[:, 0].std(ddof=1)))


def main() -> int:
    """Print a line per capacity and policy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--agents", type=int, default=90)
    parser.add_argument("--most", type=float, default=0.1)
    args = parser.parse_args()
    worst = 0.0
    for (capacity, policy), gains in gains_of(
        args.agents, args.draws, EvaluationParams(capacities=(0.8, 1.5))
    ).items():
        worst = max(worst, missed(gains))
        print(
            f"{policy:10s} at {capacity:.0%}: {missed(gains):.1%} of {args.draws} intervals miss zero; "
            f"mean gain {gains[:, 0].mean():+.4f}, half of the interval {breadth(gains):.2f} of 1.96 deviations",
            flush=True,
        )
    return int(worst > args.most)


if __name__ == "__main__":
    sys.exit(main())
