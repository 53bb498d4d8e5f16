"""How tables of scores are laid out, as options of a problem file or the command line say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from solver.errors import SpecError, Violation, wrong_type
from solver.problem.values import unknown_name

if TYPE_CHECKING:
    from collections.abc import Mapping

LAYOUTS = ("long", "wide", "ranked")
"""How a table of scores is laid out."""

SCORE_FIELDS = ("agent", "model", "score", "layout", "ignore_columns", "choices")
"""Options of a score table in a problem file, beside its path."""


@dataclass(frozen=True, kw_only=True)
class ScoreLayout:
    """How a table of scores is laid out.

    Parameters
    ----------
    layout : {"long", "wide", "ranked"}
        One pair a row; one agent a row and one model a column, where a blank cell forbids the pair; or one
        agent a row and its first, second, ... choice in a column each.
    agent, model, score : str
        Columns of a long table; of the others the column of agents.
    ignore_columns : tuple of str
        Columns of a wide table that are no models.
    choices : tuple of str
        Columns of a ranked table, the first choice first; empty: those whose names differ in a number only,
        such as ``pref1`` to ``pref5``.
    """

    layout: str = "long"
    agent: str = "agent"
    model: str = "model"
    score: str = "score"
    ignore_columns: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()


def score_layout(given: Mapping[str, Any]) -> ScoreLayout:
    """Return the layout that options in a problem file describe.

    Raises
    ------
    SpecError
        One line per option that cannot be.
    """
    lists = ("ignore_columns", "choices")
    lines = [
        wrong_type(f"scores.{name}", "expected text", value)
        for name, value in given.items()
        if name not in lists and not isinstance(value, str)
    ]
    lines += [
        wrong_type(f"scores.{name}", "expected a list of columns", given[name])
        for name in lists
        if name in given
        and not (isinstance(given[name], list | tuple) and all(isinstance(one, str) for one in given[name]))
    ]
    layout = given.get("layout", "long")
    if isinstance(layout, str) and layout not in LAYOUTS:
        lines.append(unknown_name("scores.layout", "expected 'long', 'wide' or 'ranked'", layout, LAYOUTS))
    for name, only in (("ignore_columns", "wide"), ("choices", "ranked")):
        if given.get(name) and layout in LAYOUTS and layout != only:
            lines.append(Violation(f"scores.{name}", f"only for the layout {only!r}", layout))
    if lines:
        raise SpecError(*lines)
    chosen: dict[str, Any] = {name: tuple(value) if name in lists else value for name, value in given.items()}
    return ScoreLayout(**chosen)
