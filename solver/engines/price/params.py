"""Thresholds and times of the price engine."""

from __future__ import annotations

from dataclasses import dataclass

from solver.params import Params


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
