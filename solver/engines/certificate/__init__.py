"""The certificate verifier: recomputes objective, loads, feasibility and bound of a claim from the Instance alone.

Weak Lagrangian duality makes the bound valid for any prices ``p >= 0``, wherever they came from:

    bound(p, u) = Σ_i max( max_j (score_ij − Σ_k p_jk demand_ijk − Σ_g u_g a_gij), unserved_i )
                  + Σ_jk p_jk capacity_jk + Σ_g u_g b_g

with ``Σ_t slots_t max(p_j(t) − cost_t, 0)`` for the sum over capacities where slots cost by tiers, and with one
more multiplier ``u_g >= 0`` for every limit row ``Σ a_g <= b_g``, at most the price of a violation where the row is
soft. Pairs that ask for more than their model has when empty are left out, agents that must share a model are taken
as one, and where every score is a whole number the bound is rounded down to one.

The gap is summed as complementary-slackness terms, each of them >= 0, rather than as the difference of two large
numbers. Everything is float64, whatever the precision of the scores.

:mod:`verification` is the entry, :mod:`feasibility` checks the constraints, :mod:`slack` measures the distance to the
bound, :mod:`reduced_scores` and :mod:`responses` are the passes over all pairs.
"""

from solver.engines.certificate.reduced_scores import reduced_scores
from solver.engines.certificate.responses import BestResponse, best_response
from solver.engines.certificate.slack import FullService, full_service_proof
from solver.engines.certificate.verification import (
    Certificate,
    certify,
    relative_gap,
    verification_seconds,
)

__all__ = [
    "BestResponse",
    "Certificate",
    "FullService",
    "best_response",
    "certify",
    "full_service_proof",
    "reduced_scores",
    "relative_gap",
    "verification_seconds",
]
