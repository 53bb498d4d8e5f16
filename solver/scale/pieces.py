"""Score files as pieces: what is in them by their footers alone, and their rows in blocks that fit into cache."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import SpecError, Violation, ViolationKind
from solver.problem.values import did_you_mean
from solver.scale.column_numbers import (
    amount_columns,
    list_rows,
    number_column,
    unit_column,
    vector_column,
)
from solver.scale.computed_scores import ComputedScores, scored_agents
from solver.scale.storage import arrow, files_matching, full_location, open_input

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

_BLOCK_ROWS = 1 << 15
"""Rows decoded at a time: 2.6 MB at twenty models of float32."""

_PIECE_ROWS = 1 << 20
"""Rows up to which consecutive row groups are one piece, with one file of its own."""

_MAX_NAMED = 5
"""Entries spelled out in an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreColumns:
    """Which columns of the files hold what.

    Parameters
    ----------
    agent : str
        Ids of the agents; of any Arrow type.
    models : tuple of str
        Ids of the m models: the columns of their scores, in which a null forbids the pair.
    scores : str, optional
        One column of all scores instead: lists of m numbers, or fixed-size binary of m little-endian floats.
    penalty : str, optional
        Column of what leaving an agent unassigned costs.
    priority : str, optional
        Column of priorities: see :func:`solver.assign`.
    sense : {"maximize", "minimize"}
        With ``minimize`` the files hold costs.
    computed : ComputedScores, optional
        The files hold agents instead of scores: how the one follows from the other.
    amounts : tuple of str
        Columns of amounts that agents take, >= 0, in which a null is 0; see :mod:`solver.scale.coupling`.
    copies : str, optional
        Column of how many different models each agent needs, in which a null is 1.
    count : str, optional
        Column of how many equal agents each row stands for, in which a null is 1.
    """

    agent: str = "agent"
    models: tuple[str, ...]
    scores: str | None = None
    penalty: str | None = None
    priority: str | None = None
    sense: str = "maximize"
    computed: ComputedScores | None = None
    amounts: tuple[str, ...] = ()
    copies: str | None = None
    count: str | None = None

    @classmethod
    def of_agents(cls, computed: ComputedScores, agent: str = "id") -> ScoreColumns:
        """Return the columns of files of agents, whose scores are computed."""
        return cls(
            agent=agent,
            models=computed.models,
            penalty="unassigned_penalty" if "unassigned_penalty" in computed.fields else None,
            priority="priority" if "priority" in computed.fields else None,
            copies="copies" if "copies" in computed.fields else None,
            count="count" if "count" in computed.fields else None,
            computed=computed,
        )

    @property
    def has_units(self) -> bool:
        """Whether a row may take several slots."""
        return self.copies is not None or self.count is not None

    @property
    def numbers(self) -> tuple[str, ...]:
        """Columns that a pass over the numbers reads."""
        if self.computed is not None:
            return tuple(dict.fromkeys((*self.computed.fields, *self.amounts))) or (self.agent,)
        own = self.models if self.scores is None else (self.scores,)
        named = (*own, self.penalty, self.priority, *self.amounts, self.copies, self.count)
        return tuple(dict.fromkeys(name for name in named if name is not None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Consecutive row groups of one file; a worker answers for whole pieces.

    Parameters
    ----------
    number : int
        Place among all pieces.
    path : str
        The file.
    groups : tuple of int
        Its row groups.
    first : int
        Agents in all pieces before it.
    row : int
        Rows of the file before it.
    rows : int
        Its agents.
    fingerprint : str
        Size and footer checksum of the file: a file that changed is refused.
    """

    number: int
    path: str
    groups: tuple[int, ...]
    first: int
    row: int
    rows: int
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Some consecutive agents of a piece.

    Parameters
    ----------
    first : int
        Place of the first of them among all agents.
    score : (k, m) float32 or float64
        To be maximised; ``-inf`` forbids the pair.
    penalty, priority : (k,) float64 or None
        None without such a column.
    amount : (k, c) float64 or None
        Amounts that agents take; None without such columns.
    copies, count : (k,) int64 or None
        Different models that each agent needs, and equal agents that each row stands for; None for one.
    """

    first: int
    score: NDArray[Any]
    penalty: NDArray[np.float64] | None
    priority: NDArray[np.float64] | None
    amount: NDArray[np.float64] | None = None
    copies: NDArray[np.int64] | None = None
    count: NDArray[np.int64] | None = None

    def checksum(self, before: int) -> int:
        """Return the CRC-32 of all numbers, going on from that of the block before."""
        for values in (self.score, self.penalty, self.priority, self.amount, self.copies, self.count):
            if values is not None:
                before = zlib.crc32(values.data, before)
        return before


def files_of(patterns: Sequence[str]) -> tuple[str, ...]:
    """Return the files that names, URLs and patterns such as ``batch/*.parquet`` stand for, absolute, sorted for each.

    Raises
    ------
    SpecError
        For a name or a pattern without a file.
    """
    found: list[str] = []
    lines = []
    for pattern in patterns:
        some = files_matching(pattern)
        if not some:
            lines.append(Violation(pattern, "expected Parquet files", shown="none"))
        found += some
    twice = sorted({path for path in found if found.count(path) > 1}) if len(set(found)) < len(found) else []
    lines += [Violation(path, "expected every file once", kind=ViolationKind.DUPLICATE) for path in twice]
    if lines:
        raise SpecError(*lines)
    return tuple(map(full_location, found))


def pieces_of(files: Sequence[str], columns: ScoreColumns) -> list[Piece]:
    """Return the pieces of some files from their footers alone; empty row groups are part of none.

    Raises
    ------
    SpecError
        For files that cannot be read, and for columns that are missing or hold no numbers.
    """
    pieces: list[Piece] = []
    lines: list[Violation] = []
    first = 0
    for path in files:
        try:
            reader, fingerprint = _opened(path)
        except SpecError as error:
            lines.extend(error.violations)
            continue
        found = _unfit(path, reader.schema_arrow, columns)
        lines.extend(found)
        footer = reader.metadata
        groups: list[int] = []
        row = held = 0
        for group in range(footer.num_row_groups):
            count = footer.row_group(group).num_rows
            if groups and held + count > _PIECE_ROWS:
                pieces.append(_piece(pieces, path, groups, first, row, held, fingerprint))
                first, row, held, groups = first + held, row + held, 0, []
            if count:
                groups.append(group)
                held += count
        if groups:
            pieces.append(_piece(pieces, path, groups, first, row, held, fingerprint))
            first += held
        reader.close(force=True)
    if not lines and not pieces:
        lines.append(
            Violation(", ".join(files[:_MAX_NAMED]), "expected at least one agent (row)", shown="none")
        )
    if lines:
        raise SpecError(*lines)
    return pieces


def _piece(
    pieces: list[Piece], path: str, groups: list[int], first: int, row: int, rows: int, fingerprint: str
) -> Piece:
    return Piece(
        number=len(pieces),
        path=path,
        groups=tuple(groups),
        first=first,
        row=row,
        rows=rows,
        fingerprint=fingerprint,
    )


def size_of(pieces: Sequence[Piece]) -> int:
    """Return the bytes of all files that pieces are of."""
    return sum(int(mark.partition("-")[0]) for mark in {one.path: one.fingerprint for one in pieces}.values())


def read_blocks(piece: Piece, columns: ScoreColumns) -> Iterator[Block]:
    """Yield the numbers of a piece, checked, a few thousand agents at a time.

    Raises
    ------
    SpecError
        For a file that changed or breaks off, and for numbers that are no scores, with file and row.
    """
    row = piece.row
    for batch in read_batches(piece, columns.numbers):
        yield _block(piece, row, batch, columns)
        row += batch.num_rows
    if row != piece.row + piece.rows:
        msg = Violation(piece.path, f"expected {piece.rows} rows in a piece", row - piece.row)
        raise SpecError(msg)


def read_batches(piece: Piece, names: Sequence[str]) -> Iterator[Any]:
    """Yield Arrow record batches of some columns of a piece.

    Raises
    ------
    SpecError
        For a file that changed since its footer was read, or breaks off.
    """
    pa, _ = arrow()
    reader, fingerprint = _opened(piece.path)
    if fingerprint != piece.fingerprint:
        raise SpecError(changed_file(piece.path, "the job began"))
    batches = reader.iter_batches(
        _BLOCK_ROWS, row_groups=list(piece.groups), columns=list(names), use_threads=False
    )
    try:
        yield from batches
    except (pa.ArrowException, OSError) as error:
        raise unreadable(piece.path, error) from None
    finally:
        reader.close(force=True)


def _opened(path: str) -> tuple[Any, str]:
    """Return a reader of a file, and what tells it from another version of itself."""
    pa, pq = arrow()
    try:
        file = open_input(path)
        reader = pq.ParquetFile(file)
        size = file.size()
        tail = min(size, 8 + reader.metadata.serialized_size)
        footer = zlib.crc32(file.read_at(tail, size - tail))
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from None
    return reader, f"{size}-{footer:08x}"


def changed_file(path: str, when: str) -> Violation:
    """Return the violation of a file that is another one than it was."""
    return Violation(path, f"expected the file as it was when {when}; it has changed since")


def unreadable(path: str, error: Exception) -> SpecError:
    """Return the error of a file that is no Parquet, or broken."""
    reason = (str(error).splitlines() or ["it is broken"])[0]
    return SpecError(Violation(path, f"not a readable Parquet file: {reason}"))


def _unfit(path: str, schema: Any, columns: ScoreColumns) -> list[Violation]:
    """Return which columns are missing, or of a type that holds no numbers."""
    known = schema.names
    lines = []
    numeric = columns.amounts if columns.computed is not None else columns.numbers
    for name in (columns.agent, *columns.numbers):
        if known.count(name) != 1:
            rule = f"{name}: expected one such column"
            shown = "none" if name not in known else "several"
            lines.append(Violation(path, rule, shown=shown, hint=did_you_mean(name, known)))
            continue
        kind = schema.field(name).type
        if name in numeric and name != columns.scores and not _is_number(kind):
            lines.append(Violation(path, f"{name}: expected numbers", shown=str(kind)))
        if name == columns.scores and not _is_list(kind, len(columns.models)):
            rule = f"{name}: expected lists of numbers, or fixed-size binary of {len(columns.models)} floats"
            lines.append(Violation(path, rule, shown=str(kind)))
    return lines


def _is_number(kind: Any) -> bool:
    pa, _ = arrow()
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _is_list(kind: Any, m: int) -> bool:
    pa, _ = arrow()
    if pa.types.is_fixed_size_binary(kind):
        return kind.byte_width in (4 * m, 8 * m)
    types = pa.types
    return bool(
        (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))
        and _is_number(kind.value_type)
    )


def _block(piece: Piece, row: int, batch: Any, columns: ScoreColumns) -> Block:
    if columns.computed is not None:
        agents = scored_agents(columns.computed, batch, piece.path, row)
        return _block_of(piece, row, batch, columns, agents.score, agents.penalty, agents.priority)
    m = len(columns.models)
    forbidden = np.inf if columns.sense == "minimize" else -np.inf
    if columns.scores is None:
        parts = [number_column(batch.column(name), forbidden) for name in columns.models]
        kind = np.float32 if all(part.dtype in (np.float32, np.float16) for part in parts) else np.float64
        score = np.empty((batch.num_rows, m), kind)
        for j, part in enumerate(parts):
            score[:, j] = part
    else:
        score = list_rows(piece.path, row, batch.column(columns.scores), m, columns.scores, forbidden)
    if columns.sense == "minimize":
        score = np.negative(score)
    if not (score < np.inf).all():
        i, j = (int(k) for k in np.argwhere(~(score < np.inf))[0])
        shown = float(score[i, j]) * (-1 if columns.sense == "minimize" else 1)
        rule = f"score of {columns.models[j]}: expected a number or {forbidden:+}"
        raise SpecError(Violation(f"{piece.path}: row {row + i + 1}", rule, shown))
    penalty = vector_column(piece.path, row, batch, columns.penalty, least=0.0)
    priority = vector_column(piece.path, row, batch, columns.priority, least=-np.inf)
    return _block_of(piece, row, batch, columns, score, penalty, priority)


def _block_of(
    piece: Piece,
    row: int,
    batch: Any,
    columns: ScoreColumns,
    score: NDArray[Any],
    penalty: NDArray[np.float64] | None,
    priority: NDArray[np.float64] | None,
) -> Block:
    return Block(
        first=piece.first + row - piece.row,
        score=np.ascontiguousarray(score),
        penalty=penalty,
        priority=priority,
        amount=amount_columns(piece.path, row, batch, columns.amounts),
        copies=unit_column(piece.path, row, batch, columns.copies),
        count=unit_column(piece.path, row, batch, columns.count),
    )
