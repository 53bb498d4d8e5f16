"""The workers that run the passes: this process, or actors of a cluster; the answers are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from solver.scale.pieces import Piece
    from solver.scale.progress import Progress


class Fleet(Protocol):
    """Workers, each with some of the pieces."""

    watch: Progress | None
    """Told what passes have read."""

    def run(self, method: str, *arguments: Any, each: Mapping[int, Any] | None = None) -> list[Any]:
        """Call a method of :class:`~solver.scale.shard.Shard` on every worker and join the lists they return.

        Parameters
        ----------
        method, *arguments
            What to call, and with what.
        each : mapping, optional
            By the number of a piece: a last argument, of which every worker gets the part of its own pieces.
        """
        ...

    def close(self) -> None:
        """Let the workers go."""
        ...


def shared_out(pieces: Sequence[Piece], workers: int) -> list[list[Piece]]:
    """Return consecutive pieces for at most so many workers, about as many agents for each, none empty."""
    total = sum(piece.rows for piece in pieces)
    parts: list[list[Piece]] = [[] for _ in range(workers)]
    for piece in pieces:
        middle = piece.first + piece.rows / 2
        parts[min(workers - 1, int(middle * workers / total))].append(piece)
    return [part for part in parts if part]
