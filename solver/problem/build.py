"""Builds a checked :class:`~solver.problem.instance.Instance` from plain arrays: every rule about arrays is here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import SpecError, Violation, wrong_type
from solver.problem.instance import MAX_CAPACITY, Instance
from solver.problem.limit_row_assembly import compile_limits
from solver.problem.network_terms import floor_limits, network_shape
from solver.problem.numbers import LARGEST, finite_array, readable, real_array, wrong_shape
from solver.problem.score_arrays import eligible_scores, read_scores, too_large_scores

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    from solver.problem.limit_kinds import Limit
    from solver.problem.score_arrays import SparseScores

SENSES = ("maximize", "minimize")
"""Whether scores are to be maximised, or are costs."""

_MAX_NAMED = 5
"""Offending entries that are spelled out for each rule."""


def build_instance(
    scores: ArrayLike | SparseScores | Iterator[Any],
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
        compressed if it is large and thin and agents take slots. An iterator of chunks of rows is joined.
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
        Floors that count only for models that serve an agent. Only where agents take slots.
    opening_cost : float or (m,) array_like, optional
        Fixed cost of a model that serves an agent, in score, >= 0. Only where agents take slots.
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
    limits = _sequence(limits)
    minimize = _minimizes(sense, problems)
    plain = demand is None and eligible is None and not limits
    score, known = read_scores(scores, problems, minimize=minimize, keep_sparse=plain)
    n, m = score.shape
    units = _capacity(capacity, m, problems)
    taken = None if demand is None else _demand(demand, n, m, units, _dimensions(capacity), problems)
    if taken is None and not problems:
        problems += _broken_slot_rules(units)
    if eligible is not None:
        score, known = eligible_scores(score, eligible, problems), None
    order = _priority(priority, n, problems)
    penalty = _penalty(unassigned_penalty, order, n, problems)
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
    rank = _ranks(order) if penalty is None else None
    if rank is not None and network is not None and network.has_openings:
        rule = "expected an unassigned_penalty with it where models are opened at a cost or with a floor"
        raise SpecError(Violation("priority", rule))
    rows, charge = compile_limits((*limits, *floor_limits(floors, taken)), n, m)
    if charge is not None:
        score, known = np.asarray(score) - charge, None
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
        sense=sense,
    )
    if known is not None:
        instance.remember_extremes(*known)
    too_large = too_large_scores(instance.score_range)
    if too_large is not None:
        raise SpecError(too_large)
    return instance


def _minimizes(sense: object, problems: list[Violation]) -> bool:
    """Return whether scores are costs, or note that the sense is none."""
    if isinstance(sense, str) and sense in SENSES:
        return sense == "minimize"
    problems.append(Violation("sense", f"expected {' or '.join(SENSES)}", sense))
    return False


def _sequence(limits: Any) -> tuple[Limit, ...]:
    """Return the limits as a tuple; a :class:`SpecError` where they are no sequence."""
    if isinstance(limits, tuple):
        return limits
    if isinstance(limits, Iterable) and not isinstance(limits, (str, bytes)):
        try:
            return tuple(limits)
        except (TypeError, RuntimeError):  # arrays without dimensions claim to be iterable
            pass
    raise SpecError(wrong_type("limits", "expected a sequence of limits", limits))


def _dimensions(values: ArrayLike) -> int:
    """Return the number of dimensions, 0 where it cannot be told."""
    array = readable(values)
    return 0 if array is None else array.ndim


def _broken_slot_rules(units: NDArray[np.float64]) -> list[Violation]:
    """Return what is wrong with (m, r) capacities where every agent takes one slot."""
    found = []
    if units.shape[1] != 1:
        rule = "expected one amount per resource"
        found.append(Violation("demand", rule, shown=f"None for {units.shape[1]} resources"))
    one = units[:, 0]
    fractional = np.flatnonzero(one != np.floor(one))
    rule = "expected a whole number of slots"
    found += [
        Violation(f"capacity[{j}]", rule, units[j, 0], shown=f"{units[j, 0]:g}")
        for j in fractional[:_MAX_NAMED]
    ]
    return found


def _capacity(capacity: ArrayLike, m: int, problems: list[Violation]) -> NDArray[np.float64]:
    """Return (m, r) capacities, or a stand-in and a note of what is wrong with them."""
    array = real_array("capacity", capacity, problems)
    if array is None:
        return np.zeros((m, 1))
    array = array.astype(np.float64)
    if array.ndim not in (1, 2) or array.shape[0] != m or array.size == 0:
        if not problems:
            problems.append(wrong_shape("capacity", f"({m},) or ({m}, resources)", array.shape))
        return np.zeros((m, 1))
    units = array.reshape(m, -1)
    if units.min() >= 0 and units.max() <= MAX_CAPACITY:
        return units
    wrong = ~((units >= 0) & (units <= MAX_CAPACITY))
    for j, k in np.argwhere(wrong)[:_MAX_NAMED]:
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
    """Return demand as an (n, m, r) view, or None when every agent takes one slot."""
    array = finite_array("demand", demand, problems)
    if array is None:
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
        problems.append(wrong_shape("demand", f"{shapes} or ({n}, {m}, {r})", array.shape))
        return None
    good = np.isfinite(array) & (array >= 0)
    if not good.all():
        for where in np.argwhere(~good)[:_MAX_NAMED]:
            index = ", ".join(map(str, where))
            rule = "expected a finite number >= 0"
            problems.append(Violation(f"demand[{index}]", rule, array[tuple(where)]))
        return None
    whole = r == 1 and (units == np.floor(units)).all()
    if whole and (array == 1).all():
        return None
    return np.broadcast_to(view, (n, m, r))


def _priority(values: ArrayLike | None, n: int, problems: list[Violation]) -> NDArray[np.float64] | None:
    """Return (n,) finite priorities, None where there are none or something is wrong with them."""
    order = _vector("priority", values, n, problems)
    if order is not None and not np.isfinite(order).all():
        i = int(np.flatnonzero(~np.isfinite(order))[0])
        problems.append(Violation(f"priority[{i}]", "expected a finite number", order[i]))
    return order


def _ranks(priority: NDArray[np.float64] | None) -> NDArray[np.int64] | None:
    """Return dense ranks, 0 for the lowest priority; None where all are the same."""
    if priority is None or priority.min() == priority.max():
        return None
    return np.unique(priority, return_inverse=True)[1].astype(np.int64)


def _penalty(
    values: ArrayLike | None, priority: NDArray[np.float64] | None, n: int, problems: list[Violation]
) -> NDArray[np.float64] | None:
    """Return (n,) penalties of leaving agents unassigned, finite ones times the agent's priority."""
    penalty = _vector("unassigned_penalty", values, n, problems)
    if penalty is None:
        return None
    if not (penalty >= 0).all():
        i = int(np.flatnonzero(~(penalty >= 0))[0])
        problems.append(Violation(f"unassigned_penalty[{i}]", "expected >= 0", penalty[i]))
    finite = np.isfinite(penalty)
    if priority is None or problems or not finite.any():
        return penalty
    if (priority < 0).any():
        i = int(np.flatnonzero(priority < 0)[0])
        rule = "expected >= 0 where it multiplies a penalty"
        problems.append(Violation(f"priority[{i}]", rule, priority[i]))
    with np.errstate(over="ignore"):
        charged = np.multiply(penalty, priority, out=penalty.copy(), where=finite)
    large = np.flatnonzero(finite & (charged > LARGEST))
    if len(large):
        i = int(large[0])
        rule = f"expected at most {LARGEST:g} times its priority"
        problems.append(Violation(f"unassigned_penalty[{i}]", rule, charged[i]))
    return charged


