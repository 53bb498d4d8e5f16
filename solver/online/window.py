"""The agents that prices are computed from: recent arrivals in a ring, and the history given beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from solver.errors import SpecError, Violation
from solver.problem.numbers import wrong_shape

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from numpy.typing import ArrayLike, NDArray


class Forecast(NamedTuple):
    """What the router predicted an agent's service from, so that it can predict it again once it knows better.

    Parameters
    ----------
    input_tokens, output_tokens : float
        Expected sizes.
    score_per_second : float
        Score that each predicted second has cost the agent, >= 0.
    """

    input_tokens: float
    output_tokens: float
    score_per_second: float


class AgentRow(NamedTuple):
    """What routing needs to know of one agent, arrays in the order of the models.

    Parameters
    ----------
    scores : (m,) float64
        Higher is better; ``-inf`` forbids the model.
    unserved : float
        Value of refusing; NaN where the objective names none.
    service_s : (m,) float64 or None
        Predicted seconds that a slot is held; None: the mean of each model.
    cost_usd : (m,) float64 or None
        Expected cost in US dollars; None: free.
    tokens : float
        Tokens counted against rate limits.
    tenant : int
        Position among the tenants with a share, -1 for others.
    priority : float
        In a queue, higher runs first among those of one account.
    account : str or None
        On whose account; in a queue, accounts share fairly.
    forecast : Forecast or None
        What ``service_s`` was predicted from; None: the caller gave it.
    """

    scores: NDArray[np.float64]
    unserved: float = float("nan")
    service_s: NDArray[np.float64] | None = None
    cost_usd: NDArray[np.float64] | None = None
    tokens: float = 0.0
    tenant: int = -1
    priority: float = 1.0
    account: str | None = None
    forecast: Forecast | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class History:
    """Agents of the past, which say what to expect.

    Parameters
    ----------
    scores : (N, m) array_like
        Score of each on each model, ``-inf`` where not eligible.
    cost_usd : (N, m) array_like, optional
        Expected costs, US dollars; needed for a budget.
    service_s : (N, m) array_like, optional
        Seconds each would hold a slot; default: what is predicted for the model.
    whole_batch : bool
        Whether it describes the whole batch to come, in whatever order that arrives. Each arrival then
        crosses off the row nearest to it, and what is left is what is still to come.

    Raises
    ------
    SpecError
        If an array has another shape, or a value is out of range.
    """

    scores: ArrayLike
    cost_usd: ArrayLike | None = None
    service_s: ArrayLike | None = None
    whole_batch: bool = False

    def arrays(
        self, m: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, NDArray[np.float64] | None]:
        """Return checked copies of scores, costs and service times for m models."""
        scores = np.array(self.scores, np.float64)
        if scores.ndim != 2 or scores.shape[1] != m:
            raise SpecError(wrong_shape("history.scores", f"(N, {m})", scores.shape))
        if not (scores < np.inf).all():  # NaN compares false
            i, j = np.argwhere(~(scores < np.inf))[0]
            raise SpecError(
                Violation(f"history.scores[{i}, {j}]", "expected a finite number or -inf", scores[i, j])
            )
        others: list[NDArray[np.float64] | None] = []
        for name, given in (("cost_usd", self.cost_usd), ("service_s", self.service_s)):
            if given is None:
                others.append(None)
                continue
            array = np.array(given, np.float64)
            if array.shape != scores.shape:
                raise SpecError(wrong_shape(f"history.{name}", str(scores.shape), array.shape))
            if not (np.isfinite(array) & (array >= 0)).all():
                i, j = np.argwhere(~(np.isfinite(array) & (array >= 0)))[0]
                raise SpecError(
                    Violation(f"history.{name}[{i}, {j}]", "expected a finite number >= 0", array[i, j])
                )
            others.append(array)
        return scores, others[0], others[1]


class Sample(NamedTuple):
    """Agents to compute prices from; a copy that later arrivals do not change.

    Parameters
    ----------
    scores : (n, m) float64
        As in :class:`AgentRow`.
    weights : (n,) float64
        Sum 1.
    unserved : (n,) float64
        NaN where the objective names none.
    service_s : (n, m) float64
        NaN where it was not given.
    cost_usd : (n, m) float64
        Zero where it was not given.
    tokens : (n,) float64
        Tokens.
    tenant : (n,) int64
        Position among the tenants with a share, -1 for others.
    """

    scores: NDArray[np.float64]
    weights: NDArray[np.float64]
    unserved: NDArray[np.float64]
    service_s: NDArray[np.float64]
    cost_usd: NDArray[np.float64]
    tokens: NDArray[np.float64]
    tenant: NDArray[np.int64]


_MAX_PENDING = 8192
"""Arrivals kept for the next refresh where each crosses off a row of history; else as many as are remembered."""


class Window:
    """A ring of the last agents, after the rows of history. Not thread-safe: its owner holds a lock.

    Parameters
    ----------
    m : int
        Models.
    size : int
        Agents remembered.
    history : History, optional
        Rows that stay in front of the ring.
    expected : int, optional
        Agents of the whole batch, where history describes it.
    crossed_off_weight : float
        See :class:`~solver.online.parameters.PriceParams`.

    Attributes
    ----------
    seen : int
        Arrivals so far.
    most_pending : int
        Arrivals worth keeping until the next refresh.
    """

    def __init__(
        self,
        m: int,
        size: int,
        *,
        history: History | None = None,
        expected: int | None = None,
        crossed_off_weight: float = 0.5,
    ) -> None:
        self.seen = 0
        self._size = size
        past, cost, service = (np.empty((0, m)), None, None) if history is None else history.arrays(m)
        self._past = len(past)
        self._crosses_off = history is not None and history.whole_batch and self._past > 0
        self.most_pending = _MAX_PENDING if self._crosses_off else size
        self._weight = crossed_off_weight
        self._left = np.full(self._past, (expected or self._past) / max(self._past, 1))
        self._matched = 0
        rows = self._past + min(size, 256)
        self._scores = np.zeros((rows, m))
        self._service = np.full((rows, m), np.nan)
        self._cost = np.zeros((rows, m))
        self._unserved = np.full(rows, np.nan)
        self._tokens = np.zeros(rows)
        self._tenant = np.full(rows, -1)
        self._forecast = np.full((rows, len(Forecast._fields)), np.nan)
        self._scores[: self._past] = past
        if cost is not None:
            self._cost[: self._past] = cost
        if service is not None:
            self._service[: self._past] = service

    def __len__(self) -> int:
        return self._past + min(self.seen, self._size)

    def add(self, row: AgentRow) -> None:
        """Remember one agent, in place of the oldest where the ring is full. O(m)."""
        k = self._past + self.seen % self._size
        while k >= len(self._scores):
            self._grow()
        self._scores[k] = row.scores
        self._service[k] = np.nan if row.service_s is None else row.service_s
        self._cost[k] = 0.0 if row.cost_usd is None else row.cost_usd
        self._unserved[k] = row.unserved
        self._tokens[k] = row.tokens
        self._tenant[k] = row.tenant
        self._forecast[k] = np.nan if row.forecast is None else row.forecast
        self.seen += 1

    def extend(self, rows: Collection[AgentRow]) -> None:
        """Remember agents in the order they came; those that others among them would push out are only counted.

        O(m) for each that is remembered.
        """
        missed = (
            0 if self._crosses_off else max(len(rows) - self._size, 0)
        )  # each crosses off a row of history
        self.seen += missed
        for row in islice(rows, missed, None):
            self.add(row)

    def _grow(self) -> None:
        rows = min(2 * len(self._scores), self._past + self._size)
        more = rows - len(self._scores)
        for name in ("_scores", "_service", "_cost", "_unserved", "_tokens", "_tenant", "_forecast"):
            old = getattr(self, name)
            setattr(self, name, np.concatenate([old, np.zeros((more, *old.shape[1:]), old.dtype)]))

    def sample(
        self, predict_s: Callable[[ArrayLike, ArrayLike], NDArray[np.float64]] | None = None
    ) -> Sample:
        """Return a copy of all rows and their weights. O(n m), and O(N m) an arrival to cross off.

        Parameters
        ----------
        predict_s : callable, optional
            Returns the service, (k, m) seconds, that is predicted now for (k,) input and output tokens. Rows that
            were predicted before are predicted again: prices of a second would otherwise be computed from what
            was believed before the first answers had come.
        """
        n = len(self)
        weights = np.ones(n)
        if self._crosses_off:
            self._cross_off()
            weights[: self._past] = np.maximum(self._left, 0.0)
            weights[self._past :] = self._weight
        total = weights.sum()
        weights = weights / total if total > 0 else np.full(n, 1.0 / max(n, 1))
        scores, service = self._scores[:n].copy(), self._service[:n].copy()
        again = np.flatnonzero(self._forecast[:n, 0] == self._forecast[:n, 0])  # not NaN
        if predict_s is not None and again.size:
            tokens_in, tokens_out, per_second = self._forecast[again].T
            now_s = predict_s(tokens_in, tokens_out)
            scores[again] -= per_second[:, None] * (now_s - service[again])
            service[again] = now_s
        return Sample(
            scores,
            weights,
            self._unserved[:n].copy(),
            service,
            self._cost[:n].copy(),
            self._tokens[:n].copy(),
            self._tenant[:n].copy(),
        )

    def _cross_off(self) -> None:
        past = np.maximum(self._scores[: self._past], -1e300)  # -inf minus -inf is no distance
        for t in range(max(self._matched, self.seen - self._size), self.seen):
            row = np.maximum(self._scores[self._past + t % self._size], -1e300)
            self._left[np.abs(past - row).sum(axis=1).argmin()] -= 1.0
        self._matched = self.seen
