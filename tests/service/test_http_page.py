"""The live page in a real browser."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.http_service import TOKENS, running

if TYPE_CHECKING:
    from collections.abc import Iterator

sync_api = pytest.importorskip("playwright.sync_api")


@pytest.fixture
def page() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        opened = browser.new_page()
        opened.problems = []
        opened.on("pageerror", lambda error: opened.problems.append(str(error)))
        yield opened
        browser.close()


@pytest.mark.skipif(os.environ.get("CI") == "true" and shutil.which("chromium") is None, reason="no browser")
def test_the_page_shows_and_does(page: Any, tmp_path: Any) -> None:
    with running(tmp_path) as service:
        page.goto(service.url)
        page.fill("#dialog-input", TOKENS["operate"])
        page.click("#dialog-ok")
        page.wait_for_selector("#connection.good")
        row = page.locator("#models tr", has_text="large")
        row.get_by_role("button", name="Drain large").click()
        page.fill("#dialog-input", "new weights")
        page.click("#dialog-ok")
        row.get_by_text("drain: new weights").wait_for()
        page.locator("#audit", has_text="the operate: drain large").wait_for()
        row.get_by_role("button", name="Undrain large").click()
        page.click("#dialog-ok")
        row.get_by_text("open", exact=True).wait_for()
        page.click("#batch button")
        page.locator("#batch-result", has_text="optimal: 3 of 3 assigned").wait_for()
        page.fill("#override-agent", "vip")
        page.fill("#override-model", "large")
        page.click("#override button")
        page.click("#dialog-ok")
        row.get_by_text("1 of 2").wait_for()
        fleet = (tmp_path / "fleet.yaml").read_text()
        (tmp_path / "fleet.yaml").write_text("- id: 1.5\n")
        page.locator("#alerts", has_text="fleet file").wait_for()
        (tmp_path / "fleet.yaml").write_text(fleet)
        page.get_by_text("No alert stands.").wait_for()
        port = service.port
    page.locator("#connection", has_text="reconnecting").wait_for()
    with running(tmp_path, port=port):
        page.wait_for_selector("#connection.good")
    assert page.problems == []
