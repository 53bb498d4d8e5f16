"""What the benchmarks of online routing route: real outcomes where they are at hand, made-up ones otherwise."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNSERVED = -0.25
"""Value of serving nobody in steady traffic, in win probability."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Outcomes:
    """Scores (n, m), service seconds, dollars and tokens of each pair, and the source of each prompt."""

    scores: NDArray[np.float64]
    service_s: NDArray[np.float64]
    cost_usd: NDArray[np.float64]
    tokens: NDArray[np.float64]
    source: NDArray[np.str_]


def folder() -> Path:
    """Return where AlpacaEval outcomes lie: ``ALPACA_EVAL``, else beside the project."""
    return Path(os.environ.get("ALPACA_EVAL", Path(__file__).parents[2] / "shared" / "data" / "alpaca_eval"))


@lru_cache(maxsize=2)
def outcomes() -> Outcomes:
    """Return AlpacaEval outcomes, or made-up ones of the same shape where they are missing."""
    if not (folder() / "outcomes.csv").exists():
        return _made_up()
    with (folder() / "outcomes.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (folder() / "prompts.csv").open() as file:
        prompts = {row["prompt_id"]: row for row in csv.DictReader(file)}
    agents = sorted({row["prompt_id"] for row in rows})
    models = list(dict.fromkeys(row["model"] for row in rows))
    at = {name: i for i, name in enumerate(agents)}, {name: j for j, name in enumerate(models)}
    scores, chars = np.zeros((len(agents), len(models))), np.zeros((len(agents), len(models)))
    for row in rows:
        pair = at[0][row["prompt_id"]], at[1][row["model"]]
        scores[pair], chars[pair] = float(row["win_prob"]), float(row["output_chars"])
    asked = np.array([float(prompts[name]["instruction_chars"]) for name in agents])
    return _with_prices(
        scores, chars / 4.0, asked / 4.0, np.array([prompts[name]["dataset"] for name in agents])
    )


def _made_up() -> Outcomes:
    rng = np.random.default_rng(0)
    ease, strength = rng.normal(size=(805, 1)), rng.normal(size=24)
    scores = 1.0 / (1.0 + np.exp(-(ease + strength + 1.5 * rng.normal(size=(805, 24)))))
    source = rng.choice(["a", "b", "c", "d", "e"], 805)
    return _with_prices(scores, rng.lognormal(6.0, 0.5, (805, 24)), rng.lognormal(4.0, 1.0, 805), source)


def _with_prices(
    scores: NDArray[np.float64],
    tokens_out: NDArray[np.float64],
    tokens_in: NDArray[np.float64],
    source: NDArray[np.str_],
) -> Outcomes:
    """Better models cost more, 0.1 to 30 dollars per million output tokens, and are slower."""
    m = scores.shape[1]
    rank = scores.mean(axis=0).argsort().argsort()
    usd = 0.1 * 300.0 ** (rank / (m - 1)) * np.random.default_rng(1).uniform(0.5, 2.0, m)
    rng = np.random.default_rng(5)
    speed = np.where(rank >= m - 6, 40.0, np.where(rank >= m - 12, 70.0, 110.0)) * rng.uniform(0.8, 1.25, m)
    return Outcomes(
        scores=scores,
        service_s=rng.uniform(0.2, 0.6, m) + tokens_out / speed,
        cost_usd=(tokens_out * usd + tokens_in[:, None] * usd / 4.0) / 1e6,
        tokens=tokens_out + tokens_in[:, None],
        source=source,
    )
