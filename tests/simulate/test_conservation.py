"""At every moment of every replay: arrived = served + failed + refused + turned away + in flight."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from solver import Capacity, Model
from solver.clock import ManualClock
from solver.simulate.experiment import Setup, make_scene
from solver.simulate.policies.registry import make_policy
from solver.simulate.replay import IN_FLIGHT, REFUSED, SERVED, replay
from solver.simulate.servers import Fleet, ServerParams
from solver.simulate.traffic import Traffic

if TYPE_CHECKING:
    from solver.simulate.server_state import RunningServers

models = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.integers(0, 4),
        st.floats(0.0, 3.0),
        st.one_of(st.floats(0.5, 5e3), st.just(1e9)),
    ),
    min_size=1,
    max_size=4,
).filter(lambda fleet: any(slots for slots, *_ in fleet))

traces = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.0, 1e-9, 0.25, 0.5, 7.0, 1e5]), st.integers(0, 9000), st.integers(0, 4000)
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=30, deadline=None)
@given(
    models=models,
    trace=traces,
    slowdown=st.floats(0.0, 3.0),
    failure_rate=st.sampled_from([0.0, 0.2, 1.0]),
    policy=st.sampled_from(
        [
            "weighted-optimal",
            "optimal-router",
            "least-tokens",
            "route-balance",
            "round-robin",
            "random",
        ]
    ),
    retries=st.integers(0, 2),
    load=st.sampled_from([None, 0.5, 2.0]),
)
def test_nobody_appears_and_nobody_is_lost(
    models: list[tuple[int, int, float, float]],
    trace: list[tuple[float, int, int]],
    slowdown: float,
    failure_rate: float,
    policy: str,
    retries: int,
    load: float | None,
) -> None:
    fleet = Fleet(
        [
            Model(
                id=f"m{j}",
                capacity=Capacity(max_concurrent=slots, max_queue=places),
                capabilities={"a": 0.5},
                latency_s=latency_s,
                output_tokens_per_second=speed,
            )
            for j, (slots, places, latency_s, speed) in enumerate(models)
        ],
        ServerParams(slowdown=slowdown, failure_rate=failure_rate),
    )
    gaps, inputs, outputs = zip(*trace, strict=True)
    arrival = np.cumsum(gaps)
    traffic = Traffic(
        name="random",
        arrival_s=arrival - arrival[0],
        input_tokens=np.array(inputs),
        output_tokens=np.array(outputs),
    )
    scene = make_scene(traffic, fleet, seed=1, setup=Setup(load=load, retries=retries))
    clock = ManualClock()
    seen: list[tuple[float, int, int]] = []

    def on_second(at_s: float, servers: RunningServers) -> None:
        for j, slots in enumerate(servers.slots):
            assert servers.running[j] <= slots
            assert len(servers.waiting[j]) <= servers.places[j]
            assert not servers.waiting[j] or servers.running[j] == slots
        running, waiting = sum(servers.running), sum(map(len, servers.waiting))
        seen.append((at_s, running, waiting))

    every = max(scene.traffic.span_s / 20.0, 1e-3)
    result = replay(scene, make_policy(policy, scene, clock), clock, on_second=on_second, every_s=every)

    assert len(result.outcome) == len(trace)
    assert not (result.outcome == IN_FLIGHT).any()
    started = ~np.isnan(result.start_s)
    assert started[result.outcome == SERVED].all()
    assert (result.start_s[started] >= result.arrival_s[started]).all()
    assert (result.end_s[started] >= result.start_s[started]).all()
    assert ((result.column < 0) <= (result.outcome == REFUSED)).all()
    for at_s, running, waiting in seen:
        here = result.arrival_s < at_s  # a tick comes before the arrivals of its moment
        assert running == int((here & (result.start_s <= at_s) & (result.end_s > at_s)).sum())
        assert waiting == int((here & (result.start_s > at_s)).sum())
