"""Random instances with floors, copies, counts and openings, each held against HiGHS.

    python -m tests.fuzz_networks --seed 0 --count 1000

Every answer must equal the optimum of the integer program, or be infeasible when that is; prices must be what one
more unit of a capacity or a floor changes; and the reason of every infeasibility must hold: with what it says relaxed,
the instance is feasible.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

import solver
from solver.problem.build import build_instance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.problem.instance import Instance
    from solver.problem.network import NetworkShape

__all__ = ["check", "main", "optimum", "random_arguments"]

_TOLERANCE = 1e-6


def random_arguments(rng: np.random.Generator, *, largest: int = 9) -> dict[str, Any]:
    """Return arguments of a random call of :func:`solver.assign`; every feature in about a third of them."""
    n, m = int(rng.integers(1, largest)), int(rng.integers(1, 6))
    whole = rng.random() < 0.5
    scores = rng.integers(-4, 8, (n, m)).astype(float) if whole else rng.normal(size=(n, m)) * 5
    if rng.random() < 0.5:
        scores[rng.random((n, m)) < 0.3] = -np.inf
    arguments: dict[str, Any] = {"scores": scores, "capacity": rng.integers(0, 2 + 3 * n // m, m)}

    def maybe(share: float) -> bool:
        return bool(rng.random() < share)

    if maybe(0.4):
        arguments["count"] = rng.integers(1, 6, n)
        arguments["capacity"] = arguments["capacity"] * 3
    if maybe(0.4):
        arguments["copies"] = rng.integers(1, 4, n)
        arguments["capacity"] = arguments["capacity"] * 2
    if maybe(0.6):
        arguments["min_load"] = rng.integers(0, np.maximum(arguments["capacity"] * 2 // 3, 1) + 1)
    if maybe(0.25):
        arguments["min_load_if_open"] = rng.integers(0, 5, m)
    if maybe(0.15):
        arguments["opening_cost"] = rng.integers(0, 6, m).astype(float)
    opens = any(np.any(arguments.get(name, 0)) for name in ("min_load_if_open", "opening_cost"))
    kind = rng.integers(4)
    if kind == 1:
        arguments["unassigned_penalty"] = np.inf
    elif kind == 2:
        arguments["unassigned_penalty"] = float(rng.integers(0, 8))
    elif kind == 3:
        arguments["unassigned_penalty"] = rng.choice([0.0, 2.0, 5.0, np.inf], n)
    if maybe(0.3) and not (opens and "unassigned_penalty" not in arguments):
        arguments["priority"] = rng.integers(1, 4, n).astype(float)
    if maybe(0.2) and not opens:
        arguments["load_cost"] = np.sort(rng.integers(0, 4, 3)).astype(float)
    if maybe(0.1):
        arguments["sense"] = "minimize"
        arguments["scores"] = -scores
    return arguments


class _Program:
    """The integer program of an instance, built without looking at any engine."""

    def __init__(self, instance: Instance, shape: NetworkShape) -> None:
        n, m = instance.n, instance.m
        score = np.asarray(instance.score, np.float64)
        self.pairs = n * m
        model, cost, slots = instance.tiers
        tiers = len(model)
        size = self.pairs + n + tiers + m
        upper = np.concatenate(
            [np.where(np.isfinite(score), shape.width[:, None], 0).ravel(), shape.supply, slots, np.ones(m)]
        )
        self.left = np.zeros((n, size))
        self.left[:, self.pairs : self.pairs + n] = np.eye(n)
        value = np.zeros(size)
        value[: self.pairs] = np.where(np.isfinite(score), score, 0.0).ravel()
        value[self.pairs + n : self.pairs + n + tiers] = -cost
        value[self.pairs + n + tiers :] = -shape.opening_cost
        if instance.penalty is not None:
            value[self.pairs : self.pairs + n] = -np.where(np.isinf(instance.penalty), 0.0, instance.penalty)
            upper[self.pairs : self.pairs + n][np.isposinf(instance.penalty)] = 0
        rows, low, high = [], [], []
        for i in range(n):
            row = np.zeros(size)
            row[i * m : (i + 1) * m] = 1
            row[self.pairs + i] = 1
            rows.append(row)
            low.append(shape.supply[i])
            high.append(shape.supply[i])
        for j in range(m):
            load = np.zeros(size)
            load[j : self.pairs : m] = 1
            used = load.copy()
            used[self.pairs + n : self.pairs + n + tiers][model == j] = -1
            is_open = self.pairs + n + tiers + j
            most, least = load.copy(), load.copy()
            most[is_open] = -float(instance.slots[j])
            least[is_open] = -float(max(shape.floor_if_open[j], 1))
            rows += [used, load, most, least]
            low += [0, shape.floor[j], -np.inf, 0]
            high += [0, np.inf, 0, np.inf]
        self.rows, self.low, self.high = rows, low, high
        self.value, self.upper = value, upper

    def best(self, value: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Return an optimal solution for some objective, or None."""
        solved = milp(
            -value,
            constraints=LinearConstraint(np.array(self.rows), self.low, self.high),
            bounds=Bounds(0, self.upper),
            integrality=np.ones(len(value), np.int64),
            options={"mip_rel_gap": 0.0},
        )
        return None if solved.status != 0 else np.rint(solved.x)

    def keep(self, row: NDArray[np.float64], most: float) -> None:
        """Add ``row x <= most``."""
        self.rows.append(row)
        self.low.append(-np.inf)
        self.high.append(most)


