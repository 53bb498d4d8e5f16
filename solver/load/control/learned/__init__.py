"""Capacity learned from a router's own requests: how many, and how many tokens, a backend can usefully hold."""
