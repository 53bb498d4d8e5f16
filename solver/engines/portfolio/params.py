"""Thresholds of the portfolio."""

from __future__ import annotations

from dataclasses import dataclass

from solver.params import Params


@dataclass(frozen=True, kw_only=True)
class PortfolioParams(Params):
    """At which shapes and times the portfolio switches engines.

    The order of engines for slots is measured by ``pytest benchmarks/bench_engines.py -k picks``, the shares of time
    by ``benchmarks/bench_deadlines.py`` and ``benchmarks/bench_gap.py``, enumeration and CP-SAT on small instances by
    ``python -m tests.fuzz_small``. A *pair* is one agent and one model.
    """

    transport_pairs: int = 1_000_000
    """Pairs up to which the compiled kernel comes first, where there is one."""
    at_once_pairs: int = 250_000
    """Pairs up to which the kernel's answer is there before an incumbent would be, so that none is made."""
    at_once_s: float = 0.002
    at_once_s_per_pair: float = 2e-7
    """Seconds, and seconds per pair, that must be left for that under a deadline."""
    at_once_share: float = 0.5
    """Share of them that the kernel may use up; an incumbent is made in the rest if it fails."""
    lsap_cells: int = 13_000
    """Agents times replicated models up to which ``lsap`` comes first without the kernel."""
    flow_pairs: int = 20_000
    """Pairs up to which ``flow`` comes before ``price``."""
    flow_pairs_many_agents: int = 50_000
    many_agents_per_model: int = 100
    """Replaces it where agents per model are at least so many, because the core of the flow is small then."""
    flow_pairs_few_agents: int = 100_000
    few_agents_per_model: int = 20
    """Replaces it where agents per model are fewer than so many, because samples say little then."""
    many_models: int = 150
    few_agents_per_model_compiled: int = 4
    """From so many models ``lsap`` comes first where agents per model are at most ``few_agents_per_model``, or with the
    compiled kernel at most ``few_agents_per_model_compiled``."""
    wide_slots_per_agent: float = 1.5
    """Slots per agent from which few agents compete for each, and many models are matched at once."""
    few_slots: int = 400
    """Slots up to which ``lsap`` is as fast as if the slots were the agents, however many compete for them."""
    large_pairs: int = 2_000_000
    """Pairs above which the price engine has an answer sooner than greedy."""
    bids_s_per_pair: float = 0.4e-6
    """Seconds per pair from which the Lagrangian engine has an answer of its own sooner than greedy has one."""
    sampled_agents: int = 256
    """Agents whose demands say whether capacities are loose."""
    loose_share: float = 0.95
    """Share of all capacity up to which the average demand of all agents is loose: greedy finds an answer then."""
    lsap_last_resort_s: float = 5.0
    """Most seconds for ``lsap`` where ``flow`` and ``price`` found no proof; it is tried if so much is left."""
    flow_patience_share: float = 0.3
    """Share of the time left within which ``flow`` must be done for no incumbent to be needed."""
    greedy_factor: float = 1.15
    """Factor on what greedy needs on a network, for the time that is left to it."""
    search_s_per_arc: float = 2e-9
    """Seconds per arc between models that are left besides: a search of the kernel ends before it reads the clock."""
    spare_share: float = 0.25
    """Time beyond what greedy needs on a network, as a share of that, from which on the compiled kernel comes first."""
    return_reserve_s: float = 0.0005
    """Seconds reserved for returning the answer, besides those for verification."""
    most_reserved_share: float = 0.5
    kernel_reserved_share: float = 0.25
    """Shares of the time left that are kept back at most for a proof; of the compiled kernel's answer, less."""
    enumerated_pairs: int = 160
    """Pairs up to which enumeration is tried first, with demands or limits."""
    cpsat_first_pairs: int = 400
    """Pairs up to which CP-SAT comes before the Lagrangian engine, with demands or limits."""
    cpsat_first_s: float = 2.0
    cpsat_first_share: float = 0.4
    """Seconds it has without a deadline, and its share of what is left with one."""
    cpsat_last_pairs: int = 20_000
    cpsat_last_s: float = 10.0
    """Pairs up to which CP-SAT is asked where the search found nothing, and the seconds it has without a deadline."""
    split_pairs: int = 50_000
    """Pairs up to which service and score are solved one after the other, with demands or limits."""
    weighted_share: float = 0.5
    service_share: float = 0.4
    """Shares of the time left for the weighted problem at the start, and for the service problem."""
    phases_left: int = 2
    """Verifications for which time must be left to go on once the weighted problem has been tried."""
    pricing_s: float = 0.004
    pricing_s_per_pair: float = 5e-6
    """Upper estimate of what multipliers for the report of a proven answer take."""
    used_up_share: float = 0.9
    """Share of the time given from which on the deadline is what ended the call."""
    short_pass_s: float = 0.0005
    """A verification that takes no longer is never cut short."""
    margin_s: float = 0.003
    """Seconds kept back for verifying the last answer and returning it."""


DEFAULT_PARAMS = PortfolioParams()
