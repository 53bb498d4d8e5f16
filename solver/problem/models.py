"""Models and what they can take."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from solver.errors import SpecError
from solver.problem.instance import MAX_CAPACITY
from solver.problem.values import Count, Flag, Fraction, Frozen, Identifier, NonNegative, Real, Text


class Capacity(Frozen):
    """What a model can take.

    Parameters
    ----------
    max_concurrent : int
        Requests it serves at the same time.
    max_queue : int
        Requests that may wait for it besides.
    target_utilization : float
        Share of ``max_concurrent``, in (0, 1], above which the model counts as over its target. It raises
        alerts and steers live routing; it takes no slots away from a batch. 1 means no target below full.
    slots : int, optional
        Agents it may take in one batch, where that is not ``max_concurrent``: a batch that runs for hours
        fits many agents through each concurrent request.
    min_slots : int
        Slots that a batch must use, such as a committed minimum: a floor.
    min_slots_if_open : int
        Slots that a batch must use if it uses any: 0, or so many and more.
    opening_cost : float
        Score points it costs to use the model at all, >= 0.
    load_cost : sequence of float
        Score points a slot costs in each of equally large tiers of the slots, not decreasing: the fuller the
        model, the dearer its next slot. As many tiers as every other model that has any.
    learn : bool
        Whether live load learns how many requests the model can usefully have in flight; ``max_concurrent``
        is where that begins. ``max_concurrent="learn"`` says the same, beginning with 4.
    low, high : int
        A learned capacity never leaves this range.
    slo_ms_per_token : float, optional
        With a learned capacity: objective for the 99th percentile of the time per output token,
        milliseconds. None: the capacity of greatest power, throughput over latency.
    streamed : bool
        With a learned capacity: whether first tokens are reported. Without them a queue at the server cannot be
        seen, and ``slo_ms_per_token`` is needed.
    """

    max_concurrent: Count
    max_queue: Count = 0
    target_utilization: Annotated[Real, Field(gt=0, le=1)] = 1.0
    slots: Count | None = None
    min_slots: Count = 0
    min_slots_if_open: Count = 0
    opening_cost: NonNegative = 0.0
    load_cost: tuple[NonNegative, ...] = ()
    learn: Flag = False
    low: Annotated[Count, Field(gt=0)] = 1
    high: Annotated[Count, Field(gt=0)] = 1024
    slo_ms_per_token: Annotated[Real, Field(gt=0)] | None = None
    streamed: Flag = True

    @model_validator(mode="before")
    @classmethod
    def _learned_from(cls, data: Any) -> Any:
        most = data.get("max_concurrent") if isinstance(data, dict) else None
        if not isinstance(most, str) or most != "learn":
            return data
        low, high = data.get("low", 1), data.get("high", 1024)
        start = 4
        if type(low) is int and type(high) is int:  # otherwise their own rules speak
            start = max(low, min(4, high))
        return {**data, "max_concurrent": start, "learn": True}

    @model_validator(mode="after")
    def _range_fits(self) -> Self:
        if self.low > self.high:
            raise SpecError(f"low: expected <= high ({self.high}), got {self.low}")
        if self.learn and not self.streamed and self.slo_ms_per_token is None:
            raise SpecError(
                "slo_ms_per_token: expected an objective where answers are not streamed, but missing"
            )
        return self

    @property
    def batch_slots(self) -> int:
        """Agents it may take in one batch: ``slots`` where given, else ``max_concurrent``."""
        return self.max_concurrent if self.slots is None else self.slots


class Model(Frozen):
    """One deployment that serves agents. Facts that are not stated are None and never assumed.

    Parameters
    ----------
    id : str
        Unique in its problem.
    capacity : Capacity
        What it can take.
    capabilities : mapping of str to float
        Strength in each capability, 0 to 1; a capability that is not named counts 0.
    context_tokens : int, optional
        Context window in tokens. Not stated, it never lowers a score and never meets a hard requirement.
    usd_per_million_input_tokens, usd_per_million_output_tokens : float, optional
        List price. Needed where the objective weighs cost.
    latency_s : float, optional
        Seconds from request to first token. Needed where the objective weighs latency.
    output_tokens_per_second : float, optional
        Speed of generation. Needed where the objective weighs latency.
    provider, region : str, optional
        Who runs it, and where.
    supports_tools, supports_vision : bool
        Whether it calls tools, and takes images.
    requests_per_minute, tokens_per_minute : int, optional
        Rate limits, as facts.
    resources : mapping of str to float
        Units the batch may take of further resources, by name, such as ``{memory_gb: 80}``. Of a resource
        that only other models name it has plenty. ``tokens``, ``input_tokens`` and ``output_tokens`` are
        counted from what the agents expect.
    """

    id: Identifier
    capacity: Capacity
    capabilities: dict[Text, Fraction] = Field(default_factory=dict)
    context_tokens: Annotated[Count, Field(gt=0)] | None = None
    usd_per_million_input_tokens: NonNegative | None = None
    usd_per_million_output_tokens: NonNegative | None = None
    latency_s: NonNegative | None = None
    output_tokens_per_second: Annotated[Real, Field(gt=0)] | None = None
    provider: Text | None = None
    region: Text | None = None
    supports_tools: Flag = False
    supports_vision: Flag = False
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    resources: dict[Text, Annotated[Real, Field(ge=0, le=MAX_CAPACITY)]] = Field(default_factory=dict)
