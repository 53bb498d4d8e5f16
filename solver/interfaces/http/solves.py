"""Whole batches, solved in processes of their own, so that decisions never wait for one."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from solver.clock import Deadline
from solver.errors import SpecError, Violation, ViolationKind
from solver.interfaces.http.problem_details import RequestRefused, retry_after

if TYPE_CHECKING:
    from collections.abc import Sequence

    from solver.load.snapshot import ModelLoad
    from solver.problem.spec import Model

__all__ = ["BatchAnswer", "SolverProcesses", "solve_batch"]

_FIELDS = ("problem", "deadline_ms", "engine", "seed", "commit", "use_load", "ttl_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchAnswer:
    """What a solver process returns.

    Parameters
    ----------
    body : bytes
        The whole answer as JSON; empty where leases are still to be taken.
    summary : dict
        Certificate and totals.
    rows : list of (agent, model or None, score, reason)
        The assignment, where leases are to be taken.
    commit : bool
        Whether they are.
    ttl_s : float
        Time to live of the leases, seconds.
    """

    body: bytes
    summary: dict[str, Any]
    rows: list[tuple[str, str | None, float, str]]
    commit: bool
    ttl_s: float


def solve_batch(
    body: bytes,
    models: Sequence[Model] | None,
    load: dict[str, ModelLoad | None],
    deadline_ms: float,
    longest_ms: float,
) -> BatchAnswer:
    """Read, solve and write one batch. Runs in a solver process.

    Parameters
    ----------
    body : bytes
        JSON: ``{problem, deadline_ms, engine, seed, commit, use_load, ttl_s}``.
    models : sequence of Model, optional
        The fleet, for problems that state no models.
    load : mapping of str to ModelLoad
        Live load by model.
    deadline_ms, longest_ms : float
        Time limit of a batch that names none, and the longest it may ask for, milliseconds.

    Raises
    ------
    SpecError
        If the body breaks a rule.
    """
    from solver.problem.spec import Problem
    from solver.solution.plan import finite
    from solver.solution.solving import solve

    request = _document(body)
    asked = request.get("deadline_ms")
    limit_ms = deadline_ms if asked is None else _number(request, "deadline_ms", 1e-3, longest_ms)
    deadline = Deadline.after(limit_ms)
    given = request.get("problem")
    if not isinstance(given, dict):
        raise SpecError(
            Violation(
                "problem", "expected a mapping with the fields of a problem", given, kind=ViolationKind.TYPE
            )
        )
    commit, use_load = _flag(request, "commit", False), _flag(request, "use_load", True)
    ttl_s = 60.0 if request.get("ttl_s") is None else _number(request, "ttl_s", 1e-3, 86_400.0)
    own_models = given.get("models") is not None
    if not own_models and models is not None:
        given = {**given, "models": tuple(models)}
    if commit and own_models:
        raise SpecError(
            Violation(
                "problem.models", "expected none with commit: capacity is taken of the fleet", shown="some"
            )
        )
    seed = request.get("seed", 0)
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise SpecError(Violation("seed", "expected a whole number >= 0", seed))
    engine = request.get("engine", "auto")
    if not isinstance(engine, str):
        raise SpecError(Violation("engine", "expected text", engine, kind=ViolationKind.TYPE))
    try:
        problem = Problem.model_validate(given)
    except SpecError as error:
        raise SpecError(*(one.within("problem") for one in error.violations)) from None
    if commit and (problem.agents.copies is not None or problem.agents.multiplicity is not None):
        raise SpecError(Violation("commit", "expected agents of one model each, without copies or count"))
    known = {model: load.get(model) for model in problem.model_ids}
    left_ms = max(deadline.remaining_s() * 1000.0, 0.1)
    plan = solve(
        problem,
        deadline_ms=left_ms,
        engine=engine,
        seed=seed,
        threads=1,
        load=known if use_load and not own_models else None,
    )
    summary = finite(plan.summary())
    if not commit:
        columns = {name: column.tolist() for name, column in plan.to_columns().items()}
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        text = json.dumps(finite(summary | {"committed": False, "assignments": rows}), allow_nan=False)
        return BatchAnswer(body=text.encode(), summary={}, rows=[], commit=False, ttl_s=ttl_s)
    pairs = [(one.agent_id, one.model_id, one.score, one.reason) for one in plan.assignments]
    return BatchAnswer(body=b"", summary=summary, rows=pairs, commit=True, ttl_s=ttl_s)


def _document(body: bytes) -> dict[str, Any]:
    try:
        request = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RequestRefused(400, f"the body is not JSON: {str(error)[:200]}") from None
    if not isinstance(request, dict):
        raise SpecError(Violation("", "expected a mapping", request, kind=ViolationKind.TYPE))
    if unknown := [name for name in request if name not in _FIELDS]:
        raise SpecError(
            *(Violation(name, "unknown field", kind=ViolationKind.UNKNOWN) for name in unknown[:20])
        )
    return request


def _no_constant(name: str) -> float:
    msg = f"{name} is no number of JSON"
    raise ValueError(msg)


def _flag(request: dict[str, Any], name: str, default: bool) -> bool:
    value = request.get(name, default)
    if not isinstance(value, bool):
        raise SpecError(Violation(name, "expected true or false", value, kind=ViolationKind.TYPE))
    return value


def _number(request: dict[str, Any], name: str, low: float, high: float) -> float:
    value = request[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise SpecError(Violation(name, f"expected a number from {low:g} to {high:g}", value))
    return float(value)


class SolverProcesses:
    """A few processes that solve batches, started again when one of them dies.

    Parameters
    ----------
    count : int
        Processes.
    waiting : int
        Batches that may wait besides those being solved; more are refused.
    """

    def __init__(self, count: int, waiting: int) -> None:
        self._count, self._most = count, count + waiting
        self._pool = self._new_pool()
        self._busy = 0

    def _new_pool(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._count, mp_context=context, initializer=_begin_process)

    async def warm(self) -> None:
        """Start the processes and load the engines."""
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(self._pool, _warm) for _ in range(self._count)))

    @property
    def busy(self) -> int:
        """Batches being solved or waiting."""
        return self._busy

    async def solve(self, *arguments: Any) -> BatchAnswer:
        """Return :func:`solve_batch` of the arguments; refuse where too many wait, or a process died of it."""
        if self._busy >= self._most:
            raise RequestRefused(429, "too many batches are waiting", headers=retry_after(1.0 + self._busy))
        self._busy += 1
        pool = self._pool
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, solve_batch, *arguments)
        except BrokenProcessPool:
            if pool is self._pool:
                self._pool = self._new_pool()
                pool.shutdown(wait=False)
            raise RequestRefused(
                503, "the process that solved this batch has ended", headers=retry_after(1.0)
            ) from None
        finally:
            self._busy -= 1

    def close(self) -> None:
        """End the processes, whatever they are doing."""
        processes = list((self._pool._processes or {}).values())  # noqa: SLF001 - no public way to end them
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()


def _begin_process() -> None:
    """Leave signals to the service, and end with it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(0)


def _warm() -> None:
    from solver.engines.portfolio import warm_up

    warm_up()
