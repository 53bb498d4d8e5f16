"""Thresholds and times of the price engine."""

from __future__ import annotations

from dataclasses import dataclass, field

from solver.params import Params


@dataclass(frozen=True, kw_only=True)
class SamplingParams(Params):
    """Samples, and the prices that they give: :mod:`~solver.engines.price.estimate` and what it calls.

    Measured by ``pytest benchmarks/bench_price.py`` and ``benchmarks/bench_many_models.py``.

    Parameters
    ----------
    growth : int
        Ratio of neighbouring sample sizes, the last being all agents; errors shrink by its square root.
    first_sample : tuple of int
        Agents of the first sample, at least and at most.
    agents_per_model : int
        Agents of the first sample for each model, between these two.
    probed_agents : int
        Agents that tell range and grid of the scores.
    grid_units : tuple of float
        Units of a grid that are recognised.
    most_levels : int
        Levels of a grid above which ties no longer matter.
    dense_pairs : int
        Pairs up to which a sample is not worth reducing.
    most_boxes : int
        Boxes around a sample's prices at most.
    untimed_models : int
        Models up to which the first sample keeps no deadline: it takes milliseconds that are well spent.
    time_growth : float
        Factor on the time of the last sample, as an estimate for the next.
    deviations : float
        Half-width of a box, in standard deviations of its prices.
    tie_temperatures : float
        Additional half-width, in temperatures: how far a tie can hold smoothed prices off the exact ones.
    coarse_unit : float
        Unit that the first sample's flow rounds costs to, relative to the range of scores.
    cooling : float
        Factor between two temperatures; the minimiser moves by a few temperatures, which one or two steps
        recover.
    noise_step : float
        Step length, in standard deviations, below which a temperature is left: the next step would be far
        shorter.
    shortening : float
        Factor on a step that did not lower the dual.
    longest_step : float
        Longest step, in temperatures: beyond, the curvature says nothing.
    steps_per_temperature : int
        Newton steps at one temperature at most.
    most_temperatures : int
        Temperatures at most, the last far below the resolution of float64.
    trusted_margin : float
        Agents within a temperature of a model's boundary from which a curvature is reliable.
    idle_cooling : float
        Final temperature, relative to the first, when no price is above its floor: there is no error to
        compare with.
    final_temperature : float
        Final temperature, relative to the sampling error of the prices.
    few_slots : float
        Slots of a model in the last sample below which the sample says nothing of its price.
    little_shortage : float
        Agents too many in the last sample below which it says little of the level of prices.
    """

    growth: int = 8
    first_sample: tuple[int, ...] = (125, 250)
    agents_per_model: int = 5
    probed_agents: int = 256
    grid_units: tuple[float, ...] = (1.0, 0.1, 0.01, 0.001)
    most_levels: int = 3000
    dense_pairs: int = 100_000
    most_boxes: int = 3
    untimed_models: int = 64
    time_growth: float = 2.0
    deviations: float = 3.0
    tie_temperatures: float = 2.0
    coarse_unit: float = 1e-5
    cooling: float = 0.25
    noise_step: float = 3.0
    shortening: float = 0.25
    longest_step: float = 4.0
    steps_per_temperature: int = 8
    most_temperatures: int = 60
    trusted_margin: float = 8.0
    idle_cooling: float = 0.05
    final_temperature: float = 0.35
    few_slots: float = 2.0
    little_shortage: float = 12.0


