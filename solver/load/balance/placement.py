"""How a batch is placed: greedily, with the highest utilization as low as can be, or at the joint optimum.

Each function takes a batch as arrays and returns (n,) int64, the model of each agent or UNASSIGNED. No model
gets more than its room, and forbidden pairs are never used.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.load.fork import renewed_after_fork
from solver.problem.instance import UNASSIGNED
from solver.solution.solving import assign

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from solver.load.balance.strategies import LoadStrategy, Work
    from solver.solution.solution import Solution

_MAX_SLOT_CELLS = 200_000
"""Agents times slots up to which a placement is solved slot by slot."""

_PLACEMENT_TIE = 1e-9
"""Relative difference below which two values are equal."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Placement:
    """Where a batch goes.

    Parameters
    ----------
    choice : (n,) int64
        Model of each agent, or UNASSIGNED.
    prices : (m,) float64 or None
        Shadow price of one more slot of each model, where an engine was asked.
    solution : Solution or None
        The engine's verified answer.
    """

    choice: NDArray[np.int64]
    prices: NDArray[np.float64] | None = None
    solution: Solution | None = None


def place_greedy(
    work: Work, strategy: LoadStrategy, rng: np.random.Generator, deadline_ms: float | None = None
) -> Placement:
    """Give each agent in turn the best model at the load that the agents before it have left.

    O(n m): a few array operations an agent, since each decision changes the load that the next one sees.
    """
    choice = np.full(len(work.quality), UNASSIGNED, np.int64)
    active, room = work.active.copy(), work.room.tolist()
    closed = ~(work.eligible & (work.room > 0))
    rank = work.rank
    order = range(len(choice)) if rank is None else np.argsort(-rank, kind="stable").tolist()
    for i in order:
        value = strategy.values(work, active, i)
        value[closed[i]] = -np.inf
        j = _best(value, rng, active, work.divisor)
        if j == UNASSIGNED or (work.penalty is not None and value[j] < work.left_out(i)):
            continue
        choice[i] = j
        active[j] += 1.0
        room[j] -= 1
        if not room[j]:
            closed[:, j] = True
    return Placement(choice=choice)


def place_balanced(
    work: Work, strategy: LoadStrategy, rng: np.random.Generator, deadline_ms: float | None = None
) -> Placement:
    """Serve as many as possible with the highest utilization as low as possible, then maximise the value."""
    room = _level_room(work)
    value = strategy.values(work, work.active, slice(None))
    return _solved(work, value, room, rng, deadline_ms)


def place_optimal(
    work: Work, strategy: LoadStrategy, rng: np.random.Generator, deadline_ms: float | None = None
) -> Placement:
    """Serve as many as possible with the highest total value.

    A strategy that values each further slot of a model less is solved over single slots: for least loaded,
    and where there are too many slots, over those below the lowest utilization that serves as many.
    """
    if not strategy.depends_on_slot(work):
        value = strategy.values(work, work.active, slice(None))
        return _solved(work, value, work.room, rng, deadline_ms)
    n = len(work.quality)
    room = np.minimum(work.room, n)
    if not strategy.needs_prediction or int(room.sum()) * n > _MAX_SLOT_CELLS:
        room = _level_room(work)
    owner = np.repeat(np.arange(len(room)), room)
    if not len(owner):
        return Placement(choice=np.full(len(work.quality), UNASSIGNED, np.int64))
    nth = np.arange(len(owner)) - np.repeat(np.cumsum(room) - room, room)
    value = np.empty((len(work.quality), len(owner)))
    for k in range(int(room.max())):
        columns = np.flatnonzero(nth == k)
        value[:, columns] = strategy.values(work, work.active + k, slice(None))[:, owner[columns]]
    allowed = work.eligible[:, owner]
    solution = assign(
        np.where(allowed, _shaken(value, rng), -np.inf),
        np.ones(len(owner), np.int64),
        priority=work.rank,
        unassigned_penalty=_penalty(work),
        deadline_ms=deadline_ms,
        # single slots are what lsap is made for: three to seven times as fast here as what "auto" takes
        engine="lsap" if value.size <= _MAX_SLOT_CELLS else "auto",
    )
    choice = np.where(solution.choice == UNASSIGNED, UNASSIGNED, owner[solution.choice])
    prices = np.zeros(len(room))
    last = nth == room[owner] - 1
    prices[owner[last]] = solution.prices[last]
    return Placement(choice=choice, prices=prices, solution=solution)


