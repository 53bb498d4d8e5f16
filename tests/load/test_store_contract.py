"""One suite, every store: what is promised in ``solver.load.store.base.Store``."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from solver.errors import SpecError
from solver.load.lease import Ask, Demand, LeaseState, Refusal, RefusalReason, ReleaseOutcome
from solver.load.store.base import Limits, nano_usd
from solver.load.store.queue_rules import QueueRules

if TYPE_CHECKING:
    from solver.clock import ManualClock
    from solver.load.store.base import Store


CASES = count()


def ask(lease_id: str, model: str = "a", *, ttl_s: float = 30.0, queue: bool = False, **demand: float) -> Ask:
    return Ask(model=model, demand=Demand(**demand), ttl_s=ttl_s, queue=queue, lease_id=lease_id)  # type: ignore[arg-type]  # keywords of one test


def release(
    store: Store, lease_id: str, tokens: int | None = None, cost_usd: float | None = None
) -> ReleaseOutcome:
    cost = None if cost_usd is None else nano_usd(cost_usd)
    return store.release(lease_id, tokens=tokens, cost_nano_usd=cost)


def reason(answer: LeaseState | Refusal) -> RefusalReason | None:
    return answer.reason if isinstance(answer, Refusal) else None


def test_grants_up_to_the_cap_and_not_one_more(store: Store) -> None:
    store.configure("a", Limits(max_concurrent=3))
    answers = [store.acquire(ask(f"x{k}")) for k in range(4)]
    assert answers[:3] == [LeaseState.RUNNING] * 3
    assert reason(answers[3]) is RefusalReason.CONCURRENCY
    assert store.row("a").active == 3


def test_release_gives_back_once(store: Store) -> None:
    store.configure("a", Limits(max_concurrent=2))
    store.acquire(ask("x"))
    store.acquire(ask("y"))
    assert release(store, "x") is ReleaseOutcome.RELEASED
    assert release(store, "x") is ReleaseOutcome.UNKNOWN
    assert store.row("a").active == 1


def test_release_of_an_id_never_granted(store: Store) -> None:
    store.configure("a", Limits(max_concurrent=1))
    assert release(store, "nobody") is ReleaseOutcome.UNKNOWN
    assert store.row("a").active == 0


def test_a_lease_expires_exactly_at_its_time_to_live(store: Store, clock: ManualClock) -> None:
    store.configure("a", Limits(max_concurrent=1))
    store.acquire(ask("x", ttl_s=10))
    clock.advance(9.5)
    assert store.lease_state("x") is LeaseState.RUNNING
    clock.advance(0.5)
    assert store.lease_state("x") is LeaseState.GONE
    assert store.row("a").active == 0
    assert store.acquire(ask("y")) is LeaseState.RUNNING


def test_a_late_release_is_told_so_and_frees_nothing_twice(store: Store, clock: ManualClock) -> None:
    store.configure("a", Limits(max_concurrent=1))
    store.acquire(ask("x", ttl_s=10))
    clock.advance(11)
    store.acquire(ask("y"))
    assert release(store, "x") is ReleaseOutcome.EXPIRED
    assert release(store, "x") is ReleaseOutcome.UNKNOWN
    assert store.row("a").active == 1


def test_renewal_moves_the_end(store: Store, clock: ManualClock) -> None:
    store.configure("a", Limits(max_concurrent=1))
    store.acquire(ask("x", ttl_s=10))
    clock.advance(8)
    assert store.renew("x", 10) is LeaseState.RUNNING
    clock.advance(8)
    assert store.lease_state("x") is LeaseState.RUNNING
    clock.advance(2)
    assert store.renew("x", 10) is LeaseState.GONE


def test_renewal_may_shorten(store: Store, clock: ManualClock) -> None:
    store.configure("a", Limits(max_concurrent=1))
    store.acquire(ask("x", ttl_s=100))
    store.renew("x", 1)
    clock.advance(1)
    assert store.row("a").active == 0


def test_the_same_id_twice_is_one_lease(store: Store) -> None:
    store.configure("a", Limits(max_concurrent=5))
    assert store.acquire(ask("x")) is LeaseState.RUNNING
    assert store.acquire(ask("x")) is LeaseState.RUNNING
    assert store.row("a").active == 1


def test_queue_places_and_promotion_in_order(store: Store) -> None:
    store.configure("a", Limits(max_concurrent=1, max_queue=2))
    assert store.acquire(ask("x", queue=True)) is LeaseState.RUNNING
    assert store.acquire(ask("y", queue=True)) is LeaseState.QUEUED
    assert store.acquire(ask("z", queue=True)) is LeaseState.QUEUED
    assert reason(store.acquire(ask("w", queue=True))) is RefusalReason.QUEUE
    assert store.queued_leases("a") == ["y", "z"]
    assert (store.row("a").active, store.row("a").queued) == (1, 2)
    release(store, "x")
    assert store.lease_state("y") is LeaseState.RUNNING
    assert store.lease_state("z") is LeaseState.QUEUED
    assert (store.row("a").active, store.row("a").queued) == (1, 1)


def test_nobody_overtakes_a_waiting_lease(store: Store) -> None:
    rules = QueueRules(passes=0)
    store.configure("a", Limits(max_concurrent=3, max_queue=5, rules=rules))
    store.acquire(ask("x", slots=2))
    store.acquire(ask("wide", slots=2, queue=True))
    assert reason(store.acquire(ask("narrow"))) is RefusalReason.CONCURRENCY
    assert store.acquire(ask("patient", queue=True)) is LeaseState.QUEUED
    release(store, "x")
    assert store.lease_state("wide") is LeaseState.RUNNING
    assert store.lease_state("patient") is LeaseState.RUNNING


def test_a_waiting_lease_can_leave_and_expire(store: Store, clock: ManualClock) -> None:
    store.configure("a", Limits(max_concurrent=1, max_queue=3))
    store.acquire(ask("x", ttl_s=100))
    store.acquire(ask("gone", queue=True, ttl_s=5))
    store.acquire(ask("left", queue=True, ttl_s=100))
    store.acquire(ask("stays", queue=True, ttl_s=100))
    clock.advance(6)
    assert release(store, "left") is ReleaseOutcome.RELEASED
    assert store.queued_leases("a") == ["stays"]
    assert store.row("a").queued == 1
    clock.advance(94)  # everything ends at the same moment
    assert (store.row("a").active, store.row("a").queued) == (0, 0)


def test_an_expiring_lease_makes_room_for_a_waiting_one(store: Store, clock: ManualClock) -> None:
    store.configure("a", Limits(max_concurrent=1, max_queue=1))
    store.acquire(ask("x", ttl_s=5))
    store.acquire(ask("y", queue=True, ttl_s=50))
    clock.advance(5)
    assert store.lease_state("y") is LeaseState.RUNNING


def test_more_slots_than_the_model_has_never_fit(store: Store) -> None:
    store.configure("a", Limits(max_concurrent=3, max_queue=3))
    assert reason(store.acquire(ask("x", slots=4, queue=True))) is RefusalReason.TOO_LARGE


def test_a_drained_model_lets_nothing_in_and_keeps_what_runs(store: Store) -> None:
    store.configure("a", Limits(max_concurrent=2))
    store.acquire(ask("x"))
    store.configure("a", Limits(max_concurrent=0))
    assert reason(store.acquire(ask("y"))) is RefusalReason.CONCURRENCY
    assert store.row("a").active == 1
    release(store, "x")
    assert store.row("a").active == 0


def test_more_capacity_lets_the_waiting_run(store: Store) -> None:
    store.configure("a", Limits(max_concurrent=1, max_queue=2))
    store.acquire(ask("x"))
    store.acquire(ask("y", queue=True))
    store.configure("a", Limits(max_concurrent=2, max_queue=2))
    assert store.lease_state("y") is LeaseState.RUNNING


def test_unknown_models_are_refused_with_their_name(store: Store) -> None:
    for attempt in (
        lambda: store.acquire(ask("x", model="nobody")),
        lambda: store.acquire_many([ask("x", model="nobody")], whole_plan=False),
        lambda: store.row("nobody"),
        lambda: store.limits("nobody"),
        lambda: store.adjust("nobody", active=1, queue=0),
        lambda: store.observe("nobody", active=1, queue=0),
        lambda: store.set_accepting("nobody", False),
        lambda: store.queued_leases("nobody"),
    ):
        with pytest.raises(SpecError, match="expected one whose capacity is set, got 'nobody'"):
            attempt()


def test_limits_are_read_back(store: Store) -> None:
    limits = Limits(
        max_concurrent=2, max_queue=1, requests=3, tokens=4, budget_nano_usd=5, budget_period_s=120.0
    )
    store.configure("a", limits)
    assert store.limits("a") == limits
    assert store.row("a").limits == limits


# -- rates


def test_requests_a_minute_admit_the_rate_and_nothing_at_the_boundary(
    store: Store, clock: ManualClock
) -> None:
    store.configure("a", Limits(max_concurrent=1000, requests=20))
    clock.advance(1019.9 - clock.now())  # a tenth of a second before a calendar minute ends
    first = [store.acquire(ask(f"x{k}")) for k in range(40)]
    assert sum(answer is LeaseState.RUNNING for answer in first) == 20
    assert reason(first[-1]) is RefusalReason.REQUESTS
    clock.advance(0.2)
    second = [store.acquire(ask(f"y{k}")) for k in range(40)]
    assert not any(answer is LeaseState.RUNNING for answer in second)


def test_retry_after_is_when_it_fits(store: Store, clock: ManualClock) -> None:
    store.configure("a", Limits(max_concurrent=1000, requests=2))
    store.acquire(ask("x"))
    clock.advance(10)
    store.acquire(ask("y"))
    refusal = store.acquire(ask("z"))
    assert isinstance(refusal, Refusal)
    wait_s = refusal.retry_after_s
    assert wait_s is not None
    assert 50 <= wait_s <= 51
    clock.advance(wait_s - 0.25)
    assert reason(store.acquire(ask("z"))) is RefusalReason.REQUESTS
    clock.advance(0.25)
    assert store.acquire(ask("z")) is LeaseState.RUNNING


def test_small_rates_are_met_exactly(store: Store) -> None:
    for rate in (1, 2, 5, 10, 50):
        store.configure(f"m{rate}", Limits(max_concurrent=1000, requests=rate))
        answers = [store.acquire(ask(f"{rate}.{k}", model=f"m{rate}")) for k in range(rate + 5)]
        assert sum(answer is LeaseState.RUNNING for answer in answers) == rate


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(gaps=st.lists(st.floats(0, 30), min_size=5, max_size=60))
def test_no_minute_ever_holds_more_than_the_rate(store: Store, clock: ManualClock, gaps: list[float]) -> None:
    model = f"m{next(CASES)}"  # one store for all examples
    store.configure(model, Limits(max_concurrent=10**6, requests=4))
    admitted: list[float] = []
    for k, gap in enumerate(gaps):
        clock.advance(gap)
        if store.acquire(ask(f"{model}.{k}", model=model)) is LeaseState.RUNNING:
            admitted.append(clock.now())
    for start in admitted:
        assert sum(start <= moment < start + 60 for moment in admitted) <= 4
    assert admitted  # the first one always fits


def test_tokens_are_charged_with_the_estimate_and_settled_with_the_actual(store: Store) -> None:
    store.configure("a", Limits(max_concurrent=10, tokens=1000))
    store.acquire(ask("x", tokens=800))
    assert reason(store.acquire(ask("y", tokens=300))) is RefusalReason.TOKENS
    release(store, "x", tokens=100)
    assert store.acquire(ask("y", tokens=900)) is LeaseState.RUNNING
    release(
        store, "y", tokens=2000
    )  # it took more than was said: nothing fits until that has left the window
    assert reason(store.acquire(ask("z", tokens=1))) is RefusalReason.TOKENS
    assert store.view().meter_used[1, 0] == 2100


def test_a_demand_above_the_whole_rate_never_fits(store: Store) -> None:
    store.configure("a", Limits(max_concurrent=10, tokens=1000))
    answer = store.acquire(ask("x", tokens=1001))
    assert reason(answer) is RefusalReason.TOO_LARGE


def test_a_refusal_takes_nothing(store: Store) -> None:
    store.configure("a", Limits(max_concurrent=10, requests=5, tokens=10, budget_nano_usd=10))
    store.acquire(ask("x", tokens=11))
    store.acquire(ask("y", cost_usd=1.0))
    view = store.view()
    assert view.active[0] == 0
    assert not view.meter_used.any()


# -- money


def test_a_cent_is_never_exceeded_by_more_than_one_error(store: Store) -> None:
    store.configure("a", Limits(max_concurrent=100, budget_nano_usd=nano_usd(0.01)))
    spent, admitted, errors = 0.0, 0, []
    rng = np.random.default_rng(5)
    for k in range(200):
        estimate = 0.001
        if store.acquire(ask(f"x{k}", cost_usd=estimate)) is not LeaseState.RUNNING:
            continue
        actual = float(estimate * rng.uniform(0.2, 3.0))
        spent, admitted = spent + actual, admitted + 1
        errors.append(actual - estimate)
        release(store, f"x{k}", cost_usd=actual)
    assert admitted >= 4
    assert spent <= 0.01 + max(errors) + 1e-9


def test_ten_thousandths_fit_a_cent_exactly(store: Store) -> None:
    store.configure("a", Limits(max_concurrent=100, budget_nano_usd=nano_usd(0.01)))
    answers = [store.acquire(ask(f"x{k}", cost_usd=0.001)) for k in range(11)]
    assert answers[:10] == [LeaseState.RUNNING] * 10
    assert reason(answers[10]) is RefusalReason.BUDGET


def test_a_budget_without_a_period_never_comes_back(store: Store, clock: ManualClock) -> None:
    store.configure("a", Limits(max_concurrent=100, budget_nano_usd=10))
    store.acquire(ask("x", cost_usd=1e-8))
    release(store, "x")
    clock.advance(1e6)
    answer = store.acquire(ask("y", cost_usd=1e-9))
    assert reason(answer) is RefusalReason.BUDGET
    assert isinstance(answer, Refusal)
    assert answer.retry_after_s is None


def test_a_budget_with_a_period_comes_back(store: Store, clock: ManualClock) -> None:
    store.configure("a", Limits(max_concurrent=100, budget_nano_usd=10, budget_period_s=3600))
    store.acquire(ask("x", cost_usd=1e-8))
    clock.advance(3599)
    assert reason(store.acquire(ask("y", cost_usd=1e-9))) is RefusalReason.BUDGET
    clock.advance(61)
    assert store.acquire(ask("y", cost_usd=1e-9)) is LeaseState.RUNNING


def test_a_period_changed_back_and_forth_neither_forgets_nor_goes_negative(
    store: Store, clock: ManualClock
) -> None:
    def limits(period_s: float) -> Limits:
        return Limits(max_concurrent=100, budget_nano_usd=10, budget_period_s=period_s)

    store.configure("a", limits(60))
    store.acquire(ask("x", cost_usd=1e-8))
    clock.advance(30)
    store.configure("a", limits(3600))
    assert reason(store.acquire(ask("y", cost_usd=1e-9))) is RefusalReason.BUDGET
    clock.advance(40)
    store.configure("a", limits(60))
    assert reason(store.acquire(ask("y", cost_usd=1e-9))) is RefusalReason.BUDGET
    clock.advance(62)
    assert store.view().meter_used[2].tolist() == [0]
    assert store.acquire(ask("y", cost_usd=1e-8)) is LeaseState.RUNNING
    assert reason(store.acquire(ask("z", cost_usd=1e-9))) is RefusalReason.BUDGET
    clock.advance(3700)
    assert store.view().meter_used[2].tolist() == [0]


def test_what_an_expired_lease_really_cost_is_still_settled(store: Store, clock: ManualClock) -> None:
    store.configure("a", Limits(max_concurrent=100, budget_nano_usd=nano_usd(1.0)))
    store.acquire(ask("x", cost_usd=0.1, ttl_s=1))
    clock.advance(2)
    assert release(store, "x", cost_usd=0.9) is ReleaseOutcome.EXPIRED
    assert store.view().meter_used[2, 0] == nano_usd(0.9)


# -- plans


def test_many_each_whole_or_not_at_all(store: Store) -> None:
    store.configure("a", Limits(max_concurrent=2))
    store.configure("b", Limits(max_concurrent=1))
    answers = store.acquire_many(
        [ask("1", "a"), ask("2", "b"), ask("3", "b"), ask("4", "a"), ask("5", "a")], whole_plan=False
    )
    assert [reason(answer) for answer in answers] == [
        None,
        None,
        RefusalReason.CONCURRENCY,
        None,
        RefusalReason.CONCURRENCY,
    ]


@pytest.mark.parametrize("name", ["a\0b", "1234567890123456789", "\0", "é 🚀{x}:%d"], ids=ascii)
def test_tenants_and_models_of_any_name_get_their_turn(store: Store, name: str) -> None:
    store.configure(name, Limits(max_concurrent=1, max_queue=3))
    for k in range(3):
        store.acquire(ask(f"x{k}", name, queue=True)._replace(tenant=name))
    assert store.queued_leases(name) == ["x1", "x2"]
    release(store, "x0")
    release(store, "x1")
    assert store.lease_state("x2") is LeaseState.RUNNING


def test_a_refused_plan_does_not_count_as_service_of_its_tenant(store: Store) -> None:
    store.configure("a", Limits(max_concurrent=2, max_queue=5))
    store.configure("b", Limits(max_concurrent=1))
    store.acquire(ask("b", "b"))
    for k in range(3):  # the first would run, the second wait, and the last is refused
        plan = [ask(f"{k}", slots=2), ask(f"{k}q", queue=True), ask(f"{k}b", "b")]
        answers = store.acquire_many([each._replace(tenant="t1") for each in plan], whole_plan=True)
        assert {reason(answer) for answer in answers} == {RefusalReason.PLAN, RefusalReason.CONCURRENCY}
    store.acquire(ask("rest", slots=2))
    for lease_id, tenant in (("first", "t1"), ("second", "t2")):
        store.acquire(ask(lease_id, queue=True)._replace(tenant=tenant))
    assert store.queued_leases("a") == ["first", "second"]


def test_a_whole_plan_or_nothing(store: Store) -> None:
    store.configure("a", Limits(max_concurrent=2, requests=100, tokens=100))
    store.configure("b", Limits(max_concurrent=1))
    store.acquire(ask("before", "a"))
    plan = [ask("before", "a"), ask("1", "a", tokens=7), ask("2", "b"), ask("3", "b")]
    answers = store.acquire_many(plan, whole_plan=True)
    assert [reason(answer) for answer in answers] == [
        RefusalReason.PLAN,
        RefusalReason.PLAN,
        RefusalReason.PLAN,
        RefusalReason.CONCURRENCY,
    ]
    view = store.view()
    assert view.active.tolist() == [1, 0]
    assert view.meter_used[:2, 0].tolist() == [1, 0]
    assert store.lease_state("before") is LeaseState.RUNNING


def test_an_id_that_repeats_in_a_refused_plan_is_taken_back_once(store: Store) -> None:
    store.configure("a", Limits(max_concurrent=5, requests=100))
    store.configure("b", Limits(max_concurrent=0))
    plan = [ask("1", "a"), ask("1", "a"), ask("2", "b")]
    answers = store.acquire_many(plan, whole_plan=True)
    assert [reason(answer) for answer in answers] == [
        RefusalReason.PLAN,
        RefusalReason.PLAN,
        RefusalReason.CONCURRENCY,
    ]
    view = store.view()
    assert view.active.tolist() == [0, 0]
    assert view.meter_used[0].tolist() == [0, 0]
    assert store.lease_state("1") is LeaseState.GONE


def test_a_move_swaps_both_or_neither(store: Store) -> None:
    store.configure("a", Limits(max_concurrent=1, max_queue=1, tokens=100))
    store.configure("b", Limits(max_concurrent=1))
    store.acquire(ask("x", "a"))
    store.acquire(ask("y", "a", queue=True, tokens=50))
    assert store.move("y", ask("y2", "b", tokens=50)) is LeaseState.RUNNING
    assert store.lease_state("y") is LeaseState.GONE
    assert store.view().active.tolist() == [1, 1]
    assert store.view().queued.tolist() == [0, 0]
    assert store.view().meter_used[1].tolist() == [0, 0]  # b meters no tokens; a got its estimate back
    assert reason(store.move("x", ask("x2", "b"))) is RefusalReason.CONCURRENCY
    assert store.lease_state("x") is LeaseState.RUNNING
    assert store.move("nobody", ask("n", "b")) is LeaseState.GONE


# -- work from outside


def test_outside_work_counts_and_never_falls_below_zero(store: Store) -> None:
    store.configure("a", Limits(max_concurrent=2, max_queue=2))
    store.adjust("a", active=-5, queue=-5)
    assert (store.row("a").active, store.row("a").queued) == (0, 0)
    store.acquire(ask("x"))
    store.adjust("a", active=-5, queue=0)
    assert store.row("a").active == 1  # the lease is still there
    store.adjust("a", active=1, queue=1)
    assert reason(store.acquire(ask("y"))) is RefusalReason.CONCURRENCY
    store.adjust("a", active=-1, queue=-1)
    assert store.acquire(ask("y")) is LeaseState.RUNNING


def test_observed_totals_do_not_count_leases_twice(store: Store) -> None:
    store.configure("a", Limits(max_concurrent=10, max_queue=5))
    for k in range(3):
        store.acquire(ask(f"x{k}"))
    store.observe("a", active=5, queue=1)
    assert (store.row("a").active, store.row("a").queued) == (5, 1)
    release(store, "x0")
    assert store.row("a").active == 4
    store.observe("a", active=0, queue=0)
    assert (store.row("a").active, store.row("a").queued) == (2, 0)


def test_less_outside_work_lets_the_waiting_run(store: Store) -> None:
    store.configure("a", Limits(max_concurrent=1, max_queue=1))
    store.adjust("a", active=1, queue=0)
    assert store.acquire(ask("x", queue=True)) is LeaseState.QUEUED
    store.adjust("a", active=-1, queue=0)
    assert store.lease_state("x") is LeaseState.RUNNING


def test_a_model_that_rejects_new_work(store: Store) -> None:
    store.configure("a", Limits(max_concurrent=2, max_queue=2))
    store.acquire(ask("x"))
    store.set_accepting("a", False)
    assert reason(store.acquire(ask("y", queue=True))) is RefusalReason.NOT_ACCEPTING
    assert not store.view().accepting[0]
    store.set_accepting("a", True)
    assert store.acquire(ask("y")) is LeaseState.RUNNING


# -- time and views


def test_a_clock_going_backwards_changes_nothing(store: Store, clock: ManualClock) -> None:
    store.configure("a", Limits(max_concurrent=1, requests=5))
    store.acquire(ask("x", ttl_s=10))
    clock.advance(5)
    store.row("a")
    clock.seconds -= 500
    assert store.lease_state("x") is LeaseState.RUNNING
    assert store.row("a").age_s >= 0
    clock.seconds += 504  # nine seconds after the grant
    assert store.lease_state("x") is LeaseState.RUNNING
    clock.advance(1)
    assert store.lease_state("x") is LeaseState.GONE


def test_a_view_is_one_instant_and_its_version_grows(store: Store, clock: ManualClock) -> None:
    store.configure("a", Limits(max_concurrent=4, max_queue=2, requests=7))
    store.configure("b", Limits(max_concurrent=0))
    before = store.view()
    clock.advance(3)
    store.acquire(ask("x"))
    after = store.view()
    assert before.models == after.models == ("a", "b")
    assert (before.active.tolist(), after.active.tolist()) == ([0, 0], [1, 0])
    assert after.version > before.version
    assert store.view().version == after.version
    assert after.max_concurrent.tolist() == [4, 0]
    assert after.max_queue.tolist() == [2, 0]
    assert after.age_s.tolist() == pytest.approx([0, 3])
    assert after.meter_limit.tolist() == [[7, np.inf], [np.inf, np.inf], [np.inf, np.inf]]
    assert after.meter_used[0].tolist() == [1, 0]


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_history_agrees_with_a_plain_model(store: Store, clock: ManualClock, data: st.DataObject) -> None:
    """Random histories against a dictionary: counts equal, caps held, all free at the end."""
    case = next(CASES)  # one store for all examples
    caps = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=3))
    names = [f"{case}.{j}" for j in range(len(caps))]
    for name, cap in zip(names, caps, strict=True):
        store.configure(name, Limits(max_concurrent=cap))
    live: dict[str, tuple[str, int, float]] = {}
    for k in range(data.draw(st.integers(1, 40))):
        step = data.draw(st.sampled_from(["acquire", "release", "renew", "wait"]))
        live = {key: entry for key, entry in live.items() if entry[2] > clock.now()}
        if step == "acquire":
            j, slots = data.draw(st.integers(0, len(caps) - 1)), data.draw(st.integers(1, 3))
            ttl_s = data.draw(st.integers(1, 20))
            used = sum(taken for name, taken, _ in live.values() if name == names[j])
            answer = store.acquire(ask(f"{case}:{k}", names[j], slots=slots, ttl_s=ttl_s))
            assert (answer is LeaseState.RUNNING) == (used + slots <= caps[j])
            if answer is LeaseState.RUNNING:
                live[f"{case}:{k}"] = (names[j], slots, clock.now() + ttl_s)
        elif step == "wait":
            clock.advance(data.draw(st.integers(0, 8)))
        elif live:
            key = data.draw(st.sampled_from(sorted(live)))
            if step == "release":
                assert release(store, key) is ReleaseOutcome.RELEASED
                del live[key]
            else:
                store.renew(key, 15)
                live[key] = (*live[key][:2], clock.now() + 15)
        live = {key: entry for key, entry in live.items() if entry[2] > clock.now()}
        for name in names:
            assert store.row(name).active == sum(taken for owner, taken, _ in live.values() if owner == name)
    clock.advance(1000)
    assert all(store.row(name).active == 0 for name in names)


def test_a_view_of_no_models(store: Store) -> None:
    view = store.view()
    assert view.models == ()
    assert view.active.shape == (0,)
    assert view.meter_limit.shape == (3, 0)
    assert not view.metered


@pytest.mark.parametrize("ended", [False, True])
def test_what_ran_on_a_forgotten_model_settles_its_pools_and_not_its_successor(
    store: Store, clock: ManualClock, ended: bool
) -> None:
    limits = Limits(max_concurrent=9, tokens=900, budget_nano_usd=5 * 10**9, pools=("p",))
    store.configure_pool("p", Limits(max_concurrent=9, tokens=1000))
    store.configure("a", limits)
    store.acquire(ask("x", ttl_s=10.0, tokens=800, cost_usd=4.0))
    if ended:
        clock.advance(11.0)
        store.row("a")
    store.forget("a")
    store.configure("a", limits)
    assert store.acquire(ask("y", tokens=100, cost_usd=1.0)) is LeaseState.RUNNING
    assert release(store, "x", tokens=100, cost_usd=1.0) is ReleaseOutcome.EXPIRED
    assert {meter.resource: meter.used for meter in store.row("a").meters} == {"tokens": 100, "cost_usd": 1.0}
    assert [meter.used for meter in store.pool_row("p").meters] == [200]
    assert release(store, "x") is ReleaseOutcome.UNKNOWN
