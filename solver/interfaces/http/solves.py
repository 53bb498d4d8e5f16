"""Whole batches, solved in processes of their own, so that decisions never wait for one."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, NamedTuple

from solver.errors import SpecError, Violation, unknown_field, wrong_type
from solver.interfaces.http.json_codec import from_json, refuse_repeated_fields, to_json
from solver.interfaces.http.problem_details import RequestRefused, retry_after
from solver.online.price_process import give_way
from solver.problem.request_cost import TokenPrices

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from solver.load.snapshot import ModelLoad
    from solver.problem.spec import Model, Problem
    from solver.solution.plan import Plan

_FIELDS = ("problem", "deadline_ms", "engine", "seed", "commit", "use_load", "ttl_s")


class BatchRow(NamedTuple):
    """One agent of a plan that is to be reserved."""

    agent_id: str
    model_id: str | None
    score: float
    reason: str
    tokens: int
    cost_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchAnswer:
    """What a solver process returns.

    Parameters
    ----------
    body : bytes
        The whole answer as JSON; empty where leases are still to be taken.
    summary : dict
        Certificate and totals.
    rows : list of BatchRow
        The assignment, where leases are to be taken.
    commit : bool
        Whether they are.
    ttl_s : float
        Time to live of the leases, seconds.
    """

    body: bytes
    summary: dict[str, Any]
    rows: list[BatchRow]
    commit: bool
    ttl_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTerms:
    """On what terms a batch is solved: the fleet as it is, and what the client may ask for.

    Parameters
    ----------
    models : sequence of Model, optional
        The fleet, for problems that state no models.
    load : mapping of str to ModelLoad
        Live load by model.
    deadline_ms, longest_ms : float
        Time limit of a batch that names none, and the longest it may ask for, milliseconds.
    longest_ttl_s : float
        Longest time to live of its leases, seconds.
    may_commit : bool
        Whether the client may take capacity.
    arrived_s : float
        When the request came, by the machine's monotonic clock: waiting counts against its time limit.
    """

    models: Sequence[Model] | None
    load: dict[str, ModelLoad | None]
    deadline_ms: float
    longest_ms: float
    longest_ttl_s: float
    may_commit: bool
    arrived_s: float


def solve_batch(body: bytes, terms: BatchTerms) -> BatchAnswer:
    """Read, solve and write one batch. Runs in a solver process.

    Parameters
    ----------
    body : bytes
        JSON: ``{problem, deadline_ms, engine, seed, commit, use_load, ttl_s}``.
    terms : BatchTerms
        The fleet, and what is allowed.

    Raises
    ------
    SpecError
        If the body breaks a rule.
    RequestRefused
        If it is not JSON, or commits what the client may not.
    """
    started_s = time.monotonic()
    gc.disable()  # a batch makes no cycles worth a walk through all of it; what it left is looked at afterwards
    try:
        return _solved(body, terms, started_s)
    finally:
        gc.enable()


def _solved(body: bytes, terms: BatchTerms, started_s: float) -> BatchAnswer:
    from solver.problem.spec import Problem
    from solver.solution.solving import solve

    request = _document(body)
    asked = _asked(request, terms)
    given: dict[str, Any] = request["problem"]
    own_models = given.get("models") is not None
    if not own_models and terms.models is not None:
        given = {**given, "models": tuple(terms.models)}
    if asked.commit and own_models:
        raise SpecError(
            Violation(
                "problem.models", "expected none with commit: capacity is taken of the fleet", shown="some"
            )
        )
    try:
        problem = Problem.model_validate(given)
    except SpecError as error:
        raise SpecError(*(one.within("problem") for one in error.violations)) from None
    if asked.commit and (problem.agents.copies is not None or problem.agents.multiplicity is not None):
        raise SpecError(Violation("commit", "expected agents of one model each, without copies or count"))
    waited_ms = 1000.0 * (time.monotonic() - min(terms.arrived_s, started_s))
    known = {model: terms.load.get(model) for model in problem.model_ids}
    plan = solve(
        problem,
        deadline_ms=max(asked.deadline_ms - waited_ms, 0.1),
        engine=asked.engine,
        seed=asked.seed,
        threads=1,
        load=known if asked.use_load and not own_models else None,
    )
    if asked.commit:
        pairs = list(_rows_of(problem, plan))
        return BatchAnswer(body=b"", summary=plan.summary(), rows=pairs, commit=True, ttl_s=asked.ttl_s)
    columns = {name: column.tolist() for name, column in plan.to_columns().items()}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    text = to_json(plan.summary() | {"committed": False, "assignments": rows})
    return BatchAnswer(body=text, summary={}, rows=[], commit=False, ttl_s=asked.ttl_s)


def _rows_of(problem: Problem, plan: Plan) -> Iterator[BatchRow]:
    """Yield what is to be reserved for each agent, in their order."""
    prices, column = TokenPrices(problem.models), {model: j for j, model in enumerate(problem.model_ids)}
    taken, made = problem.agents.input_tokens.tolist(), problem.agents.output_tokens.tolist()
    for one, tokens_in, tokens_out in zip(plan.assignments, taken, made, strict=True):
        usd = 0.0
        if one.model_id is not None:
            usd = prices.cost_on(column[one.model_id], tokens_in, tokens_out)
        yield BatchRow(one.agent_id, one.model_id, one.score, one.reason, tokens_in + tokens_out, usd)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What stands beside the problem in a request."""

    deadline_ms: float
    engine: str
    seed: int
    commit: bool
    use_load: bool
    ttl_s: float