def optimum(instance: Instance) -> float | None:
    """Return the optimal objective, serve-first by one program after the other; None when infeasible."""
    shape = instance.network
    if shape is None:
        raise ValueError("expected an instance with a network shape")
    program = _Program(instance, shape)
    if instance.penalty is None:
        rank = np.zeros(instance.n, np.int64) if instance.rank is None else instance.rank
        for level in sorted(set(rank.tolist()), reverse=True):
            left = program.left[rank == level].sum(axis=0)
            found = program.best(-left)
            if found is None:
                return None
            program.keep(left, float(left @ found))
    found = program.best(program.value)
    return None if found is None else float(program.value @ found)


def check(arguments: dict[str, Any], *, derivatives: bool = True) -> str | None:
    """Return what is wrong with the answer to a call, or None."""
    sign = -1.0 if arguments.get("sense") == "minimize" else 1.0
    plain = {name: value for name, value in arguments.items() if name != "sense"}
    plain["scores"] = sign * np.asarray(plain["scores"])
    instance = build_instance(**plain)
    solution = solver.assign(**arguments)
    if instance.network is None:
        return None
    expected = optimum(instance)
    if expected is None:
        if solution.status.value != "infeasible":
            return f"expected infeasible, got {solution.status.value} {solution.objective}"
        return _unconfirmed(instance, plain)
    if solution.status.value != "optimal":
        return (
            f"expected optimal {expected}, got {solution.status.value} {solution.objective}, {solution.notes}"
        )
    if abs(sign * solution.objective - expected) > _TOLERANCE * max(1.0, abs(expected)):
        return f"expected {expected}, got {solution.objective}"
    if derivatives and not instance.network.has_openings and instance.penalty is not None:
        return _wrong_price(plain, solution, expected)
    return None


def _unconfirmed(instance: Instance, arguments: dict[str, Any]) -> str | None:
    """Return why the reason of an infeasibility does not hold when the instance is solved again, or None."""
    from solver.solution.infeasibility import explain_infeasibility

    conflict = explain_infeasibility(instance)
    capacity = np.asarray(arguments["capacity"], np.float64).copy()
    floor = np.broadcast_to(np.asarray(arguments.get("min_load", 0)), capacity.shape).copy()
    penalty = (
        np.broadcast_to(np.asarray(arguments["unassigned_penalty"], np.float64), (instance.n,)).copy()
        if (arguments.get("unassigned_penalty") is not None)
        else None
    )
    if_open = np.broadcast_to(np.asarray(arguments.get("min_load_if_open", 0)), capacity.shape).copy()
    for relief in conflict.reliefs:
        index = int(relief.what.split("[")[1].split("]")[0].split(",")[0])
        if relief.what.startswith("capacity"):
            capacity[index] += relief.amount
        elif relief.what.startswith("min_load["):
            floor[index] -= round(relief.amount)
        elif relief.what.startswith("min_load_if_open["):
            if_open[index] -= round(relief.amount)
        else:
            return f"unknown relief {relief.what}"
    if penalty is not None:
        penalty[list(conflict.agents)] = 0.0
    relaxed = {name: value for name, value in arguments.items() if name not in ("min_load", "sense")}
    relaxed |= {"capacity": capacity, "min_load": floor, "unassigned_penalty": penalty}
    if "min_load_if_open" in arguments:
        relaxed["min_load_if_open"] = if_open
    again = solver.assign(**relaxed)
    if again.status.value == "infeasible":
        return f"still infeasible after {conflict}"
    if not (conflict.reliefs or conflict.agents):
        return "infeasible without a reason"
    return None


def _wrong_price(arguments: dict[str, Any], solution: solver.Solution, expected: float) -> str | None:
    """Return which price is not what one more unit changes, or None. Load costs change with capacity: skipped."""
    m = len(solution.load)
    if "load_cost" in arguments:
        return None
    for j in range(m):
        raised = np.asarray(arguments["capacity"]).copy()
        raised[j] += 1
        value = optimum(build_instance(**arguments | {"capacity": raised}))
        if value is None or abs(value - expected - solution.prices[j]) > 1e-5 * max(1.0, abs(expected)):
            return f"price of model {j}: {solution.prices[j]}, one more slot changes {value} − {expected}"
        floor = np.broadcast_to(np.asarray(arguments.get("min_load", 0)), (m,)).copy()
        if floor[j] + 1 > raised[j] - 1:
            continue
        floor[j] += 1
        value = optimum(build_instance(**arguments | {"min_load": floor}))
        if value is not None and abs(value - expected - solution.floor_prices[j]) > 1e-5 * max(
            1.0, abs(expected)
        ):
            return f"floor price of {j}: {solution.floor_prices[j]}, one more changes {value} − {expected}"
    return None


def main(argv: list[str] | None = None) -> int:
    """Check random instances; the exit code says whether all were right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    options = parser.parse_args(argv)
    wrong = 0
    for seed in range(options.seed, options.seed + options.count):
        arguments = random_arguments(np.random.default_rng(seed))
        try:
            problem = check(arguments)
        except Exception as error:  # noqa: BLE001 - the instance is what matters
            problem = f"{type(error).__name__}: {error}"
        if problem is not None:
            wrong += 1
            sys.stdout.write(f"seed {seed}: {problem}\n{arguments}\n")
    sys.stdout.write(f"{options.count} instances, {wrong} wrong\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
