"""Arguments of the Redis script, and its replies, as values of this package."""

from __future__ import annotations

import json
import math
from functools import lru_cache
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from solver.load.stops import Stop, StopOwner
from solver.load.store.base import UNLIMITED, Limits, MeterRow, StoreRow, StoreView, nano_usd
from solver.load.store.queue_rules import QueueRules
from solver.load.store.usage_limits import RESOURCES, Calendar, UsageLimit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from solver.load.lease import Ask

_TOLD_AHEAD_S = 400 * 86400.0
"""How far ahead the ends of calendars' periods are sent to the server."""

_LENGTHS_S = {"day": 86400.0, "week": 7 * 86400.0, "month": 30.5 * 86400.0}
_WIRE_UNITS = (1.0, 1.0, 1e9)
"""Factor of each resource on the wire: money is counted in billionths of a dollar."""


def ask_fields(ask: Ask) -> tuple[str | int | float, ...]:
    """Return an ask as eleven arguments of the script."""
    demand = ask.demand
    return (
        ask.lease_id,
        ask.model,
        demand.slots,
        demand.requests,
        demand.tokens,
        nano_usd(demand.cost_usd),
        repr(float(ask.ttl_s)),
        int(ask.queue),
        repr(float(ask.fill_to)),
        repr(float(ask.priority)),
        ask.tenant or "",
    )


def calendar_ends(limits: Iterable[Limits], wall_s: float) -> str:
    """Return when the periods of calendars end, which the script cannot work out, as it reads them; else "".

    ``wall_s`` is Unix time.
    """
    windows = [limit.window for each in limits for limit in each.further]
    calendars = {window for window in windows if isinstance(window, Calendar)}
    ends = sorted(f"{json.dumps(_name_of(each))}: {_period_ends(each, wall_s)}" for each in calendars)
    return f"{{{', '.join(ends)}}}" if ends else ""


def limit_fields(kind: str, name: str, limits: Limits) -> list[str]:
    """Return the limits of a model (``"m"``) or pool (``"p"``) as the script reads them, without calendars."""
    amounts = (limits.requests, limits.tokens, limits.budget_nano_usd)
    return [
        kind,
        name,
        str(limits.max_concurrent),
        str(limits.max_queue),
        *(str(UNLIMITED if amount is None else amount) for amount in amounts),
        "0" if limits.budget_period_s is None else repr(float(limits.budget_period_s)),
        json.dumps(_further(limits.further)) if limits.further else "",
        json.dumps(limits.pools) if limits.pools else "",
        _rules(limits),
    ]


def _rules(limits: Limits) -> str:
    """Return the rules of a queue as the script reads them; with what else of the limits it only keeps."""
    if limits.rules is None and limits.full_slots is None:
        return ""
    rules = limits.rules or QueueRules()
    text = {"aging": rules.aging_s, "passes": rules.passes, "weights": dict(rules.weights)}
    if limits.full_slots is not None:
        text |= {"full_slots": limits.full_slots, "given": limits.rules is not None}
    return json.dumps(text)


def _further(limits: Sequence[UsageLimit]) -> list[dict[str, Any]]:
    """Return further limits as the script reads them; of two over the same period the lower one counts."""
    entries: dict[str, dict[str, Any]] = {}
    for limit in limits:
        key, kind, window = _key_of(limit), RESOURCES.index(limit.resource), limit.window
        amount = nano_usd(limit.amount) if kind == 2 else int(limit.amount)
        entry = entries.setdefault(
            key, {"key": key, "kind": kind, "window": 1.0, "limit": amount, "given": []}
        )
        entry["limit"] = min(entry["limit"], amount)
        entry["given"].append([limit.resource, limit.amount, limit.period, limit.time_zone])
        if isinstance(window, Calendar):
            entry["calendar"], entry["length"] = _name_of(window), _LENGTHS_S[window.period]
        else:
            entry["window"] = window
    return list(entries.values())


def _key_of(limit: UsageLimit) -> str:
    """Return the script's name of the meter of a limit."""
    window = limit.window
    over = _name_of(window) if isinstance(window, Calendar) else repr(window)
    return f"{RESOURCES.index(limit.resource)}@{over}"


