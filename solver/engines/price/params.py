"""Thresholds and times of the price engine."""

from __future__ import annotations

from dataclasses import dataclass, field

from solver.params import Params


@dataclass(frozen=True, kw_only=True)
class SamplingParams(Params):
    """Samples, and the prices that they give: :mod:`~solver.engines.price.estimate` and what it calls.

    Measured by ``pytest benchmarks/bench_price.py`` and ``benchmarks/bench_many_models.py``.
    """

    growth: int = 8
    """Ratio of neighbouring sample sizes, the last being all agents; errors shrink by its square root."""
    first_sample: tuple[int, ...] = (125, 250)
    """Agents of the first sample, at least and at most."""
    agents_per_model: int = 5
    """Agents of the first sample for each model, between these two."""
    probed_agents: int = 256
    """Agents that tell range and grid of the scores."""
    grid_units: tuple[float, ...] = (1.0, 0.1, 0.01, 0.001)
    """Units of a grid that are recognised."""
    most_levels: int = 3000
    """Levels of a grid above which ties no longer matter."""
    dense_pairs: int = 100_000
    """Pairs up to which a sample is not worth reducing."""
    most_boxes: int = 3
    """Boxes around a sample's prices at most."""
    untimed_models: int = 64
    """Models up to which the first sample keeps no deadline: it takes milliseconds that are well spent."""
    time_growth: float = 2.0
    """Factor on the time of the last sample, as an estimate for the next."""
    deviations: float = 3.0
    """Half-width of a box, in standard deviations of its prices."""
    tie_temperatures: float = 2.0
    """Additional half-width, in temperatures: how far a tie can hold smoothed prices off the exact ones."""
    coarse_unit: float = 1e-5
    """Unit that the first sample's flow rounds costs to, relative to the range of scores."""
    cooling: float = 0.25
    """Factor between two temperatures; the minimiser moves by a few temperatures, which one or two steps recover."""
    noise_step: float = 3.0
    """Step length, in standard deviations, below which a temperature is left: the next step would be far shorter."""
    shortening: float = 0.25
    """Factor on a step that did not lower the dual."""
    longest_step: float = 4.0
    """Longest step, in temperatures: beyond, the curvature says nothing."""
    steps_per_temperature: int = 8
    """Newton steps at one temperature at most."""
    most_temperatures: int = 60
    """Temperatures at most, the last far below the resolution of float64."""
    trusted_margin: float = 8.0
    """Agents within a temperature of a model's boundary from which a curvature is reliable."""
    idle_cooling: float = 0.05
    """Final temperature, relative to the first, when no price is above its floor: there is no error to compare with."""
    final_temperature: float = 0.35
    """Final temperature, relative to the sampling error of the prices."""
    few_slots: float = 2.0
    """Slots of a model in the last sample below which the sample says nothing of its price."""
    little_shortage: float = 12.0
    """Agents too many in the last sample below which it says little of the level of prices."""


@dataclass(frozen=True, kw_only=True)
class BoxParams(Params):
    """Boxes of prices around an estimate: :mod:`~solver.engines.price.optimum` and what it calls.

    Measured by ``pytest benchmarks/bench_price.py`` and ``benchmarks/bench_deadlines.py``.
    """

    most_passes: int = 8
    """Reducing passes at most before one flow takes all arcs."""
    recentred_passes: int = 3
    """Passes that may stop early and re-centre the box."""
    first_temperature: float = 0.25
    """Temperature of the first step, in standard deviations of the estimate."""
    arcs_share: float = 0.6
    """Share of all arcs that may be spent on flows of boxes before one flow takes them all."""
    flow_arcs_per_model: int = 48
    """Arcs per model that a flow solves as fast as a further Newton step would take."""
    most_steps: int = 24
    """Newton steps at most."""
    cooling: float = 0.2
    """Factor between two temperatures."""
    settled_step: float = 4.0
    """Step length, in temperatures, below which the temperature falls."""
    worthwhile_arcs_share: float = 0.75
    """Share of the arcs left by a smaller box up to which it is worth having."""
    worthwhile_side_share: float = 0.6
    """Median side of a box, relative to the one around it, up to which it is worth a reduction."""
    shortening: float = 0.25
    """Factor on a step that did not lower the dual."""
    aim_share: float = 0.5
    """Sides of a box that a first step may aim at."""
    outside_share: float = 0.1
    """Share of a side by which a step must miss the box for another box to be worth a pass."""
    binding_agents: float = 3.0
    """Agents too many or too few at a side of the box above which its optimum lies outside."""
    trusted_step: float = 8.0
    """Step length, in temperatures, up to which a smaller box is drawn around its end."""
    informative_agents: float = 1.0
    """Agents within a temperature of a model's boundary below which a Newton step has no information."""
    widening: float = 6.0
    """Factor on the sides at which a box binds."""
    most_widenings: int = 6
    """Times that a box that binds is widened."""
    many_ties: int = 6
    """Arcs per agent on a grid above which ties are handed out rather than solved for."""
    large_flow: int = 4_000
    """Arcs from which a flow with rounded costs is solved first."""
    rough_unit: float = 2.0**-24
    """Unit of those costs, relative to a side of the box."""
    rough_radius: float = 30.0
    """Units by which the prices of that flow may be off, with models in a chain."""
    merged_units: float = 100.0
    """Units of the resolution within which values are the same when agents are merged."""