def place_one(
    work: Work, strategy: LoadStrategy, routing: str, rng: np.random.Generator
) -> tuple[int, float]:
    """Return the model for a batch of one (or UNASSIGNED) and its value: what the routing would choose."""
    value = strategy.values(work, work.active, 0)
    out = ~work.usable[0]
    if routing == "balanced":
        level = work.active + 1.0
        level /= work.divisor
        level[out] = np.inf
        out |= level > level[level.argmin()] * (1.0 + _PLACEMENT_TIE)
    value[out] = -np.inf  # out of the question
    j = _best(value, rng, work.active, work.divisor)
    if j == UNASSIGNED or (work.penalty is not None and value[j] < work.left_out(0)):
        return UNASSIGNED, 0.0
    return j, float(value[j])


def _penalty(work: Work) -> NDArray[np.float64] | None:
    """Return the penalties as an engine takes them: it multiplies them by priorities that differ itself."""
    if work.penalty is None or work.rank is not None or work.weight is None:
        return work.penalty
    return work.penalty * work.weight[:, 0]


ROUTINGS: dict[str, Callable[..., Placement]] = {
    "balanced": place_balanced,
    "greedy": place_greedy,
    "optimal": place_optimal,
}
"""The routing strategies by name."""


class Placer:
    """A strategy and a routing, with the chance that decides between equals. Thread-safe.

    Parameters
    ----------
    strategy : LoadStrategy
        What load does to the value of a model.
    routing : str
        A key of ``ROUTINGS``.
    seed : int
        Of the choice between equals.
    """

    def __init__(self, strategy: LoadStrategy, routing: str, seed: int) -> None:
        self.strategy = strategy
        self._routing = routing
        self._rng = np.random.default_rng(seed)
        self._lock = renewed_after_fork(self, "_lock", threading.Lock)

    def place(self, work: Work, deadline_ms: float | None) -> Placement:
        """Place a batch, with a generator of its own: placements do not wait for each other."""
        with self._lock:
            rng = np.random.default_rng(self._rng.integers(2**63))
        return ROUTINGS[self._routing](work, self.strategy, rng, deadline_ms)

    def place_one(self, work: Work) -> tuple[int, float]:
        """Do :func:`place_one` for a batch of one."""
        with self._lock:
            return place_one(work, self.strategy, self._routing, self._rng)


def _best(
    value: NDArray[np.float64],
    rng: np.random.Generator,
    active: NDArray[np.float64],
    divisor: NDArray[np.float64],
) -> int:
    """Return the position of the largest value; UNASSIGNED when all are ``-inf``.

    Ties go to the lowest utilization, beyond that by chance.
    """
    first = int(value.argmax())
    best = float(value[first])
    if best == -np.inf:
        return UNASSIGNED
    ties = value >= best - _PLACEMENT_TIE * max(1.0, abs(best))
    if np.count_nonzero(ties) == 1:
        return first
    equal = ties.nonzero()[0]
    utilization = active[equal] / divisor[equal]
    equal = equal[utilization <= utilization.min() * (1.0 + _PLACEMENT_TIE)]
    return int(equal[rng.integers(len(equal))])


