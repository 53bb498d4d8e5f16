"""The HTTP service as clients see it: a real process, real sockets."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from typing import Any

import httpx
import pytest
import yaml

from tests.http_service import FLEET, TOKENS, HttpService, running
from tests.loopback import NO_TLS

BATCH = "/api/v1/model-router/auto-assign-all"
ASSIGNMENTS = "/api/v1/model-router/assignments"


def active(client: httpx.Client) -> dict[str, int]:
    return {one["model"]: one["active_requests"] for one in client.get("/v1/load").json()["models"]}


def decide(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post("/v1/decide", json={"agent": {"id": "a", "task_type": "coding"}} | fields)


def endpoints(client: httpx.Client) -> list[tuple[str, str, Any]]:
    """Return method, path and example body of every endpoint that needs a token."""
    found = []
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        if path in ("/healthz", "/readyz"):
            continue
        for method, about in methods.items():
            media = about.get("requestBody", {}).get("content", {}).get("application/json", {})
            found.append((method.upper(), path.replace("{", "").replace("}", ""), media.get("example")))
    return found


def test_a_decision_holds_capacity_until_it_is_released(client: httpx.Client) -> None:
    before = active(client)
    answer = decide(client).json()
    assert answer["model"] == "large"
    assert answer["runner_up"] == "small"
    assert active(client)["large"] == before["large"] + 1
    path = f"/v1/leases/{answer['lease_id']}"
    assert client.post(f"{path}:renew", json={"ttl_s": 60}).json()["state"] == "running"
    done = client.post(f"{path}:release", json={"latency_ms": 12.5, "tokens": 3})
    assert done.json()["outcome"] == "released"
    assert client.post(f"{path}:release").json()["outcome"] == "unknown"
    assert client.post(f"{path}:renew").status_code == 404
    assert active(client) == before


def test_a_full_fleet_is_429_with_a_time_to_come_again(client: httpx.Client) -> None:
    leases = [decide(client).json()["lease_id"] for _ in range(5)]
    refused = decide(client)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["reason"] == "full"
    for lease in leases:
        client.post(f"/v1/leases/{lease}:release")
    assert set(active(client).values()) == {0}


def test_decisions_by_scores_and_what_is_wrong_with_them(client: httpx.Client) -> None:
    answer = client.post("/v1/decide", json={"scores": {"small": 5}, "tokens": 10}).json()
    assert answer["model"] == "small"
    client.post(f"/v1/leases/{answer['lease_id']}:release")
    wrong = client.post("/v1/decide", json={"scores": {"smal": 5}})
    assert wrong.status_code == 422
    assert "did you mean 'small'" in wrong.json()["violations"][0]["message"]
    both = decide(client, scores={"small": 1})
    assert both.status_code == 422
    negative = client.post("/v1/decide", json={"agent": {"id": "a", "input_tokens": -5}})
    assert negative.json()["violations"][0]["path"] == "agent.input_tokens"


def test_an_explanation_names_every_model(client: httpx.Client) -> None:
    agent = {"id": "seer", "task_type": "coding", "requires_vision": True}
    refused = client.post("/v1/decide", json={"agent": agent})
    assert refused.status_code == 422
    told = client.get(f"/v1/explain/{refused.json()['decision']['decision_id']}").json()
    assert {one["model"] for one in told["candidates"]} == {"large", "small"}
    assert all(one["unmet"] == ["takes no images"] for one in told["candidates"])
    assert client.get("/v1/explain/nobody").status_code == 404


@pytest.mark.parametrize("strategy", ["greedy", "balanced", "optimal"])
def test_auto_assign_all_reserves_and_is_overridden(client: httpx.Client, strategy: str) -> None:
    models = [
        {"id": f"one-{strategy}", "capabilities": ["coding"], "max_concurrent": 1, "max_queue": 0},
        {"id": f"two-{strategy}", "capabilities": {"coding": 0.5}, "max_concurrent": 2},
    ]
    agents = [{"id": f"{strategy}-{i}", "required_capabilities": ["coding"]} for i in range(3)]
    body = {"agents": agents, "models": models, "strategy": strategy, "enable_load_balancing": True}
    answer = client.post(BATCH, json=body).json()
    assert set(answer) == {
        "assignments",
        "total_score",
        "strategy_used",
        "load_balancing_enabled",
        "models_filtered",
        "avg_utilization",
        "computation_time_ms",
    }
    assert answer["strategy_used"] == strategy
    assert answer["total_score"] == pytest.approx(100 + 65 + 65)
    again = client.post(BATCH, json=body).json()  # those that stand are replaced, not doubled
    assert again["total_score"] == pytest.approx(answer["total_score"])
    listed = client.get("/api/v1/model-router/assignments").json()["assignments"]
    mine = {one["agent_id"]: one["model_id"] for one in listed if one["agent_id"].startswith(strategy)}
    assert sorted(mine.values()) == [f"one-{strategy}", f"two-{strategy}", f"two-{strategy}"]
    crowded = next(agent for agent, model in mine.items() if model == f"two-{strategy}")
    path = f"/api/v1/model-router/assignments/{crowded}"
    assert client.put(path, json={"model_id": f"one-{strategy}"}).status_code == 429
    assert client.put(path, json={"model_id": "large"}).json()["model_id"] == "large"
    assert active(client)[f"two-{strategy}"] == 1
    full = client.post(BATCH, json=body | {"agents": [{"id": "late"}] * 1}).json()
    assert full["models_filtered"] == [f"one-{strategy}"]
    for one in client.get("/api/v1/model-router/assignments").json()["assignments"]:
        client.post(f"/v1/leases/{one['lease_id']}:release")
    assert set(active(client).values()) == {0}
    assert client.get("/api/v1/model-router/assignments").json()["assignments"] == []


def test_without_load_balancing_nothing_is_reserved(client: httpx.Client) -> None:
    body = {
        "agents": [{"id": "x"}],
        "models": [{"id": "blind", "capabilities": [], "max_concurrent": 1, "max_queue": 0}],
        "enable_load_balancing": False,
    }
    assert [client.post(BATCH, json=body).json()["total_score"] for _ in range(2)] == [100.0, 100.0]
    assert "blind" not in active(client)


def test_a_batch_is_a_what_if_unless_it_is_committed(client: httpx.Client) -> None:
    agents = [{"id": f"b{i}", "task_type": "coding"} for i in range(4)]
    answer = client.post("/v1/assign", json={"problem": {"agents": agents}}).json()
    assert (answer["status"], answer["gap"]) == ("optimal", 0.0)
    assert set(active(client).values()) == {0}
    done = client.post("/v1/assign", json={"problem": {"agents": agents}, "commit": True}).json()
    assert {model: n for model, n in active(client).items() if n} == {"large": 2, "small": 2}
    for one in done["assignments"]:
        client.post(f"/v1/leases/{one['lease_id']}:release")
    assert set(active(client).values()) == {0}
    wrong = client.post("/v1/assign", json={"problem": {"agents": [{"id": "a", "priority": -1}]}})
    assert wrong.json()["violations"][0]["path"] == "problem.agents[0].priority"


def test_capacity_drain_and_audit(client: httpx.Client) -> None:
    assert client.put("/v1/capacity/small", json={"max_concurrent": 7}).json()["max_concurrent"] == 7
    client.put("/v1/capacity/small", json={"max_concurrent": 3})
    client.post("/v1/models/large:drain", json={"reason": "new weights"})
    answer = decide(client).json()
    assert answer["model"] == "small"
    client.post(f"/v1/leases/{answer['lease_id']}:release")
    stops = next(one["stops"] for one in client.get("/v1/load").json()["models"] if one["model"] == "large")
    assert [(stop["owner"], stop["reason"]) for stop in stops] == [("drain", "new weights")]
    assert client.post("/v1/models/large:undrain").json()["accepting"] is True
    assert client.post("/v1/models/nothing:drain").status_code == 404
    assert client.post("/v1/models/large:forget").status_code == 409
    actions = [(one["who"], one["action"]) for one in client.get("/v1/audit").json()["audit"][:4]]
    assert actions[:2] == [("the operate", "undrain"), ("the operate", "drain")]


def test_repeated_requests_with_a_key_are_answered_once(client: httpx.Client) -> None:
    key = {"Idempotency-Key": "k1"}
    body = {"agent": {"id": "once"}}
    first = client.post("/v1/decide", json=body, headers=key)
    second = client.post("/v1/decide", json=body, headers=key)
    assert first.json() == second.json()
    assert second.headers["idempotency-replayed"] == "true"
    assert sum(active(client).values()) == 1
    assert client.post("/v1/decide", json={"agent": {"id": "other"}}, headers=key).status_code == 422
    client.post(f"/v1/leases/{first.json()['lease_id']}:release")


def test_tokens_and_roles(service: HttpService) -> None:
    with service.client() as operator:
        every = endpoints(operator)
    assert len(every) >= 18
    with service.client(None) as nobody, service.client("read") as reader, service.client("route") as router:
        for method, path, example in every:
            assert nobody.request(method, path, json=example).status_code == 401, path
            wrong = nobody.request(method, path, json=example, headers={"Authorization": "Bearer wrong"})
            assert wrong.status_code == 401, path
            assert wrong.headers["www-authenticate"].startswith("Bearer")
        for method, path, example in every:
            if method == "GET" or path == "/v1/assign":
                continue
            assert reader.request(method, path, json=example).status_code == 403, path
        assert router.post("/v1/models/large:drain").status_code == 403
        assert (
            reader.post("/v1/assign", json={"problem": {"agents": [{"id": "a"}]}, "commit": True}).status_code
            == 403
        )
        assert nobody.get("/healthz").status_code == nobody.get("/readyz").status_code == 200
        assert sum(active(reader).values()) == 0


def test_examples_of_the_description_work(client: httpx.Client) -> None:
    for method, path, example in endpoints(client):
        if example is not None and "_id" not in path:
            answer = client.request(method, path, json=example)
            assert answer.status_code == 200, (path, answer.text)
            for one in [answer.json(), *answer.json().get("assignments", [])]:
                if one.get("lease_id"):
                    client.post(f"/v1/leases/{one['lease_id']}:release")


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"\xff\xfe", {}, 400),
        (b"[" * 100_000, {}, 400),
        (b'{"agent": {"id": "a", "priority": NaN}}', {}, 422),
        (b'{"agent": {"id": "a"}, "nothing": 1}', {}, 422),
        (b'{"agent": {"id": "a", "priority": 1, "priority": 2}}', {}, 422),
        (b'{"agent": {"id": "a"}, "tokens": %s}' % (b"9" * 400), {}, 422),
        (b"[]", {}, 422),
        (b"", {}, 422),
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b"\x1f\x8b\x08", {"Content-Encoding": "gzip"}, 415),
        (b" " * (1 << 20) + b"{}", {}, 413),
        (b"{}", {"Origin": "https://elsewhere.example"}, 403),
    ],
)
def test_bodies_that_are_not_right_change_nothing(
    client: httpx.Client, content: bytes, headers: dict[str, str], status: int
) -> None:
    answer = client.post(
        "/v1/decide", content=content, headers={"Content-Type": "application/json"} | headers
    )
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert sum(active(client).values()) == 0


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"{", 400),
        (b"[" * 100_000, 400),
        (b"\xff", 400),
        (b'{"problem": NaN}', 400),
        (b'{"problem": {"agents": [{"id": "a: b", "id": "c"}]}, "deadline_ms": 100}', 422),
        (b'{"seed": 1, "seed": 2, "problem": {"agents": [{"id": "a"}]}}', 422),
        (b"[]", 422),
        (b"", 400),
    ],
)
def test_batches_that_are_not_right_are_refused_by_the_solver_process(
    client: httpx.Client, content: bytes, status: int
) -> None:
    answer = client.post("/v1/assign", content=content, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


def test_a_reader_is_refused_before_anything_is_solved(service: HttpService) -> None:
    body = {"problem": {"agents": "none of this is read"}, "commit": True}
    with service.client("read") as reader:
        assert reader.post("/v1/assign", json=body).status_code == 403
        assert reader.post("/v1/assign", json=body | {"commit": False}).status_code == 422
        late = reader.post("/v1/assign", json={"problem": {}, "ttl_s": 1e6})
        assert late.json()["violations"][0]["path"] == "ttl_s"


def test_a_key_that_is_used_at_the_same_time_takes_one_slot(service: HttpService) -> None:
    async def together() -> list[httpx.Response]:
        headers = {"Authorization": f"Bearer {TOKENS['route']}", "Idempotency-Key": "together"}
        async with httpx.AsyncClient(base_url=service.url, headers=headers, verify=NO_TLS) as client:
            asks = [client.post("/v1/decide", json={"agent": {"id": "one"}}) for _ in range(20)]
            return list(await asyncio.gather(*asks))

    answers = asyncio.run(together())
    assert {one.status_code for one in answers} <= {200, 409}
    assert len({one.json()["lease_id"] for one in answers if one.status_code == 200}) == 1
    with service.client() as client:
        assert sum(active(client).values()) == 1
        lease = next(one.json()["lease_id"] for one in answers if one.status_code == 200)
        client.post(f"/v1/leases/{lease}:release")


def test_batches_at_the_same_time_give_an_agent_one_place(service: HttpService) -> None:
    async def together() -> list[httpx.Response]:
        headers = {"Authorization": f"Bearer {TOKENS['route']}"}
        async with httpx.AsyncClient(
            base_url=service.url, headers=headers, timeout=30, verify=NO_TLS
        ) as client:
            body = {"agents": [{"id": "x"}, {"id": "y"}]}
            return list(await asyncio.gather(*[client.post(BATCH, json=body) for _ in range(8)]))

    assert {one.status_code for one in asyncio.run(together())} == {200}
    with service.client() as client:
        placed = client.get(ASSIGNMENTS).json()["assignments"]
        assert sorted(one["agent_id"] for one in placed) == ["x", "y"]
        assert sum(active(client).values()) == 2
        for one in placed:
            client.post(f"/v1/leases/{one['lease_id']}:release")


def test_an_override_keeps_the_lease_and_its_holder(client: httpx.Client) -> None:
    lease = client.post(BATCH, json={"agents": [{"id": "x"}]}).json()["assignments"][0]["lease_id"]
    moved = client.put(f"{ASSIGNMENTS}/x", json={"model_id": "small", "reason": "asked for"}).json()
    assert (moved["lease_id"], moved["model_id"], moved["overridden_by"]) == (lease, "small", "the operate")
    assert active(client)["small"] == 1
    for _ in range(2):  # a small model that is full changes nothing
        client.put("/v1/capacity/large", json={"max_concurrent": 0})
        assert client.put(f"{ASSIGNMENTS}/x", json={"model_id": "large"}).status_code == 429
        client.put("/v1/capacity/large", json={"max_concurrent": 2})
    assert client.post(f"/v1/leases/{lease}:release").json()["outcome"] == "released"


def test_a_body_that_is_cut_off_changes_nothing(service: HttpService, client: httpx.Client) -> None:
    with socket.create_connection(("127.0.0.1", service.port)) as raw:
        head = "POST /v1/decide HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token-of-a-router\r\n"
        raw.sendall(f'{head}Content-Type: application/json\r\nContent-Length: 500\r\n\r\n{{"agent"'.encode())
    assert sum(active(client).values()) == 0


def test_headers_metrics_and_errors_of_the_framework(client: httpx.Client) -> None:
    answer = client.get("/nothing", headers={"X-Request-ID": "mine-1"})
    assert (answer.status_code, answer.json()["request_id"]) == (404, "mine-1")
    assert client.get("/v1/decide").status_code == 405
    page = client.get("/")
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "access-control-allow-origin" not in page.headers
    text = client.get("/metrics").text
    assert 'solver_model_max_concurrent{model="large"} 2.0' in text
    assert 'solver_http_requests_total{method="GET",route="/",status="200"}' in text


def test_events_begin_with_the_state(client: httpx.Client) -> None:
    with client.stream("GET", "/v1/events") as stream:
        kinds = []
        for line in stream.iter_lines():
            if line.startswith("event: "):
                kinds.append(line.removeprefix("event: "))
            if line.startswith("data: ") and len(kinds) == 1:
                assert json.loads(line.removeprefix("data: "))["load"]["models"]
            if "load" in kinds:
                break
    assert kinds[0] == "state"


def test_the_fleet_file_is_read_again_and_a_wrong_one_raises_an_alert(
    service: HttpService, client: httpx.Client
) -> None:
    path = service.folder / "fleet.yaml"

    def wait(kind: str) -> None:
        with client.stream("GET", "/v1/events") as stream:
            for line in stream.iter_lines():
                if line == f"event: {kind}":
                    return

    path.write_text("- id: large\n  capacity: {max_concurrent: -1}\n")
    while not client.get("/v1/alerts").json()["standing"]:
        wait("load")
    alert = client.get("/v1/alerts").json()["standing"][0]
    assert "fleet.yaml: models[0].capacity.max_concurrent" in alert["detail"]
    assert decide_and_release(client) == "large"
    path.write_text(yaml.safe_dump([FLEET[1], {"id": "new", "capacity": {"max_concurrent": 1}}]))
    while client.get("/v1/alerts").json()["standing"]:
        wait("load")
    assert decide_and_release(client) == "small"
    path.write_text(yaml.safe_dump(FLEET))
    while decide_and_release(client) != "large":
        wait("load")


def test_rules_and_objective_of_the_fleet_file(service: HttpService, client: httpx.Client) -> None:
    path = service.folder / "fleet.yaml"

    def standing() -> set[tuple[str, str]]:
        return {(one["rule"], one["model"]) for one in client.get("/v1/alerts").json()["standing"]}

    def reloads() -> int:
        return sum(one["action"] == "reloaded" for one in client.get("/v1/audit").json()["audit"])

    def until(wanted: set[tuple[str, str]], reloaded: int = 0) -> None:
        # What tests before have used may stand as well: the rule looks at a whole minute.
        def there() -> bool:
            return standing() >= wanted if wanted else not standing()

        with client.stream("GET", "/v1/events") as stream:  # once a second there is one
            for seen, line in enumerate(stream.iter_lines()):
                if line.startswith("event:") and there() and reloads() >= reloaded:
                    return
                assert seen < 200, (standing(), reloads() - reloaded)

    before = reloads()
    dear, free = (
        model | {"usd_per_million_input_tokens": usd, "usd_per_million_output_tokens": 0.0}
        for model, usd in zip(FLEET, (1000.0, 0.0), strict=True)
    )
    rule = {
        "threshold_utilization": 0.3,
        "threshold_duration_ms": 0,
        "cooldown_ms": 0,
        "action": "reject_new",
    }
    alert = {"name": "in use", "metric": "utilization", "threshold": 0.001, "hold_s": 0}
    fleet: dict[str, Any] = {"models": [dear, free], "objective": {"cost_weight": 100.0}}
    path.write_text(yaml.safe_dump(fleet | {"scaling": [rule | {"model": "small"}], "alerts": [alert]}))
    until(set(), before + 1)
    # Quality 90 costs 100 × 1 USD: the batch goes by the objective, as decisions do.
    placed = client.post(BATCH, json={"agents": [{"id": "x", "input_tokens": 1000}]}).json()["assignments"][0]
    assert placed["model_id"] == "small"
    until({("in use", "small"), ("scaling: reject_new", "small")})
    stops = next(one["stops"] for one in client.get("/v1/load").json()["models"] if one["model"] == "small")
    assert [stop["owner"] for stop in stops] == ["rule"]
    path.write_text(yaml.safe_dump(FLEET))  # rules that are gone end what they began
    until(set(), before + 2)
    client.post(f"/v1/leases/{placed['lease_id']}:release")
    # A batch that breaks a rule, here of an objective that needs scores, leaves the places of before alone.
    placed = client.post(BATCH, json={"agents": [{"id": "x"}]}).json()["assignments"]
    path.write_text(yaml.safe_dump({"models": FLEET, "objective": {"quality": "given"}}))
    while (
        client.post(BATCH, json={"agents": [{"id": "y"}], "enable_load_balancing": False}).status_code != 422
    ):
        until(set())
    assert client.post(BATCH, json={"agents": [{"id": "x"}]}).status_code == 422
    assert client.get(ASSIGNMENTS).json()["assignments"] == placed
    client.post(f"/v1/leases/{placed[0]['lease_id']}:release")
    path.write_text(yaml.safe_dump({"models": FLEET, "scaling": [rule | {"action": "explode"}]}))
    until({("fleet file", "")})
    assert "scaling[0].action" in client.get("/v1/alerts").json()["standing"][0]["detail"]
    path.write_text(yaml.safe_dump(FLEET))
    until(set(), before + 4)


def decide_and_release(client: httpx.Client) -> str:
    answer = decide(client).json()
    client.post(f"/v1/leases/{answer['lease_id']}:release")
    return str(answer["model"])


def test_an_orderly_end(tmp_path: Any) -> None:
    with running(tmp_path, "--demo", tokens=False, fleet=False) as service:
        with httpx.Client(base_url=service.url, verify=NO_TLS) as client:
            lease = decide(client, ttl_s=30).json()["lease_id"]
            assert client.get("/v1/load", headers={"Host": "evil.example"}).status_code == 403
            service.process.send_signal(signal.SIGTERM)
            while client.get("/readyz").status_code == 200:
                pass
            assert decide(client).status_code == 503
            assert client.post(f"/v1/leases/{lease}:release").json()["outcome"] == "released"
        assert service.process.wait(15) == 0
    assert b"Traceback" not in (tmp_path / "log.txt").read_bytes()


def test_a_service_for_others_needs_tokens(capfd: pytest.CaptureFixture[str]) -> None:
    from solver.interfaces.cli import main

    assert main(["serve", "--host", "0.0.0.0"]) == 2  # noqa: S104 - it must be refused
    assert "tokens: required" in capfd.readouterr().err
