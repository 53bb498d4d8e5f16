"""The inputs of a simulation about models: their fleet file, and scores of past agents on them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from solver.errors import SpecError, Violation
from solver.interfaces.files.assembly import Assembly
from solver.interfaces.files.library_errors import located_errors
from solver.interfaces.simulation.score_matrix import read_groups, read_score_matrix
from solver.simulate.quality import Population

if TYPE_CHECKING:
    from solver.interfaces.files.sources import Reading
    from solver.problem.spec import Model
    from solver.simulate.servers import Fleet


def read_fleet(path: Path, reading: Reading) -> tuple[Model, ...]:
    """Return the models of a fleet file."""
    with located_errors(path):
        document = {"agents": [{"id": "request"}], "models": str(path)}
        return Assembly(folder=Path(), reading=reading).problem(document, lambda _: "").models


def read_population(path: Path, groups: Path | None, fleet: Fleet, reading: Reading) -> Population:
    """Return the agents of a score table, in the columns of the fleet."""
    table = read_score_matrix(path, reading)
    missing = [name for name in fleet.ids if name not in table.models]
    if missing:
        raise SpecError(
            *(
                Violation(f"{path}: {name}", "expected scores of every model of the fleet", shown="none")
                for name in missing
            )
        )
    columns = [table.models.index(name) for name in fleet.ids]
    group = np.zeros(len(table.scores), np.int64)
    if groups is not None:
        group = read_groups(groups, table, reading, None, None)
    return Population(outcome=table.scores[:, columns], group=group)