def _shaken(value: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return values with ties broken by chance."""
    scale = _PLACEMENT_TIE * max(1.0, float(np.abs(value).max(initial=0.0)))
    return value + scale * rng.random(value.shape)


def _solved(
    work: Work,
    value: NDArray[np.float64],
    room: NDArray[np.int64],
    rng: np.random.Generator,
    deadline_ms: float | None,
) -> Placement:
    solution = assign(
        np.where(work.eligible, _shaken(value, rng), -np.inf),
        room,
        priority=work.rank,
        unassigned_penalty=_penalty(work),
        deadline_ms=deadline_ms,
    )
    return Placement(choice=solution.choice, prices=solution.prices, solution=solution)


def _level_room(work: Work) -> NDArray[np.int64]:
    """Return the room of each model under the lowest utilization at which as many are served as can be.

    Bisection over the utilizations that one more agent somewhere can lead to; each is tested by a maximum
    flow from kinds of agents (equal eligibility) to models.
    """
    n = len(work.quality)
    kinds, size = np.unique(work.eligible, axis=0, return_counts=True)
    room = np.minimum(work.room, n)
    most = _servable(size, kinds, room)
    steps = np.arange(1, int(room.max(initial=0)) + 1)
    reached = (work.active[:, None] + steps) / work.divisor[:, None]
    levels = np.unique(reached[steps <= room[:, None]])
    low, high = 0, len(levels) - 1
    while low < high:
        middle = (low + high) // 2
        if _servable(size, kinds, _room_at(levels[middle], work, room)) >= most:
            high = middle
        else:
            low = middle + 1
    return _room_at(levels[low], work, room) if len(levels) else room


def _room_at(level: float, work: Work, room: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many more fit each model without going above a utilization."""
    fits = np.floor(level * work.divisor * (1.0 + 1e-12) + 1e-9) - work.active
    return np.clip(fits, 0, room).astype(np.int64)


def _servable(size: NDArray[np.intp], kinds: NDArray[np.bool_], room: NDArray[np.int64]) -> int:
    """Return how many agents can be served: a maximum flow by augmenting paths (Ford and Fulkerson 1956).

    Parameters
    ----------
    size : (g,) int
        Agents of each kind.
    kinds : (g, m) bool
        Models each kind may use.
    room : (m,) int64
        Agents each model may take.
    """
    if len(size) == 1:
        return int(min(size[0], room[kinds[0]].sum()))
    flow = np.zeros(kinds.shape, np.int64)
    left = room.astype(np.int64)
    for g in np.argsort(kinds.sum(axis=1), kind="stable"):  # the least flexible first: few paths remain
        open_room = np.where(kinds[g], left, 0)
        before = np.cumsum(open_room) - open_room
        flow[g] = np.clip(size[g] - before, 0, open_room)
        left -= flow[g]
    while _augment(flow, size, kinds, left):
        pass
    return int(flow.sum())


def _augment(
    flow: NDArray[np.int64], size: NDArray[np.intp], kinds: NDArray[np.bool_], left: NDArray[np.int64]
) -> bool:
    """Push more flow along one shortest path from a kind with unserved agents to a model with room."""
    unserved = size - flow.sum(axis=1)
    via_kind = np.full(kinds.shape[1], -1)  # kind from which a model was reached
    via_model = np.where(unserved > 0, -2, -1)  # model from which a kind was reached; -2: a source
    frontier = np.flatnonzero(unserved > 0)
    while len(frontier):
        reached = []
        for g in frontier:
            new = np.flatnonzero(kinds[g] & (via_kind == -1))
            via_kind[new] = g
            reached.extend(new.tolist())
        ends = [j for j in reached if left[j] > 0]
        if ends:
            _push(flow, left, unserved, via_kind, via_model, ends[0])
            return True
        frontier = np.flatnonzero((via_model == -1) & (flow[:, reached] > 0).any(axis=1))
        for g in frontier:
            via_model[g] = next(j for j in reached if flow[g, j] > 0)
    return False


def _push(
    flow: NDArray[np.int64],
    left: NDArray[np.int64],
    unserved: NDArray[np.int64],
    via_kind: NDArray[np.intp],
    via_model: NDArray[np.intp],
    end: int,
) -> None:
    """Move as many agents as the path to ``end`` carries."""
    forward, backward, j = [], [], end
    while True:
        g = int(via_kind[j])
        forward.append((g, j))
        if via_model[g] == -2:
            break
        j = int(via_model[g])
        backward.append((g, j))
    amount = min(int(left[end]), int(unserved[forward[-1][0]]), *(int(flow[pair]) for pair in backward))
    for pair in forward:
        flow[pair] += amount
    for pair in backward:
        flow[pair] -= amount
    left[end] -= amount