def _asked(request: dict[str, Any], terms: BatchTerms) -> _Asked:
    """Return the options of a request, checked before anything is solved."""
    commit = _flag(request, "commit", False)
    if commit and not terms.may_commit:
        raise RequestRefused(403, "commit needs the role route")
    if not isinstance(request.get("problem"), dict):
        rule = "expected a mapping with the fields of a problem"
        raise SpecError(wrong_type("problem", rule, request.get("problem")))
    seed = request.get("seed", 0)
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise SpecError(Violation("seed", "expected a whole number >= 0", seed))
    engine = request.get("engine", "auto")
    if not isinstance(engine, str):
        raise SpecError(wrong_type("engine", "expected text", engine))
    return _Asked(
        deadline_ms=_number(request, "deadline_ms", 1e-3, terms.longest_ms, terms.deadline_ms),
        engine=engine,
        seed=seed,
        commit=commit,
        use_load=_flag(request, "use_load", True),
        ttl_s=_number(request, "ttl_s", 1e-3, terms.longest_ttl_s, min(60.0, terms.longest_ttl_s)),
    )


def _document(body: bytes) -> dict[str, Any]:
    try:
        request = from_json(body)
    except ValueError as error:
        raise RequestRefused(400, f"the body is not JSON: {str(error)[:200]}") from None
    if not isinstance(request, dict):
        raise SpecError(wrong_type("", "expected a mapping", request))
    if unknown := [name for name in request if name not in _FIELDS]:
        raise SpecError(*(unknown_field(name) for name in unknown[:20]))
    refuse_repeated_fields(body, request)
    return request


def _flag(request: dict[str, Any], name: str, default: bool) -> bool:
    value = request.get(name, default)
    if not isinstance(value, bool):
        raise SpecError(wrong_type(name, "expected true or false", value))
    return value


def _number(request: dict[str, Any], name: str, low: float, high: float, default: float) -> float:
    """Return a number within bounds, the default where it is left out or null."""
    value = request.get(name)
    if value is None:
        return default
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

    async def solve(self, body: bytes, terms: BatchTerms) -> BatchAnswer:
        """Return :func:`solve_batch` of a request; refuse where too many wait, or a process died of it."""
        if self._busy >= self._most:
            raise RequestRefused(429, "too many batches are waiting", headers=retry_after(1.0 + self._busy))
        self._busy += 1
        pool = self._pool
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, solve_batch, body, terms)
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
    """Leave signals to the service, end with it, however it ends, and let its decisions go before batches."""
    give_way()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(0)


def _warm() -> None:
    from solver.solution.solving import warm_up

    warm_up()
    gc.collect()
    gc.freeze()  # walking through what is loaded would take 50 ms of a batch
