"""Tuning constants of the Lagrangian engine, by the stage they belong to.

Measured by ``solver bench --gap FOLDER`` (the OR-Library instances at 0.1, 1 and 10 s), ``benchmarks/bench_gap.py``
(a hundred thousand agents) and ``benchmarks/bench_deadlines.py``. A *pair* is one agent and one model.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from solver.errors import SpecError, Violation
from solver.params import Params


@dataclass(frozen=True, kw_only=True)
class SearchParams(Params):
    """Strategic oscillation, see :mod:`solver.engines.lagrangian.search`."""

    few_moves: int = 16
    many_moves: int = 64
    """Moves proposed per level with a feasible assignment at hand, and without one."""
    chain_depth: int = 5
    """Agents moved by the longest chain of ejections, at most 8 with the compiled kernel."""
    chain_width: int = 40
    """Partial chains kept per level."""
    near_models: int = 8
    near_models_many: int = 5
    """Models an agent may move to, and the same with more than ``few_agents`` agents."""
    few_agents: int = 200
    """Agents up to which the first of them holds."""
    rise: float = 1.2
    infeasible_rise: float = 1.5
    """Factor on the penalties of overloaded columns at a local optimum; the second while nothing feasible is known."""
    fall: float = 0.8
    """Factor on all penalties once an assignment without overload has been seen."""
    penalty_jitter: float = 0.1
    """Standard deviation of the logarithm of the penalties, drawn anew at every local optimum."""
    key_temperature: float = 0.01
    """Noise of the keys by which moves are ranked, relative to the mean price an agent pays."""
    tiny_overload_share: float = 0.05
    """Share of a typical demand below which an overload is charged as if it were a typical one."""
    most_toll_rises: int = 20
    """Rises of that charge at most."""
    longest_step_share: float = 0.12
    """Cap on the step-time estimate, as a share of the whole time, so that one operating-system stall does not end the
    search."""
    loss_tolerance: float = 1e-9
    """Relative difference below which two losses are equal."""
    most_rounds: int = 1_000_000
    """Local optima and improvements of one descent at most, whatever the clock says."""


@dataclass(frozen=True, kw_only=True)
class CampaignParams(Params):
    """What is tried next, see :mod:`solver.engines.lagrangian.campaign`."""

    elite: int = 8
    """Assignments kept for crossing with each other."""
    short_s: float = 0.5
    """Seconds below which CP-SAT is asked only about kernels of at most ``kernel_pairs_short`` pairs."""
    kernel_pairs: int = 1500
    kernel_pairs_short: int = 450
    """Pairs up to which the kernel is given to CP-SAT as a whole."""
    kernel_pairs_per_agent: float = 5.0
    """The same per agent, where whole knapsacks tell which pairs belong to it."""
    kernel_shrinks: float = 0.6
    """Share of its last size from which a kernel that was not exhausted is tried again."""
    first_patience: int = 40
    patience: int = 25
    """Local optima without improvement after which the first descent ends, and a later one."""
    whole_pairs: int = 30_000
    """Pairs up to which CP-SAT is asked whether anything feasible exists."""
    building_s_per_pair: float = 15e-6
    """Upper estimate of the seconds to build a CP-SAT model."""
    descent_share: float = 0.3
    descent_share_short: float = 0.7
    """Share of the time for descents before CP-SAT is asked whether anything feasible exists."""
    fallback_share: float = 0.9
    """Share of the time after which the assignment by bids is taken, if nothing better was found."""
    least_cpsat_s: float = 0.03
    """Seconds that a call of CP-SAT takes at least."""
    chain_depths: tuple[int, ...] = (5, 6)
    """Longest chains of ejections, one of them drawn for every descent after the first."""
    short_chain_width: int = 25
    short_near_models: int = 7
    """Partial chains kept per level, and models an agent may move to, where the time is short and agents are few:
    more moves bring more there."""
    long_chain_width: int = 60
    """Partial chains kept per level where the time is not short."""
    reward: float = 20.0
    """Weight of an attempt that brought a new incumbent, against 1 for one that did not."""
    longest_share: float = 0.15
    """Share of the whole time that one attempt may take."""
    most_attempts: int = 100_000
    """Descents and calls of CP-SAT at most, whatever the clock says."""


@dataclass(frozen=True, kw_only=True)
class KnapsackParams(Params):
    """The bound with whole knapsacks and its dives, see :mod:`solver.engines.lagrangian.knapsack_dual`."""

    s_per_cell: float = 3e-10
    """About what a round takes per agent and unit of capacity: one that is far too long is not even begun."""
    share: float = 0.25
    """Share of the time for the bound."""
    least_rounds: int = 200
    """Rounds that must fit into that share, by the time of the first; otherwise there is no such bound."""
    first_round_slower: float = 10.0
    """How many times longer than the others the first round may take; it is timed again if only that is in the way."""
    iterations: int = 500
    dive_iterations: int = 40
    """Rounds of the volume algorithm at most: for the bound, and after agents have been fixed."""
    first_scale: float = 0.1
    dive_scale: float = 0.3
    """Length of the first steps, relative to the distance between bound and target."""
    largest_share: float = 0.1
    """Largest weight of the last sets in the running average."""
    patience: int = 5
    """Rounds without a better bound after which steps are shortened."""
    shrink: float = 0.8
    """Factor on their length then."""
    window: int = 100
    """Rounds over which progress is measured."""
    least_progress: float = 0.01
    """Share of the remaining gap that a window must close."""
    rounds_between_looks: int = 4
    """Rounds between two looks at the clock."""
    fixed_share: float = 0.4
    """Share of the agents left that a dive fixes at once."""
    noise: float = 0.1
    """Standard deviation of the logarithm of the shares by which a dive chooses."""
    hopeless: float = 1.0
    """Distance of a dive's bound above the best known loss, relative to the gap, at which it ends."""


