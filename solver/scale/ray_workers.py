"""Actors of a Ray cluster as workers; the only module that imports Ray."""

from __future__ import annotations

import os
import sys
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from solver.errors import EngineError, MissingExtraError, SpecError, Violation
from solver.scale.shard import Shard
from solver.scale.workers import shared_out

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from solver.scale.pieces import Piece, ScoreColumns
    from solver.scale.progress import Progress

_LOOPBACK_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Environment variable that makes Ray bind to the loopback interface on Linux: it switches clusters of several
machines off."""

_READY_S = 60.0
"""Seconds that a cluster has to start the actors."""

_LOOK_S = 1.0
"""Seconds between two looks at how far a pass is."""

_MAX_RESTARTS = 20
"""Restarts of one actor after which its host is given up, as one without enough memory is."""


class RayFleet:
    """One actor for some of the pieces each. An actor that dies is started again and its call repeated.

    Parameters
    ----------
    pieces, columns, closed
        See :class:`~solver.scale.shard.Shard`.
    workers : int
        Actors, each of one CPU; fewer where there are fewer pieces.
    address : str, optional
        A cluster, by Ray's conventions. Without it, and without ``RAY_ADDRESS`` in the environment or a connection that
        the process has already, a cluster of this machine alone is started, on the loopback interface, and stopped
        in the end.
    ready_s : float
        Seconds that the actors may take to start.

    Raises
    ------
    MissingExtraError
        Without Ray.
    SpecError
        For a cluster that cannot be reached or has fewer CPUs than workers.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        columns: ScoreColumns,
        closed: NDArray[np.bool_],
        *,
        workers: int = 2,
        address: str | None = None,
        ready_s: float = _READY_S,
    ) -> None:
        if workers < 1:
            raise SpecError(Violation("workers", "expected at least 1", workers))
        self._parts = shared_out(pieces, workers)
        address = address or os.environ.get("RAY_ADDRESS") or None
        self._ray = _imported(local=address is None)
        self._owns_cluster = False
        self.watch: Progress | None = None
        self.actors: list[Any] = []
        try:
            self._connect(address, len(self._parts))
            actor = self._ray.remote(
                num_cpus=1,
                max_restarts=_MAX_RESTARTS,
                max_task_retries=_MAX_RESTARTS,
                max_concurrency=2,  # a pass, and the question how far it is
            )(Shard)
            self.actors = [actor.remote(part, columns, closed) for part in self._parts]
            self._await([one.ready.remote() for one in self.actors], ready_s)
        except BaseException:
            self.close()
            raise

    def _connect(self, address: str | None, workers: int) -> None:
        ray = self._ray
        if not ray.is_initialized():
            try:
                if address is None:
                    self._owns_cluster = True
                    start_local(workers)
                else:
                    ray.init(address=address, log_to_driver=False)
            except (ConnectionError, ValueError, RuntimeError) as error:
                reason = (str(error).splitlines() or ["no reason given"])[0]
                raise SpecError(
                    Violation("ray-address", f"cannot be reached: {reason}", address or "local")
                ) from None
        cpus = int(ray.cluster_resources().get("CPU", 0))
        if cpus < workers:
            raise SpecError(Violation("workers", f"expected at most the cluster's {cpus} CPUs", workers))

    def _await(self, calls: list[Any], timeout_s: float | None) -> list[Any]:
        exceptions = self._ray.exceptions
        try:
            return list(self._ray.get(calls, timeout=timeout_s))
        except exceptions.GetTimeoutError:
            free = int(self._ray.available_resources().get("CPU", 0))
            rule = f"expected to start within {timeout_s:g} s; the cluster has {free} CPUs free"
            raise SpecError(Violation("workers", rule, len(calls))) from None
        except exceptions.RayTaskError as error:
            cause = error.cause
            raise (cause if isinstance(cause, Exception) else error) from None
        except exceptions.RayError as error:
            raise EngineError(f"ray: workers were lost for good: {error}") from error

    def run(self, method: str, *arguments: Any, each: Mapping[int, Any] | None = None) -> list[Any]:
        """Call a method of every actor and join the lists they return, in the order of the pieces.

        Raises
        ------
        SpecError
            What an actor found wrong with its files.
        EngineError
            When actors are lost more often than they are restarted.
        """
        calls = []
        for actor, part in zip(self.actors, self._parts, strict=True):
            own = (
                ()
                if each is None
                else ({one.number: each[one.number] for one in part if one.number in each},)
            )
            calls.append(actor.call.remote(method, *arguments, *own))
        if self.watch is not None:
            self.watch.begin()
            self._look_on(calls, self.watch)
        return [one for answer in self._await(calls, None) for one in answer]

    def _look_on(self, calls: list[Any], watch: Progress) -> None:
        """Ask the actors how far they are until all calls are over."""
        pending, most = calls, len(calls)
        while True:
            _, pending = self._ray.wait(pending, num_returns=len(pending), timeout=_LOOK_S)
            if not pending:
                return
            asked = [actor.rows_read.remote() for actor in self.actors]
            told, _ = self._ray.wait(asked, num_returns=most, timeout=_LOOK_S)
            try:
                watch.read(sum(self._ray.get(told)))
            except self._ray.exceptions.RayError:
                continue  # it is being started again, which the call itself waits for

    def close(self) -> None:
        """Stop the actors, and the cluster if this object started it."""
        for actor in self.actors:
            self._ray.kill(actor)
        self.actors = []
        if self._owns_cluster:
            self._ray.shutdown()
            self._owns_cluster = False


def start_local(workers: int) -> Any:
    """Start a cluster of this machine alone, on the loopback interface, and return the module ``ray``.

    Raises
    ------
    SpecError
        When the process imported Ray before, without the variable that keeps it to the loopback interface.
    """
    if "ray" in sys.modules and os.environ.get(_LOOPBACK_VARIABLE) != "0":
        rule = (
            f"expected {_LOOPBACK_VARIABLE}=0 in the environment before ray is imported, or a running cluster"
        )
        raise SpecError(Violation("ray", rule))
    ray = _imported(local=True)
    ray.init(address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False)
    addresses = [node["NodeManagerAddress"] for node in ray.nodes()]
    if not all(ip_address(one).is_loopback for one in addresses):
        ray.shutdown()
        raise SpecError(Violation("ray", "expected a local cluster on the loopback interface", addresses))
    return ray


def _imported(*, local: bool) -> Any:
    """Return the module, told to keep to the loopback interface where it starts a cluster of one machine."""
    if local and "ray" not in sys.modules:
        os.environ.setdefault(_LOOPBACK_VARIABLE, "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # an extra, and heavy
    except ImportError:
        package = "ray"
        raise MissingExtraError(package, "ray") from None
    return ray
