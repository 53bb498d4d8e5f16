"""Compound moves of the Lagrangian engine: the beam over chains of ejections, compiled."""

from __future__ import annotations

import ctypes
import enum
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.engines.kernels.library import loaded, pointer

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX_DEPTH = 8
_MOST = 64
"""Moves kept per step."""


class Stop(enum.IntEnum):
    """Why a run of steps ended; the values are those of the C source."""

    LOCAL_OPTIMUM = 0
    BETTER = 1
    OUT_OF_TIME = 2
    MEMBERS_FULL = 4
    BAD_INPUT = 5


class _Move(ctypes.Structure):
    _fields_ = [
        ("value", ctypes.c_float),
        ("length", ctypes.c_int32),
        ("agent", ctypes.c_int32 * _MAX_DEPTH),
        ("target", ctypes.c_int32 * _MAX_DEPTH),
    ]


_PARTIAL_BYTES, _CANDIDATE_BYTES = 4 * (5 + 2 * _MAX_DEPTH), 20
_SIZES = ("agents", "columns", "resources", "near", "models", "slots", "width", "depth", "most", "noise_size")
_ARRAYS = (
    *("loss", "demand", "near_of", "near_loss", "near_key", "near_demand"),
    *("price", "room", "penalty", "noise", "exact_loss"),
    *("use", "column", "members", "size"),
    *("over", "held", "accept", "own_loss", "cheapest_exit", "cheapest_accept"),
    *("cheapest_loss", "relief", "credit", "own_demand"),
    *("beam", "next", "candidates", "moves"),
)


_WRITTEN = frozenset(("use", "column", "members", "size"))
_OF_A_CALL = frozenset(("loss", "near_loss", "near_key", "penalty")) | _WRITTEN
_STATE_TYPES: dict[str, type] = dict.fromkeys(("near_of", "column", "members", "size"), np.int64)
_STATE_TYPES |= {"exact_loss": np.float64} | dict.fromkeys(
    ("touched", "beam", "next", "candidates"), np.uint8
)
"""Types of the arrays that are not float32."""

_CONTRADICTION = (
    "expected columns within range, and members and sizes that say the same as the column of each agent"
)


class _State(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in _SIZES),
        *((name, ctypes.c_void_p) for name in _ARRAYS),
        ("random", ctypes.c_uint64),
        ("improvement", ctypes.c_float),
        ("most_noise", ctypes.c_float),
        ("touched", ctypes.c_void_p),
    ]