@dataclass(frozen=True, kw_only=True)
class CoreParams(Params):
    """One core of a large instance, see :mod:`solver.engines.lagrangian.core_problem`."""

    near_models: int = 8
    """Models per agent that the prices of a core may choose between."""
    jitter: float = 5e-4
    """Noise on the losses, relative to what agents pay: breaks ties, so that low temperatures decide most agents."""
    hottest: float = 1e-3
    coldest: float = 2e-5
    """Temperatures of the smoothed dual at the beginning and at the end."""
    trust_radius: float = 2.0
    """How far prices may move; those of a core may be far from those of the whole."""
    pricing_share: float = 0.3
    """Share of the time left for balancing loads by prices."""
    first_feasible_share: float = 0.6
    """Share of the time left for finding a first feasible assignment."""


@dataclass(frozen=True, kw_only=True)
class LargeParams(Params):
    """Prices and cores of large instances, see :mod:`solver.engines.lagrangian.large`."""

    least_agents: int = 8000
    """Agents below which the form is relaxed as a whole."""
    most_limit_rows: int = 200
    """Limit rows above which it is too, with those rows alone that bind."""
    relaxation_s_per_pair: float = 4e-7
    """Seconds to relax a form as a whole, per pair and per resource or limit layer."""
    most_relaxed_work: int = 1_000_000
    """Pairs times layers above which cores bring more than the whole in any time."""
    sample_agents: int = 2000
    sample_iterations: int = 25
    """Agents whose relaxation gives the first prices, and its iterations."""
    sample_tolerance: float = 1e-3
    sample_jitter: float = 1e-3
    """Relative accuracy of that relaxation, and the noise on its losses that breaks ties."""
    sample_share: float = 0.15
    """Share of the time left for it."""
    eases: tuple[float, ...] = (0.0, 0.2, 1.0)
    """Additions to the sample's share of capacity that are tried in turn where the sample alone is infeasible."""
    measured_models: int = 8
    """Models whose demands tell the sample's share of capacity."""
    large_sample_agents: int = 20_000
    """Agents whose loads are balanced before those of all agents."""
    near_models: int = 8
    """Models per agent that prices may still choose between."""
    rounds: int = 5
    """Times that near models are looked up and their prices balanced."""
    hottest: float = 0.03
    lukewarm: float = 1e-3
    coldest: float = 2e-4
    """Temperatures: relative price changes that change an agent's choice. The sample is balanced from the first down to
    the second, all agents down to the third."""
    hottest_whole: float = 5e-3
    """Highest temperature from which the loads of all agents are balanced."""
    shrink: float = 0.2
    """Factor on trust radius and temperature after a step that missed models."""
    reheat: float = 0.1
    """Factor on the temperature where near models have to be looked up again."""
    wide_margin: float = 1.0
    narrow_margin: float = 0.1
    """Margin, relative to what an agent pays, beyond which its choice is taken as decided."""
    missed_tolerance: float = 1e-6
    """Relative distance of the true bound above that of the near models at which they are looked up again."""
    least_passes: int = 3
    """Passes over all pairs that must still fit in the time left."""
    most_excess: float = 0.02
    """Share of all capacity exceeded above which cores cannot repair the rounded prices."""
    pricing_share: float = 0.5
    """Share of the time left for prices, half of it for samples."""
    first_slack: float = 0.1
    """Typical demands kept free after rounding without any slack failed; tripled each further time."""
    first_patience: int = 6
    """Local optima without improvement after which a core is left, at first."""
    core_agents: int = 4000
    largest_core_agents: int = 20_000
    """Agents released together, at first and at most."""
    least_core_agents: int = 200
    """Agents below which a core is not worth its time."""
    core_s_per_agent: float = 7e-6
    core_s_per_entry: float = 5e-8
    """Seconds before the search of a core begins, per agent, and per pair and coupling layer (``python -m
    benchmarks.random_deadlines``)."""
    most_cores: int = 10_000
    """Cores solved at most, whatever the clock says."""


@dataclass(frozen=True, kw_only=True)
class LagrangianParams(Params):
    """The whole engine."""

    own_limit_s: float = 10.0
    """Seconds of search without a deadline, unless the answer is proven before. Longer hardly pays on the instances of
    ``benchmarks/bench_gap.py``. Any deadline replaces it, shorter or longer."""
    used_share: float = 0.97
    """Share of the time left that is used, so that returning and certifying still fit."""
    short_s: float = 0.08
    relaxation_share: float = 0.6
    relaxation_share_short: float = 0.35
    """Share of what is left for the relaxation, and the same below so many seconds, of which the search needs more."""
    single_precision_work: float = 400_000.0
    """Pairs times coupling layers per second above which the relaxation is solved in float32."""
    large_gap: float = 1e-6
    """Relative gap at which a large instance is left."""
    full_service_share: float = 0.4
    """Share of the time for serving all agents before agents may be left out."""
    search: SearchParams = field(default_factory=SearchParams)
    campaign: CampaignParams = field(default_factory=CampaignParams)
    knapsack: KnapsackParams = field(default_factory=KnapsackParams)
    core: CoreParams = field(default_factory=CoreParams)
    large: LargeParams = field(default_factory=LargeParams)
    """Parameters of the stages."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.own_limit_s > 0:
            raise SpecError(Violation("own_limit_s", "expected > 0", self.own_limit_s))
