"""Loads the compiled library, or finds that there is none."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["available", "load", "loaded", "pointer"]

_VERSION = 7
"""Version of the C interface: a library of another version, left over from an older build, is not loaded."""


def available() -> bool:
    """Return whether compiled kernels are in use."""
    return load() is not None


@cache
def load() -> ctypes.CDLL | None:
    """Return the library, or None where it was not built, is of another version or ``SOLVER_PURE=1``.

    ``SOLVER_KERNELS`` names another file to load, such as one built with sanitizers.
    """
    if os.environ.get("SOLVER_PURE") == "1":
        return None
    beside = Path(__file__).with_name("_kernels.dll" if os.name == "nt" else "_kernels.so")
    try:
        library = ctypes.CDLL(os.environ.get("SOLVER_KERNELS") or str(beside))
        version = library.solver_kernels_version()
    except (OSError, AttributeError):  # not built, or for another platform
        return None
    if version != _VERSION:
        return None
    size, scalar, array = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p
    flag = ctypes.c_int
    library.solver_transport.argtypes = [
        size, size, array, flag, *[array] * 3, size, *[array] * 4, flag, scalar, *[array] * 3,
    ]  # fmt: skip
    library.solver_match.argtypes = [size, size, *[array] * 5, scalar, array, array]
    for kind in ("f32", "f64"):
        reduce = getattr(library, f"solver_reduce_{kind}")
        reduce.argtypes = [array, size, *[array] * 4, size, size, *[array] * 4]
        reduce.restype = size
        best = getattr(library, f"solver_best_{kind}")
        best.argtypes = [array, size, array, size, size, array, array, array]
        best.restype = None
    library.solver_knapsacks.argtypes = [size, size, *[array] * 9]
    library.solver_knapsacks_forced.argtypes = [size, size, *[array] * 9]
    library.solver_chains_find.restype = size
    library.solver_chains_find.argtypes = [array]
    library.solver_chains_improve.argtypes = [array, array, array, scalar, scalar, array]
    library.solver_occupancy.argtypes = [size, size, size, *[array] * 8, scalar, size, *[array] * 5]
    library.solver_shares.argtypes = [size, size, array, array, scalar, array]
    library.solver_shares.restype = None
    library.solver_gram.argtypes = [size, size, array, array, scalar, array]
    return library


def loaded() -> ctypes.CDLL:
    """Return the library; RuntimeError where there is none."""
    library = load()
    if library is None:
        raise RuntimeError("the compiled kernels are not available")
    return library


def pointer(values: NDArray[Any] | None) -> int | None:
    """Return the address of a C-contiguous array, which the caller must keep alive during the call."""
    if values is None:
        return None
    if not values.flags.c_contiguous:
        raise ValueError("kernels take arrays in C order")
    if values.size and values.flags.writeable:  # a third of what numpy takes to say where its numbers are
        return ctypes.addressof(ctypes.c_char.from_buffer(values.data))
    return values.ctypes.data
