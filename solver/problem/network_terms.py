"""Floors, copies, counts and openings as given: checked, and as the shape of a network or as limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.errors import Violation
from solver.problem.limit_kinds import Quota
from solver.problem.network import NetworkShape
from solver.problem.numbers import readable, wrong_shape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    from solver.problem.limit_kinds import Limit

_MAX_UNITS = 2**40
"""Units of all agents together at most: whole numbers stay exact in float64 and in the flow's int64."""

_MAX_NAMED = 5
"""Offending entries spelled out for each rule."""

_MAX_CHOICES = 100_000_000  # agents · most copies: entries of a choice, 800 MB


def network_shape(
    n: int,
    m: int,
    *,
    min_load: ArrayLike | None,
    min_load_if_open: ArrayLike | None,
    opening_cost: ArrayLike | None,
    copies: ArrayLike | None,
    count: ArrayLike | None,
    others: Mapping[str, bool],
    problems: list[Violation],
) -> tuple[NetworkShape | None, NDArray[np.float64] | None]:
    """Check what makes an instance a network, and what it can be combined with.

    Parameters
    ----------
    n, m : int
        Agents and models.
    min_load, min_load_if_open, opening_cost, copies, count : array_like or None
        As in :func:`solver.problem.build.build_instance`.
    others : mapping of str to bool
        Whether the instance has ``demand``, ``limits`` and ``load_cost``.
    problems : list of str
        Gains a line per rule broken.

    Returns
    -------
    shape : NetworkShape or None
        None when there is nothing of the kind.
    floors : (m,) float64 or None
        Floors that have to become limit rows, where there is a demand or there are other limits.
    """
    coupled = others["demand"] or others["limits"]
    floor = _whole("min_load", min_load, m, problems, whole=not others["demand"])
    if_open = _whole("min_load_if_open", min_load_if_open, m, problems)
    cost = _whole("opening_cost", opening_cost, m, problems, whole=False)
    depth = _whole("copies", copies, n, problems, least=1)
    width = _whole("count", count, n, problems, least=1)
    given = {"min_load_if_open": if_open, "opening_cost": cost, "copies": depth, "count": width}
    problems += _unsupported_together(given, others)
    if depth is not None and n * float(depth.max(initial=1)) > _MAX_CHOICES:
        most = max(1, _MAX_CHOICES // n)
        problems.append(Violation("copies", f"expected at most {most:,} each", float(depth.max())))
    if problems:
        return None, None
    floors_matter = floor is not None and bool(floor.any())
    if coupled:
        return None, floor if floors_matter else None
    opens = any(values is not None and values.any() for values in (if_open, cost))
    if not (floors_matter or opens or depth is not None or width is not None):
        return None, None
    zeros = np.zeros(m)
    shape = NetworkShape(
        floor=(zeros if floor is None else floor).astype(np.int64),
        floor_if_open=(zeros if if_open is None else if_open).astype(np.int64),
        opening_cost=zeros if cost is None else cost,
        copies=None if depth is None else depth.astype(np.int64),
        count=None if width is None else width.astype(np.int64),
        agents=n,
    )
    total = float((shape.width.astype(np.float64) * shape.depth).sum())
    if total > _MAX_UNITS:
        problems.append(
            Violation(
                "count",
                f"expected at most {_MAX_UNITS:,} units of all agents together",
                total,
                shown=f"{total:,.0f}",
            )
        )
        return None, None
    return shape, None


def _unsupported_together(
    given: Mapping[str, NDArray[np.float64] | None], others: Mapping[str, bool]
) -> list[Violation]:
    """Return a violation per argument that is not supported beside what else the instance has."""
    broken = []
    for name, values in given.items():
        clashes = [other for other in ("demand", "limits") if others[other]]
        if name in ("min_load_if_open", "opening_cost") and others["load_cost"]:
            clashes.append("load_cost")
        if values is not None and clashes and values.any():
            rule = f"expected none together with {' and '.join(clashes)}, which is not supported"
            broken.append(Violation(name, rule))
    return broken


def floor_limits(floors: NDArray[np.float64] | None, demand: NDArray[np.float64] | None) -> tuple[Limit, ...]:
    """Return floors as limits, for instances that have a demand or limits of other kinds.

    Parameters
    ----------
    floors : (m,) float64 or None
        Units of the first resource that each model must use.
    demand : (n, m, r) float64 or None
        Units taken; None for one slot each.
    """
    if floors is None:
        return ()
    return tuple(
        Quota(
            name=f"min_load[{j}]",
            models=[int(j)],
            at_least=float(floors[j]),
            use=None if demand is None else demand[:, :, 0],
        )
        for j in np.flatnonzero(floors)
    )


def _whole(
    name: str,
    values: ArrayLike | None,
    size: int,
    problems: list[Violation],
    *,
    whole: bool = True,
    least: int = 0,
) -> NDArray[np.float64] | None:
    """Return a (size,) vector of numbers >= ``least``, or note what is wrong with it."""
    if values is None:
        return None
    kind = "whole numbers" if whole else "finite numbers"
    given = readable(values)
    if given is None or given.dtype.kind not in "iuf":
        problems.append(
            Violation(name, f"expected {kind}, one or {size} of them", values, shown=f"{values!r:.60}")
        )
        return None
    array = given.astype(np.float64)
    if array.shape not in ((), (size,)):
        problems.append(wrong_shape(name, f"({size},)", array.shape))
        return None
    array = np.broadcast_to(array, (size,))
    good = np.isfinite(array) & (array >= least) & (array <= _MAX_UNITS)
    if whole:
        good &= np.floor(array) == array
    for i in np.flatnonzero(~good)[:_MAX_NAMED]:
        where = f"{name}[{i}]" if given.ndim else name
        rule = "whole number" if whole else "finite number"
        problems.append(
            Violation(where, f"expected a {rule} from {least} to 2**40", array[i], shown=f"{array[i]:g}")
        )
        if not given.ndim:
            break
    return array
