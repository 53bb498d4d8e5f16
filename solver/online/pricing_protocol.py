"""The router's present prices: one way to price capacity for a finite horizon, one for steady traffic.

Each reads the live load, charges a row, and is refreshed with prices computed elsewhere. The router calls
``level``, ``net``, ``claim`` and ``install`` under its lock. What ``price_job`` returns may be called anywhere, in
another process too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from solver.online.live_load import LiveLoad
    from solver.online.window import AgentRow, Sample

_Prices = TypeVar("_Prices")


class Pricing(Protocol[_Prices]):
    """A way to price capacity.

    Attributes
    ----------
    uses_up : bool
        Whether slots are used up, so that each has to be claimed before it is reserved.
    """

    uses_up: bool

    def arrived(self, now_s: float) -> bool:
        """Count an arrival and return whether prices should be computed again."""
        ...

    def due(self, now_s: float) -> bool:
        """Return whether prices should be computed again."""
        ...

    def level(self, load: LiveLoad) -> NDArray[np.float64]:
        """Return what capacity costs at the present load, (m,), for :meth:`net`; ``inf`` where there is no room."""
        ...

    def levels(self, load: LiveLoad, count: int) -> NDArray[np.float64]:
        """Return (count, m) levels, as if 0 to ``count`` − 1 more requests had already been admitted to each model."""
        ...

    def net(self, row: AgentRow, level: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what each model is worth to an agent after its price, ``-inf`` where there is no room.

        ``level`` and the answer are (m,), or (k, m) for k levels at once.
        """
        ...

    def slot_price(self, load: LiveLoad) -> NDArray[np.float64]:
        """Return what one more slot of each model is worth now, in score, (m,); 0 before the first prices."""
        ...

    def refusal_value(self, row: AgentRow) -> float:
        """Return the value of refusing this request."""
        ...

    def worth_it(self, row: AgentRow, column: int, net: float) -> bool:
        """Return whether serving the agent there, at ``net``, is better than refusing the request."""
        ...

    def out_of_slots(self, row: AgentRow) -> bool:
        """Return whether no eligible model will have a slot again."""
        ...

    def claim(self, column: int) -> bool:
        """Take one of what a model has for the horizon; False when nothing is left."""
        ...

    def unclaim(self, column: int) -> None:
        """Give it back: nothing was reserved."""
        ...

    def next_release_s(self, row: AgentRow, limit: NDArray[np.int64]) -> float:
        """Return a guess of the seconds until an eligible model has room again; ``limit`` is how many each takes."""
        ...

    def price_job(
        self, sample: Sample, load: LiveLoad, usd_left: float | None, now_s: float
    ) -> Callable[[], _Prices]:
        """Return a call that computes prices from a sample. It can be pickled, and holds copies only."""
        ...

    def install(self, prices: _Prices, load: LiveLoad) -> None:
        """Charge the prices that the last price job has computed."""
        ...
