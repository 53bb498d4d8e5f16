"""Rows that share no pair packed into as few layers as possible."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from solver.problem.limit_rows import NO_ROW, Layer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from solver.problem.limit_scope import RowPiece

__all__ = ["packed_layers"]

_PACKED_PAIRS = 5_000_000
"""Agents times models up to which layers are packed pair by pair."""


def packed_layers(pieces: Sequence[RowPiece], n: int, m: int) -> tuple[Layer, ...]:
    """Pack pieces that share no pair into common layers, first fit.

    A piece goes where its agents or its models are free: a floor on each of forty models is one layer.
    """
    packed: list[tuple[NDArray[np.bool_], list[tuple[int, RowPiece]]]] = []
    crossed: list[NDArray[np.bool_] | None] = []  # pairs used, of layers where agents have several pieces
    first = 0
    for piece in pieces:
        at = next((k for k, (used, _) in enumerate(packed) if not used[piece.agents].any()), None)
        if at is None and piece.row.shape[1] == m and n * m <= _PACKED_PAIRS:
            at = next((k for k in range(len(packed)) if _fits(piece, packed[k], crossed, k, (n, m))), None)
        if at is None:
            packed.append((np.zeros(n, bool), []))
            crossed.append(None)
            at = len(packed) - 1
        used, content = packed[at]
        used[piece.agents] = True
        pairs = crossed[at]
        if pairs is not None:
            _note(pairs, piece)
        content.append((first, piece))
        first += len(piece.names)
    return tuple(
        _layer(content, n, m) if pairs is None else _crossed_layer(content, n, m)
        for (_, content), pairs in zip(packed, crossed, strict=True)
    )


def _fits(
    piece: RowPiece,
    layer: tuple[NDArray[np.bool_], list[tuple[int, RowPiece]]],
    crossed: list[NDArray[np.bool_] | None],
    at: int,
    shape: tuple[int, int],
) -> bool:
    """Return whether a piece shares no pair with a layer, whose pairs are noted from then on."""
    pairs = crossed[at]
    if pairs is None:
        pairs = np.zeros(shape, bool)
        for _, other in layer[1]:
            _note(pairs, other)
    where, touched = _pairs(piece, shape[1])
    if (pairs[where] & touched).any():
        return False
    crossed[at] = pairs
    return True


def _pairs(piece: RowPiece, m: int) -> tuple[Any, NDArray[np.bool_]]:
    """Return an index of a piece's agents and the models it touches at all, and which of these pairs it touches."""
    touched = np.broadcast_to(piece.row != NO_ROW, (len(piece.row), m))
    models = np.flatnonzero(touched.any(axis=0))
    return (piece.agents[:, None], models), touched[:, models]


def _note(pairs: NDArray[np.bool_], piece: RowPiece) -> None:
    where, touched = _pairs(piece, pairs.shape[1])
    pairs[where] |= touched


def _crossed_layer(content: list[tuple[int, RowPiece]], n: int, m: int) -> Layer:
    """Return pieces that share agents but no pair as one layer."""
    row = np.full((n, m), NO_ROW, np.int32)
    coefficient = np.zeros((n, m))
    for first, piece in content:
        where, touched = _pairs(piece, m)
        models = where[1]
        weights = piece.coefficient if piece.coefficient.shape[1] == 1 else piece.coefficient[:, models]
        rows = piece.row if piece.row.shape[1] == 1 else piece.row[:, models]
        row[where] = np.where(touched, rows + first, row[where])
        coefficient[where] = np.where(touched, weights, coefficient[where])
    return Layer(row=row, coefficient=coefficient)


def _layer(content: list[tuple[int, RowPiece]], n: int, m: int) -> Layer:
    """Return pieces of disjoint agents as one layer, as broadcast views where they allow it."""
    width: dict[str, int] = {
        "row": max(piece.row.shape[1] for _, piece in content),
        "coefficient": max(piece.coefficient.shape[1] for _, piece in content),
    }
    everyone = len(content) == 1 and len(content[0][1].agents) == n
    tables: dict[str, NDArray[Any]] = {}
    for what, dtype, nothing in (("row", np.int32, NO_ROW), ("coefficient", np.float64, 0.0)):
        if everyone:
            only = getattr(content[0][1], what)
            shift = np.where(only == NO_ROW, 0, content[0][0]) if what == "row" else 0
            tables[what] = (only + shift).astype(dtype)
            continue
        table = np.full((n, width[what]), nothing, dtype)
        for first, piece in content:
            values = getattr(piece, what)
            shift = np.where(values == NO_ROW, 0, first) if what == "row" else 0
            table[piece.agents] = values + shift
        tables[what] = table
    return Layer(
        row=np.broadcast_to(tables["row"], (n, m)),
        coefficient=np.broadcast_to(tables["coefficient"], (n, m)),
    )