def sliding_windows(limits: Limits) -> dict[str, float]:
    """Return the seconds of each sliding window that usage is counted in, by the script's name of the meter."""
    period_s = math.inf if limits.budget_period_s is None else limits.budget_period_s
    further = {_key_of(limit): limit.window for limit in limits.further}
    return {"0": 60.0, "1": 60.0, "2": period_s} | {
        key: window for key, window in further.items() if not isinstance(window, Calendar)
    }


def _name_of(calendar: Calendar) -> str:
    return f"{calendar.period}/{calendar.time_zone}"


def _period_ends(calendar: Calendar, wall_s: float) -> str:
    """Return Unix times at which the current period and those after it end, as JSON: first, apart, how many."""
    return _ends_from(calendar, calendar.around(wall_s)[1])


@lru_cache(maxsize=64)
def _ends_from(calendar: Calendar, end_s: float) -> str:
    ends = [end_s]
    while ends[-1] < end_s + _TOLD_AHEAD_S:
        ends.append(calendar.around(ends[-1] + 1.0)[1])
    runs: list[list[float]] = []
    for before_s, at_s in pairwise(ends):
        if runs and runs[-1][1] == at_s - before_s:
            runs[-1][2] += 1
        else:
            runs.append([at_s, at_s - before_s, 1])
    return json.dumps([[ends[0], 0.0, 1], *runs])


class Usage(NamedTuple):
    """What the server says was used of a model or pool.

    Parameters
    ----------
    subject : str
        ``m:`` or ``p:`` and the name.
    changes, resets : int
        How often it has changed, and was reset: more are newer figures.
    used : dict of str to int
        By the script's name of each meter.
    ends : dict of str to float
        Of meters that follow a calendar: when the period ends, Unix seconds.
    """

    subject: str
    changes: int
    resets: int
    used: dict[str, int]
    ends: dict[str, float]


def read_usage(fields: list[str]) -> list[Usage]:
    """Return what the end of a reply says was used, of a model and of each pool it draws on."""
    usages, at = [], 0
    while at < len(fields):
        subject, changes, resets, count = fields[at : at + 4]
        at += 4
        used, ends = {}, {}
        for k in range(at, at + 2 * int(count), 2):
            amount, _, end = str(fields[k + 1]).partition("/")  # numbers in replies of plain operations
            used[fields[k]] = int(amount)
            if end:
                ends[fields[k]] = float(end)
        usages.append(Usage(subject, int(changes), int(resets), used, ends))
        at += 2 * int(count)
    return usages


class _Row(NamedTuple):
    """A row of the script's, decoded."""

    fields: list[Any]
    limits: Limits
    meters: list[tuple[int, float, float, MeterRow]]
    """(kind, limit, used, the same for people); money in billionths of a dollar in the first two."""

    @property
    def active(self) -> int:
        return int(self.fields[0])


def _read(fields: list[Any]) -> _Row:
    amounts = [int(value) for value in fields[6:9]]
    period = float(fields[9]) or None
    further = json.loads(fields[12]) if fields[12] else []
    rules = json.loads(fields[14]) if fields[14] else {}
    limits = Limits(
        max_concurrent=int(fields[4]),
        max_queue=int(fields[5]),
        requests=None if amounts[0] == UNLIMITED else amounts[0],
        tokens=None if amounts[1] == UNLIMITED else amounts[1],
        budget_nano_usd=None if amounts[2] == UNLIMITED else amounts[2],
        budget_period_s=period,
        rules=None
        if not rules.get("given", rules)
        else QueueRules(aging_s=rules["aging"], passes=rules["passes"], weights=dict(rules["weights"])),
        further=tuple(
            UsageLimit(resource=resource, amount=amount, period=period, time_zone=zone)
            for entry in further
            for resource, amount, period, zone in entry["given"]
        ),
        pools=tuple(json.loads(fields[13])) if fields[13] else (),
        full_slots=rules.get("full_slots"),
    )
    used = dict(zip(fields[10][::2], map(float, fields[10][1::2]), strict=True)) if fields[10] else {}
    kinds: list[tuple[int, str, float, float | str | None]] = [
        (kind, str(kind), amounts[kind], 60.0 if kind < 2 else period)
        for kind in range(3)
        if amounts[kind] != UNLIMITED
    ]
    kinds += [
        (entry["kind"], entry["key"], entry["limit"], over if isinstance(over, str) else float(over))
        for entry in further
        for over in (entry["given"][0][2],)
    ]
    meters = []
    for kind, key, most, over in kinds:
        spent, unit = used.get(key, 0.0), _WIRE_UNITS[kind]
        meters.append((kind, float(most), spent, MeterRow(RESOURCES[kind], over, most / unit, spent / unit)))
    return _Row(fields, limits, meters)


