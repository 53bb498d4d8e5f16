"""Reactions to load: scaling rules, and alerts with their sinks."""
