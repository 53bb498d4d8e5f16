"""Assignment: who serves one agent, in ids."""

from __future__ import annotations

from dataclasses import dataclass, field


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
    model_ids : tuple of str or None
        Where agents need several models or stand for several agents: all its models, the one that serves most
        of it first, then the highest score; ``model_id`` is the first. None where every agent has one model.
    units : tuple of int or None
        Where agents stand for several: how many times each of ``model_ids`` serves it.
    """

    agent_id: str
    model_id: str | None
    score: float
    reason: str
    model_ids: tuple[str, ...] | None = field(default=None, kw_only=True)
    units: tuple[int, ...] | None = field(default=None, kw_only=True)
