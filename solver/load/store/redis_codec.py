"""Arguments of the Redis script, and its replies, as values of this package."""

from __future__ import annotations

import json
import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.load.stops import Stop, StopOwner
from solver.load.store.base import UNLIMITED, Limits, StoreRow, StoreView, nano_usd

if TYPE_CHECKING:
    from solver.load.lease import Ask

__all__ = ["ask_fields", "limit_fields", "read_row", "read_stops", "read_view"]


def ask_fields(ask: Ask) -> tuple[str | int | float, ...]:
    """Return an ask as nine arguments of the script."""
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
    )


def limit_fields(model: str, limits: Limits) -> tuple[str | int | float, ...]:
    """Return the limits of a model as seven arguments of the script."""
    amounts = (limits.requests, limits.tokens, limits.budget_nano_usd)
    return (
        model,
        limits.max_concurrent,
        limits.max_queue,
        *(UNLIMITED if amount is None else amount for amount in amounts),
        "0" if limits.budget_period_s is None else repr(float(limits.budget_period_s)),
    )


def read_row(fields: list[Any]) -> StoreRow:
    """Return the state of one model from a reply."""
    amounts = [None if int(value) == UNLIMITED else int(value) for value in fields[6:9]]
    return StoreRow(
        active=int(fields[0]),
        queued=int(fields[1]),
        accepting=fields[2] == "1",
        age_s=float(fields[3]),
        limits=Limits(
            max_concurrent=int(fields[4]),
            max_queue=int(fields[5]),
            requests=amounts[0],
            tokens=amounts[1],
            budget_nano_usd=amounts[2],
            budget_period_s=float(fields[9]) or None,
        ),
        stops=read_stops(fields[13]),
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


def read_view(reply: list[Any]) -> StoreView:
    """Return the state of every model from a reply."""
    version, now, text = reply
    rows = list(json.loads(text))  # no model at all is encoded as an empty mapping
    table = np.array([[float(value) for value in entry[1:14]] for entry in rows]).reshape(len(rows), 13)
    limit = table[:, 6:9].T
    return StoreView(
        models=tuple(entry[0] for entry in rows),
        version=int(version),
        now_s=float(now),
        active=table[:, 0].astype(np.int64),
        queued=table[:, 1].astype(np.int64),
        accepting=table[:, 2] == 1,
        heard_s=float(now) - table[:, 3],
        max_concurrent=table[:, 4].astype(np.int64),
        max_queue=table[:, 5].astype(np.int64),
        meter_limit=np.where(limit == UNLIMITED, np.inf, limit),
        meter_used=np.ascontiguousarray(table[:, 10:13].T),
        metered=tuple(np.flatnonzero((limit != UNLIMITED).any(axis=1)).tolist()),
        stops=MappingProxyType({entry[0]: read_stops(entry[14]) for entry in rows if entry[14]}),
    )
