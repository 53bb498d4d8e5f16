"""Several resources, budgets and quotas: prices, compound moves, exact sub-problems, and a proven bound.

The modules in the order of the story: :mod:`weak_duality` (what prices prove), :mod:`interior_point` (the
best of them), :mod:`rounding` (a feasible answer), :mod:`ejection_chains` (compound moves), :mod:`search` (penalties),
:mod:`neighbourhood` (exact sub-problems), :mod:`campaign` (what to try next), :mod:`engine` (one call).
"""

from solver.engines.lagrangian.engine import LagrangianEngine
from solver.engines.lagrangian.params import LagrangianParams

__all__ = ["LagrangianEngine", "LagrangianParams"]
