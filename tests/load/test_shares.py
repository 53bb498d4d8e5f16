"""A model with a share of the traffic gets that share."""

from __future__ import annotations

import pytest

import solver
from solver.errors import SpecError


def model(name: str, slots: int) -> solver.Model:
    return solver.Model(id=name, capacity=solver.Capacity(max_concurrent=slots), capabilities={"coding": 0.8})


@pytest.mark.parametrize("strategy", ["least_loaded", "weighted"])
@pytest.mark.parametrize("routing", ["greedy", "balanced", "optimal"])
def test_one_percent_is_one_percent(strategy: str, routing: str) -> None:
    tracker = solver.LoadTracker()
    balancer = solver.LoadBalancer(tracker, strategy=strategy, routing=routing, shares={"B": 0.01})
    models = (model("A", 99), model("B", 1))
    canary = 0
    for i in range(1000):
        [served] = balancer.assign_and_reserve([solver.Agent(id=str(i), task_type="coding")], models)
        assert served.lease is not None
        canary += served.model_id == "B"
        served.lease.release()
    assert canary == 10


def test_a_batch_keeps_shares_and_room_elsewhere_is_not_wasted() -> None:
    models = (model("A", 99), model("B", 50))
    balancer = solver.LoadBalancer(solver.LoadTracker(), shares={"B": 0.25})
    agents = [solver.Agent(id=str(i), task_type="coding") for i in range(40)]
    chosen = [assignment.model_id for assignment in balancer.select(agents, models)]
    assert chosen.count("B") == 10
    full = solver.LoadBalancer(solver.LoadTracker(), shares={"B": 0.0})
    alone = full.select(agents[:1], (model("A", 0), model("B", 1)))
    assert alone[0].model_id == "B"


def test_previews_leave_the_account_of_the_canary_alone() -> None:
    models = (model("A", 99), model("B", 50))
    balancer = solver.LoadBalancer(solver.LoadTracker(), shares={"B": 0.1})
    agents = [solver.Agent(id=str(i), task_type="coding") for i in range(10)]
    canary = 0
    for agent in agents * 10:
        balancer.select(agents, models)
        [served] = balancer.assign_and_reserve([agent], models)
        assert served.lease is not None
        canary += served.model_id == "B"
        served.lease.release()
    assert canary == 10


def test_shares_change_while_requests_come() -> None:
    balancer = solver.LoadBalancer(solver.LoadTracker(), shares={"B": 0.01})
    models = (model("A", 99), model("B", 99), model("C", 99))

    def canaries(count: int) -> tuple[int, int]:
        chosen = []
        for i in range(count):
            [served] = balancer.assign_and_reserve([solver.Agent(id=str(i), task_type="coding")], models)
            assert served.lease is not None
            chosen.append(served.model_id)
            served.lease.release()
        return chosen.count("B"), chosen.count("C")

    assert canaries(300)[0] == 3
    balancer.set_shares({"B": 0.1, "C": 0.0})
    assert canaries(300) == (30, 0)
    balancer.set_shares({"B": 0.1, "C": 0.25})
    assert canaries(200) in ((20, 49), (20, 50))  # where both are due, one waits for the next request
    balancer.set_shares({})
    assert min(canaries(300)) > 50
    with pytest.raises(SpecError, match="shares"):
        balancer.set_shares({"B": float("nan")})


def test_bad_share() -> None:
    with pytest.raises(SpecError, match="shares"):
        solver.LoadBalancer(solver.LoadTracker(), shares={"B": 1.5})
