"""Processes of their own that need not import anything: each is forked from one that has, and does nothing else."""

from __future__ import annotations

import multiprocessing

from solver.engines.base import ENGINES

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(
    [
        "pandas",
        *(place.partition(":")[0] for place in ENGINES.values()),
        "solver.interfaces.cli",
        "tests.redis_clients",
    ]
)
