"""The checkpoint of a job before it writes, so that an interrupted job goes on instead of starting anew."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import SpecError, Violation
from solver.scale.coupled import CoupledOptimum
from solver.scale.first_pass import Survey, Valuation
from solver.scale.optimise import Optimum
from solver.scale.piece_rows import PieceChoice
from solver.scale.storage import replace_text
from solver.scale.unit_optimum import UnitOptimum
from solver.scale.unit_passes import UnitBox

if TYPE_CHECKING:
    from solver.scale.storage import PlanFolder

_NAME = ".checkpoint.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The survey and the optimum of a request, of one of three kinds."""

    survey: Survey
    found: Optimum | CoupledOptimum | UnitOptimum


def write_checkpoint(folder: PlanFolder, request: dict[str, Any], state: Checkpoint) -> None:
    """Write the state of a job beside its plan, whole or not at all. A few hundred kilobytes.

    Raises
    ------
    SpecError
        When it cannot be written.
    """
    survey, found = state.survey, state.found
    document = {
        "request": request,
        "facts": [survey.agents, survey.low, survey.high, survey.forbids, survey.units],
        "equal": survey.equal.tolist(),
        "contents": survey.contents,
        "prices": found.prices.tolist(),
        "valuation": {**asdict(found.valuation), "levels": found.valuation.levels.tolist()},
        "found": _document(found),
    }
    replace_text(folder, _NAME, json.dumps(document))


def read_checkpoint(folder: PlanFolder, request: dict[str, Any]) -> Checkpoint | None:
    """Return the state of an interrupted job in a folder; None if there is none.

    Raises
    ------
    SpecError
        When it is that of another request: other files, other capacities, another seed.
    """
    try:
        document = json.loads(folder.read(_NAME))
    except (OSError, ValueError):
        return None
    if document["request"] != json.loads(json.dumps(request)):
        rule = "expected the request that the interrupted job had; start without resuming"
        raise SpecError(Violation(folder.path(_NAME), rule))
    agents, low, high, forbids, units = document["facts"]
    equal = np.array(document["equal"], np.int64)
    closed = np.array([np.inf if slots is None else slots for slots in request["capacity"]]) < 1
    survey = Survey(
        m=len(closed),
        closed=closed,
        agents=agents,
        low=low,
        high=high,
        forbids=forbids,
        equal=equal,
        units=units,
        contents={int(number): content for number, content in document["contents"].items()},
    )
    valuation = document["valuation"]
    valuation = Valuation(**{**valuation, "levels": np.array(valuation["levels"], np.float64)})
    prices, one = np.array(document["prices"]), document["found"]
    if "flow" in one:
        box = UnitBox(
            key=0,
            low=np.array(one["low"]),
            high=np.array(one["high"]),
            sample=0,
            plan=None,
            valuation=valuation,
            closed=np.array(one["closed"], bool),
            resolution=one["resolution"],
        )
        flow = {int(number): np.array(units, np.int64) for number, units in one["flow"].items()}
        return Checkpoint(
            survey=survey, found=UnitOptimum(box=box, flow=flow, prices=prices, left=one["left"])
        )
    if "largest" in one:
        coupled = CoupledOptimum(
            prices=prices,
            low=np.array(one["low"]),
            agent=np.array(one["agent"], np.int64),
            model=np.array(one["model"], np.int64),
            valuation=valuation,
            largest=np.array(one["largest"]),
            jitter=one["jitter"],
            leaves=one["leaves"],
        )
        return Checkpoint(survey=survey, found=coupled)
    choice = PieceChoice(
        low=np.array(one["low"]),
        settled={int(number): np.array(counts) for number, counts in one["settled"].items()},
        agent=np.array(one["agent"], np.int64),
        model=np.array(one["model"], np.int64),
    )
    found = Optimum(choice=choice, prices=prices, valuation=valuation, may_leave=one["may_leave"])
    return Checkpoint(survey=survey, found=found)


def _document(found: Optimum | CoupledOptimum | UnitOptimum) -> dict[str, Any]:
    if isinstance(found, CoupledOptimum):
        return _coupled_document(found)
    if isinstance(found, UnitOptimum):
        return _unit_document(found)
    return {
        "low": found.choice.low.tolist(),
        "agent": found.choice.agent.tolist(),
        "model": found.choice.model.tolist(),
        "settled": {number: counts.tolist() for number, counts in found.choice.settled.items()},
        "may_leave": found.may_leave,
    }


def _unit_document(found: UnitOptimum) -> dict[str, Any]:
    return {
        "low": found.box.low.tolist(),
        "high": found.box.high.tolist(),
        "closed": found.box.closed.tolist(),
        "resolution": found.box.resolution,
        "flow": {number: flow.tolist() for number, flow in found.flow.items()},
        "left": found.left,
    }


def _coupled_document(found: CoupledOptimum) -> dict[str, Any]:
    return {
        "low": found.low.tolist(),
        "agent": found.agent.tolist(),
        "model": found.model.tolist(),
        "largest": found.largest.tolist(),
        "jitter": found.jitter,
        "leaves": found.leaves,
    }


def forget(folder: PlanFolder) -> None:
    """Remove what only an interrupted job needs."""
    for name in folder.names():
        noted = name.startswith(".assignments-") and name.endswith(".json")
        if name == _NAME or noted or (name.startswith(".") and name.endswith(".unfinished")):
            folder.remove(name)
