"""A Redis server for a test session: found on PATH, or installed in CI; a port and folder of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
import redis

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STARTED_WITHIN_S = 20.0


def executable() -> str:
    """Return the path of redis-server; skip the test where there is none and nothing may be installed."""
    found = shutil.which("redis-server")
    if found is None and os.environ.get("CI") == "true":
        for command in (["apt-get", "update"], ["apt-get", "install", "-y", "redis-server"]):
            subprocess.run(command, check=True, capture_output=True)
        found = shutil.which("redis-server")
    if found is None:
        pytest.skip("redis-server is not installed (apt-get install redis-server)")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class RedisServer:
    """A server that a test may stop, start again and kill."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    options: tuple[str, ...] = ()
    settings: Path | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        command = [
            executable(),
            *([] if self.settings is None else [str(self.settings)]),
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(self.folder),
        ]
        self.process = subprocess.Popen(
            [*command, "--save", "", "--appendonly", "no", *self.options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.perf_counter() + STARTED_WITHIN_S
        with contextlib.closing(redis.Redis(port=self.port, socket_timeout=1)) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.ConnectionError:
                    assert time.perf_counter() < deadline, "redis-server did not start"
                    assert self.process.poll() is None, "redis-server ended"
                    time.sleep(0.01)  # a real server's start is the one thing no clock can turn

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def flush(self) -> None:
        with contextlib.closing(redis.Redis(port=self.port, socket_timeout=5)) as client:
            client.flushall()


@contextlib.contextmanager
def running(folder: Path) -> Iterator[RedisServer]:
    server = RedisServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
