"""The manifest of a job on Kubernetes says a command that the command line takes, and workers enough for it."""

from __future__ import annotations

import shlex
from pathlib import Path

import typer
import yaml

from solver.interfaces.cli import app

MANIFEST = Path(__file__).parents[2] / "deploy" / "kuberay.yaml"


def test_the_command_of_the_job_is_one_and_its_workers_fit() -> None:
    job = yaml.safe_load(MANIFEST.read_text())
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[:2] == ["solver", "solve"]
    solve = typer.main.get_command(app).commands["solve"]  # type: ignore[attr-defined]
    known = {name for option in solve.params for name in option.opts}
    assert {word for word in words if word.startswith("--")} <= known
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    cpus = group["replicas"] * int(container["resources"]["requests"]["cpu"])
    assert int(words[words.index("--workers") + 1]) <= cpus
