"""Solves an instance given as arrays and returns a verified Solution, in one call."""

from __future__ import annotations

import gc
import math
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.clock import Deadline
from solver.engines import portfolio
from solver.engines.base import ENGINES, load_engine
from solver.errors import SpecError, Violation, wrong_type
from solver.problem.build import build_instance
from solver.problem.compile import compile_problem, pair_scorer
from solver.problem.numbers import whole_number
from solver.solution.answer_solution import solution_of
from solver.solution.limit_use import conflict_sentences
from solver.solution.plain_slots import plain_solution
from solver.solution.plan import Plan
from solver.solution.solution import Solution, Status
from solver.solution.warm_start import by_ids, hint_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import ArrayLike

    from solver.problem.compile import ObservedLoad
    from solver.problem.instance import Instance
    from solver.problem.limit_kinds import Limit
    from solver.problem.score_arrays import SparseScores
    from solver.problem.score_formulas import Feedback
    from solver.problem.spec import Problem
    from solver.solution.infeasibility import Conflict

_EXPLAINING_S = 5.0
"""Seconds at most for finding the reason of infeasibility, besides the deadline."""

_EXPLAINING_MARGIN_S = 0.005
"""Seconds of the deadline kept back for returning."""

_PAIR_MARGIN_S = 5e-7
"""Seconds per pair kept back: a linear program that is being set up cannot be interrupted."""


def warm_up(*engines: str) -> None:
    """Load everything that solving needs and solve a tiny instance, so that the first deadline need not pay for it.

    About a second, most of it for importing scipy and OR-Tools.

    Parameters
    ----------
    *engines : str
        Names of engines; all of them by default.

    Raises
    ------
    SpecError
        If an engine is unknown.
    """
    unknown = [name for name in engines if name not in ENGINES]
    if unknown:
        raise SpecError(Violation("engines", f"expected among {', '.join(ENGINES)}", unknown[0]))
    imported = len(sys.modules)
    slots = build_instance([[3.0, 1.0], [2.0, 2.0], [1.0, 3.0]], [2, 2])
    demands = build_instance([[3.0, 1.0], [2.0, 2.0], [1.0, 3.0]], [2, 2], demand=[1.0, 2.0, 1.0])
    for name in engines or ENGINES:
        engine = load_engine(name)
        for instance in (slots, demands):
            if engine.unsupported_reason(instance, remaining_s=math.inf) is None:
                solve_instance(instance, deadline=Deadline.after(None), engine=name)
    if len(sys.modules) > imported:
        gc.collect()  # of all that was imported: 60 ms, which would come in the middle of some call otherwise


