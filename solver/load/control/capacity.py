"""CapacityManager: when a model has been too busy for too long, and what to do about it."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from solver.clock import Clock, ManualClock, MonotonicClock
from solver.errors import SpecError, Violation
from solver.load.control.hysteresis import Hysteresis
from solver.load.control.scaling_rules import SEVERITY, CapacityEvent, ScalingAction, ScalingRule
from solver.load.control.slots_worth_adding import missing_slots, slots_worth_adding
from solver.load.fork import renewed_after_fork
from solver.load.listeners import notify
from solver.load.snapshot import utilization_of
from solver.load.stops import StopOwner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from solver.load.balance.decision import Decision
    from solver.load.snapshot import LoadSnapshot, ModelLoad
    from solver.load.tracker import LoadTracker


class _Observed(Protocol):
    @property
    def utilization(self) -> float: ...


class Redistributor(Protocol):
    """Whoever can move work that waits: a :class:`~solver.LoadBalancer`, or several behind one method."""

    def redistribute(self, model: str) -> list[str]:
        """Move what waits for a model and fits elsewhere; return the ids of the agents moved."""


class _RuleState(Hysteresis):
    """How far one rule has come for one model."""

    __slots__ = ("acted_s", "announced")

    def __init__(self) -> None:
        super().__init__()
        self.announced = False  # that it acts, by CapacityManager.changes
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
        Called with every :class:`~solver.load.control.scaling_rules.CapacityEvent` of :meth:`enforce`: log it, page
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
        self._lock = renewed_after_fork(self, "_lock", threading.Lock)
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
        return max(due, key=SEVERITY.__getitem__, default=None)

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
                    state.acted_s, state.announced = now, True
                    found.append((rule, True))
                elif state.announced and not state.active:  # whoever advanced it: the end is announced once
                    state.announced = False
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
            changed = state.advance(
                busy,
                now,
                threshold=rule.threshold_utilization,
                clears_below=rule.clears_below,
                hold_s=rule.threshold_duration_ms / 1000.0,
                rest_s=rule.cooldown_ms / 1000.0,
            )
            if changed and state.active:
                state.acted_s = -math.inf

    def enforce(
        self,
        tracker: LoadTracker,
        *,
        balancer: Redistributor | None = None,
        decision: Decision | None = None,
    ) -> list[CapacityEvent]:
        """Check every model and carry out what is due.

        ``reject_new`` stops the model in the rule's name until the rule ends; balancers leave it out from
        then on. It is open again when no other rule and no other owner stops it. A manager made anew takes
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
        with self._lock:  # models that were forgotten
            self._states = {key: state for key, state in self._states.items() if key[1] in snapshot.index}
        for model, stops in snapshot.stops.items():
            self._adopt(model, [stop.name for stop in stops if stop.owner is StopOwner.RULE])
        for j, model in enumerate(snapshot.models):
            utilization = float(snapshot.utilization[j])
            for rule, begins in self.changes(model, _Point(utilization)):
                slots, worth = self._act(rule, begins, tracker, snapshot, j, balancer, decision)
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
                notify([self._sink], event)
        return events

    def _act(
        self,
        rule: ScalingRule,
        begins: bool,
        tracker: LoadTracker,
        snapshot: LoadSnapshot,
        j: int,
        balancer: Redistributor | None,
        decision: Decision | None,
    ) -> tuple[int, float | None]:
        """Carry out what a rule says for model j, or end it; return slots and worth for the event."""
        model = snapshot.models[j]
        match rule.action:
            case ScalingAction.REJECT_NEW if begins:
                reason = f"utilization {float(snapshot.utilization[j]):.2f} >= {rule.threshold_utilization:g}"
                tracker.stop(model, StopOwner.RULE, name=rule.name, reason=reason)
            case ScalingAction.REJECT_NEW:
                tracker.resume(model, StopOwner.RULE, name=rule.name)
            case ScalingAction.REDISTRIBUTE if begins and balancer is not None:
                return len(balancer.redistribute(model)), None
            case ScalingAction.SCALE_OUT if begins:
                if decision is not None and model in decision.models:
                    return slots_worth_adding(decision, model)
                wanted = int(snapshot.active[j] + snapshot.queued[j])
                return missing_slots(wanted, int(snapshot.max_concurrent[j]), float(snapshot.target[j])), None
        return 0, None

    def _adopt(self, model: str, names: list[str]) -> None:
        """Take over stops that a manager before this one has set by the same rules, so that they end here."""
        with self._lock:
            for rule, state in self._of(model):
                if rule.action is ScalingAction.REJECT_NEW and not state.active and rule.name in names:
                    state.active = state.announced = True
                    state.acted_s = self._clock.now()


@dataclass(frozen=True, slots=True)
class _Point:
    utilization: float


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
                    slots=missing_slots(active, slots, rule.threshold_utilization) if short else 0,
                )
            )
    return events
