"""Rules that say when a model is too busy, what to do then, and what was done."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from solver.errors import SpecError, Violation, wrong_type
from solver.load.checks import amount_problems


class ScalingAction(enum.StrEnum):
    """What to do about a model that is too busy, the mildest first."""

    ALERT_ONLY = "alert_only"
    """Notify a person."""
    SCALE_OUT = "scale_out"
    """Recommend more slots."""
    REDISTRIBUTE = "redistribute"
    """Move waiting work to other models."""
    REJECT_NEW = "reject_new"
    """Let nothing new in until it is better."""


SEVERITY = {action: rank for rank, action in enumerate(ScalingAction)}
"""The mildest action is 0."""


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
            problems.append(wrong_type("action", "expected a ScalingAction", self.action))
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
