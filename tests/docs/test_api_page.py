"""Every public name is documented, on the API page or on one of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import solver

DOCS = Path(__file__).resolve().parents[2] / "docs"
DOCUMENTED = {
    name
    for page in DOCS.rglob("*.md")
    for name in re.findall(
        r"^ *\.\. auto\w+:: solver\.(\w+)$", page.read_text(encoding="utf-8"), re.MULTILINE
    )
}


@pytest.mark.parametrize("name", solver.__all__)
def test_public_name_is_documented(name: str) -> None:
    assert name in DOCUMENTED, f"add solver.{name} to docs/api.md"


def test_no_name_is_documented_that_is_not_public() -> None:
    assert set(solver.__all__) >= {
        name for name in DOCUMENTED if not hasattr(solver, name) or name[0].isupper()
    }
