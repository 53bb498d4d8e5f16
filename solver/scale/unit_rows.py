"""Rows that need units of several models: which models are open in a box of prices, and rows that are alike.

A row of ``count`` agents that need ``copies`` different models each takes up to ``count`` units of every model.
Whatever the prices ``low <= p <= high``, a model is among the best ``copies`` of the row for certain if its value at
the high price beats what the next best could be at the low ones, and never if its value at the low price is below
what the worst of the best is worth at the high ones. Models between these are contested. With one copy these are the
contested arcs of :mod:`solver.engines.price.contested_arcs`.

Rows with the same contested models and the same differences between them are one class: a flow for all of them is
handed out along their units as work is along time in the wrap-around rule of McNaughton (1959).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.problem.blocks import chunks
from solver.scale.first_pass import dense_rows, depths, widths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from solver.scale.first_pass import Sample, Valuation
    from solver.scale.pieces import Block


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowUnits:
    """Units that rows take of models, by row.

    Parameters
    ----------
    row, model, units : (a,) int64
        One entry for each pair in use.
    """

    row: NDArray[np.int64]
    model: NDArray[np.int64]
    units: NDArray[np.int64]

    @classmethod
    def joined(cls, parts: Sequence[RowUnits]) -> RowUnits:
        """Return the entries of all parts, by row and then by model."""
        whole = cls.stacked(parts)
        return whole.ordered(np.lexsort((whole.model, whole.row)))

    @classmethod
    def stacked(cls, parts: Sequence[RowUnits]) -> RowUnits:
        """Return the entries of all parts, one part after another."""
        row, model, units = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("row", "model", "units")
        )
        return cls(row=row, model=model, units=units)

    def ordered(self, order: NDArray[np.int64]) -> RowUnits:
        """Return the entries in another order."""
        return RowUnits(row=self.row[order], model=self.model[order], units=self.units[order])

    def to_keep(self, score: NDArray[Any], first: int, rows: int) -> RowUnits:
        """Return the entries of a block in as few bytes as hold them, most units of a row first, then highest score.

        ``first`` is the place of the block among so many ``rows`` of its piece.
        """
        worth = score[self.row, self.model]
        found = self.ordered(np.lexsort((self.model, -worth, -self.units, self.row)))
        kinds = (np.min_scalar_type(most) for most in (rows, score.shape[1], int(self.units.max(initial=0))))
        return RowUnits(
            **{
                name: values.astype(kind)
                for name, values, kind in zip(
                    ("row", "model", "units"),
                    (found.row + first, found.model, found.units),
                    kinds,
                    strict=True,
                )
            }
        )

    def within(self, begin: int, end: int) -> RowUnits:
        """Return the entries of some consecutive rows, which are counted from the first of them."""
        first, last = np.searchsorted(self.row, (begin, end))
        part = self.ordered(np.arange(first, last))
        return RowUnits(row=part.row.astype(np.int64) - begin, model=part.model, units=part.units)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenRows:
    """What a box leaves open of some rows, or of classes of them.

    Parameters
    ----------
    first : (g + 1,) int64
        Arcs of the row at position i are ``first[i]:first[i + 1]``.
    model : (a,) int64
        Head of each arc, ascending by row; m for staying unassigned.
    value : (a,) float64
        Score of each arc, or the value of staying unassigned.
    width, depth : (g,) int64
        Most units of one model, and models that are still wanted.
    settled : (m + 1,) int64
        Units whose models the box leaves no doubt of; the last entry those that stay unassigned.
    """

    first: NDArray[np.int64]
    model: NDArray[np.int64]
    value: NDArray[np.float64]
    width: NDArray[np.int64]
    depth: NDArray[np.int64]
    settled: NDArray[np.int64]

    @property
    def owner(self) -> NDArray[np.int64]:
        """(a,) int64, position each arc belongs to."""
        return np.repeat(np.arange(len(self.width)), np.diff(self.first))

    @classmethod
    def joined(cls, parts: Sequence[OpenRows]) -> OpenRows:
        """Return the rows of all parts, one after another."""
        degree = np.concatenate([np.diff(part.first) for part in parts])
        return cls(
            first=np.append(0, np.cumsum(degree)).astype(np.int64),
            model=np.concatenate([part.model for part in parts]),
            value=np.concatenate([part.value for part in parts]),
            width=np.concatenate([part.width for part in parts]),
            depth=np.concatenate([part.depth for part in parts]),
            settled=np.sum([part.settled for part in parts], axis=0),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowClasses:
    """The open rows of a piece as classes of rows that are alike.

    Parameters
    ----------
    row : (g,) unsigned
        Places of the open rows within the piece, ascending.
    home : (g,) unsigned
        The class of each.
    width : (g,) int64
        Most units of one model, of each row.
    classes : OpenRows
        The classes, each as wide as its rows together.
    """

    row: NDArray[Any]
    home: NDArray[Any]
    width: NDArray[np.int64]
    classes: OpenRows

    @classmethod
    def of(cls, row: NDArray[np.int64], rows: OpenRows, resolution: float) -> RowClasses:
        """Find rows that are alike: differences of values are compared in units of ``resolution``."""
        if not len(row):
            return cls(row=row, home=row, width=rows.width, classes=rows)
        starts, degree = rows.first[:-1], np.diff(rows.first)
        best = np.maximum.reduceat(rows.value, starts)
        drop = np.rint(np.minimum((best[rows.owner] - rows.value) / resolution, 2.0**62)).astype(np.int64)
        home, chosen = _alike(degree, rows, drop)
        count = degree[chosen]
        arcs = np.arange(count.sum()) + np.repeat(starts[chosen] - (np.cumsum(count) - count), count)
        classes = OpenRows(
            first=np.append(0, np.cumsum(count)),
            model=rows.model[arcs],
            value=rows.value[arcs],
            width=np.bincount(home, rows.width, len(chosen)).astype(np.int64),
            depth=rows.depth[chosen],
            settled=rows.settled,
        )
        kind = np.min_scalar_type(int(row[-1]))
        return cls(row=row.astype(kind), home=home.astype(kind), width=rows.width, classes=classes)

    def handed_out(self, flow: NDArray[np.int64], m: int) -> RowUnits:
        """Return the units of each row, given the (a,) flow along the arcs of the classes.

        The rows of a class are laid along a circle, each as long as it is wide, and the models' units one after another
        around it: no model comes round a second time, and no place is covered more often than there are models wanted.
        """
        order = np.argsort(self.home, kind="stable")
        width = self.width[order]
        end = np.cumsum(width)
        start = end - width
        classes = self.classes
        size = classes.width
        base = np.cumsum(size) - size
        arc = np.flatnonzero((flow > 0) & (classes.model < m))
        owner = classes.owner[arc]
        laid = np.cumsum(flow[arc])
        before = laid - flow[arc]
        of_class = np.flatnonzero(np.diff(owner, prepend=-1))
        before = before - np.repeat(before[of_class], np.diff(np.append(of_class, len(arc))))
        begin = before % size[owner]
        stop = np.minimum(begin + flow[arc], size[owner])
        round_again = flow[arc] - (stop - begin)
        low = np.concatenate([base[owner] + begin, base[owner]])
        high = np.concatenate([base[owner] + stop, base[owner] + round_again])
        model = np.tile(classes.model[arc], 2)
        some = np.flatnonzero(high > low)
        low, high, model = low[some], high[some], model[some]
        from_row = np.searchsorted(end, low, side="right")
        to_row = np.searchsorted(start, high, side="left")
        count = to_row - from_row
        entry = np.repeat(np.arange(len(low)), count)
        place = np.arange(len(entry)) + np.repeat(from_row - (np.cumsum(count) - count), count)
        units = np.minimum(end[place], high[entry]) - np.maximum(start[place], low[entry])
        row = self.row[order[place]].astype(np.int64)
        pair, home = np.unique(row * (m + 1) + model[entry], return_inverse=True)
        total = np.bincount(home, units, len(pair)).astype(np.int64)
        return RowUnits(row=pair // (m + 1), model=pair % (m + 1), units=total)


def _alike(
    degree: NDArray[np.int64], rows: OpenRows, drop: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the (g,) class of each row, and a row of each class, rows of equal degree at a time."""
    home = np.empty(len(degree), np.int64)
    chosen: list[NDArray[np.int64]] = []
    known = 0
    for size in np.unique(degree).tolist():
        some = np.flatnonzero(degree == size)
        arcs = rows.first[some][:, None] + np.arange(size)
        table = np.column_stack([rows.depth[some], rows.model[arcs], drop[arcs]])
        multipliers = np.random.default_rng(0).integers(0, 2**64, table.shape[1], np.uint64)
        mixed = table.astype(np.uint64)
        mixed ^= mixed >> np.uint64(29)
        keys = (mixed * multipliers).sum(axis=1, dtype=np.uint64)
        _, index, inverse = np.unique(keys, return_index=True, return_inverse=True)
        if len(index) < len(some) and (table[index][inverse] != table).any():  # different rows, equal keys
            _, index, inverse = np.unique(table, axis=0, return_index=True, return_inverse=True)
        home[some] = inverse + known
        chosen.append(some[index])
        known += len(index)
    return home, np.concatenate(chosen)


