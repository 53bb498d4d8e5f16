"""The report of a simulation in a real browser, offline."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from solver.interfaces.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

sync_api = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

FLEET = """
- id: <b>large</b>
  capacity: {max_concurrent: 2, max_queue: 2}
  capabilities: {general: 0.9}
  usd_per_million_output_tokens: 15
- id: small
  capacity: {max_concurrent: 3, max_queue: 3}
  capabilities: {general: 0.6}
  usd_per_million_output_tokens: 1
"""
RULES = "- {threshold_utilization: 0.6, threshold_duration_ms: 1000, action: reject_new}\n"
POLICIES = "least-tokens,random,constant:small"


@pytest.fixture
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def report(tmp_path: Path) -> Path:
    fleet, rules, page = tmp_path / "fleet.yaml", tmp_path / "rules.yaml", tmp_path / "report.html"
    fleet.write_text(FLEET)
    rules.write_text(RULES)
    asked = ["--requests", "150", "--load", "1.1", "--seeds", "2", "--policies", POLICIES, "--quiet"]
    more = ["--rules", str(rules), "--what-if", "slots.small=+2", "--html", str(page)]
    assert main(["simulate", "--fleet", str(fleet), *asked, *more]) == 0
    return page


@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_draws_everything_in_light_and_dark_and_on_a_phone(
    browser: Any, report: Path, width: int
) -> None:
    for scheme in ("light", "dark"):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
        )
        page = context.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error, said=problems: said.append(str(error)))
        page.on("console", lambda line, said=problems: line.type == "error" and said.append(line.text))
        page.on("request", lambda sent, said=problems: sent.url.startswith("file:") or said.append(sent.url))
        page.goto(report.as_uri())
        for chart in ("latency", "quality", "utilization", "lost"):
            assert page.locator(f"#{chart} canvas").count() == 1, chart
        assert page.locator("#figures tbody tr").count() == len(POLICIES.split(","))
        assert page.locator("#change-title").text_content() == "What changes with slots.small=+2"
        assert page.locator("#events tr").count() >= 1
        assert page.locator("#utilization .u-legend").get_by_text("<b>large</b>").count() == 1
        page.select_option("#policy", "2")
        assert page.locator("#utilization canvas").count() == 1
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert back == ("rgb(17, 22, 28)" if scheme == "dark" else "rgb(247, 248, 250)")
        violations = axe.Axe().run(page).response["violations"]
        assert [(one["id"], one["nodes"][0]["html"]) for one in violations] == []
        assert problems == []
        context.close()
