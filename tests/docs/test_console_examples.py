"""What the documentation shows on a terminal is what the commands print."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.docs.console_examples import PAGES, ROOT, comparable, difference, examples, run, workspace

if TYPE_CHECKING:
    from pathlib import Path

WITH_EXAMPLES = [page for page in PAGES if examples(page)]


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_print_what_the_page_shows(page: Path, tmp_path: Path) -> None:
    folder = workspace(tmp_path / "work")
    wrong = []
    for example in examples(page):
        real, exit_code = run(example.command, folder)
        found = difference(example.shown, real)
        if found is not None:
            wrong.append(f"{example}\n{found}")
        if exit_code != example.exit_code:
            wrong.append(f"{example}\nexit code {exit_code}, shown {example.exit_code}")
    assert not wrong, "\n\n".join([*wrong, "renew with: python -m tests.docs.console_examples"])


def test_the_readme_and_the_tutorial_have_examples() -> None:
    assert {"README.md", "tutorial.md"} <= {page.name for page in WITH_EXAMPLES}


def test_times_and_engines_may_differ() -> None:
    assert comparable("OPTIMAL  4 agents × 3 models, 1,413.2 ms, lsap") == comparable(
        "OPTIMAL  4 agents × 3 models, 0.3 ms, flow"
    )
    assert comparable('{"engine": "lsap", "elapsed_ms": 345.4}') == comparable(
        '{"engine": "flow", "elapsed_ms": 1.0}'
    )


@pytest.mark.parametrize(
    ("shown", "real", "same"),
    [
        (("a", "b"), ["a", "b"], True),
        (("a", "..."), ["a", "b", "c"], True),
        (("...", "c"), ["a", "b", "c"], True),
        (("a", "...", "c"), ["a", "b", "c"], True),
        (("a",), ["a", "b"], False),
        (("a", "b"), ["a"], False),
        (("a", "x"), ["a", "b"], False),
        (("a", "...", "x"), ["a", "b", "c"], False),
        (("objective  806",), ["objective  805"], False),
    ],
)
def test_a_line_that_is_no_longer_printed_is_noticed(
    shown: tuple[str, ...], real: list[str], same: bool
) -> None:
    assert (difference(shown, real) is None) == same