def open_rows(
    block: Block | Sample,
    valuation: Valuation,
    closed: NDArray[np.bool_],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> tuple[NDArray[np.int64], OpenRows, RowUnits]:
    """Return the open rows of a block by their places, what is open of them, and all units that are certain. O(k m).

    An agent that must be served has a model for each of its copies: the first pass saw to that.
    """
    if block.copies is None:
        return _open_singles(block, valuation, closed, low, high)
    parts = [
        _open_part(block, rows, valuation, closed, low, high)
        for rows in chunks(len(block.score), 4 * block.score.shape[1])
    ]
    row = np.concatenate([part[0] for part in parts])
    return row, OpenRows.joined([part[1] for part in parts]), RowUnits.joined([part[2] for part in parts])


def _open_singles(
    block: Block | Sample,
    valuation: Valuation,
    closed: NDArray[np.bool_],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> tuple[NDArray[np.int64], OpenRows, RowUnits]:
    """Do what ``open_rows`` does, where one model is enough for everyone."""
    found = dense_rows(block, valuation, closed).reduce(low, high)
    arcs, width, m = found.contested, widths(block), len(low)
    certain = np.ones(len(width), bool)
    certain[found.agent] = False
    settled = np.zeros(m + 1, np.int64)
    np.add.at(settled, found.choice[certain], width[certain])
    rows = OpenRows(
        first=arcs.first,
        model=arcs.model,
        value=arcs.value,
        width=width[found.agent],
        depth=np.ones(len(found.agent), np.int64),
        settled=settled,
    )
    served = np.flatnonzero(certain & (found.choice < m))
    return found.agent, rows, RowUnits(row=served, model=found.choice[served], units=width[served])


def _open_part(
    block: Block | Sample,
    rows: slice,
    valuation: Valuation,
    closed: NDArray[np.bool_],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> tuple[NDArray[np.int64], OpenRows, RowUnits]:
    score = block.score[rows]
    m = score.shape[1]
    width, depth = widths(block)[rows], depths(block)[rows]
    outside = valuation.outside(block)[rows]
    best = np.subtract(score, np.where(closed, np.inf, low), dtype=np.float64)
    worst = best - np.where(closed, 0.0, high - low)
    least = _nth_largest(worst, depth)
    floor = np.maximum(least, outside)
    wanted = (best >= floor[:, None]) & (best > -np.inf)
    sure = wanted & (worst > np.maximum(_nth_largest(best, depth + 1), outside)[:, None])
    left = depth - sure.sum(axis=1)
    contested = wanted & ~sure
    degree = contested.sum(axis=1)
    may_leave = (outside > -np.inf) & (outside >= least)
    forced = ~may_leave & (degree <= left)
    sure |= contested & forced[:, None]
    left[forced] -= degree[forced]
    contested[forced], degree[forced] = False, 0
    settled = np.zeros(m + 1, np.int64)
    row, model = np.nonzero(sure)
    np.add.at(settled, model, width[row])
    nothing_open = degree == 0
    settled[m] = int((left * width)[nothing_open].sum())
    certain = RowUnits(row=row + rows.start, model=model, units=width[row])
    some = np.flatnonzero(~nothing_open)
    mask = np.column_stack([contested[some], may_leave[some]])
    at, head = np.nonzero(mask)
    own = some[at]
    value = np.where(head < m, score[own, np.minimum(head, m - 1)], outside[own])
    found = OpenRows(
        first=np.append(0, np.cumsum(mask.sum(axis=1))),
        model=head,
        value=value.astype(np.float64),
        width=width[some],
        depth=left[some],
        settled=settled,
    )
    return some + rows.start, found, certain


def _nth_largest(values: NDArray[np.float64], rank: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the (k,) largest, second largest, ... value of each row, by its rank from 1; ``-inf`` beyond the last."""
    k, m = values.shape
    if (rank == rank[0]).all():
        place = int(rank[0])
        if place > m:
            return np.full(k, -np.inf)
        return np.asarray(np.partition(values, m - place, axis=1)[:, m - place])
    ranked = np.sort(values, axis=1)
    found = ranked[np.arange(k), m - np.minimum(rank, m)]
    return np.where(rank > m, -np.inf, found)
