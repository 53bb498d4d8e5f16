"""Policies by name: ``name``, or ``name:setting=value:...`` for those that take settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from solver.errors import SpecError, Violation
from solver.load.balance.placement import ROUTINGS
from solver.load.balance.strategies import STRATEGIES
from solver.problem.values import unknown_name
from solver.simulate.policies.baselines import (
    Constant,
    LeastTokens,
    PowerOfTwo,
    RandomChoice,
    RoundRobin,
    RouteBalance,
)
from solver.simulate.policies.litellm_router import LITELLM_STRATEGIES, LiteLLMPolicy
from solver.simulate.policies.offline import OfflineOptimum
from solver.simulate.policies.settings import PolicySettings
from solver.simulate.policies.solver_policies import BlindBalancer, RoutedOneByOne, TrackedBalancer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from solver.clock import ManualClock
    from solver.simulate.replay import Policy
    from solver.simulate.scenario import Scene

    Maker = Callable[[Scene, ManualClock], Policy]
    SettingsMaker = Callable[[Scene, ManualClock, PolicySettings], Policy]

_CONSTANT, _LITELLM = "constant", "litellm"


def _tracked(strategy: str, routing: str) -> SettingsMaker:
    return lambda scene, clock, settings: TrackedBalancer(scene, clock, strategy, routing, settings)


def _blind(routing: str) -> Maker:
    return lambda scene, clock: BlindBalancer(scene, clock, routing)


_WITH_SETTINGS: Mapping[str, SettingsMaker] = {
    **{
        f"{strategy}-{routing}": _tracked(strategy, routing)
        for strategy in STRATEGIES
        for routing in ROUTINGS
    },
    "optimal-router": RoutedOneByOne,
}

_WITHOUT: Mapping[str, Maker] = {
    **{f"blind-{routing}": _blind(routing) for routing in ROUTINGS},
    "offline-optimum": lambda scene, _clock: OfflineOptimum(scene),
    "random": lambda scene, _clock: RandomChoice(scene),
    "round-robin": lambda scene, _clock: RoundRobin(scene),
    "power-of-two": lambda scene, _clock: PowerOfTwo(scene),
    "least-tokens": lambda scene, _clock: LeastTokens(scene),
    "route-balance": lambda scene, _clock: RouteBalance(scene),
}

POLICIES: tuple[str, ...] = (*_WITH_SETTINGS, *_WITHOUT)
"""Names; ``constant:<model>`` and ``litellm:<strategy>`` besides."""


def known_policies() -> list[str]:
    """Return every name there is, for messages."""
    litellm = [f"{_LITELLM}:{name}" for name in LITELLM_STRATEGIES]
    return [*POLICIES, f"{_CONSTANT}:<model>", *litellm]


def check_policies(names: Sequence[str], model_ids: Sequence[str]) -> None:
    """Raise one error that lists every name that is no policy, with those that are.

    Raises
    ------
    SpecError
        Also where no policy is named, or one twice, or a setting is none.
    """
    problems = []
    if not names:
        problems.append(Violation("policies", "expected at least one", shown="none"))
    for k, name in enumerate(names):
        path = f"policies[{k}]"
        base, _, rest = name.partition(":")
        if name in names[:k]:
            problems.append(Violation(path, "expected each policy once", name))
        elif base == _CONSTANT and rest:
            if rest not in model_ids:
                rule = f"expected a model of the fleet: {', '.join(model_ids)}"
                problems.append(unknown_name(path, rule, rest, model_ids))
        elif base == _LITELLM and rest:
            if rest not in LITELLM_STRATEGIES:
                rule = f"expected a strategy of LiteLLM: {', '.join(LITELLM_STRATEGIES)}"
                problems.append(unknown_name(path, rule, rest, LITELLM_STRATEGIES))
        elif base in _WITH_SETTINGS:
            try:
                PolicySettings.parse(rest.split(":") if rest else [], path)
            except SpecError as error:
                problems.extend(error.violations)
        elif base not in _WITHOUT or rest:
            known = known_policies()
            problems.append(unknown_name(path, f"expected one of {', '.join(known)}", name, known))
    if problems:
        raise SpecError(*problems)


def make_policy(name: str, scene: Scene, clock: ManualClock) -> Policy:
    """Return a new policy for one replay.

    Raises
    ------
    MissingExtraError
        If it needs a package that is not installed.
    """
    base, _, rest = name.partition(":")
    if base == _CONSTANT:
        return Constant(scene.fleet.ids.index(rest))
    if base == _LITELLM:
        return LiteLLMPolicy(scene, clock, rest)
    if base in _WITH_SETTINGS:
        settings = PolicySettings.parse(rest.split(":") if rest else [], name)
        return _WITH_SETTINGS[base](scene, clock, settings)
    return _WITHOUT[name](scene, clock)
