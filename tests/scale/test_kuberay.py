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


# Fields of the resource by KubeRay's types (ray-operator/apis/ray/v1): an unknown one is dropped by the API server.
JOB = {
    *("entrypoint", "runtimeEnvYAML", "jobId", "submissionMode", "entrypointResources", "entrypointNumCpus"),
    *(
        "entrypointNumGpus",
        "metadata",
        "clusterSelector",
        "submitterPodTemplate",
        "submitterConfig",
        "managedBy",
    ),
    *(
        "shutdownAfterJobFinishes",
        "ttlSecondsAfterFinished",
        "suspend",
        "backoffLimit",
        "activeDeadlineSeconds",
    ),
    *("deletionStrategy", "rayClusterSpec"),
}
CLUSTER = {"headGroupSpec", "workerGroupSpecs", "rayVersion", "enableInTreeAutoscaling", "autoscalerOptions"}
HEAD = {"rayStartParams", "template", "serviceType", "headService", "enableIngress"}
WORKERS = {"groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts", "rayStartParams", "template"}


def test_the_manifest_has_the_form_of_the_resource() -> None:
    job = yaml.safe_load(MANIFEST.read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert len(job["metadata"]["name"]) <= 47, "names of services are made of it"
    spec = job["spec"]
    assert set(spec) <= JOB
    assert spec["shutdownAfterJobFinishes"] is True, "or the time to live means nothing"
    assert isinstance(spec["ttlSecondsAfterFinished"], int)
    assert isinstance(spec["backoffLimit"], int)
    cluster = spec["rayClusterSpec"]
    assert set(cluster) <= CLUSTER
    assert {"rayStartParams", "template"} <= set(cluster["headGroupSpec"]) <= HEAD
    for group in cluster["workerGroupSpecs"]:
        assert {"groupName", "rayStartParams", "template"} <= set(group) <= WORKERS
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values()), "texts, not numbers"
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes
            assert "/data" in {mount["mountPath"] for mount in container["volumeMounts"]}
