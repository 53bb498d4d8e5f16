"""Whether every agent occurs once in all files together: exact, by hashes that are sorted part by part.

Workers hash the ids of their pieces and leave them sorted in files; one part of the hashes after the other, small
enough for memory, is then merged over all pieces. Equal hashes are only candidates: their ids are read and compared.
"""

from __future__ import annotations

import itertools
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import SpecError, Violation, ViolationKind
from solver.params import Params
from solver.problem.values import describe
from solver.scale.pieces import read_batches
from solver.scale.storage import arrow, is_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from solver.scale.pieces import Piece
    from solver.scale.workers import Fleet

_SCRATCH = ".ids"


@dataclass(frozen=True, kw_only=True)
class UniqueIdsParams(Params):
    """Sizes of the check."""

    part: int = 8_000_000
    """Hashes merged at a time, 12 bytes each, several times over while they are sorted."""
    named: int = 5
    """Repetitions spelled out in the error; as many more are not counted."""
    seed: int = 20_240_229
    """Of the hash's multipliers."""


def check_unique_ids(
    fleet: Fleet, pieces: Sequence[Piece], column: str, folder: str, params: UniqueIdsParams | None = None
) -> None:
    """Raise if an agent occurs twice. One pass over the ids, O(n log n) time, O(part) memory, 12 n bytes on disk.

    Parameters
    ----------
    fleet : Fleet
        Its workers write into ``folder``, which they share with the caller.
    pieces : sequence of Piece
        All of them.
    column : str
        Column of the ids.
    folder : str
        Where the hashes may be left meanwhile: a path that the workers share.
    params : UniqueIdsParams, optional
        Sizes.

    Raises
    ------
    SpecError
        Naming the first repetitions found, with their files and rows; and for ids that are null.
    """
    params = params or UniqueIdsParams()
    if is_url(folder):
        rule = "expected a path rather than a URL, for the hashes of the ids"
        raise SpecError(Violation("unique_ids", rule, folder))
    scratch = Path(folder) / _SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        fleet.run("hash_ids", str(scratch), params.seed)
        found: list[Violation] = []
        for rows in _candidates(pieces, scratch, params.part):
            found += _repetitions(pieces, rows, column, params.named - len(found))
            if len(found) >= params.named:
                break
        if found:
            raise SpecError(*found)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def note_hashes(piece: Piece, column: str, scratch: Path, seed: int) -> None:
    """Leave the sorted hashes of a piece, and the rows they are of, in files.

    Raises
    ------
    SpecError
        For a null, for ids of a type that has no text, and where the files cannot be written.
    """
    hashes, row = [], piece.row
    for batch in read_batches(piece, (column,)):
        ids = batch.column(0)
        if ids.null_count:
            at = int(np.flatnonzero(ids.is_null().to_numpy(zero_copy_only=False))[0])
            raise SpecError(
                Violation(f"{piece.path}: row {row + at + 1}", f"{column}: required, but missing")
            )
        hashes.append(id_hashes(_as_text(ids, piece.path, column), seed))
        row += batch.num_rows
    joined = np.concatenate(hashes)
    order = np.argsort(joined, kind="stable").astype(np.uint32)
    try:
        np.save(scratch / f"{piece.number}-hashes.npy", joined[order])
        np.save(scratch / f"{piece.number}-rows.npy", order)
    except OSError as error:
        rule = f"cannot be written: {error.strerror or error}"
        raise SpecError(Violation(str(scratch), rule)) from None