def assign(
    scores: ArrayLike | SparseScores | Iterator[Any],
    capacity: ArrayLike,
    *,
    demand: ArrayLike | None = None,
    eligible: ArrayLike | None = None,
    priority: ArrayLike | None = None,
    unassigned_penalty: ArrayLike | None = None,
    limits: Sequence[Limit] = (),
    load_cost: ArrayLike | None = None,
    min_load: ArrayLike | None = None,
    min_load_if_open: ArrayLike | None = None,
    opening_cost: ArrayLike | None = None,
    copies: ArrayLike | None = None,
    count: ArrayLike | None = None,
    sense: str = "maximize",
    deadline_ms: float | None = None,
    engine: str = "auto",
    warm_start: Solution | None = None,
    seed: int = 0,
    threads: int | None = None,
) -> Solution:
    """Assign agents to models under capacity limits, with a proof of how good the answer is.

    Parameters
    ----------
    scores : (n, m) array_like of float
        Value of serving agent i by model j; higher is better, ``-inf`` forbids the pair. Also a memory-mapped array,
        an Arrow table or array of lists, or an iterator of chunks of rows (arrays, tables, record batches).
    capacity : (m,) or (m, r) array_like
        Units each model has left, per resource.
    demand : (n,), (n, r), (n, m) or (n, m, r) array_like, optional
        Units agent i takes (of model j, of resource k). None: one slot each.
    eligible : (n, m) array_like of bool, optional
        False forbids the pair.
    priority : (n,) array_like of float, optional
        Higher is served first when not all fit; multiplies a finite penalty.
    unassigned_penalty : float or (n,) array_like, optional
        None: serve as many agents as possible first, then maximise the score. A number: leave an agent
        unassigned when that is cheaper. ``inf``: serve all, or report infeasibility.
    limits : sequence of Limit, optional
        Couplings across models: budgets, quotas, shares, averages; see :class:`solver.Budget` and its kin.
    load_cost : (t,) or (m, t) array_like, optional
        What a slot costs, in score, in each of t equal tiers of a model's capacity, non-decreasing: the
        fuller a model, the dearer its next slot. Only where agents take slots.
    min_load : int or (m,) array_like, optional
        Floors: units of its capacity that each model must use.
    min_load_if_open : int or (m,) array_like, optional
        Floors of the models that serve an agent: 0, or at least so many slots. Only where agents take slots.
    opening_cost : float or (m,) array_like, optional
        Fixed cost of a model that serves an agent, >= 0. Only where agents take slots.
    copies : int or (n,) array_like, optional
        How many different models each agent needs. Each copy left out costs the penalty. ``choice`` is then
        (n, max copies), padded with UNASSIGNED. Only where agents take slots.
    count : int or (n,) array_like, optional
        How many equal agents each row stands for; ``flow`` says how many of them each model serves. Only where
        agents take slots.
    sense : {"maximize", "minimize"}
        With ``minimize`` scores are costs: ``+inf`` forbids a pair, the total cost is made as small as possible,
        and objective, bound and gap are those of the costs.
    deadline_ms : float, optional
        Hard wall-clock budget in milliseconds, from call to return. Without one, instances that are a flow are
        solved to the end; with demands or limits the search stops after ten seconds unless it is proven
        before, which ``Solution.stopped_by`` says. A deadline replaces that limit, shorter or longer.
    engine : str
        ``"auto"``, or one of the engines by name.
    warm_start : Solution, optional
        The solution of a similar instance, to start from.
    seed : int
        Same input, seed and ``threads=1``: same answer.
    threads : int, optional
        Most threads to use. By default one, and all cores when a deadline is set and the instance is large.

    Returns
    -------
    Solution
        Verified: objective, loads, feasibility and bound are recomputed from the input in float64.

    Raises
    ------
    SpecError
        If an argument breaks a rule; lists all of them.

    Examples
    --------
    >>> import solver
    >>> solution = solver.assign([[9, 6], [8, 2], [7, 3]], capacity=[2, 1])
    >>> solution.status.value, solution.choice.tolist(), solution.objective
    ('optimal', [1, 0, 0], 21.0)
    >>> solution.prices.tolist(), solution.gap
    ([3.0, 0.0], 0.0)

    One more slot of the first model would serve the first agent there: 9 instead of 6.
    """
    deadline = Deadline.after(deadline_ms)
    if (
        type(limits) is tuple
        and not limits
        and (demand is None and eligible is None and priority is None and unassigned_penalty is None)
        and (load_cost is None and min_load is None and min_load_if_open is None and opening_cost is None)
        and (copies is None and count is None and warm_start is None and threads is None)
        and (type(sense) is type(engine) is str and type(seed) is int)  # arrays are refused further on
        and (sense, engine, seed) == ("maximize", "auto", 0)
    ):
        plain = plain_solution(scores, capacity, deadline)
        if plain is not None:
            return plain
    instance = build_instance(
        scores,
        capacity,
        demand=demand,
        eligible=eligible,
        priority=priority,
        unassigned_penalty=unassigned_penalty,
        limits=limits,
        load_cost=load_cost,
        min_load=min_load,
        min_load_if_open=min_load_if_open,
        opening_cost=opening_cost,
        copies=copies,
        count=count,
        sense=sense,
    )
    solution = solve_instance(
        instance,
        deadline=deadline,
        engine=engine,
        warm_start=warm_start,
        seed=seed,
        threads=threads,
        flat=np.ndim(capacity) == 1,
    )
    if solution.status is Status.INFEASIBLE and instance.network is not None:
        lines = _conflict(instance, deadline).sentences()
        return replace(solution, notes=(*solution.notes, *lines), elapsed_ms=deadline.elapsed_ms())
    return solution


