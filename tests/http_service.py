"""A service in a process of its own, as users start it, for tests."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import httpx
import yaml

from tests.described_answers import validating
from tests.loopback import NO_TLS
from tests.redis_server import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

STARTED_WITHIN_S = 180.0
TOKENS = {"read": "token-of-a-reader", "route": "token-of-a-router", "operate": "token-of-an-operator"}
FLEET = [
    {"id": "large", "capacity": {"max_concurrent": 2}, "capabilities": {"coding": 0.9, "general": 0.9}},
    {"id": "small", "capacity": {"max_concurrent": 3}, "capabilities": {"coding": 0.4, "general": 0.6}},
]


@dataclass
class HttpService:
    port: int
    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, role: str | None = "operate") -> httpx.Client:
        """Return a client of a role; what it is answered is checked against the service's own description."""
        headers = {} if role is None else {"Authorization": f"Bearer {TOKENS[role]}"}
        hooks = {"response": [self.check]}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, event_hooks=hooks, verify=NO_TLS)

    @cached_property
    def check(self) -> Callable[[httpx.Response], None]:
        return validating(self.description)

    @cached_property
    def description(self) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {TOKENS['read']}"}
        answer = httpx.get(f"{self.url}/openapi.json", headers=headers, timeout=30, verify=NO_TLS)
        document: dict[str, Any] = answer.json()
        return document


def token_entries() -> list[dict[str, str]]:
    """Return a file of tokens."""
    return [
        {"name": f"the {role}", "role": role, "sha256": hashlib.sha256(token.encode()).hexdigest()}
        for role, token in TOKENS.items()
    ]


@contextlib.contextmanager
def running(
    folder: Path, *options: str, tokens: bool = True, fleet: bool = True, port: int | None = None
) -> Iterator[HttpService]:
    port = port or free_port()
    command = [sys.executable, "-m", "solver.interfaces.entry", "serve", "--port", str(port)]
    command += ["--drain-s", "1", *options]
    if fleet:
        (folder / "fleet.yaml").write_text(yaml.safe_dump(FLEET))
        command += ["--fleet", str(folder / "fleet.yaml")]
    if tokens:
        (folder / "tokens.yaml").write_text(yaml.safe_dump(token_entries()))
        command += ["--tokens", str(folder / "tokens.yaml")]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until_ready(port, process)
        yield HttpService(port, process, folder)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def wait_until_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.perf_counter() + STARTED_WITHIN_S
    while True:
        assert process.poll() is None, "the service ended"
        assert time.perf_counter() < deadline, "the service did not start"
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"http://127.0.0.1:{port}/readyz", verify=NO_TLS).status_code == 200:
                return
        time.sleep(0.02)  # a real process's start is the one thing no clock can turn
