"""Limits across models: budgets, quotas, shares, averages, commitments, and agents tied to each other.

Every limit is a frozen value with a name that turns up again in prices, violations and reasons. Agents and
models are given by index or by Boolean mask; None means all of them.

Unassigned agents use nothing of a limit: a budget is spent, and an average is taken, over those served.

A limit with a ``violation_price`` is soft: it may be exceeded, and every unit beyond it is taken off the objective at
that price.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from solver.errors import Violation
from solver.problem.limit_rows import NO_ROW
from solver.problem.limit_scope import LimitScope, RowPiece

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_ONE_EACH = np.ones((1, 1))
"""What pairs take of a limit that counts agents."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Limit(ABC):
    """A named coupling across models.

    Parameters
    ----------
    name : str
        Appears in prices, violations and reasons.
    agents, models : sequence of int, or bool mask, optional
        The agents and models that the limit concerns; None for all.
    """

    name: str
    agents: ArrayLike | None = None
    models: ArrayLike | None = None

    @abstractmethod
    def pieces(self, scope: LimitScope) -> list[RowPiece]:
        """Return the rows of this limit."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RowLimit(Limit):
    """A limit on a sum, which may be hard or soft.

    Parameters
    ----------
    violation_price : float, optional
        What each unit beyond the limit takes off the objective, in score, >= 0: a US dollar too much, an agent too
        few. Units of a share are those of the whole, units of a mean are its own times agents. None: the limit must
        hold.
    """

    violation_price: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Budget(RowLimit):
    """Spend at most ``amount``.

    Parameters
    ----------
    amount : float
        Upper limit, in the unit of ``cost``, such as US dollars.
    cost : (n, m), (n, 1), (m,) or scalar array_like
        What serving agent i by model j costs, >= 0.
    """

    amount: float
    cost: ArrayLike

    def pieces(self, scope: LimitScope) -> list[RowPiece]:
        """Return the rows of this limit."""
        cost = scope.pairs("cost", self.cost)
        scope.not_negative("amount", self.amount)
        if scope.problems:
            return []
        return [scope.upper(cost, self.amount)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Quota(RowLimit):
    """Bound what some agents take from some models.

    Parameters
    ----------
    at_most, at_least : float, optional
        Upper and lower limit; at least one of them.
    use : (n, m), (n, 1), (m,) or scalar array_like, optional
        What a pair takes, >= 0; None counts agents.
    """

    at_most: float | None = None
    at_least: float | None = None
    use: ArrayLike | None = None

    def pieces(self, scope: LimitScope) -> list[RowPiece]:
        """Return the rows of this limit."""
        use = _counted(scope, self.use)
        at_least, at_most = scope.range(self.at_least, self.at_most)
        if scope.problems:
            return []
        pieces = []
        if at_most is not None:
            pieces.append(scope.upper(use, at_most))
        if at_least is not None:
            pieces.append(scope.upper(-use, -at_least, " (at least)"))
        return pieces


@dataclass(frozen=True, kw_only=True, eq=False)
class Commitment(RowLimit):
    """Send at least ``at_least`` to some models, as promised to their provider.

    Parameters
    ----------
    at_least : float
        Lower limit.
    use : (n, m), (n, 1), (m,) or scalar array_like, optional
        What a pair counts for, >= 0; None counts agents.
    """

    at_least: float
    use: ArrayLike | None = None

    def pieces(self, scope: LimitScope) -> list[RowPiece]:
        """Return the rows of this limit."""
        use = _counted(scope, self.use)
        scope.not_negative("at_least", self.at_least)
        if scope.problems:
            return []
        return [scope.upper(-use, -self.at_least)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Share(RowLimit):
    """Bound the share that some agents on some models have in everything that is served.

    Parameters
    ----------
    at_most, at_least : float, optional
        Fractions between 0 and 1; at least one of them.
    use : (n, m), (n, 1), (m,) or scalar array_like, optional
        What a pair counts for, >= 0; None counts agents.
    """

    at_most: float | None = None
    at_least: float | None = None
    use: ArrayLike | None = None

    def pieces(self, scope: LimitScope) -> list[RowPiece]:
        """Return the rows of this limit."""
        # The whole is the use of all agents, not only of the agents concerned.
        use = np.broadcast_to(
            scope.pairs("use", 1.0 if self.use is None else self.use, all_agents=True), (scope.n, scope.m)
        )
        at_least, at_most = scope.range(self.at_least, self.at_most, most=1.0)
        if scope.problems:
            return []
        inside = scope.inside()
        pieces = []
        if at_most is not None:
            pieces.append(scope.whole(use * (inside - at_most), 0.0))
        if at_least is not None:
            pieces.append(scope.whole(use * (at_least - inside), 0.0, " (at least)"))
        return pieces


@dataclass(frozen=True, kw_only=True, eq=False)
class Average(RowLimit):
    """Bound the mean of some value over the agents served: minimum quality, maximum cost or latency.

    Parameters
    ----------
    value : (n, m), (n, 1), (m,) or scalar array_like
        What is averaged.
    at_most, at_least : float, optional
        Upper and lower limit of the mean, in the unit of ``value``; at least one of them.
    """

    value: ArrayLike
    at_most: float | None = None
    at_least: float | None = None

    def pieces(self, scope: LimitScope) -> list[RowPiece]:
        """Return the rows of this limit."""
        value = scope.pairs("value", self.value, signed=True)
        at_least, at_most = scope.range(self.at_least, self.at_most, least=-np.inf)
        if scope.problems:
            return []
        pieces = []
        if at_most is not None:
            pieces.append(scope.upper(value - at_most, 0.0))
        if at_least is not None:
            pieces.append(scope.upper(at_least - value, 0.0, " (at least)"))
        return pieces


@dataclass(frozen=True, kw_only=True, eq=False)
class Together(Limit):
    """Agents that must share a model: all on the same one, or all unassigned."""

    def pieces(self, scope: LimitScope) -> list[RowPiece]:
        """Return the rows of this limit."""
        if self.models is not None:
            scope.fail(Violation("models", "expected None, agents that move together may use any model"))
        if len(scope.agents) < 2:
            scope.fail(Violation("agents", "expected at least two", len(scope.agents)))
        return []


@dataclass(frozen=True, kw_only=True, eq=False)
class Apart(RowLimit):
    """Agents that must not share a model.

    Parameters
    ----------
    at_most : int
        How many of them one model may serve.
    """

    at_most: int = 1

    def pieces(self, scope: LimitScope) -> list[RowPiece]:
        """Return the rows of this limit."""
        scope.not_negative("at_most", self.at_most)
        if scope.problems:
            return []
        where = np.flatnonzero(scope.models)
        row = np.full((1, scope.m), NO_ROW, np.int32)
        row[0, where] = np.arange(len(where))
        return [RowPiece(self.name, float(self.at_most), scope.agents, row, _ONE_EACH, where)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Changes(RowLimit):
    """Move at most ``at_most`` agents away from where a previous assignment had them.

    Parameters
    ----------
    previous : (n,) array_like of int
        Model of each agent before, -1 for none; those may go anywhere.
    at_most : float
        Number of moves.
    """

    previous: ArrayLike
    at_most: float

    def pieces(self, scope: LimitScope) -> list[RowPiece]:
        """Return the rows of this limit."""
        scope.not_negative("at_most", self.at_most)
        if scope.problems:
            return []
        return [scope.upper(scope.moves(self.previous), self.at_most)]


@dataclass(frozen=True, kw_only=True, eq=False)
class StayPut(Limit):
    """Charge a cost for every agent that leaves the model a previous assignment gave it.

    Not a row: it is taken off the scores.

    Parameters
    ----------
    previous : (n,) array_like of int
        Model of each agent before, -1 for none; those go anywhere free of charge.
    cost : (n, 1) array_like or float
        Cost of a move, in score, >= 0.
    """

    previous: ArrayLike
    cost: ArrayLike = field(default=0.0)

    def pieces(self, scope: LimitScope) -> list[RowPiece]:
        """Return the rows of this limit."""
        scope.moves(self.previous)
        scope.pairs("cost", self.cost)
        return []

    def charge(self, scope: LimitScope) -> NDArray[np.float64]:
        """Return the (n, m) score to take off."""
        whole = np.zeros((scope.n, scope.m))
        moved = scope.moves(self.previous) * scope.pairs("cost", self.cost)
        whole[scope.agents] = np.where(scope.models, moved, 0.0)
        return whole


def _counted(scope: LimitScope, use: ArrayLike | None) -> NDArray[np.float64]:
    """Return what pairs take of a limit: one each where nothing else is said."""
    return _ONE_EACH if use is None else scope.pairs("use", use)
