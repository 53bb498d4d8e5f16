"""The typed clients, against a real service that is full, restarted, and killed."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

import solver
from solver.interfaces.http.client import ServiceError
from tests.http_service import TOKENS

if TYPE_CHECKING:
    from tests.http_service import HttpService

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def test_the_client_waits_as_long_as_it_is_told(service: HttpService) -> None:
    waits: list[float] = []
    with solver.Client(service.url, token=TOKENS["operate"], sleep=waits.append, retries=2) as client:
        agent = solver.Agent(id="a", task_type="coding")
        held = [client.decide(agent) for _ in range(5)]
        with pytest.raises(ServiceError, match="429: every eligible model is full") as refused:
            client.decide(agent)
        assert len(waits) == 2
        assert refused.value.retry_after_s is not None
        assert all(wait >= 1.0 for wait in waits)
        assert client.renew(held[0], ttl_s=60) == "running"
        assert [client.release(one, latency_ms=3.0) for one in held] == ["released"] * 5
        assert client.explain(held[0])["decision"]["model"] == held[0].model
        plan = client.assign({"agents": [{"id": "x"}, {"id": "y"}]})
        assert plan["status"] == "optimal"
        done = client.auto_assign_all([agent])
        assert client.release(done["assignments"][0]["lease_id"]) == "released"
        placed = client.auto_assign_all([agent])["assignments"][0]
        assert client.override("a", "small")["model_id"] == "small"
        assert [one["agent_id"] for one in client.assignments()] == ["a"]
        assert client.release(placed["lease_id"]) == "released"
        assert client.set_capacity("large", max_queue=1)["max_queue"] == 1
        client.set_capacity("large", max_queue=0)
        assert client.alerts()["standing"] == []
        assert client.drain("large", reason="test")["accepting"] is False
        assert client.undrain("large")["accepting"] is True
        assert sum(one["active_requests"] for one in client.load()["models"]) == 0


def test_the_asynchronous_client_recovers_when_a_slot_comes_back(service: HttpService) -> None:
    async def work() -> str:
        async with solver.AsyncClient(service.url, token=TOKENS["route"]) as client:
            held = [await client.decide({"id": f"a{i}"}) for i in range(5)]
            waiting = asyncio.create_task(client.decide({"id": "late"}))
            await client.release(held[0])
            late = await waiting
            for one in [*held[1:], late]:
                await client.release(one)
            return late.model

    assert asyncio.run(work()) in ("large", "small")


def test_what_nobody_answers_is_an_error() -> None:
    waits: list[float] = []
    with (
        solver.Client("http://127.0.0.1:9", retries=1, sleep=waits.append) as client,
        pytest.raises(ServiceError, match="cannot be reached"),
    ):
        client.load()
    assert 20 <= sum(waits) < 23  # a service that is started again is waited for


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (apt-get install prometheus)"
)
def test_alert_rules_and_metrics_as_prometheus_checks_them(service: HttpService) -> None:
    subprocess.run(["promtool", "check", "rules", DEPLOY / "prometheus-rules.yaml"], check=True)
    subprocess.run(["promtool", "test", "rules", DEPLOY / "prometheus-rules.test.yaml"], check=True)
    with service.client() as client:
        text = client.get("/metrics").content
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_rules_and_dashboard_name_metrics_that_exist(service: HttpService) -> None:
    import re

    rules = yaml.safe_load((DEPLOY / "prometheus-rules.yaml").read_text())["groups"][0]["rules"]
    panels = json.loads((DEPLOY / "grafana-dashboard.json").read_text())["panels"]
    asked = [rule["expr"] for rule in rules] + [one["targets"][0]["expr"] for one in panels]
    with service.client() as client:
        known = set(re.findall(r"^# TYPE (\w+)", client.get("/metrics").text, re.MULTILINE))
    for expression in asked:
        for name in re.findall(r"solver_\w+", expression):
            assert name.removesuffix("_bucket") in known | {f"{one}_total" for one in known}, name
    assert len(list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))) == 2
