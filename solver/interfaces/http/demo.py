"""A demonstration fleet and load, to see a service live before there is anything to route."""

from __future__ import annotations

import asyncio
import itertools
import math
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from solver.interfaces.http.fleet import Fleet
from solver.interfaces.http.json_codec import to_json
from solver.problem.spec import Agent, Capacity, Model, Objective

if TYPE_CHECKING:
    from solver.interfaces.http.service import Service

_TASKS = ("coding", "math", "reasoning", "general", "summarization", "translation")
_WAVE_S = 60.0
"""Seconds of one oscillation of the arrival rate."""

_PEAK_UTILIZATION = 0.9
"""Mean utilization at the peak of the oscillation, at which some models are full."""

# name, strengths (coding, math, reasoning, general, multilingual), slots, seconds a request takes, USD per million
_MODELS = (
    ("atlas-large", (0.95, 0.94, 0.95, 0.94, 0.92), 12, 4.0, 12.0),
    ("atlas-medium", (0.85, 0.84, 0.84, 0.88, 0.85), 24, 2.0, 3.0),
    ("atlas-small", (0.66, 0.62, 0.60, 0.74, 0.70), 40, 0.8, 0.4),
    ("coder", (0.96, 0.80, 0.78, 0.66, 0.50), 16, 2.5, 4.0),
    ("euler", (0.78, 0.97, 0.93, 0.64, 0.50), 10, 5.0, 6.0),
    ("polyglot", (0.45, 0.42, 0.55, 0.82, 0.97), 20, 1.5, 2.0),
    ("local-8b", (0.52, 0.45, 0.48, 0.66, 0.58), 32, 1.2, 0.0),
    ("local-70b", (0.74, 0.72, 0.74, 0.82, 0.76), 14, 3.0, 0.0),
)
_STRENGTHS = ("coding", "math", "reasoning", "general", "multilingual")


def demo_fleet() -> Fleet:
    """Return eight invented models."""
    return Fleet(
        models=tuple(
            Model(
                id=name,
                capacity=Capacity(max_concurrent=slots, max_queue=slots // 2, target_utilization=0.8),
                capabilities=dict(zip(_STRENGTHS, strengths, strict=True)),
                context_tokens=128_000,
                usd_per_million_input_tokens=usd / 4,
                usd_per_million_output_tokens=usd,
                latency_s=0.3,
                output_tokens_per_second=300.0 / seconds,
            )
            for name, strengths, slots, seconds, usd in _MODELS
        ),
        objective=Objective(cost_weight=200.0),
    )


async def demo_load(service: Service, *, seed: int = 0) -> None:
    """Route invented agents for ever, in a rate that swings, and give every lease back."""
    rng = np.random.default_rng(seed)
    seconds = {name: own for name, _, _, own, _ in _MODELS}
    full_rate = sum(slots / own for _, _, slots, own, _ in _MODELS)
    started = service.tracker.clock.now()
    running: set[asyncio.Task[None]] = set()
    for number in itertools.count():
        age_s = service.tracker.clock.now() - started
        swing = 0.55 + 0.45 * math.sin(2.0 * math.pi * age_s / _WAVE_S)
        await asyncio.sleep(rng.exponential(1.0 / (full_rate * _PEAK_UTILIZATION * max(0.1, swing))))
        if service.draining or service.router is None:
            return
        agent = Agent(
            id=f"demo-{number}",
            task_type=str(rng.choice(_TASKS)),
            input_tokens=int(rng.integers(100, 4000)),
            output_tokens=int(rng.integers(50, 900)),
            priority=float(rng.choice([1.0, 1.0, 1.0, 2.0])),
        )
        decision = service.router.route(agent)
        service.log_decision(decision, to_json({"agent": agent.model_dump(exclude_defaults=True)}))
        if decision.model is not None:
            task = asyncio.create_task(
                _serve(
                    decision,
                    seconds.get(decision.model, 1.0) * float(rng.gamma(4.0, 0.25)),
                    rng.random() > 0.01,
                )
            )
            running.add(task)
            task.add_done_callback(running.discard)


async def _serve(decision, seconds: float, success: bool) -> None:  # type: ignore[no-untyped-def]
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(min(seconds, 25.0))
    decision.release(latency_ms=1000.0 * seconds, success=success)