@dataclass(frozen=True, kw_only=True)
class BoxParams(Params):
    """Boxes of prices around an estimate: :mod:`~solver.engines.price.optimum` and what it calls.

    Measured by ``pytest benchmarks/bench_price.py`` and ``benchmarks/bench_deadlines.py``.

    Parameters
    ----------
    most_passes : int
        Reducing passes at most before one flow takes all arcs.
    recentred_passes : int
        Passes that may stop early and re-centre the box.
    first_temperature : float
        Temperature of the first step, in standard deviations of the estimate.
    arcs_share : float
        Share of all arcs that may be spent on flows of boxes before one flow takes them all.
    flow_arcs_per_model : int
        Arcs per model that a flow solves as fast as a further Newton step would take.
    most_steps : int
        Newton steps at most.
    cooling : float
        Factor between two temperatures.
    settled_step : float
        Step length, in temperatures, below which the temperature falls.
    worthwhile_arcs_share : float
        Share of the arcs left by a smaller box up to which it is worth having.
    worthwhile_side_share : float
        Median side of a box, relative to the one around it, up to which it is worth a reduction.
    shortening : float
        Factor on a step that did not lower the dual.
    aim_share : float
        Sides of a box that a first step may aim at.
    outside_share : float
        Share of a side by which a step must miss the box for another box to be worth a pass.
    binding_agents : float
        Agents too many or too few at a side of the box above which its optimum lies outside.
    trusted_step : float
        Step length, in temperatures, up to which a smaller box is drawn around its end.
    informative_agents : float
        Agents within a temperature of a model's boundary below which a Newton step has no information.
    widening : float
        Factor on the sides at which a box binds.
    most_widenings : int
        Times that a box that binds is widened.
    many_ties : int
        Arcs per agent on a grid above which ties are handed out rather than solved for.
    large_flow : int
        Arcs from which a flow with rounded costs is solved first.
    rough_unit : float
        Unit of those costs, relative to a side of the box.
    rough_radius : float
        Units by which the prices of that flow may be off, with models in a chain.
    merged_units : float
        Units of the resolution within which values are the same when agents are merged.
    """

    most_passes: int = 8
    recentred_passes: int = 3
    first_temperature: float = 0.25
    arcs_share: float = 0.6
    flow_arcs_per_model: int = 48
    most_steps: int = 24
    cooling: float = 0.2
    settled_step: float = 4.0
    worthwhile_arcs_share: float = 0.75
    worthwhile_side_share: float = 0.6
    shortening: float = 0.25
    aim_share: float = 0.5
    outside_share: float = 0.1
    binding_agents: float = 3.0
    trusted_step: float = 8.0
    informative_agents: float = 1.0
    widening: float = 6.0
    most_widenings: int = 6
    many_ties: int = 6
    large_flow: int = 4_000
    rough_unit: float = 2.0**-24
    rough_radius: float = 30.0
    merged_units: float = 100.0


@dataclass(frozen=True, kw_only=True)
class RecallParams(Params):
    """Remembered prices of a similar instance: :mod:`~solver.engines.price.recalled_prices`.

    Measured by ``pytest benchmarks/bench_many_models.py -k warm``.

    Parameters
    ----------
    agents : int
        Agents that remembered prices are compared on: where models are many, more of them cost more than a
        new search.
    forgone_rounding : float
        Amount, relative to the range of scores, that an agent may forgo by rounding.
    temperature : float
        Temperature of the comparison, relative to an agent's range of scores.
    changed_share : float
        Share of agents whose choice has changed up to which only the capacities may have changed.
    slot_change_share : float
        Change of slots, relative to a model's agents, below which it is within the error anyway.
    moving_temperature : float
        Temperature of the steps that follow a change of capacities, relative to an agent's range of scores.
    most_moving_steps : int
        Number of these steps at most.
    move_error : float
        Standard deviation of what a sample says of a move, relative to the move.
    largest_drift : float
        Standard deviations beyond which remembered prices are discarded.
    """

    agents: int = 2_000
    forgone_rounding: float = 1e-9
    temperature: float = 1 / 400
    changed_share: float = 0.2
    slot_change_share: float = 1e-3
    moving_temperature: float = 1 / 100
    most_moving_steps: int = 12
    move_error: float = 0.04
    largest_drift: float = 5.0


@dataclass(frozen=True, kw_only=True)
class RepairParams(Params):
    """From balanced prices to a feasible choice out of time: :mod:`~solver.engines.price.repair`.

    Measured by ``benchmarks/bench_deadlines.py``.

    Parameters
    ----------
    candidates_per_move : int
        Agents considered for each one that has to move.
    least_candidates : int
        Agents considered at least.
    waiting_share : float
        Share of the agents up to which those who wait are seated whatever the time: it takes a part of a
        pass.
    """

    candidates_per_move: int = 3
    least_candidates: int = 500
    waiting_share: float = 0.25


