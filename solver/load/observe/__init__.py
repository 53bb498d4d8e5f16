"""Observations: latency and success feedback, trends, metrics."""
