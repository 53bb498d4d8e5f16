"""Stops, which keep new work away from a model: owner, reason and end. A model is open when no stop is active."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from solver.errors import SpecError, Violation, ViolationKind
from solver.load.checks import positive_problems, text_problems

if TYPE_CHECKING:
    from collections.abc import Iterable


class StopOwner(enum.StrEnum):
    """Who set a stop. Each owner lifts its own stops only."""

    OPERATOR = "operator"
    """A person, or a script that acts for one."""
    RULE = "rule"
    """A scaling rule that rejects new work while a model is too busy."""
    COOLDOWN = "cooldown"
    """The model's own server asked for a pause, for example by status 429 with a time to wait."""
    DRAIN = "drain"
    """The model is to be taken away once what runs on it has ended."""
    BREAKER = "breaker"
    """The model failed too often; a circuit breaker keeps work away until probes succeed."""

    @property
    def holds_queue(self) -> bool:
        """Whether work that already waits has to go on waiting: the model could not serve it now."""
        return self in (StopOwner.COOLDOWN, StopOwner.BREAKER)


class StopKey(NamedTuple):
    """What distinguishes the stops of one model: setting the same one again replaces it.

    Parameters
    ----------
    owner : StopOwner
        Who set it.
    name : str
        Distinguishes several stops of one owner, for example two rules; may be empty.
    """

    owner: StopOwner
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """One reason why a model lets nothing new in.

    Parameters
    ----------
    owner : StopOwner
        Who set it.
    name : str
        Distinguishes several stops of one owner.
    reason : str
        Why, in words, for whoever looks at the model.
    since_s : float
        Reading of the store's clock when it was set, seconds.
    until_s : float
        Reading of the store's clock when it ends by itself; ``inf`` when only its owner lifts it.
    """

    owner: StopOwner
    name: str = ""
    reason: str = ""
    since_s: float = 0.0
    until_s: float = math.inf

    @property
    def key(self) -> StopKey:
        """What identifies the stop on its model."""
        return StopKey(self.owner, self.name)


def checked_stop(owner: StopOwner | str, name: str, reason: str, for_s: float | None) -> StopKey:
    """Return the key of a stop to be set, or raise SpecError naming each value out of range."""
    problems = []
    if owner not in tuple(StopOwner):
        problems.append(
            Violation("owner", f"expected one of {', '.join(StopOwner)}", owner, kind=ViolationKind.UNKNOWN)
        )
    for path, text in (("name", name), ("reason", reason)):
        problems += text_problems(path, text)
    if for_s is not None:
        problems += positive_problems("for_s", for_s)
    if problems:
        raise SpecError(*problems)
    return StopKey(StopOwner(owner), name)


def reopens_in_s(stops: Iterable[Stop], now_s: float) -> float | None:
    """Return seconds until every stop has ended by itself, None when one of them will not."""
    last = max((stop.until_s for stop in stops), default=now_s)
    return None if math.isinf(last) else max(0.0, last - now_s)
