"""What the service remembers of each decision costs neither time nor memory beyond its bound."""

from __future__ import annotations

import gc

import pytest

pytest.importorskip("fastapi")

from solver.interfaces.http.decision_memory import Held, HeldLeases, RecentDecisions
from solver.interfaces.http.json_codec import JsonText, from_json, to_json
from solver.load.tracker import LoadTracker
from solver.problem.spec import Capacity


def test_garbage_collections_do_not_walk_through_the_decisions_that_are_kept() -> None:
    kept = RecentDecisions(5_000)
    gc.collect()
    before = len(gc.get_objects())
    for number in range(5_000):
        kept.add(f"d{number}", b'{"model":"a%d"}' % number, b'{"agent":{"id":"%d"}}' % number)
    gc.collect()  # tuples of nothing but text are set aside by the first one
    assert len(gc.get_objects()) - before < 100


def test_only_the_latest_decisions_are_kept() -> None:
    kept = RecentDecisions(2)
    for number in range(3):
        kept.add(f"d{number}", b'{"number":%d}' % number, None)
    assert kept.get("d0") is None
    assert kept.count == 3
    assert from_json(to_json(kept.latest(10))) == [{"number": 2}, {"number": 1}]
    assert from_json(to_json(kept.latest(1))) == [{"number": 2}]


def test_a_lease_expires_once_and_by_its_last_renewal() -> None:
    tracker = LoadTracker()
    tracker.set_capacity("a", Capacity(max_concurrent=2))
    leases = tracker.acquire("a", ttl_s=30), tracker.acquire("a", ttl_s=30)
    assert leases[0] is not None
    assert leases[1] is not None
    held = HeldLeases()
    first, second = Held(leases[0], None, None, 10.0), Held(leases[1], None, None, 20.0)
    held.add(first)
    held.add(second)
    for k in range(10_000):  # renewals that are outdated are not kept until they would have expired
        held.renew(first, 15.0 + k / 1000.0)
    held.renew(first, 30.0)
    assert held.expired(25.0) == [second]
    assert held.expired(29.0) == []
    assert held.pop(first.lease_id) is first
    held.renew(first, 31.0)
    assert held.expired(40.0) == []
    assert len(held) == 0


@pytest.mark.parametrize("model", ["a", "\ud800"])  # half a surrogate pair takes the slower way
def test_a_part_that_is_json_already_is_written_as_it_is(model: str) -> None:
    document = {"model": model, "latest": [JsonText(b'{"score":0.25}')]}
    assert b'"latest":[{"score":0.25}]' in to_json(document)
    with pytest.raises(TypeError):
        to_json({"model": model, "what": object()})
