"""Results of a simulation as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from solver.interfaces.terminal import printable
from solver.simulate.metrics import FIGURES, MEASURED, interval_of

if TYPE_CHECKING:
    from rich.table import Table

_Column = tuple[str, float, int, bool]
_SHOWN: dict[str, _Column] = {  # heading: figure, scale, digits, whether its interval is shown
    "P50 s": ("p50_latency_ms", 1e-3, 1, False),
    "P99 s": ("p99_latency_ms", 1e-3, 1, True),
    "used": ("utilization", 1.0, 2, False),
    "served": ("served", 1.0, 0, False),
    "refused": ("refused", 1.0, 0, False),
    "overload": ("overload_failures", 1.0, 0, False),
    "quality": ("quality", 1.0, 2, True),
}
_ONLY_WHERE_ANY: dict[str, _Column] = {
    "throttled": ("throttled", 1.0, 0, False),
    "failed": ("failed", 1.0, 0, False),
    "in time": ("deadline_attainment", 1.0, 3, False),
}

_MEASURED: dict[str, _Column] = {
    "P50 µs": ("decision_us_p50", 1.0, 0, False),
    "P99 µs": ("decision_us_p99", 1.0, 0, False),
    "batch P99 ms": ("decision_us_p99_batch", 1e-3, 2, False),
    "refreshes": ("refreshes", 1.0, 0, False),
    "P50 ms": ("refresh_us_p50", 1e-3, 2, False),
    "P99 ms": ("refresh_us_p99", 1e-3, 2, False),
}


def _cell(interval: dict[str, float | None], scale: float, digits: int, *, with_interval: bool) -> str:
    mean, high = interval["mean"], interval["high"]
    if mean is None or high is None:
        return "-"
    half = scale * (high - mean)
    spread = f" ±{half:,.{digits}f}" if with_interval and round(half, digits) else ""
    return f"{scale * mean:,.{digits}f}{spread}"


def results_table(results: list[dict[str, Any]], title: str = "") -> Table:
    """Return a row per policy."""
    first = results[0]
    load = "" if first["load"] is None else f" at {first['load']:.0%} of capacity"
    requests = "request" if first["arrived"] == 1 else "requests"
    heading = title or f"{first['arrived']:,} {requests} of {first['trace']}{load}; mean ± half of 95 %"
    return _table(heading, results, {**_SHOWN, **_with_any(_ONLY_WHERE_ANY, results)})


def measured_table(results: list[dict[str, Any]]) -> Table:
    """Return what decisions and background refreshes of prices took on this machine, a row per policy."""
    return _table("decisions and refreshes, measured", results, _with_any(_MEASURED, results))


def _with_any(columns: dict[str, _Column], results: list[dict[str, Any]]) -> dict[str, _Column]:
    """Return the columns in which any policy has something to show."""
    return {
        name: spec for name, spec in columns.items() if any(result[spec[0]]["mean"] for result in results)
    }


def _table(heading: str, results: list[dict[str, Any]], shown: dict[str, _Column]) -> Table:
    from rich.table import Table

    table = Table(
        title=printable(heading), box=None, pad_edge=False, collapse_padding=True, header_style="bold"
    )
    table.add_column("policy", overflow="fold", min_width=16)
    for name, (*_, with_interval) in shown.items():
        table.add_column(name, justify="right", no_wrap=not with_interval)
    for result in results:
        cells = [
            _cell(result[figure], scale, digits, with_interval=with_interval)
            for figure, scale, digits, with_interval in shown.values()
        ]
        table.add_row(printable(result["policy"]), *cells)
    return table


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Return the interval of ``after − before`` of each figure that is not measured, paired by seed."""
    return {
        figure: interval_of(
            np.subtract(
                np.array(after["per_seed"][figure], np.float64),
                np.array(before["per_seed"][figure], np.float64),
            )
        ).to_dict()
        for figure in FIGURES
        if figure not in MEASURED
    }


def difference_table(
    pairs: list[tuple[str, dict[str, Any], dict[str, dict[str, float | None]]]], title: str
) -> Table:
    """Return a row per comparison, and in each cell the difference with half of its interval.

    Differences whose interval contains zero are marked as indistinguishable by a trailing ``?``; one seed has no
    interval.
    """
    from rich.table import Table

    shown = {name: spec for name, spec in _SHOWN.items() if name != "used"}
    table = Table(title=printable(title), box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    table.add_column("policy", overflow="fold", min_width=14)
    for name in shown:
        table.add_column(name, justify="right")
    for label, after, difference in pairs:
        repeated = len(after["per_seed"]["served"]) > 1
        cells = []
        for figure, scale, digits, _ in shown.values():
            value = difference[figure]
            mean, low, high = value["mean"], value["low"], value["high"]
            if mean is None or low is None or high is None:
                cells.append("-")
                continue
            unsure = "?" if low < 0 < high else ""
            half = f" ±{scale * (high - mean):,.{digits}f}{unsure}" if repeated else ""
            cells.append(f"{scale * mean:+,.{digits}f}{half}")
        table.add_row(printable(label), *cells)
    return table
