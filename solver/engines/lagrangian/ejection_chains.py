"""Compound moves: a price-guided beam over chains of ejections.

A move takes an agent from its column to another, ejects an agent from there, and so on, until the last
agent is accepted (a path) or lands where the first one left (a cycle). No column is visited twice, so the
change of the penalised loss of a complete move is exact. Partial moves are ranked by what they would cost at
the dual prices, which look past the overload that the open end still has. One call of :meth:`EjectionChains.moves`
expands a few dozen partial moves per level, all of them at once.

Compare the ejection chains of M. Yagiura, T. Ibaraki, F. Glover, "An ejection chain approach for the
generalized assignment problem", INFORMS J. Comput. 16 (2004).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from solver.engines import kernels
from solver.engines.lagrangian.chain_expansion import IMPROVEMENT, find_moves
from solver.engines.lagrangian.chain_state import NOISE_DRAWS, ChainState, Move, gumbel_noise
from solver.errors import EngineError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["IMPROVEMENT", "EjectionChains", "Move"]

_MAX_NOISE = np.float32(4.0)
"""Noise is cut off there, one draw in fifty, so that the kernel can prune."""


class EjectionChains(ChainState):
    """The moves that improve an assignment, found and carried out by the compiled kernel where there is one.

    The parameters are those of :class:`~.chain_state.ChainState`.
    """

    _chains: kernels.Chains | None = None

    def improve(
        self, *, crossed: bool, local: float, tolerance: float, until_s: float
    ) -> tuple[kernels.Stop, bool]:
        """Make moves with the compiled kernel; only where it is available.

        Parameters
        ----------
        crossed : bool
            Whether an assignment within all capacities has been met since the last local optimum: then only the best
            move is made, otherwise every move that touches no column of a better one.
        local : float
            Loss that an assignment within all capacities must fall below, relatively by ``tolerance``.
        until_s : float
            When to stop, in seconds of ``time.monotonic``.

        Returns
        -------
        tuple
            Why it stopped, and ``crossed`` as it is then.
        """
        chains = self._compiled()
        for _ in range(self.form.n + 1):  # every widening adds places, and n are enough
            stop, crossed, steps = chains.improve(
                self._arrays(),
                width=self.width,
                depth=self.depth,
                crossed=crossed,
                local=local,
                tolerance=tolerance,
                until_s=until_s,
            )
            self.steps += steps
            if stop is not kernels.Stop.MEMBERS_FULL:
                return stop, crossed
            self.widen()
        raise EngineError("ejection chains: expected room for all agents after widening")

    def _compiled(self) -> kernels.Chains:
        """Return the kernel's view of the fixed arrays, made on first use."""
        if self._chains is None:
            form = self.form
            self._chains = kernels.Chains(
                exact_loss=form.loss,
                models=form.models,
                demand=self.demand,
                near=self.near,
                near_demand=self.near_demand,
                price=self.price,
                room=self.room,
                noise=np.minimum(gumbel_noise(NOISE_DRAWS), _MAX_NOISE) * np.float32(self.temperature),
                improvement=IMPROVEMENT,
                seed=int(self.rng.integers(1, 2**63)),
            )
        return self._chains

    def _arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that change between calls of the kernel."""
        return {
            "loss": self.priced,
            "near_loss": self.near_loss,
            "near_key": self.near_key,
            "penalty": self.penalty,
            "use": self.use,
            "column": self.column,
            "members": self.members,
            "size": self.size,
        }

    def moves(self, most: int) -> list[Move]:
        """Return improving complete moves, at most ``most`` per level, best first."""
        self.steps += 1
        if not kernels.available():
            return find_moves(self, width=self.width, depth=self.depth, most=most)
        compiled = self._compiled().find(self._arrays(), width=self.width, depth=self.depth)
        return [self.move(*one) for one in compiled[:most]]
