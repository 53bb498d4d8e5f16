"""Small valid problems in every form that files take, each with one best plan."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import yaml

__all__ = ["Case", "corpus"]

_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

AGENTS = ("ann", "bob", "cy", "dee", "eve", "fay")
MODELS = ("large", "medium", "small")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A problem as files.

    Parameters
    ----------
    name : str
        What it shows.
    arguments : tuple of str
        What follows ``solver solve``; names of files are keys of ``files``.
    files : dict of str to str
        Text of each file.
    target : str
        The file that is mutated.
    """

    name: str
    arguments: tuple[str, ...]
    files: dict[str, str]
    target: str
    options: tuple[str, ...] = field(default=())


def corpus(rng: np.random.Generator) -> list[Case]:
    """Return one case per form, with scores drawn anew so that the best plan is unique."""
    scores = np.round(rng.uniform(0, 10, (len(AGENTS), len(MODELS))), 6)
    fleet: list[dict[str, Any]] = [
        {"id": name, "capacity": {"max_concurrent": 2}, "capabilities": {"general": round(0.9 - 0.1 * j, 2)}}
        for j, name in enumerate(MODELS)
    ]
    fleet[0] |= {"usd_per_million_input_tokens": 3.0, "usd_per_million_output_tokens": 9.0, "region": "eu"}
    agents: list[dict[str, Any]] = [
        {"id": name, "task_type": "general", "priority": round(1 + 0.1 * i, 2), "input_tokens": 100 * i}
        for i, name in enumerate(AGENTS)
    ]
    inline = {"agents": agents, "models": fleet, "scores": scores.tolist(), "objective": {"load_weight": 0.0}}
    limited = inline | {
        "limits": [
            {"kind": "quota", "name": "few on large", "models": ["large"], "at_most_agents": 1},
            {"kind": "apart", "name": "rivals", "agents": ["ann", "bob"]},
        ]
    }
    long = "agent,model,score\n" + "".join(
        f"{agent},{model},{scores[i, j]}\n"
        for i, agent in enumerate(AGENTS)
        for j, model in enumerate(MODELS)
    )
    wide = f"agent,{','.join(MODELS)}\n" + "".join(
        f"{agent},{','.join(map(str, scores[i]))}\n" for i, agent in enumerate(AGENTS)
    )
    table = "id,task_type,priority,input_tokens\n" + "".join(
        f"{one['id']},general,{one['priority']},{one['input_tokens']}\n" for one in agents
    )
    fleet_table = "id,max_concurrent,capabilities.general\n" + "".join(
        f"{one['id']},2,{one['capabilities']['general']}\n" for one in fleet
    )
    ranked = "Name,pref1,pref2,pref3\n" + "".join(
        f"{agent},{','.join(MODELS[j] for j in np.argsort(-scores[i]))}\n" for i, agent in enumerate(AGENTS)
    )
    lines = "".join(json.dumps(one) + "\n" for one in agents)
    cost, use = rng.integers(10, 99, (2, 6)), rng.integers(1, 5, (2, 6))
    gap = (
        "\n".join(" ".join(map(str, row)) for row in [[2, 6], *cost.tolist(), *use.tolist(), [14, 14]]) + "\n"
    )
    referring = {
        "agents": "agents.csv",
        "models": fleet,
        "scores": {"path": "scores.csv", "layout": "wide"},
        "objective": {"load_weight": 0.0, "quality": "given"},
    }
    dump = yaml.dump(inline, Dumper=_Dumper, sort_keys=False)
    plain = yaml.dump(fleet, Dumper=_Dumper, sort_keys=False)
    together = {
        "agents.csv": table,
        "scores.csv": wide,
        "p.yaml": yaml.dump(referring, Dumper=_Dumper, sort_keys=False),
    }
    on_tables = ("--agents", "agents.csv", "--models")
    by_scores = ("--slots", "2")
    return [
        Case(name="yaml", arguments=("p.yaml",), files={"p.yaml": dump}, target="p.yaml"),
        Case(
            name="json",
            arguments=("p.json",),
            files={"p.json": json.dumps(inline, indent=1)},
            target="p.json",
        ),
        Case(
            name="limits",
            arguments=("p.yaml",),
            files={"p.yaml": yaml.dump(limited, Dumper=_Dumper, sort_keys=False)},
            target="p.yaml",
        ),
        Case(name="pointers", arguments=("p.yaml",), files=together, target="p.yaml"),
        Case(name="agents beside scores", arguments=("p.yaml",), files=together, target="agents.csv"),
        Case(name="wide beside agents", arguments=("p.yaml",), files=together, target="scores.csv"),
        Case(name="long", arguments=("--scores", "s.csv", *by_scores), files={"s.csv": long}, target="s.csv"),
        Case(
            name="wide",
            arguments=("--scores", "s.csv", "--layout", "wide", *by_scores),
            files={"s.csv": wide},
            target="s.csv",
        ),
        Case(
            name="ranked",
            arguments=("--scores", "s.csv", "--layout", "ranked", "--agent-column", "Name", *by_scores),
            files={"s.csv": ranked},
            target="s.csv",
        ),
        Case(
            name="agents",
            arguments=(*on_tables, "fleet.yaml"),
            files={"agents.csv": table, "fleet.yaml": plain},
            target="agents.csv",
        ),
        Case(
            name="fleet",
            arguments=(*on_tables, "fleet.csv"),
            files={"agents.csv": table, "fleet.csv": fleet_table},
            target="fleet.csv",
        ),
        Case(
            name="fleet in yaml",
            arguments=(*on_tables, "fleet.yaml"),
            files={"agents.csv": table, "fleet.yaml": plain},
            target="fleet.yaml",
        ),
        Case(
            name="json lines",
            arguments=("--agents", "a.jsonl", "--models", "fleet.yaml"),
            files={"a.jsonl": lines, "fleet.yaml": plain},
            target="a.jsonl",
        ),
        Case(name="or-library", arguments=("gap.txt",), files={"gap.txt": gap}, target="gap.txt"),
    ]
