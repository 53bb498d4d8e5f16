"""Minimum-cost flow, exact for slots: on a core of the arcs first, on all of them where the core is not proven."""
