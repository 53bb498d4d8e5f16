"""Simulated model servers: slots, a queue, first token and generation speed, slower the fuller they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.errors import SpecError, Violation
from solver.problem.request_cost import TokenPrices

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from solver.problem.spec import Model
    from solver.simulate.traffic import Traffic


@dataclass(frozen=True, kw_only=True)
class ServerParams:
    """How simulated servers behave where the fleet file does not say it."""

    latency_s: float = 0.5
    """Seconds to the first token of models that do not state it, >= 0."""
    output_tokens_per_second: float = 50.0
    """Speed of models that do not state it, > 0."""
    slowdown: float = 0.5
    """A request that starts while its model runs ``k`` of ``c`` requests, itself included, takes ``1 + slowdown × (k −
    1) / (c − 1)`` times as long: batching shares the accelerator. Fixed at the start of the request. 0: speed does
    not depend on load."""
    failure_rate: float = 0.0
    """Share of the started requests that end without a usable answer, 0 to 1."""

    def __post_init__(self) -> None:
        problems = []
        if not 0 <= self.latency_s < np.inf:
            problems.append(Violation("latency_s", "expected a number >= 0", self.latency_s))
        if not 0 < self.output_tokens_per_second < np.inf:
            problems.append(
                Violation("output_tokens_per_second", "expected a number > 0", self.output_tokens_per_second)
            )
        if not 0 <= self.slowdown <= 100:
            problems.append(Violation("slowdown", "expected between 0 and 100", self.slowdown))
        if not 0 <= self.failure_rate <= 1:
            problems.append(Violation("failure_rate", "expected between 0 and 1", self.failure_rate))
        if problems:
            raise SpecError(*problems)


class Fleet:
    """The models of a fleet as servers.

    Parameters
    ----------
    models : sequence of Model
        Rate limits and learned capacities are not simulated: slots and queue places are.
    params : ServerParams, optional
        Behaviour that the models do not state.

    Attributes
    ----------
    slots, queue_places : (m,) int64
        Requests served at once, and waiting.
    first_token_s, s_per_token : (m,) float64
        Of an idle server.

    Raises
    ------
    SpecError
        Without models, or with none that has a slot.
    """

    def __init__(self, models: Sequence[Model], params: ServerParams | None = None) -> None:
        self.params = params or ServerParams()
        self.models = tuple(
            model.model_copy(
                update={
                    "requests_per_minute": None,
                    "tokens_per_minute": None,
                    "capacity": model.capacity.model_copy(update={"learn": False, "target_utilization": 1.0}),
                }
            )
            for model in models
        )
        self.ids = tuple(model.id for model in self.models)
        self.slots = np.array([model.capacity.max_concurrent for model in self.models], np.int64)
        self.queue_places = np.array([model.capacity.max_queue for model in self.models], np.int64)
        if not len(self.models) or not self.slots.any():
            raise SpecError(Violation("models", "expected a model with max_concurrent >= 1", shown="none"))
        self.first_token_s = np.array(
            [self.params.latency_s if model.latency_s is None else model.latency_s for model in self.models]
        )
        self.s_per_token = 1.0 / np.array(
            [model.output_tokens_per_second or self.params.output_tokens_per_second for model in self.models]
        )
        self.token_prices = TokenPrices(self.models)

    def __len__(self) -> int:
        return len(self.models)

    def idle_service_s(self, output_tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return seconds of service on an idle server, (n, m)."""
        return self.first_token_s + np.multiply.outer(output_tokens, self.s_per_token)

    def cost_usd(self, traffic: Traffic) -> NDArray[np.float64]:
        """Return list prices of each request on each model, (n, m), US dollars."""
        return self.token_prices.cost_usd(traffic.input_tokens[:, None], traffic.output_tokens[:, None])

    def capacity_per_s(self, output_tokens: NDArray[np.int64]) -> float:
        """Return requests a second that the fleet serves with every slot busy, at the slowed speed of that."""
        mean_s = self.idle_service_s(output_tokens).mean(axis=0)
        slowed = np.where(self.slots > 1, 1.0 + self.params.slowdown, 1.0)
        return float((self.slots / np.maximum(mean_s * slowed, 1e-9)).sum())

    def silent_defaults(self) -> list[str]:
        """Return what was assumed about models that do not state it, in words."""
        notes = []
        for field, value, unit in (
            ("latency_s", self.params.latency_s, "s to the first token"),
            ("output_tokens_per_second", self.params.output_tokens_per_second, "tokens per second"),
        ):
            unstated = [model.id for model in self.models if getattr(model, field) is None]
            if unstated:
                notes.append(f"{value:g} {unit} assumed of {', '.join(unstated)}: {field} is not stated")
        return notes
