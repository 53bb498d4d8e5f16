"""Batches in files, larger than memory: the price engine's optimum in passes over pieces of Parquet.

The optimum of a slot problem lives in m prices, so that the agents' rows can stay where they are: a pass answers
with counts, samples and the few agents whose model the prices leave open. See ``docs/how-to/large-batches.md``.
"""

from solver.scale.batch import LargeBatch
from solver.scale.computed_scores import ComputedScores
from solver.scale.coupling import BatchBudget, BatchResource
from solver.scale.job import solve_files
from solver.scale.manifest import Manifest, read_manifest
from solver.scale.pieces import ScoreColumns
from solver.scale.verification import FileVerification, verify_plan

__all__ = [
    "BatchBudget",
    "BatchResource",
    "ComputedScores",
    "FileVerification",
    "LargeBatch",
    "Manifest",
    "ScoreColumns",
    "read_manifest",
    "solve_files",
    "verify_plan",
]
