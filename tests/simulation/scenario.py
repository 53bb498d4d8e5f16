"""What the models and pools of a schedule are limited to, and who asks: drawn from its seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from solver.load.store.base import Limits
from solver.load.store.queue_rules import QueueRules
from solver.load.store.usage_limits import UsageLimit

MODELS = ("a", "b")
UNLIMITED_NANO_USD = 10**15
MIDNIGHT_S = 1_777_248_000.0  # of a Monday, Unix time in UTC


@dataclass(frozen=True)
class Scenario:
    """Limits of models and pools, parents first, and what clients may ask for.

    Parameters
    ----------
    models, pools : dict of str to Limits
        What is enforced.
    max_ttl_s : float
        Longest time to live.
    settle_s : float or None
        With it, replicas that are cut off grant their share after so many seconds.
    tenants : tuple
        On whose account clients ask.
    starts_s : float
        Unix time at which the schedule begins, on the server's clock.
    """

    models: dict[str, Limits]
    pools: dict[str, Limits]
    max_ttl_s: float = 40.0
    settle_s: float | None = None
    tenants: tuple[str | None, ...] = (None,)
    starts_s: float = 1e9

    @property
    def is_plain(self) -> bool:
        """Whether models have nothing but slots, a queue of two, and a budget that is never used up."""
        return self.tenants == (None,)

    def chain(self, model: str) -> tuple[str, ...]:
        """Return the pools that a model draws on, each once."""
        chain = list(self.models[model].pools)
        for pool in chain:  # it grows while it is read
            chain += [parent for parent in self.pools[pool].pools if parent not in chain]
        return tuple(chain)


def plain(caps: dict[str, int]) -> Scenario:
    """Return models with slots, a short queue, and a budget that is only counted."""
    return Scenario(
        {
            model: Limits(max_concurrent=cap, max_queue=2, budget_nano_usd=UNLIMITED_NANO_USD)
            for model, cap in caps.items()
        },
        {},
    )


def rich(seed: int, *, shared: bool) -> Scenario:
    """Return models and pools with several windows, calendars, and queues with tenants and priorities."""
    rng = random.Random(f"limits of {seed}")  # noqa: S311 # reproducible on purpose
    local = shared and rng.random() < 0.25
    pools = {}
    for name, parents in (("q", ()), ("p", ("q",))):
        cap = rng.randrange(3, 9) if local else rng.randrange(1, 6)
        pools[name] = Limits(
            max_concurrent=cap,
            further=_usage(rng, local=local),
            pools=parents if rng.random() < 0.5 else (),
        )
    models = {}
    for name in MODELS:
        cap = rng.randrange(3, 7) if local else rng.randrange(1, 5)
        rules = QueueRules(
            aging_s=rng.choice((5.0, 30.0)), passes=rng.choice((0.0, 1.0, 4.0)), weights={"t1": 2.0}
        )
        models[name] = Limits(
            max_concurrent=cap,
            max_queue=rng.randrange(0, 7),
            requests=None if local else rng.choice((None, None, 10, 25)),
            budget_nano_usd=UNLIMITED_NANO_USD,
            rules=rng.choice((None, rules)),
            further=_usage(rng, local=local),
            pools=tuple(rng.sample(("p", "q"), rng.randrange(3))),
        )
    return Scenario(
        models,
        pools,
        max_ttl_s=15.0 if local else 40.0,
        settle_s=30.0 if local else None,
        tenants=(None, "t1", "t2", "t3"),
        starts_s=MIDNIGHT_S - rng.uniform(0.0, 120.0),
    )


def _usage(rng: random.Random, *, local: bool) -> tuple[UsageLimit, ...]:
    """Return up to three limits on usage, over different periods."""
    periods: list[Any] = [1.0, 5.0, 12.0, "day"] if local else [1, 5.0, 12.0, 45.0, "day", "week"]
    chosen = []
    for period in rng.sample(periods, rng.randrange(4)):
        resource = rng.choice(("requests", "tokens", "cost_usd"))
        amount: float = {
            "requests": rng.randrange(2, 12),
            "tokens": rng.randrange(60, 400),
            "cost_usd": rng.randrange(100, 800) / 1e9,
        }[resource]
        if isinstance(period, str):
            amount = amount * 4
        chosen.append(UsageLimit(resource=resource, amount=amount, period=period))  # type: ignore[arg-type]
    return tuple(chosen)
