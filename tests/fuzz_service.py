"""Wrong requests at the real service: ``python -m tests.fuzz_service --cases 10000 --seed 7``.

First schemathesis, which reads the OpenAPI document, then bodies mutated from its examples. Whatever comes in, the
answer is below 500, errors are problem details, and nothing is held at the end that no answer named.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx

from tests.http_service import TOKENS, HttpService, running

if TYPE_CHECKING:
    from collections.abc import Iterator

STATED_CASES = 900  # of the phases that do not depend on the number of examples, about
CASES_AN_EXAMPLE = 15  # of all operations together, about
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "ignored_auth",
    "unsupported_method",
    "allow_header_conformance",
)
NASTY: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2**53,
        2**63,
        -(2**64),
        10**400,
        0.5,
        -0.0,
        1e-320,
        sys.float_info.max,
        1e400,
    ),
    *("", " ", "a", "NaN", "1,5", "\x00", "\ud800", "é" * 300, "x" * 100_000, "../../etc", "=1+1"),
    *([], {}, [[]], [None], {"": {}}, [0] * 5_000, {"id": "a"}, {str(k): k for k in range(500)}),
)


def schemathesis(service: HttpService, cases: int, seed: int) -> tuple[int, list[str]]:
    """Return how many cases were tried, and what was found."""
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", f"{service.url}/openapi.json"]
    command += ["--checks", ",".join(CHECKS), "--exclude-path", "/v1/events", "--continue-on-failure"]
    command += [
        "--max-examples",
        str(max(10, (cases - STATED_CASES) // CASES_AN_EXAMPLE)),
        "--seed",
        str(seed),
        "--no-color",
    ]
    command += ["--phases", "examples,coverage,fuzzing,stateful", "--warnings", "off"]
    command += ["-H", f"Authorization: Bearer {TOKENS['operate']}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=service.folder)
    tried = re.search(r"(\d+) generated", done.stdout)
    assert tried is not None, done.stdout[-2000:] + done.stderr[-2000:]
    return int(tried[1]), [] if done.returncode == 0 else [done.stdout[-6000:]]


def mutated(rng: random.Random, value: Any) -> Any:
    """Return a copy of a JSON value with something in it replaced, left out, doubled or wrapped."""
    root = [copy.deepcopy(value)]
    holder: Any = root
    key: Any = 0
    while isinstance(holder[key], dict | list) and holder[key] and rng.random() < 0.75:
        holder = holder[key]
        key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    kind = rng.randrange(5)
    if kind == 0 and holder is not root:
        del holder[key]
    elif kind == 1 and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[key]))
    elif kind == 2:
        holder[key] = [holder[key]]
    elif kind == 3 and isinstance(holder, dict):
        holder[f"{key}x"] = holder[key]
    else:
        holder[key] = rng.choice(NASTY)
    return root[0]


def damaged(rng: random.Random, body: bytes) -> bytes:
    """Return bytes that are cut, overwritten, nested or repeated."""
    at = rng.randrange(len(body) + 1)
    return rng.choice(
        [
            body[:at],
            body[:at] + bytes(rng.randrange(256) for _ in range(rng.randrange(1, 5))) + body[at:],
            b"[" * rng.choice([10, 2_000, 200_000]) + body,
            body * 2,
            b'{"a":' * 2_000 + b"1" + b"}" * 2_000,
            body.replace(b"1", b"1" * rng.choice([20, 400, 5_000])),
            "﻿".encode() + body,
            body.decode("utf-8", "replace").encode("utf-16"),
        ]
    )


def requests(rng: random.Random, document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield wrong requests made of the examples of an OpenAPI document, for ever."""
    known = [
        (method.upper(), path, media.get("example", {}))
        for path, methods in document["paths"].items()
        for method, about in methods.items()
        if (media := about.get("requestBody", {}).get("content", {}).get("application/json")) is not None
    ]
    names = ["a", "large", "small", "own-large", "%00", "..", "é", "x" * 300, "a:release"]
    while True:
        method, path, example = rng.choice(known)
        body = example
        for _ in range(rng.randrange(1, 4)):
            body = mutated(rng, body)
        content = json.dumps(body).encode()
        if rng.random() < 0.2:
            content = damaged(rng, content)
        headers = {"Content-Type": "application/json"}
        if rng.random() < 0.1:
            headers |= rng.choice(
                [
                    {"Content-Type": rng.choice(["", "text/json", "application/json; charset=utf-7"])},
                    {"Content-Encoding": rng.choice(["gzip", "br", "identity, gzip", "zstd"])},
                    {"Idempotency-Key": rng.choice(["", "k", "k" * 201])},
                    {"X-Request-ID": rng.choice(["", "a b", "x" * 1000])},
                    {"Authorization": rng.choice(["", "Bearer", "Basic YTpi", "Bearer " + "x" * 5_000])},
                ]
            )
        where = re.sub(r"\{\w+\}", lambda _: quote(rng.choice(names), safe="%"), path)
        yield {"method": method, "url": where, "content": content, "headers": headers}


