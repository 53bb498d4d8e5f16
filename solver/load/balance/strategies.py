"""Load strategies, which lower the value of a busy model: least loaded, weighted, predictive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TIE_WEIGHT = 1e-5
"""Weight of a score point against a percentage point of utilization, so that scores only break ties."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """A batch to be placed on a fleet, as arrays.

    Parameters
    ----------
    quality : (n, m) float64
        Score of each pair without load, such as 0 to 100.
    eligible : (n, m) bool
        False forbids the pair.
    active : (m,) float64
        Slots taken before the batch; where queue places count as room, with the requests in the queue.
    slots : (m,) float64
        Slots of each model; 0 for a drained one.
    divisor : (m,) float64
        Slots to divide by, at least 1. A drained model has no room: what it is worth does not matter.
    room : (m,) int64
        Most agents of this batch each model may take.
    usable : (n, m) bool
        Eligible and with room. A model that was lost to others meanwhile is struck out here.
    queue : bool
        Whether places in queues count as room.
    rank : (n,) float64 or None
        Priorities; None when all are equal.
    service_ms : (n, m) float64 or None
        Predicted service times, above zero, for a strategy that asks for them.
    charge : (n, m) float64 or None
        Score points that cost and latency take away, whatever the load.
    weight : (n, 1) float64 or None
        What multiplies the score of each agent; None: nothing does.
    penalty : (n,) float64 or None
        Score points that leaving out each agent costs, before its weight; None: serve as many as possible.
    sign : float
        -1 where scores are costs to be minimised.
    """

    quality: NDArray[np.float64]
    eligible: NDArray[np.bool_]
    active: NDArray[np.float64]
    slots: NDArray[np.float64]
    divisor: NDArray[np.float64]
    room: NDArray[np.int64]
    usable: NDArray[np.bool_]
    queue: bool = False
    rank: NDArray[np.float64] | None = None
    service_ms: NDArray[np.float64] | None = None
    charge: NDArray[np.float64] | None = None
    weight: NDArray[np.float64] | None = None
    penalty: NDArray[np.float64] | None = None
    sign: float = 1.0

    def scores(self, rows: int | slice, factor: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """Return ``weight × (quality × factor − charge)`` of some agents: the objective's score."""
        value: NDArray[np.float64] = self.quality[rows] * factor
        if self.charge is not None:
            value -= self.charge[rows]
        if self.weight is not None:
            value *= self.weight[rows]
        return value

    def left_out(self, i: int) -> float:
        """Return the score of leaving agent i out; ``-inf`` where as many as possible are served."""
        if self.penalty is None:
            return -np.inf
        weight = 1.0 if self.weight is None else self.weight.item(i)
        return -weight * self.penalty.item(i)

    @property
    def may_wait(self) -> bool:
        """Whether some of the room is in queues."""
        return self.queue and bool((self.room > self.slots - self.active).any())


class LoadStrategy(Protocol):
    """Turns quality and load into the value of one more agent on each model; higher is better."""

    name: str
    needs_prediction: bool
    """Whether ``Work.service_ms`` must be there."""
    values_scores: bool
    """Whether values are scores, which compare with the penalty of leaving an agent out."""

    def depends_on_slot(self, work: Work) -> bool:
        """Return whether each further agent on a model is worth less, which a joint optimum must know."""
        ...

    def values(self, work: Work, active: NDArray[np.float64], rows: int | slice) -> NDArray[np.float64]:
        """Return the values of one agent, (m,), or of some, (k, m), given slots taken by now.

        A new array, the caller's own. Eligibility is not applied.
        """
        ...


class LeastLoaded:
    """The lower the utilization with the agent on it, the better. Quality breaks no more than ties.

    Utilization, not counts: a model with 10 of 100 slots taken is less loaded than one with 2 of 4.
    """

    name = "least_loaded"
    needs_prediction = False
    values_scores = False

    def depends_on_slot(self, work: Work) -> bool:
        """Return True."""
        return True

    def values(self, work: Work, active: NDArray[np.float64], rows: int | slice) -> NDArray[np.float64]:
        """Return 100 × (1 − utilization afterwards), and a trace of quality."""
        free = active + 1.0
        free /= work.divisor
        free *= -100.0
        free += 100.0
        value = work.quality[rows] * (work.sign * _TIE_WEIGHT)
        if work.charge is not None:
            value -= _TIE_WEIGHT * work.charge[rows]
        value += free
        return value


class Weighted:
    """``score × (1 − load_weight × utilization)``, the load-weighted score.

    Parameters
    ----------
    load_weight : float
        0 ignores load, at 1 a full model is worth nothing.
    """

    name = "weighted"
    needs_prediction = False
    values_scores = True

    def __init__(self, load_weight: float = 0.3) -> None:
        self._load_weight = load_weight

    def depends_on_slot(self, work: Work) -> bool:
        """Return False: the objective counts the utilization before the batch."""
        return False

    def values(self, work: Work, active: NDArray[np.float64], rows: int | slice) -> NDArray[np.float64]:
        """Return the load-weighted scores."""
        factor = active / work.divisor
        np.minimum(factor, 1.0, out=factor)
        factor *= -self._load_weight
        factor += work.sign  # sign × (1 − sign × load_weight × utilization): load raises costs
        return work.scores(rows, factor)


class Predictive:
    """``score × (1 − load_weight × lateness)``: by how much later than the fastest model it would be done.

    The completion time of an agent on a model is its predicted service time, plus, where every slot is
    taken, the wait for its turn: requests ahead of it over slots, times the model's mean service time.
    Lateness is ``1 − fastest ÷ completion``, in [0, 1), over the models the agent may use.

    Parameters
    ----------
    load_weight : float
        0 ignores time, at 1 a model much slower than the fastest is worth nothing.
    """

    name = "predictive"
    needs_prediction = True
    values_scores = True

    def __init__(self, load_weight: float = 0.3) -> None:
        self._load_weight = load_weight

    def depends_on_slot(self, work: Work) -> bool:
        """Return whether some of the room is in queues, where each has to wait longer."""
        return work.may_wait

    def values(self, work: Work, active: NDArray[np.float64], rows: int | slice) -> NDArray[np.float64]:
        """Return scores lowered by lateness."""
        assert work.service_ms is not None
        done = work.service_ms[rows]
        if work.may_wait:
            ahead = np.maximum(0.0, active + 1.0 - work.slots) / work.divisor
            done = done + ahead * work.service_ms.mean(axis=0)
        # without a usable model the values are not read; 1e12 ms keeps them finite
        usable = work.usable[rows]
        fastest = np.minimum.reduce(done, axis=-1, where=usable, initial=1e12)
        weighted = self._load_weight * (fastest if done.ndim == 1 else fastest[:, None])
        factor: NDArray[np.float64] = weighted / done  # at most the weight where usable
        factor += work.sign - self._load_weight
        return work.scores(rows, factor)


STRATEGIES: tuple[str, ...] = ("least_loaded", "predictive", "weighted")
"""Names of the load strategies."""
