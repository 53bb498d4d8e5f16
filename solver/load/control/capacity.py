"""CapacityManager: when a model has been too busy for too long, and what to do about it."""

from __future__ import annotations

import enum
import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from solver.clock import Clock, ManualClock, MonotonicClock
from solver.errors import SpecError, Violation, ViolationKind
from solver.load.checks import amount_problems
from solver.load.listeners import tell
from solver.load.snapshot import utilization_of
from solver.load.stops import StopOwner
from solver.solution.solving import assign

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from solver.load.balance.decision import Decision
    from solver.load.snapshot import ModelLoad
    from solver.load.tracker import LoadTracker

__all__ = [
    "CapacityEvent",
    "CapacityManager",
    "Redistributor",
    "ScalingAction",
    "ScalingRule",
    "dry_run",
    "slots_worth_adding",
]


class ScalingAction(enum.StrEnum):
    """What to do about a model that is too busy, the mildest first."""

    ALERT_ONLY = "alert_only"
    """Tell someone."""
    SCALE_OUT = "scale_out"
    """Recommend more slots."""
    REDISTRIBUTE = "redistribute"
    """Move waiting work to other models."""
    REJECT_NEW = "reject_new"
    """Let nothing new in until it is better."""


_SEVERITY = {action: rank for rank, action in enumerate(ScalingAction)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingRule:
    """When to act.

    Parameters
    ----------
    threshold_utilization : float
        In (0, 1]: the rule's clock runs while utilization is at or above this.
    threshold_duration_ms : float
        How long it has to stay there without a break, milliseconds.
    action : ScalingAction
        What to do then.
    clear_utilization : float, optional
        Hysteresis: an active rule ends only below this. Default: nine tenths of the threshold.
    cooldown_ms : float
        Once ended, a rule does not become active again for so long; an active one acts again only after so
        long. Milliseconds.
    model : str, optional
        The only model it is for; default: every model.

    Raises
    ------
    SpecError
        Naming each value out of range.
    """

    threshold_utilization: float
    threshold_duration_ms: float
    action: ScalingAction
    clear_utilization: float | None = None
    cooldown_ms: float = 30_000.0
    model: str | None = None

    def __post_init__(self) -> None:
        problems = amount_problems("threshold_duration_ms", self.threshold_duration_ms)
        problems += amount_problems("cooldown_ms", self.cooldown_ms)
        if not 0 < self.threshold_utilization <= 1:
            problems.append(
                Violation("threshold_utilization", "expected in (0, 1]", self.threshold_utilization)
            )
        elif not 0 <= self.clears_below <= self.threshold_utilization:
            problems.append(
                Violation(
                    "clear_utilization",
                    f"expected in [0, {self.threshold_utilization:g}]",
                    self.clear_utilization,
                )
            )
        if not isinstance(self.action, ScalingAction):
            problems.append(
                Violation("action", "expected a ScalingAction", self.action, kind=ViolationKind.TYPE)
            )
        if problems:
            raise SpecError(*problems)

    @property
    def name(self) -> str:
        """What the rule is called where it stops a model: the same in every process, and after a restart."""
        scope = "" if self.model is None else f"{self.model}: "
        return (
            f"{scope}utilization {self.threshold_utilization:g} for {self.threshold_duration_ms:g} ms, "
            f"until {self.clears_below:g}, cooldown {self.cooldown_ms:g} ms"
        )

    @property
    def clears_below(self) -> float:
        """Utilization below which an active rule ends."""
        return 0.9 * self.threshold_utilization if self.clear_utilization is None else self.clear_utilization


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityEvent:
    """Something a manager did, would have done, or recommends.

    Parameters
    ----------
    at_s : float
        Reading of the manager's clock, seconds.
    model : str
        The model that was too busy.
    action : ScalingAction
        What the rule says.
    active : bool
        True when the rule acts, False when it ends.
    utilization : float
        At that moment, 0 to 1.
    slots : int
        Slots recommended to be added (``scale_out``), or leases moved (``redistribute``).
    worth : float or None
        Score that the first of the recommended slots would add, where a decision said so.
    """

    at_s: float
    model: str
    action: ScalingAction
    active: bool
    utilization: float
    slots: int = 0
    worth: float | None = None


class _Observed(Protocol):
    @property
    def utilization(self) -> float: ...


class Redistributor(Protocol):
    """Whoever can move work that waits: a :class:`~solver.LoadBalancer`, or several behind one method."""

    def redistribute(self, model: str) -> list[str]:
        """Move what waits for a model and fits elsewhere; return the ids of the agents moved."""


class _RuleState:
    """How far one rule has come for one model."""

    __slots__ = ("acted_s", "active", "ended_s", "since_s", "told")

    def __init__(self) -> None:
        self.since_s: float | None = None
        self.active = False
        self.told = False  # that it acts, by CapacityManager.changes
        self.ended_s = -math.inf
        self.acted_s = -math.inf


class CapacityManager:
    """Watches utilization against rules and acts on what it finds. Thread-safe.

    Parameters
    ----------
    rules : sequence of ScalingRule
        Any number; the most severe of the active ones decides.
    clock : Clock, optional
        Default: the machine's monotonic clock.
    sink : callable, optional
        Called with every :class:`~solver.load.control.capacity.CapacityEvent` of :meth:`enforce`: log it, page
        someone, call an autoscaler. It is called in the enforcing thread.
    """

    def __init__(
        self,
        rules: Sequence[ScalingRule],
        clock: Clock | None = None,
        *,
        sink: Callable[[CapacityEvent], object] | None = None,
    ) -> None:
        self._rules = tuple(rules)
        self._clock = clock or MonotonicClock()
        self._sink = sink
        self._lock = threading.Lock()
        self._states: dict[tuple[int, str], _RuleState] = {}

    def check_capacity(self, model: str, load: ModelLoad | _Observed | None) -> ScalingAction | None:
        """Return the action due for a model, None when it is fine.

        An action is due from the moment the threshold has been exceeded for the rule's duration, at every
        check, until utilization has fallen below the rule's clearing level. Unknown load (None) justifies
        nothing: it stops running clocks and ends active rules.

        Parameters
        ----------
        model : str
            Its id.
        load : ModelLoad or None
            What :meth:`~solver.LoadTracker.current_load` returned.
        """
        with self._lock:
            self._advance(model, load)
            due = [rule.action for rule, state in self._of(model) if state.active]
        return max(due, key=_SEVERITY.__getitem__, default=None)

    def changes(self, model: str, load: ModelLoad | _Observed | None) -> list[tuple[ScalingRule, bool]]:
        """Update the rules for a model; return those that act now (True) and those that end (False).

        A rule acts when it becomes active, and again after each cool-down while it stays so.
        """
        with self._lock:
            now = self._clock.now()
            self._advance(model, load)
            found = []
            for rule, state in self._of(model):
                if state.active and (now - state.acted_s) * 1000.0 >= rule.cooldown_ms:
                    state.acted_s, state.told = now, True
                    found.append((rule, True))
                elif state.told and not state.active:  # whoever advanced it: the end is told once
                    state.told = False
                    found.append((rule, False))
            return found

    def _of(self, model: str) -> list[tuple[ScalingRule, _RuleState]]:
        """Return the rules for a model with their states."""
        return [
            (rule, self._states.setdefault((number, model), _RuleState()))
            for number, rule in enumerate(self._rules)
            if rule.model is None or rule.model == model
        ]

    def _advance(self, model: str, load: _Observed | None) -> None:
        """Bring the state of every rule for a model up to now."""
        now = self._clock.now()
        busy = -1.0 if load is None else load.utilization
        if math.isnan(busy):
            raise SpecError(Violation("load.utilization", "expected a number", busy))
        for rule, state in self._of(model):
            if busy < rule.threshold_utilization:
                state.since_s = None
            elif state.since_s is None:
                state.since_s = now
            if state.active and busy < rule.clears_below:
                state.active, state.ended_s = False, now
            held_ms = -math.inf if state.since_s is None else (now - state.since_s) * 1000.0
            rested_ms = (now - state.ended_s) * 1000.0
            if not state.active and held_ms >= rule.threshold_duration_ms and rested_ms >= rule.cooldown_ms:
                state.active, state.acted_s = True, -math.inf

    def enforce(
        self,
        tracker: LoadTracker,
        *,
        balancer: Redistributor | None = None,
        decision: Decision | None = None,
    ) -> list[CapacityEvent]:
        """Check every model and carry out what is due.

        ``reject_new`` stops the model in the rule's name until the rule ends; balancers leave it out from
        then on. It is open again when no other rule, and nobody else, stops it. A manager made anew takes
        over the stops that its predecessor has set by the same rules. ``redistribute`` has the balancer
        decide again on the work that waits for the model, and moves its leases; running work stays.
        ``scale_out`` recommends a number of slots.

        Parameters
        ----------
        tracker : LoadTracker
            Whose models.
        balancer : LoadBalancer or another Redistributor, optional
            Needed to redistribute: it knows which agents wait. Without it the event says 0 leases moved.
        decision : Decision, optional
            A recent batch: its shadow prices say how many slots are worth adding. Without it, as many as
            bring utilization back to the target.

        Returns
        -------
        list of CapacityEvent
            What began, what was done again after its cool-down, and what ended.
        """
        events = []
        snapshot = tracker.snapshot()
        for model, stops in snapshot.stops.items():
            self._adopt(model, [stop.name for stop in stops if stop.owner is StopOwner.RULE])
        for j, model in enumerate(snapshot.models):
            utilization = float(snapshot.utilization[j])
            for rule, begins in self.changes(model, _Point(utilization)):
                slots, worth = 0, None
                if rule.action is ScalingAction.REJECT_NEW and begins:
                    reason = f"utilization {utilization:.2f} >= {rule.threshold_utilization:g}"
                    tracker.stop(model, StopOwner.RULE, name=rule.name, reason=reason)
                elif rule.action is ScalingAction.REJECT_NEW:
                    tracker.resume(model, StopOwner.RULE, name=rule.name)
                elif rule.action is ScalingAction.REDISTRIBUTE and begins and balancer is not None:
                    slots = len(balancer.redistribute(model))
                elif rule.action is ScalingAction.SCALE_OUT and begins:
                    wanted = int(snapshot.active[j] + snapshot.queued[j])
                    slots = _missing_slots(wanted, int(snapshot.max_concurrent[j]), float(snapshot.target[j]))
                    if decision is not None and model in decision.models:
                        slots, worth = slots_worth_adding(decision, model)
                events.append(
                    CapacityEvent(
                        at_s=self._clock.now(),
                        model=model,
                        action=rule.action,
                        active=begins,
                        utilization=utilization,
                        slots=slots,
                        worth=worth,
                    )
                )
        if self._sink is not None:
            for event in events:
                tell([self._sink], event)
        return events

    def _adopt(self, model: str, names: list[str]) -> None:
        """Take over stops that a manager before this one has set by the same rules, so that they end here."""
        with self._lock:
            for rule, state in self._of(model):
                if rule.action is ScalingAction.REJECT_NEW and not state.active and rule.name in names:
                    state.active = state.told = True
                    state.acted_s = self._clock.now()


@dataclass(frozen=True, slots=True)
class _Point:
    utilization: float


def _missing_slots(wanted: int, slots: int, target: float) -> int:
    """Return how many slots bring utilization down to the target."""
    return max(0, math.ceil(wanted / target - 1e-9) - slots)


def slots_worth_adding(decision: Decision, model: str, *, min_worth: float = 0.0) -> tuple[int, float]:
    """Return how many more slots of a model a batch would have paid for, and what the first is worth.

    The shadow price of a capacity never rises as the capacity grows (the optimal value is concave in it),
    so the number is found by bisection: O(log n) solves of the batch.

    Parameters
    ----------
    decision : Decision
        The batch.
    model : str
        One of its models.
    min_worth : float
        Score that a slot must add to count; serving one more agent always counts.

    Raises
    ------
    SpecError
        If the decision does not concern the model.
    """
    if model not in decision.models or decision.work is None:
        raise SpecError(
            Violation("model", "expected one of the decision's models", model, kind=ViolationKind.UNKNOWN)
        )
    work, j = decision.work, decision.models.index(model)
    value = np.where(work.eligible, work.quality, -np.inf)

    def total(extra: int) -> tuple[int, float]:
        """Return agents served and total score with some more slots."""
        room = work.room.copy()
        room[j] += extra
        solution = assign(value, room, priority=work.rank)
        return len(solution.choice) - len(solution.unassigned), solution.objective

    def is_worth(extra: int) -> bool:
        """Return whether the last of some more slots pays."""
        before, after = total(extra - 1), total(extra)
        return after[0] > before[0] or after[1] - before[1] > max(min_worth, 1e-9)

    low, high = 0, len(work.quality)  # low slots are known to pay, more than high cannot
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if is_worth(middle) else (low, middle - 1)
    return low, 0.0 if low == 0 else total(1)[1] - total(0)[1]


def dry_run(
    rules: Sequence[ScalingRule], recorded: Iterable[tuple[float, str, int, int]]
) -> list[CapacityEvent]:
    """Return what rules would have done with recorded load, without touching anything.

    Parameters
    ----------
    rules : sequence of ScalingRule
        Those to try.
    recorded : iterable of (at_s, model, active_requests, max_concurrent)
        In order of time, seconds.

    Raises
    ------
    SpecError
        If time goes backwards.
    """
    clock = ManualClock(-math.inf)
    manager = CapacityManager(rules, clock)
    events: list[CapacityEvent] = []
    for at_s, model, active, slots in recorded:
        if at_s < clock.seconds:
            raise SpecError(
                Violation("recorded", "expected rising times", at_s, shown=f"{at_s} after {clock.seconds}")
            )
        clock.seconds = at_s
        utilization = utilization_of(active, slots)
        for rule, begins in manager.changes(model, _Point(utilization)):
            short = rule.action is ScalingAction.SCALE_OUT and begins
            events.append(
                CapacityEvent(
                    at_s=at_s,
                    model=model,
                    action=rule.action,
                    active=begins,
                    utilization=utilization,
                    slots=_missing_slots(active, slots, rule.threshold_utilization) if short else 0,
                )
            )
    return events
