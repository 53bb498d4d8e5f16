"""A worker's way to its pieces, which counts what it has read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from solver.errors import SpecError
from solver.scale.pieces import changed_file, read_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from solver.scale.pieces import Block, Piece, ScoreColumns


class PieceReader:
    """Reads pieces block by block. Base of the classes that make up a :class:`~solver.scale.shard.Shard`."""

    _pieces: tuple[Piece, ...]
    _columns: ScoreColumns
    _rows_read = 0
    _contents: dict[int, int]
    """Checksums of the numbers of pieces, by their number, as they were read first."""
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

    def expect(self, contents: dict[int, int]) -> list[int]:
        """Take note of the checksums that pieces had when they were read first, whoever read them; return how many."""
        self._contents |= contents
        return [len(contents)]

    def _blocks(self, piece: Piece) -> Iterator[Block]:
        """Yield the numbers of a piece, see :func:`~solver.scale.pieces.read_blocks`.

        Raises
        ------
        SpecError
            At the end, where they are others than when they were read first.
        """
        content = 0
        for block in read_blocks(piece, self._columns):
            content = block.checksum(content)
            yield block
            self._rows_read += len(block.score)
            if self.watch is not None:
                self.watch(self._rows_read)
        if self._contents.setdefault(piece.number, content) != content:
            raise SpecError(changed_file(piece.path, "the job began"))
