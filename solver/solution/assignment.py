"""Assignment: who serves one agent, in ids."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Assignment"]


@dataclass(frozen=True, slots=True)
class Assignment:
    """One agent and the model that serves it.

    Parameters
    ----------
    agent_id : str
        The agent.
    model_id : str or None
        Its model; None when no model serves it.
    score : float
        Score of the pair as it was decided on; 0 when no model serves it.
    reason : str
        Why this model, or why none.
    """

    agent_id: str
    model_id: str | None
    score: float
    reason: str
