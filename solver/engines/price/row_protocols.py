"""What the search for prices asks of agents, whether their rows are in memory, compressed, or in files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from solver.engines.price.contested_arcs import Contested
    from solver.engines.smoothed_demand import Response


class Choice(Protocol):
    """What every agent has: an (n,) array, or a rule where n numbers would not fit into memory."""

    def __setitem__(self, agents: NDArray[np.int64], models: NDArray[np.int64], /) -> None:
        """Let some agents have other models, m for unassigned."""
        ...

    def copy(self) -> Self:
        """Return another that may be changed."""
        ...


class ContestedArcs(Protocol):
    """The contested arcs of a box, wherever they are, see :class:`~solver.engines.price.contested_arcs.Contested`."""

    @property
    def m(self) -> int:
        """Number of models."""
        ...

    @property
    def arcs(self) -> int:
        """Number of arcs."""
        ...

    @property
    def agents(self) -> int:
        """Number of agents, settled ones included."""
        ...

    @property
    def low(self) -> NDArray[np.float64]:
        """(m,) float64, lower sides of the box."""
        ...

    @property
    def high(self) -> NDArray[np.float64]:
        """(m,) float64, upper sides of the box."""
        ...

    def respond(self, prices: NDArray[np.float64], temperature: float) -> Response:
        """Return the smoothed response."""
        ...

    def on_grid(self, grid: float) -> bool:
        """Return whether all values are whole multiples of ``grid``."""
        ...


class Gathered(Protocol):
    """A reduction whose contested arcs are in memory."""

    @property
    def choice(self) -> Choice:
        """Choice of every settled agent; arbitrary for contested ones."""
        ...

    @property
    def agent(self) -> NDArray[np.int64]:
        """(g,) int64, the contested agents, as the choice names them."""
        ...

    @property
    def contested(self) -> Contested:
        """Their arcs."""
        ...


class Nested(Protocol):
    """One of nested boxes, with what it leaves contested."""

    @property
    def contested(self) -> ContestedArcs:
        """Their arcs."""
        ...

    def inside(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> Nested:
        """Return the reduction to a smaller box; this one stays as it is."""
        ...

    def gathered(self) -> Gathered:
        """Return it with its arcs in memory."""
        ...


class Reduced(Protocol):
    """A full pass over the agents for a box, see :class:`Reduction`."""

    @property
    def contested(self) -> ContestedArcs:
        """The contested arcs."""
        ...

    def whole(self) -> Nested:
        """Return the outermost of nested boxes: none of its contested agents is settled yet."""
        ...

    def resolved(self, found: Choice) -> Choice:
        """Return every agent's choice, given what was found for the outermost of nested boxes."""
        ...


class Rows(Protocol):
    """Agents with their scores, dense or sparse."""

    n: int
    m: int

    def sample(self, rows: NDArray[np.int64]) -> Rows:
        """Return some of the agents."""
        ...

    def dense(self) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Return scores as (n, m) float64 and the values of staying unassigned."""
        ...

    def span(self) -> float:
        """Return the range of all finite scores and values of staying unassigned."""
        ...

    def standing(
        self, prices: NDArray[np.float64], apart: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return what agents have: their best elsewhere at these prices, unassigned, and their scores apart.

        Of all agents, or of those at least whom the last slots and the last places outside are a matter of.
        """
        ...

    def reduce(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> Reduced:
        """Find the contested arcs for a box."""
        ...