def id_hashes(ids: Any, seed: int) -> NDArray[np.uint64]:
    """Return the (k,) hashes of an Arrow array of text or binary: sums of bytes times random multipliers by place.

    Two different texts of one length collide with a chance of 2⁻⁵⁶ at most over the draw of the multipliers
    (multilinear hashing: Lemire and Kaser, 2014); the length is hashed with them.
    """
    offsets = np.frombuffer(ids.buffers()[1], np.int64)[ids.offset : ids.offset + len(ids) + 1]
    begin, end = int(offsets[0]), int(offsets[-1])
    lengths = np.diff(offsets)
    data = np.frombuffer(ids.buffers()[2], np.uint8, count=end) if end else np.zeros(0, np.uint8)
    longest = int(lengths.max(initial=0))
    multipliers = np.random.default_rng(seed).integers(0, 2**64, longest + 1, np.uint64)
    hashes: NDArray[np.uint64] = multipliers[lengths]
    if end > begin:
        starts = offsets[:-1] - begin
        place = np.arange(end - begin) - np.repeat(starts, lengths)
        terms = multipliers[place] * (data[begin:end].astype(np.uint64) + np.uint64(1))
        filled = np.flatnonzero(lengths)
        hashes[filled] += np.add.reduceat(terms, starts[filled])
    # The high bits of a multilinear hash are its good ones; all of them count, as candidates are compared.
    return hashes


def _as_text(ids: Any, path: str, column: str) -> Any:
    """Return ids as large strings or large binary."""
    pa, _ = arrow()
    kind = ids.type.value_type if pa.types.is_dictionary(ids.type) else ids.type
    binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    try:
        return ids.cast(kind).cast(pa.large_binary() if binary else pa.large_string())
    except (pa.ArrowException, NotImplementedError):
        raise SpecError(
            Violation(path, f"{column}: expected ids that have a text", shown=str(kind))
        ) from None


def _candidates(pieces: Sequence[Piece], scratch: Path, part: int) -> Iterator[NDArray[np.int64]]:
    """Yield, part by part, the rows whose hash occurs again, equal ones next to each other."""
    agents = sum(piece.rows for piece in pieces)
    parts = max(1, -(-agents // part))
    hashes = [np.load(scratch / f"{piece.number}-hashes.npy", mmap_mode="r") for piece in pieces]
    rows = [np.load(scratch / f"{piece.number}-rows.npy", mmap_mode="r") for piece in pieces]
    edges = [min(2**64 - 1, k * (2**64 // parts)) for k in range(parts + 1)]
    for low, high in itertools.pairwise(edges):
        merged, places = [], []
        for piece, own, order in zip(pieces, hashes, rows, strict=True):
            begin = int(np.searchsorted(own, np.uint64(low)))
            end = len(own) if high == edges[-1] else int(np.searchsorted(own, np.uint64(high)))
            merged.append(np.asarray(own[begin:end]))
            places.append(order[begin:end].astype(np.int64) + piece.first)
        all_hashes, all_places = np.concatenate(merged), np.concatenate(places)
        order = np.argsort(all_hashes, kind="stable")
        again = np.flatnonzero(np.diff(all_hashes[order]) == 0)
        if len(again):
            equal = np.unique(np.concatenate([again, again + 1]))
            yield all_places[order[equal]]


def _repetitions(pieces: Sequence[Piece], rows: NDArray[np.int64], column: str, most: int) -> list[Violation]:
    """Return those of the candidates whose ids are really equal, at most so many."""
    firsts = np.array([piece.first for piece in pieces])
    seen: dict[object, str] = {}
    found = []
    for row in rows.tolist():
        piece = pieces[int(np.searchsorted(firsts, row, side="right")) - 1]
        value = _id_at(piece, row - piece.first, column)
        where = f"{piece.path}: row {piece.row + row - piece.first + 1}"
        if value in seen:
            shown = f"{describe(value)} again, first at {seen[value]}"
            rule = f"{column}: expected every agent once"
            found.append(Violation(where, rule, value, shown=shown, kind=ViolationKind.DUPLICATE))
            if len(found) >= most:
                break
        else:
            seen[value] = where
    return found


def _id_at(piece: Piece, place: int, column: str) -> object:
    for batch in read_batches(piece, (column,)):
        if place < batch.num_rows:
            return batch.column(0)[place].as_py()
        place -= batch.num_rows
    raise IndexError(place)