def _load_cost(values: ArrayLike, m: int, problems: list[Violation]) -> NDArray[np.float64] | None:
    """Return (m, t) costs of a slot in each tier, or note what is wrong with them."""
    array = finite_array("load_cost", values, problems)
    if array is None:
        return None
    if array.ndim not in (1, 2) or array.size == 0 or (array.ndim == 2 and array.shape[0] != m):
        problems.append(wrong_shape("load_cost", f"(tiers,) or ({m}, tiers)", array.shape))
        return None
    cost = np.broadcast_to(np.atleast_2d(array), (m, array.shape[-1]))
    wrong = ~(np.isfinite(cost) & (cost >= 0))
    wrong[:, 1:] |= cost[:, 1:] < cost[:, :-1]
    problems.extend(
        Violation(f"load_cost[{j}, {k}]", "expected finite, >= 0 and not below the tier before", cost[j, k])
        for j, k in np.argwhere(wrong)[:_MAX_NAMED]
    )
    return cost


def _vector(
    name: str, values: ArrayLike | None, n: int, problems: list[Violation]
) -> NDArray[np.float64] | None:
    """Return one number per agent, given one for all or one each; None where there is none."""
    array = None if values is None else finite_array(name, values, problems)
    if array is None:
        return None
    if array.shape not in ((), (n,)):
        problems.append(wrong_shape(name, f"({n},)", array.shape))
        return None
    return np.broadcast_to(array, (n,))
