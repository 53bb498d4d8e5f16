"""Tolerances for rounding in float64, and for calling an answer optimal."""

from __future__ import annotations

EXCESS_TOLERANCE = 1e-9
"""Relative excess over a real-valued capacity or bound that counts as rounding of sums. Slots are counted
exactly. Engines, certificate and reports use the same tolerance."""

OPTIMALITY_TOLERANCE = 1e-9
"""Largest relative gap that is called optimal."""

GAP_ROUNDING = 1e-13
"""Gap, relative to the sum of the absolute values of all terms, below which it is float64 rounding."""
