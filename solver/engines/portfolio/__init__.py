"""Which engine, when: an incumbent first where time is short, then the best engine for the shape.

An engine's claim replaces the incumbent only if the certificate verifies it and it is better; whatever happens
afterwards, the best verified answer so far is what is returned.

:mod:`params` holds the thresholds, :mod:`choice` picks engines by shape, :mod:`incumbent` verifies claims and keeps
the better answer, :mod:`call` runs one call.
"""

from solver.engines.portfolio.call import run
from solver.engines.portfolio.incumbent import Answer
from solver.engines.portfolio.params import DEFAULT_PARAMS, PortfolioParams

__all__ = ["DEFAULT_PARAMS", "Answer", "PortfolioParams", "run"]
