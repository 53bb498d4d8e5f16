"""Variants that a simulation is compared with: another fleet on the same traffic, or another policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from solver.errors import SpecError
from solver.interfaces.simulation.fleet_file import read_fleet
from solver.interfaces.simulation.what_if import changed_fleet
from solver.simulate.servers import Fleet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from solver.interfaces.files.sources import Reading
    from solver.interfaces.simulation.what_if import Change
    from solver.problem.spec import Model
    from solver.simulate.servers import ServerParams

_DEFAULT_POLICIES = (
    "weighted-optimal,optimal-router,blind-greedy,least-tokens,route-balance,round-robin,random"
)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Another fleet to replay the same traffic on, and what it is called; without a fleet there is none."""

    fleet: Fleet | None = None
    label: str = ""
    base: Fleet | None = None
    base_label: str = ""


def variant_of(
    compare: str | None,
    policies: str | None,
    params: ServerParams,
    reading: Reading,
    changes: Sequence[Change],
    models: Sequence[Model],
) -> tuple[Variant, list[str]]:
    """Return the other fleet, and the policies to run.

    Parameters
    ----------
    compare : str or None
        Two policies or two fleet files, separated by a comma.
    policies : str or None
        Names, separated by commas; None: the default ones, or those that ``compare`` names alone. Two policies to be
        compared come first.
    params : ServerParams
        Of both fleets.
    reading : Reading
        Encoding and dialect of fleet files.
    changes : sequence of Change
        What is different on the other fleet.
    models : sequence of Model
        The fleet that changes are applied to.

    Raises
    ------
    SpecError
        If both ways of naming another fleet are used, or ``compare`` does not name two things.
    """
    names = [
        name.strip()
        for name in (_DEFAULT_POLICIES if policies is None else policies).split(",")
        if name.strip()
    ]
    if changes:
        defaults = {
            "latency_s": params.latency_s,
            "output_tokens_per_second": params.output_tokens_per_second,
        }
        changed = Fleet(changed_fleet(models, changes, defaults), params)
        if compare is not None:
            raise SpecError("compare: expected either --compare or --what-if, got both")
        return Variant(fleet=changed, label=", ".join(change.text for change in changes)), names
    if compare is None:
        return Variant(), names
    parts = [part.strip() for part in compare.split(",") if part.strip()]
    if len(parts) != 2:
        raise SpecError(f"compare: expected two policies or two fleet files, A,B, got {compare!r}")
    if any(Path(part).suffix and Path(part).is_file() for part in parts):
        first, second = (Fleet(read_fleet(Path(part), reading), params) for part in parts)
        return Variant(fleet=second, label=parts[1], base=first, base_label=parts[0]), names
    others = [] if policies is None else [name for name in names if name not in parts]
    return Variant(), parts + others
