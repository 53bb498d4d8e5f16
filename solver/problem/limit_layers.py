"""Rows that share no pair packed into as few layers as possible."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from solver.problem.limit_rows import NO_ROW, Layer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from solver.problem.limit_scope import RowPiece

_PACKED_PAIRS = 5_000_000
"""Agents times models up to which layers are packed pair by pair."""


def packed_layers(pieces: Sequence[RowPiece], n: int, m: int) -> tuple[Layer, ...]:
    """Pack pieces that share no pair into common layers, first fit.

    A piece goes where its agents or its models are free: a floor on each of forty models is one layer.
    """
    packed: list[tuple[NDArray[np.bool_], list[tuple[int, RowPiece]]]] = []
    noted: list[NDArray[np.bool_] | None] = []  # pairs used, of layers that a piece was compared with
    crossed: list[bool] = []  # whether agents have several pieces
    first = 0
    for piece in pieces:
        at = next((k for k, (used, _) in enumerate(packed) if not used[piece.agents].any()), None)
        # Where an agent has a piece already, one that touches all its models cannot fit.
        partial = piece.row.shape[1] == m and bool((piece.row == NO_ROW).any())
        if at is None and partial and n * m <= _PACKED_PAIRS:
            at = next((k for k in range(len(packed)) if _fits(piece, packed[k], noted, k, (n, m))), None)
            if at is not None:
                crossed[at] = True
        if at is None:
            packed.append((np.zeros(n, bool), []))
            noted.append(None)
            crossed.append(False)
            at = len(packed) - 1
        used, content = packed[at]
        used[piece.agents] = True
        pairs = noted[at]
        if pairs is not None:
            _note(pairs, piece)
        content.append((first, piece))
        first += piece.count
    return tuple(
        _crossed_layer(content, n, m) if several else _layer(content, n, m)
        for (_, content), several in zip(packed, crossed, strict=True)
    )


def _fits(
    piece: RowPiece,
    layer: tuple[NDArray[np.bool_], list[tuple[int, RowPiece]]],
    noted: list[NDArray[np.bool_] | None],
    at: int,
    shape: tuple[int, int],
) -> bool:
    """Return whether a piece shares no pair with a layer, whose pairs are noted from then on."""
    pairs = noted[at]
    if pairs is None:
        pairs = noted[at] = np.zeros(shape, bool)
        for _, other in layer[1]:
            _note(pairs, other)
    where, touched = _pairs(piece, *shape)
    return not (pairs[where] & touched).any()


def _pairs(piece: RowPiece, n: int, m: int) -> tuple[Any, NDArray[np.bool_]]:
    """Return an index of a piece's agents and the models it touches at all, and which of these pairs it touches."""
    touched = np.broadcast_to(piece.row != NO_ROW, (len(piece.row), m))
    models = np.flatnonzero(touched.any(axis=0))
    touched = touched[:, models]
    all_agents = len(piece.agents) == n
    if len(models) and models[-1] - models[0] == len(models) - 1:  # a slice is faster than a list
        block = slice(int(models[0]), int(models[-1]) + 1)
        return (slice(None) if all_agents else piece.agents, block), touched
    return (slice(None) if all_agents else piece.agents[:, None], models), touched


def _note(pairs: NDArray[np.bool_], piece: RowPiece) -> None:
    where, touched = _pairs(piece, *pairs.shape)
    pairs[where] |= touched


def _crossed_layer(content: list[tuple[int, RowPiece]], n: int, m: int) -> Layer:
    """Return pieces that share agents but no pair as one layer."""
    row = np.full((n, m), NO_ROW, np.int32)
    coefficient = np.zeros((n, m))
    for first, piece in content:
        where, touched = _pairs(piece, n, m)
        models = where[1]
        weights = piece.coefficient if piece.coefficient.shape[1] == 1 else piece.coefficient[:, models]
        rows = piece.row if piece.row.shape[1] == 1 else piece.row[:, models]
        row[where] = np.where(touched, rows + first, row[where])
        coefficient[where] = np.where(touched, weights, coefficient[where])
    return Layer(row=row, coefficient=coefficient)


def _layer(content: list[tuple[int, RowPiece]], n: int, m: int) -> Layer:
    """Return pieces of disjoint agents as one layer, as broadcast views where they allow it."""
    first, only = content[0]
    if len(content) == 1 and len(only.agents) == n:
        row = only.row if first == 0 else np.where(only.row == NO_ROW, NO_ROW, only.row + np.int32(first))
        coefficient = only.coefficient
    else:
        row = np.full((n, max(piece.row.shape[1] for _, piece in content)), NO_ROW, np.int32)
        coefficient = np.zeros((n, max(piece.coefficient.shape[1] for _, piece in content)))
        for pieces in _alike(content):
            agents = np.concatenate([piece.agents for _, piece in pieces])
            sizes = np.array([len(piece.agents) for _, piece in pieces])
            starts = np.repeat(np.array([at for at, _ in pieces], np.int32), _lengths(pieces, "row"))
            rows = np.concatenate([piece.row for _, piece in pieces])
            rows = np.where(rows == NO_ROW, NO_ROW, rows + starts[:, None])
            weights = np.concatenate([piece.coefficient for _, piece in pieces])
            row[agents] = rows if len(rows) == len(agents) else np.repeat(rows, sizes, axis=0)
            if len(weights) != len(agents):
                weights = np.repeat(weights, sizes, axis=0)
            coefficient[agents] = weights
    return Layer(row=np.broadcast_to(row, (n, m)), coefficient=np.broadcast_to(coefficient, (n, m)))


def _lengths(pieces: list[tuple[int, RowPiece]], table: str) -> list[int]:
    return [len(getattr(piece, table)) for _, piece in pieces]


def _alike(content: list[tuple[int, RowPiece]]) -> list[list[tuple[int, RowPiece]]]:
    """Return the pieces grouped such that the tables of a group can be put one below the other."""
    groups: dict[tuple[bool, int, bool, int], list[tuple[int, RowPiece]]] = {}
    for at, piece in content:
        (k, width), (own_k, own_width) = piece.row.shape, piece.coefficient.shape
        groups.setdefault((k == 1, width, own_k == 1, own_width), []).append((at, piece))
    return list(groups.values())
