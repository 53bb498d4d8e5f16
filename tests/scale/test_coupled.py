"""Resources and budgets in files: plans within all bounds, with bounds that hold, equal on any number of workers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import solver
from solver.errors import EngineError, SpecError
from solver.scale import BatchBudget, BatchResource, LargeBatch, ScoreColumns, solve_files, verify_plan
from solver.scale.local_workers import LocalFleet
from solver.scale.manifest import read_manifest
from solver.scale.shard import Shard

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

TOKENS = ("input_tokens", "output_tokens")


def drawn(n: int, m: int, seed: int, kind: str = "linear") -> dict[str, NDArray[Any]]:
    """Return scores, tokens, money and rates of a batch; some kinds are hostile."""
    generator = np.random.default_rng(seed)
    score = (generator.random((n, m)) + 0.3 * generator.random(m)).astype(np.float32)
    tokens = generator.lognormal((6.0, 5.0), 1.0, (n, 2)).round()
    if kind == "levels":
        score = np.round(score * 4) / np.float32(4)
        tokens = generator.choice([100.0, 400.0], (n, 2))
    if kind == "forbidden":
        score[generator.random((n, m)) < 0.5] = -np.inf
    rate = (generator.random(m) + 0.1) * 1e-3
    money = generator.lognormal(0.0, 0.7, n) if kind == "independent" else tokens @ np.array([1.0, 4.0])
    return {"score": score, "tokens": tokens, "rate": rate, "money": money}


def written(folder: Path, data: Mapping[str, NDArray[Any]], files: int = 3) -> str:
    folder.mkdir()
    score = data["score"]
    for k, rows in enumerate(np.array_split(np.arange(len(score)), files)):
        table = {"agent": pa.array(rows)}
        for j in range(score.shape[1]):
            table[f"m{j}"] = pa.array(score[rows, j], mask=np.isinf(score[rows, j]))
        table |= {name: data["tokens"][rows, c] for c, name in enumerate(TOKENS)}
        table["money"] = data["money"][rows]
        pq.write_table(pa.table(table), folder / f"part-{k}.parquet", row_group_size=1500)
    return str(folder)


def batch_of(
    folder: str, data: Mapping[str, NDArray[Any]], *, fill: float = 0.9, share: float = 0.7, **options: Any
) -> LargeBatch:
    """Return a batch whose models have room for all agents over ``fill``, and a share of free spending."""
    score, rate = data["score"], data["rate"]
    m = len(rate)
    capacity = data["tokens"].sum(axis=0) / m / fill
    spend = float((data["money"] * rate[score.argmax(axis=1)]).sum())
    return LargeBatch(
        files=[folder],
        columns=ScoreColumns(models=tuple(f"m{j}" for j in range(m))),
        capacity=options.pop("capacity", [np.inf] * m),
        resources=[
            BatchResource(name=name, capacity=[units] * m)
            for name, units in zip(TOKENS, capacity, strict=True)
        ],
        budgets=[BatchBudget(name="usd", amount=share * spend, rates={"money": list(rate)})],
        **options,
    )


def in_memory(data: Mapping[str, NDArray[Any]], batch: LargeBatch) -> Any:
    """Return the same batch solved by the in-memory engines."""
    slots = np.minimum(batch.slots, len(data["score"]))
    capacity = np.column_stack([slots, *(one.capacity for one in batch.resources)])
    demand = np.column_stack([np.ones(len(data["score"])), data["tokens"]])
    cost = data["money"][:, None] * data["rate"]
    return solver.assign(
        data["score"],
        capacity,
        demand=demand,
        unassigned_penalty=batch.unassigned_penalty,
        limits=[solver.Budget(name="usd", amount=batch.budgets[0].amount, cost=cost)],
        deadline_ms=500,
    )


def used(folder: Path, data: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.float64], float, float]:
    """Return tokens by model, money and score of a plan, from its files alone."""
    m = len(data["rate"])
    table = pq.read_table(sorted(folder.glob("assignments-*.parquet")))
    assert table.column("agent").to_pylist() == list(range(len(data["score"])))
    place: dict[str | None, int] = {f"m{j}": j for j in range(m)} | {None: m}
    choice = np.array([place[one] for one in table.column("model").to_pylist()])
    served = np.flatnonzero(choice < m)
    tokens = np.zeros((m + 1, 2))
    np.add.at(tokens, choice, data["tokens"])
    money = float((data["money"][served] * data["rate"][choice[served]]).sum())
    return tokens[:m], money, float(data["score"][served, choice[served]].sum(dtype=np.float64))


@pytest.mark.parametrize("kind", ["linear", "independent", "levels", "forbidden"])
@pytest.mark.parametrize("share", [0.6, 0.95])
def test_plans_hold_all_bounds_and_prove_their_gap(tmp_path: Path, kind: str, share: float) -> None:
    data = drawn(6000, 6, 3, kind)
    batch = batch_of(written(tmp_path / "batch", data), data, share=share, unassigned_penalty=0.0)
    manifest = solve_files(batch, tmp_path / "plan")
    assert manifest is not None
    found = manifest.certificate
    assert found.violations == ()
    assert found.gap <= 5e-4
    tokens, money, score = used(tmp_path / "plan", data)
    assert (tokens <= np.array([one.capacity for one in batch.resources]).T * (1 + 1e-9)).all()
    assert money <= batch.budgets[0].amount * (1 + 1e-9)
    assert score == pytest.approx(found.objective, rel=1e-12)
    expected = in_memory(data, batch)
    assert found.bound >= expected.objective * (1 - 1e-9)
    assert found.objective <= expected.bound * (1 + 1e-9)
    checked = verify_plan(tmp_path / "plan")
    assert checked.feasible
    assert checked.certificate.objective == found.objective
    assert checked.certificate.bound == pytest.approx(found.bound, rel=1e-12)


def test_serving_comes_first_without_a_penalty(tmp_path: Path) -> None:
    data = drawn(6000, 6, 4)
    folder = written(tmp_path / "batch", data)
    ample = solve_files(batch_of(folder, data, share=2.0), tmp_path / "ample")
    assert ample is not None
    assert ample.certificate.served == 6000
    assert ample.certificate.gap <= 5e-4
    scarce = solve_files(batch_of(folder, data, fill=1.3), tmp_path / "scarce")
    assert scarce is not None
    assert 0 < scarce.certificate.served < 6000
    assert scarce.certificate.violations == ()


def test_slots_beside_resources(tmp_path: Path) -> None:
    data = drawn(6000, 6, 5)
    batch = batch_of(
        written(tmp_path / "batch", data), data, capacity=[700] * 5 + [0], unassigned_penalty=0.1, share=2.0
    )
    manifest = solve_files(batch, tmp_path / "plan")
    assert manifest is not None
    assert max(manifest.certificate.load) <= 700
    assert manifest.certificate.load[5] == 0
    assert manifest.certificate.gap <= 5e-4


def test_an_agent_larger_than_a_model_goes_elsewhere(tmp_path: Path) -> None:
    data = drawn(3000, 4, 6)
    data["tokens"][7, 0] = 0.6 * data["tokens"][:, 0].sum()
    data["score"][7] = [9.0, 1.0, 1.0, 1.0]
    batch = batch_of(written(tmp_path / "batch", data), data, fill=0.9, share=2.0, unassigned_penalty=0.0)
    manifest = solve_files(batch, tmp_path / "plan")
    assert manifest is not None
    assert manifest.certificate.violations == ()
    assert verify_plan(tmp_path / "plan").feasible


class SplitFleet(LocalFleet):
    """Two workers one after the other, in this process; one of them is replaced before every call."""

    def __init__(self, pieces: Any, columns: Any, closed: Any) -> None:
        self._make = [partial(Shard, part, columns, closed) for part in (pieces[:2], pieces[2:])]
        self._shards = [make() for make in self._make]

    def run(self, method: str, *arguments: Any, each: Mapping[int, Any] | None = None) -> list[Any]:
        self._shards[0] = self._make[0]()  # it remembers nothing, as after a crash
        found = []
        for shard in self._shards:
            own = (
                ()
                if each is None
                else ({p.number: each[p.number] for p in shard._pieces if p.number in each},)
            )
            found += getattr(shard, method)(*arguments, *own)
        return found


def test_the_same_plan_from_other_workers_that_forget(tmp_path: Path) -> None:
    data = drawn(9000, 6, 7)
    batch = batch_of(written(tmp_path / "batch", data), data, unassigned_penalty=0.0)
    first = solve_files(batch, tmp_path / "one")
    assert first is not None
    assert solve_files(batch, tmp_path / "one") == first
    assert solve_files(batch, tmp_path / "two", fleet=SplitFleet) == first


def test_a_lost_driver_resumes(tmp_path: Path) -> None:
    data = drawn(6000, 4, 8)
    batch = batch_of(written(tmp_path / "batch", data), data, unassigned_penalty=0.0)

    class Dying(LocalFleet):
        def run(self, method: str, *arguments: Any, each: Mapping[int, Any] | None = None) -> list[Any]:
            if method == "finish_paying" and each is not None:
                super().run(method, *arguments, each={number: each[number] for number in list(each)[:1]})
                raise KeyboardInterrupt
            return super().run(method, *arguments, each=each)

    expected = solve_files(batch, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        solve_files(batch, tmp_path / "plan", fleet=Dying)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "plan").glob("assignments-*")}
    assert len(before) == 1
    assert solve_files(batch, tmp_path / "plan", resume=True) == expected
    assert {name: (tmp_path / "plan" / name).stat().st_mtime_ns for name in before} == before
    assert expected is not None
    assert read_manifest(tmp_path / "plan").certificate == expected.certificate


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    data = drawn(2000, 4, 9)
    data["tokens"][1999, 1] = np.nan
    folder = written(tmp_path / "batch", data)
    good = replace(
        batch_of(folder, {**data, "tokens": np.nan_to_num(data["tokens"])}), unassigned_penalty=0.0
    )
    with pytest.raises(
        SpecError, match=r"part-2.parquet: row 666: output_tokens: expected a finite number >= 0"
    ):
        solve_files(good, tmp_path / "plan")
    with pytest.raises(SpecError, match=r"budgets.usd.amount: expected >= 0, got -1"):
        solve_files(
            replace(good, budgets=[BatchBudget(name="usd", amount=-1, rates={"money": [1] * 4})]),
            tmp_path / "plan",
        )
    with pytest.raises(SpecError, match=r"resources.gpu.capacity: expected one number for each of 4 models"):
        solve_files(replace(good, resources=[BatchResource(name="gpu", capacity=[1.0])]), tmp_path / "plan")
    with pytest.raises(SpecError, match=r"gpu: expected one such column"):
        solve_files(
            replace(good, resources=[BatchResource(name="gpu", capacity=[1.0] * 4)]), tmp_path / "plan"
        )
    with pytest.raises(SpecError, match=r"min_load: expected none beside resources or budgets"):
        solve_files(replace(good, capacity=[9] * 4, min_load=[1, 0, 0, 0]), tmp_path / "plan")
    assert not (tmp_path / "plan").exists()


def test_nobody_is_left_out_where_everybody_must_be_served(tmp_path: Path) -> None:
    data = drawn(4000, 4, 10)
    folder = written(tmp_path / "batch", data)
    served = solve_files(batch_of(folder, data, share=0.9, unassigned_penalty=np.inf), tmp_path / "plan")
    assert served is not None
    assert served.certificate.served == 4000
    assert served.certificate.violations == ()
    with pytest.raises(EngineError, match="no plan within all bounds was found"):
        solve_files(batch_of(folder, data, fill=1.2, unassigned_penalty=np.inf), tmp_path / "none")
