"""The arrays an engine sees: one frozen :class:`Instance`, checked once on the way in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import numpy as np

from solver.errors import SpecError, Violation, ViolationKind
from solver.problem.limits import compile_limits
from solver.problem.network import floor_limits, network_shape
from solver.problem.numbers import LARGEST, real_array
from solver.problem.sparse import CompressedScores, compress, name_unfit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    from solver.problem.limit_rows import LimitRows
    from solver.problem.limits import Limit
    from solver.problem.network import NetworkShape

__all__ = [
    "MAX_CAPACITY",
    "UNASSIGNED",
    "Instance",
    "SparseScores",
    "build_instance",
    "chunks",
    "map_blocks",
    "priced_blocks",
    "row_maxima",
]

T = TypeVar("T")

SENSES = ("maximize", "minimize")

UNASSIGNED = -1
"""The choice of an agent that no model serves."""

MAX_CAPACITY = 2**53
"""Capacities above this lose whole units in float64 and are refused."""

_SPREAD_PAIRS = (
    4_000_000  # sparse scores of fewer pairs are spread out: dense passes are faster, engines many
)
_THIN = 3  # pairs per stored one, above which compressed rows take less memory and time
_CHUNK_ELEMENTS = 1 << 16  # 512 KiB of float64: a pass over such a block stays in the second-level cache
_ROOM = 1 + 1e-9  # resources measured in real numbers may exceed their capacity by rounding
_NAMED = 5  # offending entries spelled out per rule


class SparseScores(Protocol):
    """A sparse matrix of any kind that can turn itself into compressed rows, as scipy's can."""

    def tocsr(self) -> Any:
        """Return an object with ``shape``, ``data``, ``indices`` and ``indptr``."""
        ...


def chunks(n: int, m: int) -> Iterator[slice]:
    """Yield consecutive row slices of an (n, m) array, each small enough to stay in cache."""
    step = max(16, _CHUNK_ELEMENTS // max(1, m))
    for start in range(0, n, step):
        yield slice(start, min(n, start + step))


def map_blocks(scan: Callable[[list[slice]], T], n: int, m: int, threads: int) -> list[T]:
    """Run a scan over the chunks of an (n, m) array, shared out to threads in order."""
    parts = list(chunks(n, m))
    if threads == 1 or len(parts) < 4 * threads:
        return [scan(parts)]
    from concurrent.futures import ThreadPoolExecutor  # 20 ms of import that few callers need

    cut = np.linspace(0, len(parts), threads + 1).astype(int)
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(scan, [parts[a:b] for a, b in pairwise(cut)]))


