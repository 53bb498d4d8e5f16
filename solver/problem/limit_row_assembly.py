"""Compiles limits on arrays into the coupling rows that engines read."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from solver.errors import SpecError, Violation, ViolationKind
from solver.problem.limit_kinds import Limit, StayPut, Together
from solver.problem.limit_layers import packed_layers
from solver.problem.limit_rows import LimitRows, RowNames
from solver.problem.limit_scope import LimitScope, RowPiece

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def compile_limits(
    limits: Sequence[Limit], n: int, m: int
) -> tuple[LimitRows | None, NDArray[np.float64] | None]:
    """Compile limits for an instance of n agents and m models.

    Returns
    -------
    rows : LimitRows or None
        None when no limit needs rows or ties agents together.
    charge : (n, m) float64 or None
        What stay-put costs take off the scores.

    Raises
    ------
    SpecError
        Listing every rule broken by every limit.
    """
    problems: list[Violation] = []
    pieces: list[RowPiece] = []
    charge: NDArray[np.float64] | None = None
    together: list[tuple[str, NDArray[np.int64]]] = []
    all_agents = np.arange(n)
    for position, limit in enumerate(limits):
        if not isinstance(limit, Limit):
            problems.append(
                Violation(
                    f"limits[{position}]",
                    "expected a Limit",
                    shown=f"{type(limit).__name__}",
                    kind=ViolationKind.TYPE,
                )
            )
            continue
        scope = LimitScope(limit, position, n, m, all_agents)
        price = getattr(limit, "violation_price", None)
        if price is not None:
            scope.not_negative("violation_price", price)
        made = [] if scope.problems else limit.pieces(scope)
        problems += scope.problems
        if scope.problems:
            continue
        pieces += made if price is None else [replace(one, violation_price=float(price)) for one in made]
        if isinstance(limit, StayPut):
            extra = limit.charge(scope)
            charge = extra if charge is None else charge + extra
        elif isinstance(limit, Together):
            together.append((limit.name, scope.agents))
    taken = np.zeros(n, bool)
    for name, group in together:
        if taken[group].any():
            problems.append(
                Violation(
                    f"limits ({name}).agents", "expected agents of no other group", group[taken[group]][0]
                )
            )
        taken[group] = True
    if problems:
        raise SpecError(*problems)
    if not pieces and not together:
        return None, charge
    return (
        LimitRows(
            names=RowNames([(piece.name, piece.models) for piece in pieces]),
            bound=_of_rows(pieces, [piece.bound for piece in pieces]),
            layers=packed_layers(pieces, n, m),
            violation_price=_violation_prices(pieces),
            together=tuple(group for _, group in together),
            together_names=tuple(name for name, _ in together),
        ),
        charge,
    )


def _violation_prices(pieces: Sequence[RowPiece]) -> NDArray[np.float64] | None:
    """Return the price of a unit beyond the bound of each row, ``inf`` where it must hold; None where all must."""
    if all(one.violation_price == np.inf for one in pieces):
        return None
    return _of_rows(pieces, [one.violation_price for one in pieces])


def _of_rows(pieces: Sequence[RowPiece], values: Sequence[float]) -> NDArray[np.float64]:
    """Return one value of each piece for each of its rows."""
    return np.repeat(np.array(values, np.float64), [one.count for one in pieces])
