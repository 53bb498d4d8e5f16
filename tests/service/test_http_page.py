"""The live page in a real browser."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.http_service import TOKENS, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.http_service import HttpService

sync_api = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

BAD_CSV = {
    "": "expected a line with the names of the columns",
    "id,priority": "expected a line with the names of the columns",
    'id\n"a1': "line 2: a quotation mark is not closed",
    "id,id\na1,a2": "line 1: expected each column once, got id twice",
    "id,priority\na1,1\n\na2,1,7": "line 4: expected 2 cells, got 3",
    "id,\na1,7": "line 2: the column of 7 has no name",
    "id,priority\na1,high": "problem.agents[0].priority: expected",
    "id,colour\na1,red": "problem.agents[0].colour",
    "id\na1\na1": "unique",
}


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
        opened.on("console", lambda said: said.type == "error" and opened.problems.append(said.text))
        yield opened
        browser.close()


def accessible(page: Any) -> list[str]:
    """Return what axe-core has to say against a page, in light and dark."""
    found = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        violations = axe.Axe().run(page).response["violations"]
        found += [f"{scheme}: {one['id']} {one['nodes'][0]['html']}" for one in violations]
    return found


@pytest.mark.skipif(os.environ.get("CI") == "true" and shutil.which("chromium") is None, reason="no browser")
def test_the_page_shows_and_does(page: Any, tmp_path: Any) -> None:
    with running(tmp_path) as service:
        page.goto(service.url)
        page.wait_for_selector("#dialog[open]")
        assert accessible(page) == []
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
        page.keyboard.press("Escape")  # without a dialog it does nothing
        row.get_by_role("button", name="Drain large").focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("#dialog[open]")
        page.keyboard.press("Escape")  # cancelled: nothing is drained
        page.wait_for_selector("#dialog:not([open])", state="attached")
        page.keyboard.press("Enter")
        page.wait_for_selector("#dialog[open]")
        page.keyboard.type("by keyboard")
        page.keyboard.press("Enter")
        row.get_by_text("drain: by keyboard").wait_for()
        page.keyboard.press("Enter")
        page.wait_for_selector("#dialog[open]")
        page.keyboard.press("Tab")  # past Cancel, which has the focus where nothing is asked for
        page.keyboard.press("Enter")
        row.get_by_text("open", exact=True).wait_for()
        page.click("#batch button")
        page.locator("#batch-result", has_text="optimal: 3 of 3 assigned").wait_for()
        assert accessible(page) == []
        for csv, said in BAD_CSV.items():
            page.fill("#csv", csv)
            page.click("#batch button")
            page.locator("#message", has_text=said).wait_for()
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
        many = [{"id": f"model-{j:03d}", "capacity": {"max_concurrent": 4}} for j in range(500)]
        (tmp_path / "fleet.yaml").write_text(yaml.safe_dump(yaml.safe_load(fleet) + many))
        page.locator("#fleet-count", has_text="502 of 502 models").wait_for()
        page.fill("#filter", "model-49")
        page.locator("#fleet-count", has_text="10 of 502 models").wait_for()
        last = page.locator("#models tr", has_text="model-499")
        last.get_by_text("0 % (0 of 4)").wait_for()
        page.set_viewport_size({"width": 390, "height": 800})
        page.wait_for_function("document.documentElement.scrollWidth <= innerWidth")
        assert accessible(page) == []
        port = service.port
    page.locator("#connection", has_text="reconnecting").wait_for()
    with running(tmp_path, port=port):
        page.wait_for_selector("#connection.good")
    # What the browser itself reports of a server that is away, and of a token that is not there yet, is no fault.
    assert [one for one in page.problems if "Failed to load resource" not in one] == []


def test_without_javascript_the_page_says_where_the_figures_are(page: Any, service: HttpService) -> None:
    plain = page.context.browser.new_context(java_script_enabled=False).new_page()
    plain.goto(service.url)
    assert plain.locator("noscript a").count() == 3 or plain.get_by_text("needs JavaScript").is_visible()
