"""The plan's files, one a piece: ids from Arrow to Arrow, complete under their name or not there."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import SpecError, missing_value
from solver.scale.arrow_arrays import number_array, text_array
from solver.scale.pieces import read_batches
from solver.scale.storage import arrow
from solver.scale.unit_rows import RowUnits

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from solver.scale.pieces import Piece, ScoreColumns
    from solver.scale.storage import PlanFolder

_PIECE_BYTES = 1 << 20
"""Bytes read at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenPiece:
    """A complete file of assignments.

    Parameters
    ----------
    name : str
        Within the plan's folder.
    rows : int
        Its agents.
    bytes : int
        Its size.
    crc32 : str
        Its checksum, hexadecimal.
    """

    name: str
    rows: int
    bytes: int
    crc32: str


def file_name(number: int) -> str:
    """Return the name of a piece's file."""
    return f"assignments-{number:06d}.parquet"


def write_piece(
    piece: Piece,
    columns: ScoreColumns,
    chosen: NDArray[Any] | RowUnits,
    folder: PlanFolder,
    note: Callable[[WrittenPiece], None],
) -> None:
    """Write the ids and models of a piece beside each other, and give the file its name once it is whole.

    Parameters
    ----------
    piece : Piece
        Whose ids are read again from its file.
    columns : ScoreColumns
        Names the column of ids and the models.
    chosen : (rows,) unsigned, or RowUnits
        Places of the models, m for unassigned, which is written as a null. Units are written as a list of models
        for each row, and where rows stand for several agents a list of units beside it.
    folder : PlanFolder
        Where the file goes.
    note : callable
        Told what is written before the file has its name: a file of that name is one that was noted.

    Raises
    ------
    SpecError
        For an agent without an id, and where the file cannot be written: nothing is left under its name.
    """
    pa, pq = arrow()
    name = file_name(piece.number)
    names = text_array(columns.models)
    at = 0
    writer = None

    def complete(file: Any) -> None:
        crc, size = stream_checksum(file)
        note(WrittenPiece(name=name, rows=at, bytes=size, crc32=crc))

    with folder.writing(name, complete) as stream:
        try:
            for batch in read_batches(piece, [columns.agent]):
                ids = batch.column(columns.agent)
                _check_complete(ids, columns.agent, piece, at)
                if isinstance(chosen, RowUnits):
                    answer = _lists(chosen.within(at, at + len(ids)), len(ids), names, columns)
                else:
                    some = chosen[at : at + len(ids)].astype(np.int32)
                    codes = number_array(some, missing=some == len(names))
                    answer = {"model": pa.DictionaryArray.from_arrays(codes, names)}
                table = pa.Table.from_arrays([ids, *answer.values()], names=[columns.agent, *answer])
                if writer is None:
                    dictionaries = ["model", "model.list.element"]
                    writer = pq.ParquetWriter(stream, table.schema, use_dictionary=dictionaries)
                writer.write_table(table)
                at += len(ids)
        finally:
            if writer is not None:
                writer.close()


def _lists(taken: RowUnits, rows: int, names: Any, columns: ScoreColumns) -> dict[str, Any]:
    """Return the columns of lists for so many rows."""
    pa, _ = arrow()
    totals = np.append(0, np.cumsum(np.bincount(taken.row, minlength=rows)))
    offsets = number_array(totals.astype(np.int32))
    answer = {"model": pa.ListArray.from_arrays(offsets, names.take(number_array(taken.model)))}
    if columns.count is not None:
        answer["units"] = pa.ListArray.from_arrays(offsets, number_array(taken.units.astype(np.int64)))
    return answer


def _check_complete(ids: Any, column: str, piece: Piece, at: int) -> None:
    """Raise for an agent without an id among those from place ``at`` of a piece."""
    if ids.null_count:
        row = int(np.flatnonzero(ids.is_null().to_numpy(zero_copy_only=False))[0])
        where = f"{piece.path}: row {piece.row + at + row + 1}"
        raise SpecError(missing_value(where, f"{column}: required, but missing"))


def checksum(folder: PlanFolder, name: str) -> tuple[str, int]:
    """Return the CRC-32 of a file in hexadecimal, and its size."""
    with folder.open(name) as file:
        return stream_checksum(file)


def stream_checksum(file: Any) -> tuple[str, int]:
    """Return the CRC-32 of an open file in hexadecimal, and its size."""
    crc = size = 0
    while data := file.read(_PIECE_BYTES):
        crc, size = zlib.crc32(data, crc), size + len(data)
    return f"{crc:08x}", size
