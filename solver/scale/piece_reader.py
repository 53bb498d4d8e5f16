"""A worker's way to its pieces, which counts what it has read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from solver.scale.pieces import read_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from solver.scale.pieces import Block, Piece, ScoreColumns


class PieceReader:
    """Reads pieces block by block. Base of the classes that make up a :class:`~solver.scale.shard.Shard`."""

    _pieces: tuple[Piece, ...]
    _columns: ScoreColumns
    _rows_read = 0
    watch: Callable[[int], None] | None = None
    """Told the rows that a call has read so far, where something in this process follows the progress."""

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method, counting what it reads from zero."""
        self._rows_read = 0
        found: list[Any] = getattr(self, method)(*arguments)
        return found

    def rows_read(self) -> int:
        """Return the rows that the call at work has read."""
        return self._rows_read

    def _blocks(self, piece: Piece) -> Iterator[Block]:
        """Yield the numbers of a piece, see :func:`~solver.scale.pieces.read_blocks`."""
        for block in read_blocks(piece, self._columns):
            yield block
            self._rows_read += len(block.score)
            if self.watch is not None:
                self.watch(self._rows_read)
