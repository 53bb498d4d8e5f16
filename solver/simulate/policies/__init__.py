"""Policies of routing to compare: this package's own, load-blind ones, and the usual ones of others."""
