"""The programs of the how-to pages, run as a reader would run them: they print what the pages show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("litellm", reason="needs the extra [litellm]")

from tests.upstream import Upstream

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("page", "program"), [("litellm.md", "litellm_sdk.py"), ("online-routing.md", "plain_client.py")]
)
def test_a_program_prints_what_its_page_shows(page: str, program: str) -> None:
    text = (ROOT / "docs" / "how-to" / page).read_text(encoding="utf-8")
    shown = re.search(rf"^\$ UPSTREAM=\S+ python docs/examples/{program}\n(.*?)^```$", text, re.M | re.S)
    assert shown, "the page does not show what the program prints"
    with Upstream() as up:
        ran = subprocess.run(
            [sys.executable, ROOT / "docs" / "examples" / program],
            env={**os.environ, "UPSTREAM": up.url, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == shown[1]