def priced_blocks(
    score: NDArray[Any] | CompressedScores,
    prices: NDArray[np.float64],
    parts: Sequence[slice],
    among: NDArray[np.int64] | None = None,
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Yield blocks of rows with their scores less (m,) prices, float64 in one buffer that is overwritten.

    Prices are repeated to the size of a block: one long subtraction is twice as fast as one for every row.
    With ``among``, row i of a block is that row of the scores.
    """
    if len(parts) == 1:  # not worth the repetition
        block = score[parts[0]] if among is None else score.take(among[parts[0]], axis=0)
        yield parts[0], np.subtract(block, prices, dtype=np.float64)
        return
    size = max((rows.stop - rows.start for rows in parts), default=0)
    charged = np.tile(prices, (size, 1))
    buffer = np.empty_like(charged)
    for rows in parts:
        net = buffer[: rows.stop - rows.start]
        block = score[rows] if among is None else score.take(among[rows], axis=0)
        np.subtract(block, charged[: len(net)], out=net)
        yield rows, net


def row_maxima(block: NDArray[Any]) -> NDArray[Any]:
    """Return the largest entry of every row of a C-ordered block, in half the time of ``max(axis=1)``."""
    best: NDArray[Any] = np.maximum.reduceat(block.ravel(), np.arange(0, block.size, block.shape[1]))
    return best


@dataclass(frozen=True, kw_only=True, eq=False)
class Instance:
    """A constrained assignment problem as arrays; immutable by convention and flags.

    Parameters
    ----------
    score : (n, m) float32 or float64, C order, or CompressedScores
        Value of serving agent i by model j; ``-inf`` forbids the pair. Compressed only where agents take slots.
    capacity : (m, r) float64
        Units each model has left, per resource.
    demand : (n, m, r) float64 or None
        Units agent i takes of model j, usually a broadcast view; None means one slot each (r = 1).
    penalty : (n,) float64 or None
        What leaving agent i unassigned costs; ``inf`` forbids it. None: serve as many agents as possible
        first, higher rank first, and only then maximise the score.
    rank : (n,) int64 or None
        Dense rank of the agents' priorities, 0 the lowest; read only when ``penalty`` is None.
    limits : LimitRows or None
        Couplings across models, compiled to rows.
    load_cost : (m, t) float64 or None
        What each slot costs in each of t equal tiers of a model's slots, non-decreasing along t.
    network : NetworkShape or None
        Floors on models, agents that need several models, rows that stand for several agents. Only where
        agents take slots.
    sense : {"maximize", "minimize"}
        What the caller asked for. Engines always maximise ``score``; of costs it holds the negatives.
    """

    score: NDArray[Any] | CompressedScores
    capacity: NDArray[np.float64]
    demand: NDArray[np.float64] | None = None
    penalty: NDArray[np.float64] | None = None
    rank: NDArray[np.int64] | None = None
    limits: LimitRows | None = None
    load_cost: NDArray[np.float64] | None = None
    network: NetworkShape | None = None
    sense: str = "maximize"

    @property
    def n(self) -> int:
        """Number of agents."""
        return int(self.score.shape[0])

    @property
    def m(self) -> int:
        """Number of models."""
        return int(self.score.shape[1])

    @property
    def sign(self) -> float:
        """What turns a score or a total of this instance into the caller's: -1 where scores are costs."""
        return -1.0 if self.sense == "minimize" else 1.0

    @property
    def r(self) -> int:
        """Number of resources."""
        return int(self.capacity.shape[1])

    @property
    def is_slots(self) -> bool:
        """Whether every agent takes one slot of its model and nothing else, and models have no floors."""
        return self.demand is None and self.limits is None and self.network is None

    @property
    def has_exact_prices(self) -> bool:
        """Whether an optimum's price is exactly what one more slot adds: where the problem is a network flow."""
        opens = self.network is not None and self.network.has_openings
        return self.demand is None and self.limits is None and not opens

    @cached_property
    def is_integral(self) -> bool:
        """Whether every allowed score is a whole number, so that totals move in steps of one."""
        if isinstance(self.score, CompressedScores):
            if (np.floor(self.score.data) != self.score.data).any():
                return False
        else:
            for rows in chunks(self.n, self.m):
                block = self.score[rows]
                if not ((np.floor(block) == block) | np.isinf(block)).all():
                    return False
        return max(map(abs, self.score_range)) * self.units < MAX_CAPACITY

    @cached_property
    def has_oversized(self) -> bool:
        """Whether some allowed pair asks for more than its model has when empty."""
        if self.demand is None:
            return bool(self.capacity.min() < 1)
        return any(bool(self.oversized(rows).any()) for rows in chunks(self.n, self.m))

    def oversized(self, rows: slice | NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return, for some rows, the (rows, m) pairs that ask for more than their model has when empty."""
        if self.demand is None:
            count = len(np.arange(self.n)[rows])
            return np.broadcast_to(self.capacity[:, 0] < 1, (count, self.m))
        large = self.demand[rows, :, 0] > self.capacity[:, 0] * _ROOM
        for k in range(1, self.r):
            large = large | (self.demand[rows, :, k] > self.capacity[:, k] * _ROOM)
        return large

    @property
    def serve_first(self) -> bool:
        """Whether serving more agents, higher rank first, comes before any score."""
        return self.penalty is None

    @cached_property
    def slots(self) -> NDArray[np.int64]:
        """(m,) int64, slots of each model, at most the units of all agents. Only where agents take slots."""
        return np.minimum(self.capacity[:, 0], self.units).astype(np.int64)

    @cached_property
    def units(self) -> int:
        """Slots that all agents together ask for: n, unless rows stand for several or need several models."""
        return self.n if self.network is None else int(self.network.supply.sum())

    @cached_property
    def tiers(self) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
        """Model, cost per slot and slots of every tier, by model and then by cost. Only for slot instances.

        One free tier per model without a load cost. Tier k of t ends at the (k + 1)/t of the model's slots,
        rounded to whole slots.
        """
        total = self.capacity[:, 0]
        if self.load_cost is None:
            return np.arange(self.m), np.zeros(self.m), self.slots
        t = self.load_cost.shape[1]
        ends = np.minimum(np.rint(total[:, None] * (np.arange(1, t + 1) / t)), self.units).astype(np.int64)
        return (
            np.repeat(np.arange(self.m), t),
            self.load_cost.ravel(),
            np.diff(ends, axis=1, prepend=0).ravel(),
        )

    def load_charge(self, load: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what (m,) loads cost each model, the cheapest slots used first; zeros without a load cost."""
        if self.load_cost is None:
            return np.zeros(self.m)
        model, cost, slots = self.tiers
        t = self.load_cost.shape[1]
        before = (np.cumsum(slots.reshape(self.m, t), axis=1) - slots.reshape(self.m, t)).ravel()
        used = np.clip(load[model] - before, 0, slots)
        charge: NDArray[np.float64] = (used * cost).reshape(self.m, t).sum(axis=1)
        return charge

    @cached_property
    def forbids(self) -> bool:
        """Whether any pair is forbidden. :func:`build_instance` knows it from checking the scores."""
        if isinstance(self.score, CompressedScores):
            return len(self.score.data) < self.n * self.m
        return _extremes(self.score)[0] == -np.inf

    @cached_property
    def highest(self) -> float:
        """Largest score. :func:`build_instance` knows it from checking the scores."""
        return self.score_range[1]

    @cached_property
    def score_range(self) -> tuple[float, float]:
        """Smallest and largest finite score; (0, 0) when no pair is allowed. One pass, no full-size copy."""
        if isinstance(self.score, CompressedScores):
            data = self.score.data
            return (float(data.min()), float(data.max())) if len(data) else (0.0, 0.0)
        low, high = np.inf, -np.inf
        for rows in chunks(self.n, self.m):
            block = self.score[rows]
            high = max(high, float(block.max()))
            least = float(block.min())
            if least == -np.inf:
                least = float(block.min(initial=np.inf, where=block > -np.inf))
            low = min(low, least)
        return (low, high) if low <= high else (0.0, 0.0)

    @cached_property
    def may_leave(self) -> bool:
        """Whether an optimum of a slot instance may need to leave somebody unassigned.

        It does not where nothing is forbidden and there are slots enough, unless leaving costs less than the worst
        slot: whoever stays unassigned leaves one free. Nor where everyone must be served.
        """
        crowded = self.forbids or self.n > int(self.slots.sum())
        if self.penalty is None:
            return crowded
        if crowded:
            return bool(np.isfinite(self.penalty).any())
        dearest = 0.0 if self.load_cost is None else float(self.load_cost.max())
        return bool(self.penalty.min() < dearest - self.score_range[0])

    @cached_property
    def serve_step(self) -> float:
        """Step between the values of serving two neighbouring ranks in serve-first mode.

        Larger than anything a chain of re-assignments over all m models can gain, so that in a slot
        instance the maximum of (score + value of service) is the lexicographic maximum: the sets of agents
        that can be served together form a transversal matroid, whose best basis depends on the order of
        the weights alone (Edmonds and Fulkerson 1965). The factor 4 leaves room to read the score part of
        a price back out of it, see :meth:`score_prices`.
        """
        low, high = self.score_range
        dearest = 0.0 if self.load_cost is None else float(self.load_cost.max())
        step = 4.0 * (self.m + 1) * ((high - low + dearest) or 1.0)
        if self.network is not None and self.network.has_openings:
            # Opening models for one agent more may move all others: nothing all of them gain may outweigh it.
            step += 4.0 * self.units * (high - low) + 2.0 * float(self.network.opening_cost.sum())
        return step

    @cached_property
    def unserved(self) -> NDArray[np.float64]:
        """(n,) float64, value of leaving each agent unassigned, as every engine maximises it.

        ``-penalty`` where penalties are given; in serve-first mode low enough that service always wins.
        """
        if self.penalty is not None:
            return -self.penalty
        low, _ = self.score_range
        rank = np.zeros(1, np.int64) if self.rank is None else self.rank
        return np.broadcast_to(low - self.serve_step * (1.0 + rank), (self.n,))

    def score_prices(self, multipliers: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what one more unit adds to the score, given the multipliers of a certificate.

        They differ only in serve-first mode with too little capacity: there one more slot serves one more
        agent, which is worth ``serve_step`` or a multiple of it to the engines; the user asked for the
        score that this agent brings. Never negative.
        """
        if not self.prices_service(multipliers):
            return multipliers
        return np.maximum(self.slot_changes(multipliers)[0], 0.0)

    def prices_service(self, multipliers: NDArray[np.float64]) -> bool:
        """Whether multipliers of slots carry the value of serving one agent more."""
        slots = self.demand is None and self.limits is None
        return self.serve_first and slots and bool(multipliers.max(initial=0.0) > self.serve_step / 2)

    def slot_changes(self, multipliers: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return by how much one more slot changes the total score, and whether it serves one agent more.

        The change is negative where the agent that is served then costs more score than it brings. Where nobody
        more is served a slot is worth its price, or nothing to a model whose floor binds.
        """
        if not self.prices_service(multipliers):
            return np.maximum(multipliers, 0.0), np.zeros(multipliers.shape, bool)
        level = np.rint(multipliers / self.serve_step)
        more = level > 0
        low, _ = self.score_range
        part = multipliers - level * self.serve_step + np.where(more, low, 0.0)
        return np.where(more, part, np.maximum(part, 0.0)), more

    def scores_of(self, agents: NDArray[np.intp], models: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the float64 scores of some pairs, ``-inf`` where forbidden."""
        if isinstance(self.score, CompressedScores):
            return self.score[agents, models].astype(np.float64)
        # Flat indices take half the time of pairs.
        scores: NDArray[np.float64] = self.score.ravel()[agents * self.m + models].astype(np.float64)
        return scores

    def usage(self, choice: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the (m, r) float64 units used by an (n,) choice. O(n r)."""
        served = np.flatnonzero(choice != UNASSIGNED)
        models = choice[served]
        if self.demand is None:
            return np.bincount(models, minlength=self.m)[:, None].astype(np.float64)
        taken = self.demand[served, models]
        return np.stack(
            [np.bincount(models, weights=taken[:, k], minlength=self.m) for k in range(self.r)], axis=1
        )


def build_instance(
    scores: ArrayLike | SparseScores,
    capacity: ArrayLike,
    *,
    demand: ArrayLike | None = None,
    eligible: ArrayLike | None = None,
    priority: ArrayLike | None = None,
    unassigned_penalty: ArrayLike | None = None,
    limits: Sequence[Limit] = (),
    load_cost: ArrayLike | None = None,
    min_load: ArrayLike | None = None,
    min_load_if_open: ArrayLike | None = None,
    opening_cost: ArrayLike | None = None,
    copies: ArrayLike | None = None,
    count: ArrayLike | None = None,
    sense: str = "maximize",
) -> Instance:
    """Check plain arrays and freeze them into an :class:`Instance`.

    Parameters
    ----------
    scores : (n, m) array_like of float
        Higher is better; ``-inf`` forbids the pair. float32 and float64 in C order are not copied. Of a
        sparse matrix (any of scipy's formats) the stored entries are the allowed pairs, zeros included; it stays
        compressed if it is large and thin and agents take slots.
    capacity : (m,) or (m, r) array_like
        Units each model has left; whole numbers when agents take slots.
    demand : (n,), (n, r), (n, m) or (n, m, r) array_like, optional
        Units taken; None means one slot each. With r = m, a two-dimensional demand is read as (n, m)
        unless capacity is two-dimensional.
    eligible : (n, m) array_like of bool, optional
        False forbids the pair.
    priority : (n,) array_like, optional
        Higher is served first when not all fit. With a finite ``unassigned_penalty`` it multiplies each
        agent's penalty instead (and must not be negative).
    unassigned_penalty : float or (n,) array_like, optional
        None: serve as many as possible first. A number: refuse when cheaper. ``inf``: all or infeasible.
    limits : sequence of Limit, optional
        Couplings across models; stay-put costs are taken off the scores.
    load_cost : (t,) or (m, t) array_like, optional
        What a slot costs, in score, in each of t equal tiers of a model's capacity: non-negative and
        non-decreasing, so that the optimum itself spreads the load. Only where agents take slots.
    min_load : int or (m,) array_like, optional
        Floors: units of its capacity that each model must use.
    min_load_if_open : int or (m,) array_like, optional
        Floors that count only for models that serve anybody. Only where agents take slots.
    opening_cost : float or (m,) array_like, optional
        What a model that serves anybody costs, in score, >= 0. Only where agents take slots.
    copies : int or (n,) array_like, optional
        Different models that each agent needs. Only where agents take slots.
    count : int or (n,) array_like, optional
        Equal agents that each row stands for. Only where agents take slots.
    sense : {"maximize", "minimize"}
        With ``minimize`` scores are costs, and ``+inf`` forbids the pair; the instance holds them negated.

    Returns
    -------
    Instance

    Raises
    ------
    SpecError
        Listing every rule broken, with path and value.
    """
    problems: list[Violation] = []
    given: Any = limits
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise SpecError(Violation("limits", "expected a sequence of limits", given, kind=ViolationKind.TYPE))
    limits = tuple(given)
    minimize = sense == "minimize"
    if sense not in SENSES:
        problems.append(Violation("sense", f"expected {' or '.join(SENSES)}", sense))
    score, extremes = _scores(scores, problems, minimize=minimize)
    n, m = score.shape
    if isinstance(score, CompressedScores) and not problems:
        plain = demand is None and eligible is None and not limits
        if not (plain and _is_worth_compressing(score)):
            score = np.asarray(score)
            extremes = _extremes(score)
    units = _capacity(capacity, m, problems)
    taken = None if demand is None else _demand(demand, n, m, units, _dimensions(capacity), problems)
    if taken is None and not problems:
        if units.shape[1] != 1:
            problems.append(
                Violation(
                    "demand", "expected one amount per resource", shown=f"None for {units.shape[1]} resources"
                )
            )
        fractional = units[:, 0] != np.floor(units[:, 0])
        if fractional.any():
            problems.extend(
                Violation(
                    f"capacity[{j}]",
                    "expected a whole number of slots",
                    units[j, 0],
                    shown=f"{units[j, 0]:g}",
                )
                for j in np.flatnonzero(fractional)[:_NAMED]
            )
    if eligible is not None:
        masked = isinstance(eligible, np.ma.MaskedArray) and np.ma.getmaskarray(eligible).any()
        try:
            allowed = np.asarray(eligible)
        except ValueError:
            allowed = np.zeros(0)
        if masked:
            problems.append(Violation("eligible", "expected no masked entries"))
        elif allowed.shape != (n, m) or allowed.dtype != np.bool_:
            problems.append(
                Violation(
                    "eligible",
                    f"expected bools of shape {(n, m)}",
                    allowed.dtype,
                    shown=f"{allowed.dtype} of shape {allowed.shape}",
                    kind=ViolationKind.TYPE,
                )
            )
        elif not problems:
            score = np.where(allowed, np.asarray(score), score.dtype.type(-np.inf))
            extremes = None
    order = _vector("priority", priority, n, problems)
    if order is not None and not np.isfinite(order).all():
        i = int(np.flatnonzero(~np.isfinite(order))[0])
        problems.append(Violation(f"priority[{i}]", "expected a finite number", order[i]))
    penalty = _vector("unassigned_penalty", unassigned_penalty, n, problems)
    if penalty is not None and not (penalty >= 0).all():
        i = int(np.flatnonzero(~(penalty >= 0))[0])
        problems.append(Violation(f"unassigned_penalty[{i}]", "expected >= 0", penalty[i]))
    if penalty is not None and order is not None and not problems and np.isfinite(penalty).any():
        if (order < 0).any():
            i = int(np.flatnonzero(order < 0)[0])
            problems.append(
                Violation(f"priority[{i}]", "expected >= 0 where it multiplies a penalty", order[i])
            )
        with np.errstate(over="ignore"):
            charged = np.multiply(penalty, order, out=penalty.copy(), where=np.isfinite(penalty))
        large = np.flatnonzero(np.isfinite(penalty) & (charged > LARGEST))
        if len(large):
            i = int(large[0])
            rule = f"expected at most {LARGEST:g} times its priority"
            problems.append(Violation(f"unassigned_penalty[{i}]", rule, charged[i]))
        penalty = charged
    tiers = None if load_cost is None else _load_cost(load_cost, m, problems)
    if tiers is not None and taken is not None:
        problems.append(Violation("load_cost", "expected agents that take one slot each", shown="a demand"))
    network, floors = network_shape(
        n,
        m,
        min_load=min_load,
        min_load_if_open=min_load_if_open,
        opening_cost=opening_cost,
        copies=copies,
        count=count,
        others={"demand": taken is not None, "limits": bool(limits), "load_cost": tiers is not None},
        problems=problems,
    )
    if problems:
        raise SpecError(*problems)
    rank = None
    if order is not None and penalty is None and order.min() < order.max():
        rank = np.unique(order, return_inverse=True)[1].astype(np.int64)
    if rank is not None and network is not None and network.has_openings:
        raise SpecError(
            Violation(
                "priority",
                "expected an unassigned_penalty with it where models are opened at a cost or with a floor",
            )
        )
    rows, charge = compile_limits((*limits, *floor_limits(floors, taken)), n, m)
    if charge is not None:
        score = np.asarray(score) - charge
        extremes = None
    if rows is not None and tiers is not None:
        raise SpecError(Violation("load_cost", "expected none together with limits across models"))
    instance = Instance(
        score=score,
        capacity=units,
        demand=taken,
        penalty=penalty,
        rank=rank,
        limits=rows,
        load_cost=tiers,
        network=network,
        sense="minimize" if minimize else "maximize",
    )
    # Fills cached properties: another look at a large matrix costs a tenth of a solve.
    if extremes is not None:
        vars(instance)["forbids"] = extremes[0] == -np.inf
        vars(instance)["highest"] = extremes[1]
        if extremes[0] > -np.inf:
            vars(instance)["score_range"] = extremes
    if max(map(abs, instance.score_range)) > LARGEST:
        raise SpecError(
            f"scores: expected at most {LARGEST:g} in size, got {_largest(instance.score_range):g}"
        )
    return instance


def _largest(extremes: tuple[float, float]) -> float:
    """Return the one of the two that is larger in size."""
    return max(extremes, key=abs)


def _extremes(array: NDArray[Any]) -> tuple[float, float]:
    """Return the least and the largest entry, NaN if there is one, reading memory once."""
    low, high = np.inf, -np.inf
    for rows in chunks(*array.shape):
        block = array[rows]
        low = min(low, float(block.min()))
        largest = float(block.max())
        if not largest < np.inf:
            return low, largest
        high = max(high, largest)
    return low, high


def _numbers(name: str, values: ArrayLike, problems: list[Violation]) -> NDArray[Any]:
    """Return values as a float array (float32 is kept), or note why not."""
    array = real_array(name, values, problems)
    return np.zeros((1, 1)) if array is None else array


def _dimensions(values: ArrayLike) -> int:
    """Return the number of dimensions, 0 where there is no telling."""
    try:
        return int(np.ndim(values))
    except ValueError:
        return 0


def _too_large(name: str, array: NDArray[Any], problems: list[Violation]) -> None:
    """Note a finite number whose sums or products may overflow."""
    size = np.abs(array)
    wrong = np.argwhere(np.isfinite(size) & (size > LARGEST))
    if len(wrong):
        index = ", ".join(map(str, wrong[0]))
        where = f"{name}[{index}]" if index else name
        problems.append(
            Violation(where, f"expected at most {LARGEST:g} in size", shown=f"{array[tuple(wrong[0])]:g}")
        )


def _scores(
    scores: ArrayLike | SparseScores, problems: list[Violation], *, minimize: bool = False
) -> tuple[NDArray[Any] | CompressedScores, tuple[float, float] | None]:
    """Return checked scores to be maximised, the least and the largest of them."""
    if hasattr(scores, "tocsr"):
        rows = cast("SparseScores", scores).tocsr()
        if len(rows.shape) != 2 or 0 in rows.shape:
            return _shaped(np.zeros(rows.shape), problems), None
        data = _numbers("scores", rows.data[: rows.indptr[-1]], problems)
        if problems:
            return np.zeros((1, 1)), None
        data = np.negative(data) if minimize else data
        found = len(problems)
        compressed = compress(data, rows.indices[: len(data)], rows.indptr, rows.shape, problems)
        if minimize:
            problems[found:] = _as_costs(problems[found:])
        return compressed, None
    array = _numbers("scores", scores, problems)
    if problems:
        return array, None
    array = _shaped(array, problems)
    if problems:
        return array, None
    if minimize:
        array = np.negative(array)
    least, largest = _extremes(array)
    if not largest < np.inf:  # a maximum carries both NaN and +inf
        bad = np.flatnonzero(~(array < np.inf))
        name_unfit(bad, array.ravel()[bad], array.shape[1], problems)
        if minimize:
            problems[:] = _as_costs(problems)
    return np.ascontiguousarray(array), (least, largest)


def _as_costs(lines: list[Violation]) -> list[Violation]:
    """Return what is wrong with negated costs in terms of the costs."""
    found = []
    for line in lines:
        rule = line.rule.replace("number or -inf", "number or +inf").replace("NaN or +inf", "NaN or -inf")
        if isinstance(line.value, float):
            found.append(Violation(line.path, rule, -line.value, kind=line.kind))
        else:
            found.append(Violation(line.path, rule, shown=line.shown, kind=line.kind))
    return found


def _shaped(array: NDArray[Any], problems: list[Violation]) -> NDArray[Any]:
    """Return scores of agents and models, or a stand-in and a note of what is wrong with their shape."""
    if array.ndim != 2:
        problems.append(
            Violation(
                "scores",
                "expected shape (agents, models)",
                shown=f"shape {array.shape}",
                kind=ViolationKind.TYPE,
            )
        )
        return np.zeros((1, 1))
    n, m = array.shape
    if n == 0 or m == 0:
        what = "agent (row)" if n == 0 else "model (column)"
        problems.append(
            Violation(
                "scores",
                f"expected at least one {what}",
                shown=f"shape {array.shape}",
                kind=ViolationKind.TYPE,
            )
        )
        return np.zeros((max(n, 1), max(m, 1)))
    return array


def _is_worth_compressing(score: CompressedScores) -> bool:
    n, m = score.shape
    return n * m > _SPREAD_PAIRS and _THIN * len(score.data) < n * m


def _capacity(capacity: ArrayLike, m: int, problems: list[Violation]) -> NDArray[np.float64]:
    array = _numbers("capacity", capacity, problems).astype(np.float64)
    if array.ndim not in (1, 2) or array.shape[0] != m or array.size == 0:
        if not problems:
            problems.append(
                Violation(
                    "capacity",
                    f"expected shape ({m},) or ({m}, resources)",
                    shown=f"shape {array.shape}",
                    kind=ViolationKind.TYPE,
                )
            )
        return np.zeros((m, 1))
    units = array.reshape(m, -1)
    if units.min() >= 0 and units.max() <= MAX_CAPACITY:
        return units
    for j, k in np.argwhere(~((units >= 0) & (units <= MAX_CAPACITY)))[:_NAMED]:
        where = f"capacity[{j}]" if array.ndim == 1 else f"capacity[{j}, {k}]"
        problems.append(Violation(where, "expected between 0 and 2**53", units[j, k]))
    return units


def _demand(
    demand: ArrayLike,
    n: int,
    m: int,
    units: NDArray[np.float64],
    capacity_ndim: int,
    problems: list[Violation],
) -> NDArray[np.float64] | None:
    """Return demand as an (n, m, r) view, or None when it says one slot each."""
    before = len(problems)
    array = _numbers("demand", demand, problems).astype(np.float64, copy=False)
    _too_large("demand", array, problems)
    if len(problems) > before:
        return None
    r = units.shape[1]
    if array.shape == (n,) and r == 1:
        view = array[:, None, None]
    elif array.shape == (n, m) and r == 1:
        view = array[:, :, None]
    elif array.shape == (n, r) and capacity_ndim == 2:
        view = array[:, None, :]
    elif array.shape == (n, m, r):
        view = array
    else:
        shapes = f"({n},), ({n}, {m})" if r == 1 else f"({n}, {r})"
        problems.append(
            Violation(
                "demand",
                f"expected shape {shapes} or ({n}, {m}, {r})",
                shown=f"shape {array.shape}",
                kind=ViolationKind.TYPE,
            )
        )
        return None
    if not (np.isfinite(array) & (array >= 0)).all():
        for where in np.argwhere(~(np.isfinite(array) & (array >= 0)))[:_NAMED]:
            index = ", ".join(map(str, where))
            problems.append(
                Violation(f"demand[{index}]", "expected a finite number >= 0", array[tuple(where)])
            )
        return None
    whole = r == 1 and (units == np.floor(units)).all()
    if whole and (array == 1).all():
        return None
    return np.broadcast_to(view, (n, m, r))


def _load_cost(values: ArrayLike, m: int, problems: list[Violation]) -> NDArray[np.float64] | None:
    before = len(problems)
    array = _numbers("load_cost", values, problems).astype(np.float64)
    _too_large("load_cost", array, problems)
    if len(problems) > before:
        return None
    if array.ndim not in (1, 2) or array.size == 0 or (array.ndim == 2 and array.shape[0] != m):
        problems.append(
            Violation(
                "load_cost",
                f"expected shape (tiers,) or ({m}, tiers)",
                shown=f"shape {array.shape}",
                kind=ViolationKind.TYPE,
            )
        )
        return None
    cost = np.broadcast_to(np.atleast_2d(array), (m, array.shape[-1]))
    wrong = ~(np.isfinite(cost) & (cost >= 0))
    wrong[:, 1:] |= np.diff(cost, axis=1) < 0
    problems.extend(
        Violation(f"load_cost[{j}, {k}]", "expected finite, >= 0 and not below the tier before", cost[j, k])
        for j, k in np.argwhere(wrong)[:_NAMED]
    )
    return cost


def _vector(
    name: str, values: ArrayLike | None, n: int, problems: list[Violation]
) -> NDArray[np.float64] | None:
    if values is None:
        return None
    before = len(problems)
    array = _numbers(name, values, problems).astype(np.float64)
    _too_large(name, array, problems)
    if len(problems) > before:
        return None
    if array.shape not in ((), (n,)):
        problems.append(
            Violation(name, f"expected shape ({n},)", shown=f"shape {array.shape}", kind=ViolationKind.TYPE)
        )
        return None
    return np.broadcast_to(array, (n,))