class Chains:
    """The arrays of a beam as the kernel takes them.

    Parameters
    ----------
    exact_loss : (c, n) float64
        Losses of the form.
    models : int
        Columns that are models; a further one holds the unassigned.
    demand : (r, n + 1, c) float32
        Units taken.
    near : (n + 1, k) int64
        Columns considered per agent.
    near_demand : (r, n + 1, k) float32
        Units taken there.
    price, room : (r, c) float32
        Dual prices and capacities.
    noise : (s,) float32
        Noise that varies the ranks, cut at random places.
    improvement : float
        A move must change the penalised loss by less than this.
    seed : int
        Of the places where noise is cut; not 0.
    """

    def __init__(
        self,
        *,
        exact_loss: NDArray[np.float64],
        models: int,
        demand: NDArray[np.float32],
        near: NDArray[np.int64],
        near_demand: NDArray[np.float32],
        price: NDArray[np.float32],
        room: NDArray[np.float32],
        noise: NDArray[np.float32],
        improvement: float,
        seed: int,
    ) -> None:
        columns, n = exact_loss.shape
        r, k = len(demand), near.shape[-1]
        self._state = state = _State()
        state.agents, state.columns, state.resources, state.near = n, columns, r, k
        state.models, state.most, state.noise_size = models, _MOST, noise.size
        state.random, state.improvement, state.most_noise = seed, improvement, float(noise.max())
        self._held: dict[str, NDArray[Any]] = {}  # keeps what C points to alive
        given: dict[str, NDArray[Any]] = {
            "demand": demand,
            "near_of": near,
            "near_demand": near_demand,
            "price": price,
            "room": room,
        }
        per_agent = ("own_loss", "cheapest_exit", "cheapest_accept", "cheapest_loss", "relief", "credit")
        scratch = {"over": (r, columns), "held": (columns,), "accept": (n, k), "own_demand": (r, n)}
        scratch |= dict.fromkeys(per_agent, (n,))
        self._shapes = {
            "exact_loss": (columns, n),
            "noise": (noise.size,),
            "demand": (r, n + 1, columns),
            "near_of": (n + 1, k),
            "near_demand": (r, n + 1, k),
            "near_loss": (n + 1, k),
            "near_key": (n + 1, k),
            "loss": (n + 1, columns),
            "column": (n + 1,),
            "size": (columns,),
        } | dict.fromkeys(("price", "room", "penalty", "use"), (r, columns))
        self._point(exact_loss=exact_loss, noise=noise, **given)
        self._point(**{name: np.empty(shape, np.float32) for name, shape in scratch.items()})
        self._point(touched=np.empty(columns, np.uint8))
        self._moves = (_Move * _MOST)()
        state.moves = ctypes.addressof(self._moves)
        self._width = 0

    def _point(self, **arrays: NDArray[Any]) -> None:
        for name, array in arrays.items():
            dtype, shape = _STATE_TYPES.get(name, np.float32), self._shapes.get(name, array.shape)
            if array.dtype != dtype or array.shape != shape:
                raise ValueError(
                    f"expected {name} {shape} of {np.dtype(dtype)}, got {array.shape} of {array.dtype}"
                )
            kept = array
            if name in _WRITTEN:
                if not (array.flags.c_contiguous and array.flags.writeable):
                    raise ValueError(f"expected {name} in C order and writeable")
            else:
                kept = np.ascontiguousarray(array)
            self._held[name] = kept
            setattr(self._state, name, pointer(kept))

    def _prepare(self, arrays: dict[str, NDArray[Any]], width: int, depth: int) -> None:
        """Point to the arrays of this call; those that are written to must be in C order."""
        if (
            arrays.keys() != _OF_A_CALL
            or arrays["members"].shape[:-1] != self._shapes["size"]
            or not width > 0
        ):
            raise ValueError(
                f"expected {', '.join(sorted(_OF_A_CALL))}, members of every column, and a width > 0"
            )
        self._point(**arrays)
        self._state.slots = arrays["members"].shape[1]
        self._state.depth = min(depth, _MAX_DEPTH)
        if width != self._width:
            beams = {name: np.empty(width * _PARTIAL_BYTES, np.uint8) for name in ("beam", "next")}
            self._point(candidates=np.empty(width * _CANDIDATE_BYTES, np.uint8), **beams)
            self._width = self._state.width = width

    def find(
        self, arrays: dict[str, NDArray[Any]], *, width: int, depth: int
    ) -> list[tuple[float, tuple[int, ...], tuple[int, ...]]]:
        """Return value, agents and targets of improving moves, best first, without making any."""
        self._prepare(arrays, width, depth)
        count = loaded().solver_chains_find(ctypes.byref(self._state))
        if count < 0:
            raise ValueError(_CONTRADICTION)
        return [
            (float(move.value), tuple(move.agent[: move.length]), tuple(move.target[: move.length]))
            for move in self._moves[:count]
        ]

    def improve(
        self,
        arrays: dict[str, NDArray[Any]],
        *,
        width: int,
        depth: int,
        crossed: bool,
        local: float,
        tolerance: float,
        until_s: float,
    ) -> tuple[Stop, bool, int]:
        """Make moves until a local optimum, a better assignment within all capacities, or the end of time.

        Parameters
        ----------
        arrays : dict
            ``loss`` (n + 1, c), ``near_loss`` and ``near_key`` (n + 1, k), ``penalty`` (r, c), all float32; changed in
            place: ``use`` (r, c) float32, ``column`` (n + 1,), ``members`` (c, slots), ``size`` (c,) int64.
        width, depth : int
            Partial moves kept per level, and longest chain.
        crossed : bool
            Whether an assignment within all capacities has been met since the last local optimum.
        local : float
            Loss to fall below, relatively by ``tolerance``.
        until_s : float
            In seconds of ``time.monotonic``.

        Returns
        -------
        stop : Stop
            Why it ended.
        crossed : bool
            As above, afterwards.
        steps : int
            Steps made.
        """
        self._prepare(arrays, width, depth)
        has_crossed, best, steps = ctypes.c_int(crossed), ctypes.c_double(local), ctypes.c_int64(0)
        code = loaded().solver_chains_improve(
            ctypes.byref(self._state),
            ctypes.byref(has_crossed),
            ctypes.byref(best),
            tolerance,
            until_s,
            ctypes.byref(steps),
        )
        if code == Stop.BAD_INPUT:
            raise ValueError(_CONTRADICTION)
        return Stop(code), bool(has_crossed.value), int(steps.value)
