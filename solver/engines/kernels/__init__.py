"""Compiled kernels, optional: every function here has a numpy twin that gives the same answer without a compiler.

=========================  ==============================================================================
kernel                     numpy twin
=========================  ==============================================================================
:func:`transport`          :class:`solver.engines.flow.engine.FlowEngine`, by OR-Tools
:func:`match`              :func:`solver.engines.matching.match_pairs`, by scipy
:func:`reduce_rows`        ``DenseRows._scan`` of :mod:`solver.engines.price.agent_rows`
:class:`Chains`            ``moves`` of :mod:`solver.engines.lagrangian.ejection_chains`
:func:`best_models`        the pass in :func:`solver.engines.certificate.best_response`
:func:`negative_gram`      ``_SmoothedDual.hessian`` of :mod:`solver.online.window_prices`
:func:`occupancy_costs`    ``_coupled`` of :mod:`solver.online.occupancy`
:func:`smoothed_shares`    ``_SmoothedDual.value`` there
:class:`KnapsackKernel`    :class:`solver.engines.lagrangian.knapsacks.Knapsacks`
=========================  ==============================================================================

The C sources stand beside this file; the packaging back end compiles them where there is a compiler.
``SOLVER_PURE=1`` in the environment switches them off. ctypes releases the interpreter lock during a call.
"""

from solver.engines.kernels.chains import Chains, Stop
from solver.engines.kernels.knapsacks import KnapsackKernel
from solver.engines.kernels.library import available
from solver.engines.kernels.matching import match
from solver.engines.kernels.occupancy import (
    OccupancyCosts,
    negative_gram,
    occupancy_costs,
    smoothed_shares,
)
from solver.engines.kernels.passes import best_models, reduce_rows
from solver.engines.kernels.transport import Outcome, Supplied, Transported, transport

__all__ = [
    "Chains",
    "KnapsackKernel",
    "OccupancyCosts",
    "Outcome",
    "Stop",
    "Supplied",
    "Transported",
    "available",
    "best_models",
    "match",
    "negative_gram",
    "occupancy_costs",
    "reduce_rows",
    "smoothed_shares",
    "transport",
]
