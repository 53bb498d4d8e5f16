"""The commands of the documentation, run against the service that they are about."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from solver.interfaces.http.fleet import read_fleet
from tests.http_service import running

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "http-service.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str, page: str = PAGE) -> Iterator[str]:
    yield from re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_every_curl_command_works_in_the_order_of_the_page(tmp_path: Path) -> None:
    commands = [line[2:] for block in blocks("console") for line in block.splitlines() if "curl" in line]
    assert len(commands) >= 12
    first = [line[2:] for block in blocks("console", README) for line in block.splitlines() if "curl" in line]
    assert len(first) == 1  # what a newcomer types next
    commands = first + commands
    known = {"LEASE": "", "DECISION": ""}
    with running(tmp_path, "--demo", tokens=False, fleet=False) as service:
        for command in commands:
            for name, value in known.items():
                command = command.replace(name, value)
            words = shlex.split(command.replace("http://127.0.0.1:8080", service.url))
            done = subprocess.run([*words, "--fail-with-body", "-sS"], capture_output=True, text=True)
            assert done.returncode == 0, (command, done.stdout, done.stderr)
            if "/v1/decide" in command:
                answer = json.loads(done.stdout)
                known = {"LEASE": answer["lease_id"], "DECISION": answer["decision_id"]}


def test_the_fleet_file_of_the_page_is_one(tmp_path: Path) -> None:
    (text,) = blocks("yaml")
    (tmp_path / "fleet.yaml").write_text(text)
    fleet = read_fleet(tmp_path / "fleet.yaml")
    assert len(fleet.scaling_rules) == len(yaml.safe_load(text)["scaling"]) == 2
