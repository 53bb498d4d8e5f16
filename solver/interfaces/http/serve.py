"""The process of the service: uvicorn, signals, logs, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import logging
import os
import resource
import signal
import socket
import sys
from typing import TYPE_CHECKING

from solver.errors import MissingExtraError, SpecError, StoreDownError, Violation

try:
    import uvicorn
except ImportError as error:
    raise MissingExtraError("uvicorn", "service") from error

from solver.interfaces.http.access import Access, read_tokens
from solver.interfaces.http.app import create_app
from solver.interfaces.http.connections import BoundedConnection, bounded_by
from solver.interfaces.http.demo import demo_fleet, demo_load
from solver.interfaces.http.json_codec import to_json
from solver.interfaces.http.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from solver.interfaces.http.limits import ServiceLimits
    from solver.load.store.redis import RedisStore

_LOG = logging.getLogger("solver.http")
_BACKLOG = 2048
"""Connections that may wait to be accepted."""

_SWITCH_INTERVAL_S = 0.0005
"""Seconds for which a thread that computes prices may keep the interpreter from the event loop."""

_RECORD_FIELDS = ("request_id", "route", "status", "duration_ms", "caller", "audit", "alert")


class _JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "at": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        entry |= {
            name: value for name in _RECORD_FIELDS if (value := getattr(record, name, None)) is not None
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return to_json(entry, default=str).decode()


class _Server(uvicorn.Server):
    """A server that says by ``/readyz`` that it is about to end, then drains, then ends with code 0."""

    def __init__(self, config: uvicorn.Config, service: Service, drain_s: float) -> None:
        super().__init__(config)
        self._service, self._drain_s = service, drain_s
        self._ending: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and leave what lives as long as the process out of garbage collections: 30 ms each with it."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()

    async def on_tick(self, counter: int) -> bool:
        """Look once a second for connections that keep the service waiting."""
        if counter % 10 == 0:
            now_s = asyncio.get_running_loop().time()
            for connection in tuple(self.server_state.connections):
                if isinstance(connection, BoundedConnection):
                    connection.check(now_s)
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM as long as the server runs."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._asked_to_end)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _asked_to_end(self) -> None:
        if self._ending is not None:  # asked twice: at once
            self.should_exit = self.force_exit = True
            return
        self._service.draining = True
        self._ending = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        """Wait until what was given out has come back, or its time is over."""
        _LOG.info("shutting down: nothing new is let in, %d leases are held", len(self._service.held))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._drain_s):
                while len(self._service.held):
                    await asyncio.sleep(0.05)
        self._service.journal.events.close()
        self.should_exit = True


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _log_to_stderr(level: str, *, as_json: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _JsonLines() if as_json else logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    )
    logger = logging.getLogger("solver")
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    logger.propagate = False


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens, or say why there is none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OverflowError:
        raise SpecError(Violation("port", "expected 0 to 65535", port)) from None
    except OSError as error:
        where = f"{host}:{port}"
        raise SpecError(
            Violation("port", f"expected one that is free ({os.strerror(error.errno or 0)})", shown=where)
        ) from None


def _allow_open_files(count: int) -> None:
    """Raise the soft limit on open files as far as it is needed and allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _redis_store(url: str, replicas: int, name: str | None) -> RedisStore:
    from solver.load.store.redis import RedisStore

    return RedisStore(url, replicas=replicas, name=name)


def serve(
    *,
    host: str,
    port: int,
    fleet: Path | None,
    tokens: Path | None,
    redis: str | None,
    replica: str | None,
    replicas: int,
    demo: bool,
    solver_processes: int,
    drain_s: float,
    decision_log: Path | None,
    limits: ServiceLimits,
    log_level: str,
    log_json: bool,
) -> int:
    """Serve until the process is asked to end; return the exit code. See ``solver serve --help``.

    Raises
    ------
    SpecError
        If an option, the fleet file or the file of tokens breaks a rule.
    """
    if tokens is None and not _is_loopback(host):
        raise SpecError(
            Violation("tokens", "required where the service listens beyond this machine", shown=host)
        )
    if replica is not None and redis is None:
        raise SpecError(Violation("replica", "only with --redis", replica))
    access = Access() if tokens is None else read_tokens(tokens)
    _log_to_stderr(log_level, as_json=log_json)
    listening = _listening(host, port)
    store = None if redis is None else _redis_store(redis, replicas, replica)
    try:
        service = Service(
            store=store,
            shared_answers=None if store is None else store.shared_answers(),
            fleet_file=fleet,
            fleet=demo_fleet() if demo and fleet is None else None,
            limits=limits,
            solver_processes=solver_processes,
            replicas=replicas,
            decision_log=decision_log,
        )
    except StoreDownError as error:
        raise SpecError(Violation("redis", f"expected a server that answers ({error})", redis)) from None
    config = uvicorn.Config(
        create_app(service, access),
        host=host,
        port=port,
        http=bounded_by(service.limits),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here depends on the client's address
        timeout_keep_alive=30,
        timeout_graceful_shutdown=10,
        limit_concurrency=service.limits.connections,
        backlog=_BACKLOG,
    )
    server = _Server(config, service, drain_s)

    async def run() -> None:
        load = asyncio.create_task(demo_load(service)) if demo else None
        try:
            await server.serve(sockets=[listening])
        finally:
            if load is not None:
                load.cancel()

    shown = f"[{host}]" if ":" in host else host
    _allow_open_files(service.limits.connections + 256)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    sys.stderr.write(f"solver serves http://{shown}:{port}/ (Ctrl+C ends it)\n")
    sys.stderr.flush()
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(run())
    return 0 if server.started else 1
