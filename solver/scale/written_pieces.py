"""Pieces that are written, and what is proven about each, noted beside its file until the plan is complete."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.scale.assignment_files import WrittenPiece, checksum, file_name
from solver.scale.certificate import PieceCertificate
from solver.scale.storage import replace_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from solver.scale.pieces import Piece
    from solver.scale.storage import PlanFolder


_NOTED = ("own", "left", "magnitude", "forgone", "ineligible", "unserved", "rows", "whole", "excess")
"""Numbers of a piece's certificate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceAnswer:
    """What is proven about a piece, and the file its agents are in."""

    number: int
    certificate: PieceCertificate
    written: WrittenPiece


def note_finished(folder: PlanFolder, answer: PieceAnswer) -> None:
    """Note beside a complete file what is proven about it."""
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
