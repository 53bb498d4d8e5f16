"""ModelPool: what is known about a fleet, laid out so that one more agent costs a few array operations."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import SpecError, Violation, ViolationKind
from solver.load.lease import ONE_SLOT, Demand
from solver.problem.agents import PROFILE_FIELDS, Profile
from solver.problem.capability import capability_means, eligible_pairs, required_capabilities
from solver.problem.scoring import capability_score

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from solver.load.snapshot import LoadSnapshot
    from solver.problem.spec import Agent, Model

__all__ = ["ModelPool"]

_PROFILES_KEPT = 4096
_kind_of = attrgetter("min_context_tokens", *PROFILE_FIELDS)


class ModelPool:
    """The models to choose from, with capability scores computed once for each kind of agent.

    Parameters
    ----------
    models : sequence of Model
        At least one, with unique ids; the column order of everything derived.
    task_types : mapping of str to tuple of str, optional
        Required capabilities of the user's own task types.

    Raises
    ------
    SpecError
        If there is no model, or an id repeats.
    """

    def __init__(
        self, models: Sequence[Model], *, task_types: Mapping[str, tuple[str, ...]] | None = None
    ) -> None:
        if not models:
            raise SpecError(Violation("models", "expected at least one", shown="none"))
        self.models = tuple(models)
        self.ids = tuple(model.id for model in self.models)
        seen: dict[str, int] = {}
        doubled = [
            Violation(
                f"models[{j}].id",
                "expected unique ids",
                name,
                shown=f"{name!r} again, first at models[{seen[name]}]",
                kind=ViolationKind.DUPLICATE,
            )
            for j, name in enumerate(self.ids)
            if seen.setdefault(name, j) != j
        ]
        if doubled:
            raise SpecError(*doubled)
        self._task_types = dict(task_types or {})
        self._stated_context = np.array([model.context_tokens or 0 for model in self.models], np.float64)
        self._context = np.array(
            [np.inf if model.context_tokens is None else model.context_tokens for model in self.models]
        )
        self.usd_per_input_token = _facts(self.models, "usd_per_million_input_tokens") / 1e6
        self.usd_per_output_token = _facts(self.models, "usd_per_million_output_tokens") / 1e6
        self._prices = list(
            zip(self.usd_per_input_token.tolist(), self.usd_per_output_token.tolist(), strict=True)
        )
        self._rows: dict[tuple[Any, ...], tuple[NDArray[np.float64], NDArray[np.bool_]]] = {}
        self._positions: tuple[tuple[str, ...], NDArray[np.intp] | slice] = ((), slice(None))
        self._slots: tuple[NDArray[np.int64] | None, NDArray[np.float64], NDArray[np.float64]]
        self._slots = (None, np.empty(0), np.empty(0))

    def __len__(self) -> int:
        return len(self.ids)

    def positions(self, snapshot: LoadSnapshot) -> NDArray[np.intp] | slice:
        """Return an index of this pool's models into a snapshot's arrays: all of them, or (m,) positions."""
        known, where = self._positions
        if known is not snapshot.models:
            where = slice(None) if snapshot.models == self.ids else snapshot.positions(list(self.ids))
            self._positions = (snapshot.models, where)
        return where

    def slots(self, snapshot: LoadSnapshot) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the slots of each model, (m,) float64, and the same to divide by: at least 1."""
        source, slots, divisor = self._slots
        if source is not snapshot.max_concurrent:
            source = snapshot.max_concurrent
            slots = source[self.positions(snapshot)].astype(np.float64)
            divisor = np.maximum(slots, 1.0)
            self._slots = (source, slots, divisor)
        return slots, divisor

    def scores(self, agents: Sequence[Agent]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return capability scores, (n, m) 0 to 100, and which pairs meet the hard requirements.

        One row per distinct profile is computed and kept; the rest is a gather. An agent's ``min_score`` is
        for the caller to apply, since feedback may change scores first.
        """
        rows = [self._row(agent) for agent in agents]
        if len(rows) == 1:
            return rows[0]
        return np.concatenate([score for score, _ in rows]), np.concatenate([allowed for _, allowed in rows])

    def demand(self, agent: Agent, j: int) -> Demand:
        """Return what an agent takes of model j: a slot, a request, its tokens, and their price."""
        if not agent.input_tokens and not agent.output_tokens:
            return ONE_SLOT
        per_input, per_output = self._prices[j]
        return Demand(
            tokens=agent.input_tokens + agent.output_tokens,
            input_tokens=agent.input_tokens,
            cost_usd=agent.input_tokens * per_input + agent.output_tokens * per_output,
        )

    def largest_demand(self, agents: Sequence[Agent]) -> Demand:
        """Return the most that any of some agents takes of any model, each amount by itself."""
        sizes = {(agent.input_tokens, agent.output_tokens) for agent in agents}
        return Demand(
            tokens=max(taken + given for taken, given in sizes),
            cost_usd=max(
                (taken * self.usd_per_input_token + given * self.usd_per_output_token).max().item()
                for taken, given in sizes
            ),
        )

    def _row(self, agent: Agent) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return the (1, m) scores and eligibility of an agent, those of its kind where they are known."""
        kind = _kind_of(agent)
        row = self._rows.get(kind)
        if row is None:
            if len(self._rows) >= _PROFILES_KEPT:  # kinds that do not repeat: start afresh
                self._rows = {}
            row = self._rows[kind] = self._profile_row(Profile(*kind[1:]), kind[0])
        return row

    def _profile_row(
        self, profile: Profile, min_context_tokens: int
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        required = capability_means([required_capabilities(profile, self._task_types)], self.models)[0]
        preferred = capability_means([profile.preferred_capabilities], self.models)[0]
        context = np.minimum(1.0, self._context / max(min_context_tokens, 1))
        eligible = eligible_pairs([profile], self.models)[0]
        if profile.requires_context:
            eligible &= self._stated_context >= min_context_tokens
        score = capability_score(required, preferred, context)[None, :]
        eligible = eligible[None, :]
        score.flags.writeable = False
        eligible.flags.writeable = False
        return score, eligible


def _facts(models: Sequence[Model], name: str) -> NDArray[np.float64]:
    """Return a fact of each model, 0 where it is not stated."""
    return np.array([getattr(model, name) or 0.0 for model in models], np.float64)