def mutations(service: HttpService, cases: int, seed: int) -> tuple[Counter[int], list[str]]:
    """Send mutated bodies; return statuses, and what was wrong."""
    rng = random.Random(seed)  # noqa: S311 - a test
    seen: Counter[int] = Counter()
    found: list[str] = []
    with service.client() as client:
        made = requests(rng, client.get("/openapi.json").json())
        before = held_slots(client)  # by whoever was here first
        for _ in range(cases):
            request = next(made)
            try:
                answer = client.request(**request)
            except httpx.TransportError as error:
                found.append(f"{type(error).__name__} {error}: {str(request)[:600]}")
                continue
            seen[answer.status_code] += 1
            wrong = answer.status_code >= 500
            if answer.status_code >= 400:
                kind = answer.headers.get("content-type")
                wrong = wrong or kind != "application/problem+json" or answer.json()["status"] < 400
            if wrong:
                found.append(f"{answer.status_code} {answer.text[:300]}: {str(request)[:600]}")
            elif answer.status_code == 200:
                give_back(client, answer.json())
        for model in ("large", "small"):
            client.post(f"/v1/models/{model}:undrain")
        for one in client.get("/api/v1/model-router/assignments").json()["assignments"]:
            client.post(f"/v1/leases/{one['lease_id']}:release")
        held = held_slots(client)
        if held > before:
            found.append(f"{held - before} slots are held that no answer named")
    return seen, found


def held_slots(client: httpx.Client) -> int:
    """Return how many slots are in use."""
    return sum(one["active_requests"] for one in client.get("/v1/load").json()["models"])


def give_back(client: httpx.Client, answer: dict[str, Any]) -> None:
    """Release what an answer has given out."""
    for one in [answer, *answer.get("assignments", [])]:
        if isinstance(one, dict) and one.get("lease_id") and ("model" in one or "model_id" in one):
            client.post(f"/v1/leases/{one['lease_id']}:release")


def resident_mb(pid: int) -> float:
    """Return the memory of a process, megabytes."""
    return float(re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[0]) / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--cases", type=int, default=10_000, help="of schemathesis, about; and as many mutations"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as service:
        tried, found = schemathesis(service, options.cases, options.seed)
        print(f"schemathesis: {tried:,} cases, {len(found)} reports", flush=True)
        before = resident_mb(service.process.pid)
        seen, wrong = mutations(service, options.cases, options.seed)
        after = resident_mb(service.process.pid)
        print(f"mutations: {sum(seen.values()):,} requests, {dict(sorted(seen.items()))}, {len(wrong)} wrong")
        print(f"memory of the service: {before:.0f} MB before the mutations, {after:.0f} MB after")
        for line in (found + wrong)[:20]:
            print(line)
    return 1 if found or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