@dataclass(frozen=True, kw_only=True)
class PriceTimes(Params):
    """Upper estimates of what steps take, on one thread.

    Measured by ``benchmarks/bench_deadlines.py``.

    Parameters
    ----------
    flow_s_per_arc, flow_overhead_s : float
        A flow on a core or a sample, per arc and for the call itself, seconds.
    unsampled_arcs : int
        Arcs up to which no sample is needed.
    choice_s_per_pair, choice_s_per_agent : float
        A pass over all agents and moving agents from overloaded models, per pair and per agent, seconds.
    overhead_s : float
        The call of the engine itself, seconds.
    s_per_model : float
        The first sample, seconds per model.
    reducing_s_per_pair : float
        A reducing pass, seconds per pair.
    pass_s_per_pair : float
        A pass that looks up what agents have and could have, seconds per pair.
    s_per_agent_and_scarce : float
        The price of a model with few slots, seconds per agent.
    round_s_per_pair : float
        A round that seats agents, seconds per pair.
    """

    flow_s_per_arc: float = 1.2e-6
    flow_overhead_s: float = 3e-4
    unsampled_arcs: int = 15_000
    choice_s_per_pair: float = 1e-8
    choice_s_per_agent: float = 1e-7
    overhead_s: float = 0.0015
    s_per_model: float = 6e-5
    reducing_s_per_pair: float = 2e-9
    pass_s_per_pair: float = 6e-9
    s_per_agent_and_scarce: float = 3e-8
    round_s_per_pair: float = 1e-8


@dataclass(frozen=True, kw_only=True)
class PriceEngineParams(Params):
    """When the price engine solves exactly, from samples, or not at all.

    Measured by ``pytest benchmarks/bench_engines.py -k picks`` and ``benchmarks/bench_deadlines.py``. A *pair* is one
    agent and one model; times are for one thread.

    Parameters
    ----------
    flow_arcs : int
        Allowed arcs up to which one flow on all of them is faster than sampling.
    flow_arcs_sparse, sparse_arcs : int
        The same where an agent has at most ``sparse_arcs`` arcs.
    repriced_pairs : int
        Pairs up to which the smallest prices are recomputed where those found need not be, or only up to the rounding
        of costs to whole numbers: when all slots are sold, or cost by load. Beyond, that would be most of the time.
    sampling_share : float
        Share of the time left that goes into samples when there is too little for exactness.
    exact_s_per_pair : float
        Seconds per pair for exactness and its verification on large instances.
    s_per_cube : float
        Seconds times m³ for the linear algebra of samples.
    few_models : int
        Models up to which there is always time for it.
    most_models : int
        Models at most: the linear algebra takes memory for their square.
    s_per_first_model : float
        Seconds per model that the first sample takes at least, where no step can follow.
    rough_pairs : int
        Pairs above which rough prices are better than what greedy has time for, however late it is.
    least_algebra_s : float
        Seconds of linear algebra that are spent even where no time is left.
    sampling, boxes, recall, repair, times
        Parameters of the stages.
    """

    flow_arcs: int = 15_000
    flow_arcs_sparse: int = 60_000
    sparse_arcs: int = 6
    repriced_pairs: int = 1_000_000
    sampling_share: float = 0.2
    exact_s_per_pair: float = 8e-9
    s_per_cube: float = 2.5e-8
    few_models: int = 64
    most_models: int = 5_000
    s_per_first_model: float = 6e-4
    rough_pairs: int = 2_000_000
    least_algebra_s: float = 0.01
    sampling: SamplingParams = field(default_factory=SamplingParams)
    boxes: BoxParams = field(default_factory=BoxParams)
    recall: RecallParams = field(default_factory=RecallParams)
    repair: RepairParams = field(default_factory=RepairParams)
    times: PriceTimes = field(default_factory=PriceTimes)


DEFAULTS = PriceEngineParams()
"""As measured; callers pass others to change a value."""
