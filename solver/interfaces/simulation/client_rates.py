"""Tables of client rates, as ServeGen publishes them: a row per client and window."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.errors import SpecError, Violation
from solver.interfaces.simulation.cells import cells_of, numbers_of
from solver.problem.values import unknown_name
from solver.simulate.traffic_generators import ClientRate, generate_clients

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from solver.interfaces.files.sources import Reading
    from solver.interfaces.files.tables import Table
    from solver.simulate.traffic import Traffic

_COLUMNS = ("client", "t_s", "rate_per_s", "cv", "family")
_MANY = 10_000  # requests where none are asked for


def is_client_table(table: Table) -> bool:
    """Return whether a table holds rates of clients rather than requests."""
    return set(_COLUMNS) <= set(table.columns)


def client_traffic(
    path: Path, table: Table, reading: Reading, *, model: str | None, requests: int | None
) -> Callable[[int], Traffic]:
    """Return what gives the traffic of a seed: clients from a random window on.

    Parameters
    ----------
    path : Path
        For messages.
    table : Table
        Columns ``client``, ``t_s``, ``rate_per_s``, ``cv``, ``family``, and perhaps ``model``.
    reading : Reading
        Where notes go.
    model : str, optional
        Whose clients; default: the model with the most traffic.
    requests : int, optional
        How many, 10,000 by default.

    Raises
    ------
    SpecError
        When a figure is missing or negative, a family unknown, or the model not there.
    """
    numbers = {name: numbers_of(table.columns[name]) for name in ("t_s", "rate_per_s", "cv")}
    families = [str(cell) for cell in cells_of(table.columns["family"])]
    if problems := _faults(table, numbers, families):
        raise SpecError(*problems)
    keep = np.ones(table.rows, np.bool_)
    if "model" in table.columns:
        names = np.array([str(cell) for cell in cells_of(table.columns["model"])], np.object_)
        chosen = _chosen_model(names, numbers["rate_per_s"], model)
        keep = names == chosen
        reading.note(f"{path.name}: rates of the clients of {chosen}, from a window drawn for each seed")
    clients = cells_of(table.columns["client"])
    rates = [
        ClientRate(
            client=str(clients[i]),
            start_s=float(numbers["t_s"][i]),
            rate_per_s=float(numbers["rate_per_s"][i]),
            cv=float(numbers["cv"][i]),
            family=families[i],
        )
        for i in np.flatnonzero(keep).tolist()
    ]
    starts = np.unique([rate.start_s for rate in rates if rate.rate_per_s > 0])
    if not len(starts):
        raise SpecError(f"{table.where(-1)}: expected a client with a rate above zero, got none")
    window_s = float(np.diff(starts).min()) if len(starts) > 1 else 600.0

    def traffic_of(seed: int) -> Traffic:
        begin = float(np.random.default_rng([seed, 8]).choice(starts))
        later = [rate for rate in rates if rate.start_s >= begin]
        return generate_clients(later, window_s=window_s, name=path.name, most=requests or _MANY, seed=seed)

    return traffic_of


def _faults(table: Table, numbers: dict[str, NDArray[np.float64]], families: list[str]) -> list[Violation]:
    """Return the first figures of each column that are no number >= 0, and the first unknown family."""
    problems = []
    for name, values in numbers.items():
        bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
        cells = cells_of(table.columns[name])
        problems += [
            Violation(f"{table.where(int(i))}: {name}", "expected a number >= 0", cells[i]) for i in bad[:3]
        ]
    for i, family in enumerate(families):
        if family.lower() not in ("gamma", "weibull") and numbers["rate_per_s"][i] > 0:
            problems.append(Violation(f"{table.where(i)}: family", "expected Gamma or Weibull", family))
            break
    return problems


def _chosen_model(names: NDArray[np.object_], rates: NDArray[np.float64], asked: str | None) -> str:
    """Return the model asked for, by default the one with the most traffic."""
    total = {name: float(rates[names == name].sum()) for name in dict.fromkeys(names.tolist())}
    if asked is not None and asked not in total:
        raise SpecError(
            unknown_name(
                "client_model", f"expected a model of the table: {', '.join(total)}", asked, list(total)
            )
        )
    return asked or max(total, key=lambda name: total[name])
