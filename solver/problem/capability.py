"""The words for what models are good at, and which of them each kind of work needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from solver.problem.agents import Profile

__all__ = ["CAPABILITIES", "TASK_TYPES", "required_capabilities"]

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
