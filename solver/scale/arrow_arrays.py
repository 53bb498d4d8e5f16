"""Arrow arrays made from buffers, and read through them.

``pyarrow.array`` and ``to_numpy`` import pandas where that is installed: a quarter of a second and fifty megabytes in
every worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from solver.scale.storage import arrow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def number_array(values: NDArray[Any], missing: NDArray[np.bool_] | None = None) -> Any:
    """Return an Arrow array of numbers, without a copy of them.

    Parameters
    ----------
    values : (k,) integers or floats
    missing : (k,) bool, optional
        Which of them are null.
    """
    pa, _ = arrow()
    known = None if missing is None else pa.py_buffer(np.packbits(~missing, bitorder="little"))
    buffers = [known, pa.py_buffer(np.ascontiguousarray(values))]
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), buffers)


def text_array(texts: Sequence[str]) -> Any:
    """Return an Arrow array of some texts."""
    pa, _ = arrow()
    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)]).astype(np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(encoded), buffers)


def values_of(array: Any) -> NDArray[Any]:
    """Return the (k,) numbers of an Arrow array of integers or floats without a copy, arbitrary where it is null."""
    kind = np.dtype(array.type.to_pandas_dtype())
    if not len(array):
        return np.empty(0, kind)
    return np.frombuffer(array.buffers()[1], kind, len(array), array.offset * kind.itemsize)


def nulls_of(array: Any) -> NDArray[np.bool_]:
    """Return which of an Arrow array are null, (k,) bool."""
    bits = array.buffers()[0]
    if bits is None:
        return np.zeros(len(array), np.bool_)
    known = np.unpackbits(np.frombuffer(bits, np.uint8), count=array.offset + len(array), bitorder="little")
    missing: NDArray[np.bool_] = known[array.offset :] == 0
    return missing