@dataclass(frozen=True, kw_only=True)
class RecallParams(Params):
    """Remembered prices of a similar instance: :mod:`~solver.engines.price.recalled_prices`.

    Measured by ``pytest benchmarks/bench_many_models.py -k warm``.
    """

    agents: int = 2_000
    """Agents that remembered prices are compared on: with many models, more of them cost more than a new search."""
    forgone_rounding: float = 1e-9
    """Amount, relative to the range of scores, that an agent may forgo by rounding."""
    temperature: float = 1 / 400
    """Temperature of the comparison, relative to an agent's range of scores."""
    changed_share: float = 0.2
    """Share of agents whose choice has changed up to which only the capacities may have changed."""
    slot_change_share: float = 1e-3
    """Change of slots, relative to a model's agents, below which it is within the error anyway."""
    moving_temperature: float = 1 / 100
    """Temperature of the steps that follow a change of capacities, relative to an agent's range of scores."""
    most_moving_steps: int = 12
    """Number of these steps at most."""
    move_error: float = 0.04
    """Standard deviation of what a sample says of a move, relative to the move."""
    largest_drift: float = 5.0
    """Standard deviations beyond which remembered prices are discarded."""


@dataclass(frozen=True, kw_only=True)
class RepairParams(Params):
    """From balanced prices to a feasible choice out of time: :mod:`~solver.engines.price.repair`.

    Measured by ``benchmarks/bench_deadlines.py``.
    """

    candidates_per_move: int = 3
    """Agents considered for each one that has to move."""
    least_candidates: int = 500
    """Agents considered at least."""
    waiting_share: float = 0.25
    """Share of the agents up to which those who wait are seated whatever the time: it takes a part of a pass."""


@dataclass(frozen=True, kw_only=True)
class PriceTimes(Params):
    """Upper estimates of what steps take, on one thread.

    Measured by ``benchmarks/bench_deadlines.py``.
    """

    flow_s_per_arc: float = 1.2e-6
    flow_overhead_s: float = 3e-4
    """A flow on a core or a sample, per arc and for the call itself, seconds."""
    unsampled_arcs: int = 15_000
    """Arcs up to which no sample is needed."""
    choice_s_per_pair: float = 1e-8
    choice_s_per_agent: float = 1e-7
    """A pass over all agents and moving agents from overloaded models, per pair and per agent, seconds."""
    overhead_s: float = 0.0015
    """The call of the engine itself, seconds."""
    s_per_model: float = 6e-5
    """The first sample, seconds per model."""
    reducing_s_per_pair: float = 2e-9
    """A reducing pass, seconds per pair."""
    pass_s_per_pair: float = 6e-9
    """A pass that looks up what agents have and could have, seconds per pair."""
    s_per_agent_and_scarce: float = 3e-8
    """The price of a model with few slots, seconds per agent."""
    round_s_per_pair: float = 1e-8
    """A round that seats agents, seconds per pair."""


@dataclass(frozen=True, kw_only=True)
class PriceEngineParams(Params):
    """When the price engine solves exactly, from samples, or not at all.

    Measured by ``pytest benchmarks/bench_engines.py -k picks`` and ``benchmarks/bench_deadlines.py``. A *pair* is one
    agent and one model; times are for one thread.
    """

    flow_arcs: int = 15_000
    """Allowed arcs up to which one flow on all of them is faster than sampling."""
    flow_arcs_sparse: int = 60_000
    sparse_arcs: int = 6
    """The same where an agent has at most ``sparse_arcs`` arcs."""
    repriced_pairs: int = 1_000_000
    """Pairs up to which the smallest prices are recomputed where those found need not be, or only up to the rounding of
    costs to whole numbers: when all slots are sold, or cost by load. Beyond, that would be most of the time."""
    sampling_share: float = 0.2
    """Share of the time left that goes into samples when there is too little for exactness."""
    exact_s_per_pair: float = 8e-9
    """Seconds per pair for exactness and its verification on large instances."""
    s_per_cube: float = 2.5e-8
    """Seconds times m³ for the linear algebra of samples."""
    few_models: int = 64
    """Models up to which there is always time for it."""
    most_models: int = 5_000
    """Models at most: the linear algebra takes memory for their square."""
    s_per_first_model: float = 6e-4
    """Seconds per model that the first sample takes at least, where no step can follow."""
    rough_pairs: int = 2_000_000
    """Pairs above which rough prices are better than what greedy has time for, however late it is."""
    least_algebra_s: float = 0.01
    """Seconds of linear algebra that are spent even where no time is left."""
    sampling: SamplingParams = field(default_factory=SamplingParams)
    boxes: BoxParams = field(default_factory=BoxParams)
    recall: RecallParams = field(default_factory=RecallParams)
    repair: RepairParams = field(default_factory=RepairParams)
    times: PriceTimes = field(default_factory=PriceTimes)
    """Parameters of the stages."""


DEFAULTS = PriceEngineParams()
"""As measured; callers pass others to change a value."""