def read_row(text: str) -> StoreRow:
    """Return the state of one model or pool from a reply."""
    row = _read(json.loads(text))
    fields = row.fields
    return StoreRow(
        active=row.active,
        queued=int(fields[1]),
        accepting=fields[2] == "1",
        age_s=float(fields[3]),
        limits=row.limits,
        stops=read_stops(fields[11]),
        meters=tuple(meter for _, _, _, meter in row.meters),
    )


def read_stops(texts: list[str] | dict[str, Any]) -> tuple[Stop, ...]:
    """Return stops, in the order in which they were set, from ``[owner, name, reason, since, until, order]``."""
    entries = sorted((json.loads(text) for text in texts), key=lambda entry: int(entry[5]))
    return tuple(
        Stop(
            owner=StopOwner(owner),
            name=name,
            reason=reason,
            since_s=float(since),
            until_s=math.inf if float(until) < 0 else float(until),
        )
        for owner, name, reason, since, until, _ in entries
    )


def chain_of(names: Sequence[str], pools: Mapping[str, Limits]) -> list[str]:
    """Return the pools that something draws on, with those that they draw on in turn."""
    chain = list(dict.fromkeys(names))
    for name in chain:  # it grows while it is read
        chain += [each for each in pools[name].pools if each not in chain] if name in pools else []
    return chain


def newer_limits(view: list[Any], set_at: Mapping[str, float]) -> dict[str, tuple[float, Limits]]:
    """Return the limits that were set later than a replica knows, and when, by subject; from :func:`parts_of_view`."""
    newer = {}
    for kind, rows in (("p:", view[3]), ("m:", view[2])):
        for entry in rows:
            known = set_at.get(kind + entry[0])
            if known is not None and float(entry[-1]) > known:
                newer[kind + entry[0]] = float(entry[-1]), _read(entry[1:]).limits
    return newer


def parts_of_view(reply: list[Any]) -> list[Any]:
    """Return version, time, models and pools of a reply."""
    version, now, models, pools = reply
    return [version, now, *(list(json.loads(text)) for text in (models, pools))]  # of none an empty mapping


def read_view(parts: list[Any]) -> StoreView:
    """Return the state of every model, from :func:`parts_of_view`."""
    version, now, rows, pools = parts
    pool_rows = {entry[0]: _read(entry[1:]) for entry in pools}
    table = np.array([[float(value) for value in entry[1:7]] for entry in rows]).reshape(len(rows), 6)
    limit, used = np.full((3, len(rows)), np.inf), np.zeros((3, len(rows)))
    free = np.full(len(rows), np.iinfo(np.int64).max, np.int64) if pool_rows else None
    pool_limits = {name: row.limits for name, row in pool_rows.items()}
    for j, entry in enumerate(rows):
        meters = []
        if entry[7:10] != ["-1", "-1", "-1"] or entry[13]:
            meters = _read(entry[1:]).meters
        names = chain_of(json.loads(entry[14]), pool_limits) if entry[14] else []
        for pool in (pool_rows[name] for name in names if name in pool_rows):
            meters = meters + pool.meters
            if free is not None:
                free[j] = min(free[j], max(0, pool.limits.max_concurrent - pool.active))
        for kind, most, spent, _ in meters:
            if most - spent < limit[kind, j] - used[kind, j]:
                limit[kind, j], used[kind, j] = most, spent
    return StoreView(
        models=tuple(entry[0] for entry in rows),
        version=int(version),
        now_s=float(now),
        active=table[:, 0].astype(np.int64),
        queued=table[:, 1].astype(np.int64),
        accepting=table[:, 2] == 1,
        last_update_s=float(now) - table[:, 3],
        max_concurrent=table[:, 4].astype(np.int64),
        max_queue=table[:, 5].astype(np.int64),
        meter_limit=limit,
        meter_used=used,
        metered=tuple(np.flatnonzero((limit != np.inf).any(axis=1)).tolist()),
        stops=MappingProxyType({entry[0]: read_stops(entry[12]) for entry in rows if entry[12]}),
        pool_free=_some(free),
    )


def _some(free: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
    """Return what is left in pools, None where no model draws on one."""
    return None if free is None or (free == np.iinfo(np.int64).max).all() else free
