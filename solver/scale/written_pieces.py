"""Pieces that are written, and what is proven about each, noted beside its file until the plan is complete."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.scale.assignment_files import WrittenPiece, checksum, file_name, write_piece
from solver.scale.certificate import PieceCertificate
from solver.scale.storage import replace_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from solver.scale.pieces import Piece, ScoreColumns
    from solver.scale.storage import PlanFolder
    from solver.scale.unit_rows import RowUnits


_NOTED = ("own", "left", "magnitude", "forgone", "ineligible", "unserved", "rows", "whole", "excess")
"""Numbers of a piece's certificate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceAnswer:
    """What is proven about a piece, and the file its agents are in."""

    number: int
    certificate: PieceCertificate
    written: WrittenPiece


def publish_piece(
    piece: Piece,
    columns: ScoreColumns,
    chosen: NDArray[Any] | RowUnits,
    certificate: PieceCertificate,
    folder: PlanFolder,
) -> PieceAnswer:
    """Write a piece, see :func:`~solver.scale.assignment_files.write_piece`, and note before what is proven about it.

    A job that ends at any moment leaves either both or no file of that name, so that none is written twice.
    """
    answers = []

    def note(written: WrittenPiece) -> None:
        answers.append(PieceAnswer(number=piece.number, certificate=certificate, written=written))
        _note_finished(folder, answers[-1])

    write_piece(piece, columns, chosen, folder, note)
    return answers[-1]


def _note_finished(folder: PlanFolder, answer: PieceAnswer) -> None:
    """Note what is proven about a piece whose file is complete."""
    certificate = answer.certificate
    terms = {name: getattr(certificate, name) for name in _NOTED}
    terms["load"], terms["worth"] = certificate.load.tolist(), certificate.worth.tolist()
    terms["taken"] = None if certificate.taken is None else certificate.taken.tolist()
    text = json.dumps({"written": asdict(answer.written), "terms": terms})
    replace_text(folder, _note(answer.number), text)


def finished_pieces(folder: PlanFolder, pieces: Sequence[Piece]) -> list[PieceAnswer]:
    """Return the pieces that an interrupted job has written, their files unchanged since."""
    answers = []
    for piece in pieces:
        try:
            document = json.loads(folder.read(_note(piece.number)))
            written = WrittenPiece(**document["written"])
            if checksum(folder, written.name) != (written.crc32, written.bytes):
                continue
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not finished: it is written again
        terms = document["terms"]
        terms["load"], terms["worth"] = np.array(terms["load"]), np.array(terms["worth"])
        terms["taken"] = None if terms["taken"] is None else np.array(terms["taken"])
        certificate = PieceCertificate(**terms)
        answers.append(PieceAnswer(number=piece.number, certificate=certificate, written=written))
    return answers


def _note(number: int) -> str:
    return f".{file_name(number).removesuffix('.parquet')}.json"
