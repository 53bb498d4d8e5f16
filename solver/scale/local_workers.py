"""Passes in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from solver.scale.shard import Shard

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from solver.scale.pieces import Piece, ScoreColumns
    from solver.scale.progress import Progress


class LocalFleet:
    """One worker: this process."""

    def __init__(self, pieces: Sequence[Piece], columns: ScoreColumns, closed: NDArray[np.bool_]) -> None:
        self._shard = Shard(pieces, columns, closed)
        self.watch: Progress | None = None

    def run(self, method: str, *arguments: Any, each: Mapping[int, Any] | None = None) -> list[Any]:
        """Call a method of the only worker."""
        if self.watch is not None:
            self.watch.begin()
            self._shard.watch = self.watch.read
        return self._shard.call(method, *arguments, *(() if each is None else (each,)))

    def close(self) -> None:
        """Do nothing."""
