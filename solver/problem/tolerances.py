"""What rounding in float64 explains."""

from __future__ import annotations

EXCESS = 1e-9
"""Relative excess over a capacity or a bound that rounding of sums explains, for real numbers. Slots are
counted exactly. Engines, certificate and reports allow the same."""
