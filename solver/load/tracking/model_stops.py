"""Stops on models: which models take new work, and the owner of each stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from solver.errors import SpecError, StoreDownError
from solver.load.listeners import notify
from solver.load.stops import Stop, StopOwner
from solver.load.tracking.state import TrackerState

if TYPE_CHECKING:
    from collections.abc import Callable


class ModelStops(TrackerState):
    """Stops, drains and the operator's switch of each model."""

    def stop(
        self,
        model: str,
        owner: StopOwner | str = StopOwner.OPERATOR,
        *,
        name: str = "",
        reason: str = "",
        for_s: float | None = None,
        extend: bool = False,
    ) -> Stop:
        """Keep new work away from a model; it is open again when no stop stands. Balancers see it at once.

        Parameters
        ----------
        model : str
            Its id.
        owner : StopOwner or str
            Who stops it. What already waits in its queue goes on to run, unless the owner is ``cooldown`` or
            ``breaker``: then it waits until the stop has ended.
        name : str
            Distinguishes several stops of one owner. Setting the same one again replaces it.
        reason : str
            Why, for whoever looks at the snapshot.
        for_s : float, optional
            Seconds until it ends by itself; default: when :meth:`resume` lifts it.
        extend : bool
            An earlier setting of this stop that lasts longer stays: the longest deadline wins.

        Returns
        -------
        Stop
            The one that stands now, with its end.

        Raises
        ------
        SpecError
            If the model is unknown or a value is out of range.
        """
        return self._store.stop(model, owner, name=name, reason=reason, for_s=for_s, extend=extend)

    def resume(
        self, model: str, owner: StopOwner | str = StopOwner.OPERATOR, *, name: str | None = None
    ) -> int:
        """Lift the stops of one owner (with ``name``, that one); return how many stood.

        Stops of other owners stay: a rule that ends never reopens what an operator has closed.
        """
        return self._store.resume(model, owner, name=name)

    def drain(
        self, model: str, *, reason: str = "", on_drained: Callable[[str], object] | None = None
    ) -> Stop:
        """Let nothing new in, and let what runs and waits go on to its end.

        Keep its slots as they are meanwhile, so that those who wait can run;
        :meth:`~solver.LoadBalancer.redistribute` moves them elsewhere. ``resume(model, "drain")`` ends it.

        Parameters
        ----------
        model : str
            Its id.
        reason : str
            Why, for whoever looks at the snapshot.
        on_drained : callable, optional
            Called once with the model when nothing runs or waits there any more, or when it is forgotten, from
            the thread whose release or move, here, was the last one; or from :meth:`is_drained`, which also
            notices leases that expire and those of other processes. Not called once the drain was lifted.
        """
        stop = self._store.stop(model, StopOwner.DRAIN, reason=reason)
        if on_drained is not None:
            with self._lock:
                self._draining[model] = (*self._draining.get(model, ()), on_drained)
            self.is_drained(model)
        return stop

    def is_drained(self, model: str) -> bool:
        """Return whether a model is stopped, and nothing runs or waits there: it can be forgotten."""
        row = self._store.row(model)
        drained = not (row.accepting or row.active or row.queued)
        if all(stop.owner is not StopOwner.DRAIN for stop in row.stops):
            with self._lock:
                self._draining.pop(model, None)
        elif drained:
            self._tell_drained(model)
        return drained

    def _tell_drained(self, model: str) -> None:
        """Call whoever waits for a model to be drained."""
        with self._lock:
            listeners = self._draining.pop(model, ())
        notify(listeners, model)

    def _look_at_drains(self) -> None:
        """Tell of the models that are drained by now; the operation that may have ended the last lease goes on."""
        for model in tuple(self._draining):
            try:
                self.is_drained(model)
            except SpecError:  # another process has forgotten it
                self._tell_drained(model)
            except StoreDownError:
                return  # a later operation looks again

    def stops(self, model: str) -> tuple[Stop, ...]:
        """Return every stop that stands for a model, in the order in which they were set."""
        return self._store.row(model).stops

    def set_accepting(self, model: str, accepting: bool) -> None:
        """Set or lift the operator's stop without a name. See :meth:`stop` for owner, reason and duration."""
        self._store.set_accepting(model, accepting)
