"""Policies by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from solver.errors import SpecError, Violation, ViolationKind
from solver.load.balance.placement import ROUTINGS
from solver.load.balance.strategies import STRATEGIES
from solver.problem.values import did_you_mean
from solver.simulate.policies.offline import OfflineOptimum
from solver.simulate.policies.own import BlindBalancer, RoutedOneByOne, TrackedBalancer
from solver.simulate.policies.usual import (
    Constant,
    LeastTokens,
    PowerOfTwo,
    RandomChoice,
    RoundRobin,
    RouteBalance,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from solver.clock import ManualClock
    from solver.simulate.replay import Policy, Scene

    Maker = Callable[[Scene, ManualClock], Policy]

__all__ = ["POLICIES", "check_policies", "make_policy"]

_CONSTANT = "constant:"


def _tracked(strategy: str, routing: str) -> Maker:
    return lambda scene, clock: TrackedBalancer(scene, clock, strategy, routing)


def _blind(routing: str) -> Maker:
    return lambda scene, clock: BlindBalancer(scene, clock, routing)


POLICIES: Mapping[str, Maker] = {
    **{
        f"{strategy}-{routing}": _tracked(strategy, routing)
        for strategy in STRATEGIES
        for routing in ROUTINGS
    },
    **{f"blind-{routing}": _blind(routing) for routing in ROUTINGS},
    "optimal-router": RoutedOneByOne,
    "offline-optimum": lambda scene, _clock: OfflineOptimum(scene),
    "random": lambda scene, _clock: RandomChoice(scene),
    "round-robin": lambda scene, _clock: RoundRobin(scene),
    "power-of-two": lambda scene, _clock: PowerOfTwo(scene),
    "least-tokens": lambda scene, _clock: LeastTokens(scene),
    "route-balance": lambda scene, _clock: RouteBalance(scene),
}
"""What makes each policy; ``constant:<model>`` besides."""


def check_policies(names: Sequence[str], model_ids: Sequence[str]) -> None:
    """Raise one error that lists every name that is no policy, with those that are.

    Raises
    ------
    SpecError
        Also where no policy is named, or one twice.
    """
    problems = []
    if not names:
        problems.append(Violation("policies", "expected at least one", shown="none"))
    for k, name in enumerate(names):
        path = f"policies[{k}]"
        if name in names[:k]:
            problems.append(Violation(path, "expected each policy once", name))
        elif name.startswith(_CONSTANT):
            if name.removeprefix(_CONSTANT) not in model_ids:
                problems.append(
                    Violation(path, f"expected a model of the fleet: {', '.join(model_ids)}", name)
                )
        elif name not in POLICIES:
            known = [*POLICIES, f"{_CONSTANT}<model>"]
            problems.append(
                Violation(
                    path,
                    f"expected one of {', '.join(known)}",
                    name,
                    kind=ViolationKind.UNKNOWN,
                    hint=did_you_mean(name, known),
                )
            )
    if problems:
        raise SpecError(*problems)


def make_policy(name: str, scene: Scene, clock: ManualClock) -> Policy:
    """Return a new policy for one replay."""
    if name.startswith(_CONSTANT):
        return Constant(scene.fleet.ids.index(name.removeprefix(_CONSTANT)))
    return POLICIES[name](scene, clock)
