"""What a request costs in US dollars: its tokens at the list prices of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from solver.problem.models import Model

Price = TypeVar("Price", "float", "NDArray[np.float64]")


def request_cost_usd(
    input_tokens: Any, output_tokens: Any, usd_per_input_token: Price, usd_per_output_token: Price
) -> Price:
    """Return the cost of requests, US dollars; tokens and prices are numbers, or arrays that broadcast."""
    cost: Price = input_tokens * usd_per_input_token + output_tokens * usd_per_output_token
    return cost


class TokenPrices:
    """List prices of m models, US dollars a token; 0 where a model states none.

    Parameters
    ----------
    models : sequence of Model
        They state prices for a million tokens.

    Attributes
    ----------
    usd_per_input_token, usd_per_output_token : (m,) float64
    """

    __slots__ = ("_pairs", "usd_per_input_token", "usd_per_output_token")

    def __init__(self, models: Sequence[Model]) -> None:
        self.usd_per_input_token = 1e-6 * np.array(
            [model.usd_per_million_input_tokens or 0.0 for model in models]
        )
        self.usd_per_output_token = 1e-6 * np.array(
            [model.usd_per_million_output_tokens or 0.0 for model in models]
        )
        self._pairs: list[tuple[float, float]] = list(
            zip(self.usd_per_input_token.tolist(), self.usd_per_output_token.tolist(), strict=True)
        )

    @property
    def nonzero(self) -> bool:
        """Whether any model costs anything."""
        return bool(self.usd_per_input_token.any() or self.usd_per_output_token.any())

    def cost_usd(
        self, input_tokens: float | NDArray[Any], output_tokens: float | NDArray[Any]
    ) -> NDArray[np.float64]:
        """Return the costs of a request on every model, (m,); of k requests, given as (k, 1), (k, m)."""
        return request_cost_usd(
            input_tokens, output_tokens, self.usd_per_input_token, self.usd_per_output_token
        )

    def cost_on(self, j: int, input_tokens: float, output_tokens: float) -> float:
        """Return the cost of a request on model j."""
        per_input, per_output = self._pairs[j]
        cost: float = request_cost_usd(input_tokens, output_tokens, per_input, per_output)
        return cost
