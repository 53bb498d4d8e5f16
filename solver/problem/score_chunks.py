"""Reads scores in parts or in Arrow's layouts (record batches, lists of equal length, chunks of rows) as one array."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import Violation, ViolationKind
from solver.problem.numbers import real_array, wrong_shape

if TYPE_CHECKING:
    from numpy.typing import NDArray


def are_chunks(scores: object) -> bool:
    """Whether scores come as an iterator, or as a list or tuple of tables or two-dimensional arrays."""
    if isinstance(scores, Iterator):
        return True
    return isinstance(scores, (list, tuple)) and len(scores) > 0 and len(getattr(scores[0], "shape", ())) == 2


def spread_lists(values: Any) -> Any:
    """Return the (n, m) numbers of an Arrow array of lists of equal length; anything else as it is.

    Arrays of ``pyarrow`` are known by what they offer, so that it need not be imported. Lists that are missing or of
    different lengths stay as they are, for the caller to refuse.
    """
    if not hasattr(values, "null_count") or not hasattr(getattr(values, "type", None), "value_type"):
        return values
    lists = values.combine_chunks() if hasattr(values, "combine_chunks") else values
    if not len(lists) or lists.null_count or not hasattr(lists, "value_lengths"):
        return values
    lengths = np.asarray(lists.value_lengths())
    if lengths.min() == 0 or lengths.min() != lengths.max():
        return values
    return np.asarray(lists.flatten()).reshape(len(lists), -1)


def join_chunks(chunks: Any, problems: list[Violation]) -> NDArray[Any] | None:
    """Return chunks of rows as one (n, m) array, float32 where all of them are, or note what is wrong with one.

    Takes the memory of the result and, in passing, of one chunk: each is let go when it is copied.

    Parameters
    ----------
    chunks : iterable of (k, m) array_like
        Arrays, data frames, record batches; consecutive rows each.
    problems : list of Violation
        Gains an entry for the first chunk that is unfit; None is returned then.
    """
    parts: deque[NDArray[Any]] = deque()
    n, m = 0, None
    for number, chunk in enumerate(chunks):
        path = f"scores.chunks[{number}]"
        part = real_array(path, spread_lists(chunk), problems)
        if part is None:
            return None
        if part.ndim != 2 or m not in (None, part.shape[1]):
            problems.append(wrong_shape(path, f"(rows, {'models' if m is None else m})", part.shape))
            return None
        n, m = n + len(part), part.shape[1]
        parts.append(part)
    if m is None:
        rule = "expected at least one chunk of rows"
        problems.append(Violation("scores", rule, shown="none", kind=ViolationKind.TYPE))
        return None
    joined = np.empty((n, m), np.result_type(*parts))
    while parts:
        part = parts.pop()
        joined[n - len(part) : n] = part
        n -= len(part)
    return joined
