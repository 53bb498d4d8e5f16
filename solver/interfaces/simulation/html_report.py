"""Results of a simulation as one HTML file that needs nothing else."""

from __future__ import annotations

import html
import json
from importlib.resources import files
from typing import Any

_PARTS = {
    "@@STYLE@@": ("solver.interfaces.simulation", "report.css"),
    "@@CHART_STYLE@@": ("solver.interfaces.http", "page/uplot.min.css"),
    "@@CHART_LIBRARY@@": ("solver.interfaces.http", "page/uplot.min.js"),
    "@@SCRIPT@@": ("solver.interfaces.simulation", "report.js"),
}


def html_report(document: dict[str, Any]) -> str:
    """Return a page with latency distributions, utilization over time, quality against cost, and losses over time.

    Parameters
    ----------
    document : dict
        What ``--json`` writes.

    Returns
    -------
    str
        Self-contained: style, chart library and data are inside.
    """
    page = _text("solver.interfaces.simulation", "report.html")
    first = document["results"][0]
    load = "" if first["load"] is None else f", {first['load']:.0%} of capacity"
    title = f"{first['arrived']:,} requests of {first['trace']}{load}"
    page = page.replace("@@TITLE@@", html.escape(title))
    for mark, (package, name) in _PARTS.items():
        page = page.replace(mark, _text(package, name))
    data = json.dumps(document, allow_nan=False, separators=(",", ":"))
    return page.replace("@@DATA@@", data.replace("<", "\\u003c").replace("\u2028", "\\u2028"))


def _text(package: str, name: str) -> str:
    return files(package).joinpath(name).read_text(encoding="utf-8")
