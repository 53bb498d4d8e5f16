"""The tolerance for rounding in float64."""

from __future__ import annotations

EXCESS_TOLERANCE = 1e-9
"""Relative excess over a real-valued capacity or bound that counts as rounding of sums. Slots are counted
exactly. Engines, certificate and reports use the same tolerance."""
