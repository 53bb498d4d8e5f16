"""``solver serve`` and ``solver token``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from solver.errors import SpecError


def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond this machine only with --tokens.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8080,
    fleet: Annotated[
        Path | None, typer.Option(help="The models, as YAML or JSON; read again when the file changes.")
    ] = None,
    tokens: Annotated[Path | None, typer.Option(help="Bearer tokens, as made by `solver token`.")] = None,
    redis: Annotated[
        str | None, typer.Option(metavar="URL", help="Share live load through a Redis server.")
    ] = None,
    replica: Annotated[str | None, typer.Option(help="With --redis: a name that outlives restarts.")] = None,
    replicas: Annotated[int, typer.Option(min=1, help="With --redis: services that share the load.")] = 1,
    demo: Annotated[bool, typer.Option("--demo", help="Invent a load, and without --fleet a fleet.")] = False,
    solver_processes: Annotated[int, typer.Option(min=1, help="Processes that solve whole batches.")] = 1,
    drain_s: Annotated[float, typer.Option(min=0, help="Most seconds to wait for leases at the end.")] = 5.0,
    decision_log: Annotated[
        Path | None,
        typer.Option(help="Note every decision and release there as JSON Lines, rotated when full."),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Another bound, such as body_bytes=65536; may be repeated."),
    ] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "warning",
    log_json: Annotated[bool, typer.Option("--log-json", help="Log one JSON object a line.")] = False,
) -> None:
    """Serve decisions, batches and a live page over HTTP.

    [bold]Examples[/bold]

      solver serve --demo

      solver serve --port 8080 --fleet fleet.yaml --tokens tokens.yaml --host 0.0.0.0

      solver serve --fleet fleet.yaml --redis redis://localhost:6379/0 --replica a --replicas 2

      solver serve --fleet fleet.yaml --decision-log decisions.jsonl

      solver serve --fleet fleet.yaml --limit batch_body_bytes=8000000 --limit deadline_ms=2000
    """
    from solver.interfaces.http.limits import limits_of
    from solver.interfaces.http.serve import serve as run

    if log_level not in ("debug", "info", "warning", "error"):
        raise SpecError(f"log_level: expected debug, info, warning or error, got {log_level!r}")
    raise typer.Exit(
        run(
            host=host,
            port=port,
            fleet=fleet,
            tokens=tokens,
            redis=redis,
            replica=replica,
            replicas=replicas,
            demo=demo,
            solver_processes=solver_processes,
            drain_s=drain_s,
            decision_log=decision_log,
            limits=limits_of(limit or ()),
            log_level=log_level,
            log_json=log_json,
        )
    )


def token(
    name: Annotated[str, typer.Argument(help="Whose token: shown in logs and in the audit trail.")],
    role: Annotated[str, typer.Option(help="read, route or operate.")] = "route",
    tokens: Annotated[Path, typer.Option(help="File that holds the hashes.")] = Path("tokens.yaml"),
) -> None:
    """Make a bearer token for `solver serve`, print it once, and keep its hash.

    [bold]Example[/bold]

      solver token gateway --role route --tokens tokens.yaml
    """
    from solver.interfaces.http.access import add_token

    sys.stdout.write(add_token(tokens, name, role) + "\n")
