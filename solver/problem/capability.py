"""The vocabulary of capabilities, and the capabilities that each kind of task requires."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from solver.problem.agents import Profile
    from solver.problem.models import Model

CAPABILITIES = (
    "arabic",
    "coding",
    "function_calling",
    "general",
    "high_accuracy",
    "long_context",
    "low_latency",
    "math",
    "multilingual",
    "reasoning",
    "vision",
)
"""The known vocabulary; any other name counts as soon as one model has it."""

TASK_TYPES: dict[str, tuple[str, ...]] = {
    "arabic": ("arabic",),
    "coding": ("coding",),
    "general": ("general",),
    "math": ("math", "reasoning"),
    "question_answering": ("general", "reasoning"),
    "reasoning": ("reasoning",),
    "summarization": ("general", "long_context"),
    "translation": ("multilingual",),
}
"""Required capabilities of each known task type."""


def required_capabilities(profile: Profile, task_types: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return what a profile requires: what it says itself, else what its task type needs.

    Parameters
    ----------
    profile : Profile
        Whose requirements.
    task_types : mapping of str to tuple of str
        The user's own task types; they come before the known ones.
    """
    if profile.required_capabilities is not None:
        return profile.required_capabilities
    if profile.task_type is None:
        return ()
    return task_types.get(profile.task_type) or TASK_TYPES.get(profile.task_type, ())


HARD_REQUIREMENTS: dict[str, tuple[Callable[[Any, Model], bool], str]] = {
    "requires_tools": (lambda needed, model: not needed or model.supports_tools, "has no tool calling"),
    "requires_vision": (lambda needed, model: not needed or model.supports_vision, "takes no images"),
    "allowed_models": (lambda ids, model: ids is None or model.id in ids, "is not an allowed model"),
    "forbidden_models": (lambda ids, model: model.id not in ids, "is a forbidden model"),
    "allowed_regions": (
        lambda names, model: names is None or model.region in names,
        "is not in an allowed region",
    ),
    "allowed_providers": (
        lambda names, model: names is None or model.provider in names,
        "is not from an allowed provider",
    ),
}
"""Field of a profile -> whether a model meets its value, and what is wrong when it does not.

``requires_context`` is not among them: it compares with each agent's own ``min_context_tokens``.
"""


def eligible_pairs(profiles: Sequence[Profile], models: Sequence[Model]) -> NDArray[np.bool_]:
    """Return which models meet the hard requirements of each profile, the context window aside.

    Returns
    -------
    (g, m) bool
        Each distinct value of a requirement is looked at once per model, then gathered.
    """
    eligible = np.ones((len(profiles), len(models)), dtype=np.bool_)
    for field, (is_met, _) in HARD_REQUIREMENTS.items():

        def row(value: Any, is_met: Callable[[Any, Model], bool] = is_met) -> list[bool]:
            return [is_met(value, model) for model in models]

        eligible &= _gathered((getattr(profile, field) for profile in profiles), row, np.bool_)
    return eligible


def unmet_requirements(profile: Profile, min_context_tokens: int, model: Model) -> list[str]:
    """Return what keeps a model from serving an agent, in words; empty when it is eligible."""
    unmet = [
        complaint
        for field, (is_met, complaint) in HARD_REQUIREMENTS.items()
        if not is_met(getattr(profile, field), model)
    ]
    if profile.requires_context and (model.context_tokens or 0) < min_context_tokens:
        unmet.append(f"has a context of {model.context_tokens or 0} of {min_context_tokens} tokens needed")
    return unmet


def capability_means(needed: Iterable[tuple[str, ...]], models: Sequence[Model]) -> NDArray[np.float64]:
    """Return the mean strength of each model in each set of capabilities.

    Parameters
    ----------
    needed : iterable of tuple of str, g of them
        Capabilities looked for; an empty set is fully met.
    models : sequence of Model, m of them
        A capability that a model does not name counts 0.

    Returns
    -------
    (g, m) float64
        0 to 1.
    """

    def row(names: tuple[str, ...]) -> list[float]:
        if not names:
            return [1.0] * len(models)
        return [sum(model.capabilities.get(name, 0.0) for name in names) / len(names) for model in models]

    return _gathered(needed, row, np.float64)


def _gathered(values: Iterable[Any], row: Callable[[Any], list[Any]], dtype: Any) -> NDArray[Any]:
    """Return one row per value, computing each distinct value once."""
    places: dict[Any, int] = {}
    codes = [places.setdefault(value, len(places)) for value in values]
    return np.array([row(value) for value in places], dtype=dtype)[codes]