def solve(
    problem: Problem,
    *,
    deadline_ms: float | None = None,
    engine: str = "auto",
    load: Mapping[str, ObservedLoad | None] | None = None,
    feedback: Feedback | None = None,
    warm_start: Plan | Solution | None = None,
    seed: int = 0,
    threads: int | None = None,
) -> Plan:
    """Score, compile and solve a problem, and return the plan in its own ids.

    Parameters
    ----------
    problem : Problem
        Agents, models and what is wanted.
    deadline_ms : float, optional
        Hard wall-clock budget in milliseconds, from call to return; scoring and compiling included.
    engine : str
        ``"auto"``, or one of the engines by name.
    load : mapping of str to ModelLoad, optional
        Live load by model id: takes slots away and lowers scores by ``load_weight``.
    feedback : Feedback, optional
        What was observed of each model, in their order: turns capability scores into adaptive ones.
    warm_start : Plan or Solution, optional
        The answer to a similar problem, to start from. A plan is matched by ids: agents and models may have
        come and gone. A solution is taken by position.
    seed, threads
        As in :func:`assign`.

    Returns
    -------
    Plan

    Raises
    ------
    SpecError
        If an argument breaks a rule.

    Examples
    --------
    >>> import solver
    >>> one = solver.Capacity(max_concurrent=1)
    >>> problem = solver.Problem(
    ...     agents=[
    ...         solver.Agent(id="a", required_capabilities=["coding"]),
    ...         solver.Agent(id="b", task_type="general"),
    ...     ],
    ...     models=[
    ...         solver.Model(id="big", capabilities={"coding": 0.9, "general": 0.9}, capacity=one),
    ...         solver.Model(id="small", capabilities={"coding": 0.3, "general": 0.6}, capacity=one),
    ...     ],
    ... )
    >>> plan = solver.solve(problem)
    >>> [(one.agent_id, one.model_id, one.score) for one in plan.assignments]
    [('a', 'big', 93.0), ('b', 'small', 72.0)]
    """
    deadline = Deadline.after(deadline_ms)
    scorer = pair_scorer(problem, load=load, feedback=feedback)
    instance = compile_problem(problem, load=load, scorer=scorer)
    if isinstance(warm_start, Plan):
        warm_start = by_ids(warm_start, problem, instance)
    solution = solve_instance(
        instance, deadline=deadline, engine=engine, warm_start=warm_start, seed=seed, threads=threads
    )
    if solution.status is Status.INFEASIBLE:
        solution = _explained(problem, instance, solution, deadline)
    return Plan(problem=problem, instance=instance, solution=solution, scorer=scorer)


def _explained(problem: Problem, instance: Instance, solution: Solution, deadline: Deadline) -> Solution:
    """Return an infeasible solution with the reason among its notes, as far as time allows."""
    lines = conflict_sentences(_conflict(instance, deadline), problem, instance)
    return replace(solution, notes=(*solution.notes, *lines), elapsed_ms=deadline.elapsed_ms())


def _conflict(instance: Instance, deadline: Deadline) -> Conflict:
    """Return why an instance is infeasible, as far as time allows."""
    from solver.solution.infeasibility import explain_infeasibility  # brings scipy, which few solves need

    now = deadline.clock.now()
    margin = _EXPLAINING_MARGIN_S + _PAIR_MARGIN_S * instance.n * instance.m
    ends = min(now + _EXPLAINING_S, deadline.ends_s - margin)
    return explain_infeasibility(instance, deadline=Deadline(now, ends, deadline.clock))


def solve_instance(
    instance: Instance,
    *,
    deadline: Deadline,
    engine: str = "auto",
    warm_start: Solution | None = None,
    seed: int = 0,
    threads: int | None = None,
    flat: bool = True,
) -> Solution:
    """Solve checked arrays; ``flat`` says whether prices and loads come back as (m,) rather than (m, r)."""
    threads = None if threads is None else whole_number("threads", threads, least=1)
    seed = whole_number("seed", seed, least=0)
    if not isinstance(engine, str):
        raise SpecError(wrong_type("engine", "expected a name", engine))
    if warm_start is not None and not isinstance(warm_start, Solution):
        raise SpecError(wrong_type("warm_start", "expected a Solution", warm_start))
    hint = None if warm_start is None else hint_of(warm_start, instance)
    answer = portfolio.run(
        instance,
        deadline=deadline,
        engine=engine,
        hint=hint,
        seed=seed,
        threads=threads,
    )
    return solution_of(instance, answer, deadline, flat=flat and instance.r == 1)
