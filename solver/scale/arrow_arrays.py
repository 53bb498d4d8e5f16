"""Arrow arrays made from buffers.

``pyarrow.array`` imports pandas where that is installed: a quarter of a second and fifty megabytes in every worker.
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
