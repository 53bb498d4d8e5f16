"""Pools of limits that several models share, such as one provider's quota behind many deployments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from solver.errors import SpecError, Violation
from solver.load.refusal import Refusal, RefusalReason
from solver.load.store.base import Limits, StoreRow
from solver.load.store.meters import Charge, Meters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from solver.load.lease import Demand

_POOL_ROW = 0
"""Row of a pool in its own meters."""


def check_circle(pool: str, limits: Limits, pools: Mapping[str, Limits]) -> None:
    """Raise SpecError if a pool would draw on itself."""
    pending = list(limits.pools)
    for name in pending:  # it grows while it is read
        if name == pool:
            raise SpecError(
                Violation("within", f"expected pools that do not draw on {pool!r} themselves", name)
            )
        pending += [parent for parent in pools[name].pools if parent not in pending] if name in pools else []


def in_use(pool: str, users: Sequence[str]) -> SpecError:
    """Return the error about a pool that cannot be removed."""
    return SpecError(
        Violation("pool", f"expected one that nothing draws on; {', '.join(map(repr, users))} do", pool)
    )


class Pool:
    """One pool: limits, what of them is taken, and how many wait on the models that draw on it."""

    __slots__ = ("active", "chain", "limits", "meters", "name", "waiting")

    def __init__(self, name: str, limits: Limits, wall_s: Callable[[], float]) -> None:
        self.name = name
        self.limits = limits
        self.active = 0
        self.waiting = 0
        self.chain: tuple[Pool, ...] = ()
        """This pool and those that it draws on, each once."""
        self.meters = Meters(wall_s)
        self.meters.add(limits)

    @property
    def free(self) -> int:
        """Slots left."""
        return max(0, self.limits.max_concurrent - self.active)

    def charge(self, demand: Demand, now_s: float) -> list[Charge] | Refusal:
        """Charge the pool with all that it limits, or with nothing and say why not."""
        self.meters.advance(now_s)
        return self.meters.charge(_POOL_ROW, "", demand, now_s)

    def row(self, now_s: float) -> StoreRow:
        """Return the state of the pool."""
        self.meters.advance(now_s)
        return StoreRow(
            active=self.active,
            queued=self.waiting,
            accepting=True,
            age_s=0.0,
            limits=self.limits,
            meters=self.meters.rows(_POOL_ROW),
        )

    def settle(self, charges: list[Charge], tokens: int | None, nano_usd: int | None, now_s: float) -> None:
        """Replace the estimates of tokens and money by what was really used."""
        self.meters.advance(now_s)
        self.meters.settle(_POOL_ROW, charges, tokens, nano_usd, now_s)

    def refund(self, charges: list[Charge], now_s: float) -> list[Charge]:
        """Take charges back as if they had never been made; return what of them was still counted."""
        self.meters.advance(now_s)
        return self.meters.refund(_POOL_ROW, charges)

    def put_back(self, refunded: list[Charge]) -> None:
        """Undo a refund of the same instant."""
        self.meters.put_back(_POOL_ROW, refunded)

    def left(self, now_s: float) -> list[tuple[int, int, int]]:
        """Return (kind, limit, used) of each limit on usage."""
        self.meters.advance(now_s)
        return [
            (kind, limit, window.used[_POOL_ROW]) for kind, window, limit in self.meters.limited[_POOL_ROW]
        ]


class PoolTable:
    """The pools of one process's store. Not thread-safe: its store's lock guards it."""

    def __init__(self, wall_s: Callable[[], float]) -> None:
        self._wall_s = wall_s
        self._pools: dict[str, Pool] = {}

    def __bool__(self) -> bool:
        return bool(self._pools)

    def __getitem__(self, name: str) -> Pool:
        pool = self._pools.get(name)
        if pool is None:
            raise SpecError(Violation("pool", "expected one that was set before", name))
        return pool

    def limits(self) -> dict[str, Limits]:
        """Return the limits of every pool, parents first."""
        return {name: pool.limits for name, pool in self._pools.items()}

    def check(self, limits: Limits) -> None:
        """Raise SpecError if limits name a pool that is unknown."""
        for name in limits.pools:
            if name not in self._pools:
                raise SpecError(Violation("pools", "expected pools that were set before", name))

    def configure(self, name: str, limits: Limits, now_s: float) -> Pool:
        """Set the limits of a pool, new or known, and the pools that it draws on."""
        self.check(limits)
        check_circle(name, limits, self.limits())
        pool = self._pools.get(name)
        if pool is None:
            pool = self._pools[name] = Pool(name, limits, self._wall_s)
        pool.limits = limits
        pool.meters.advance(now_s)
        pool.meters.configure(_POOL_ROW, limits, now_s)
        for each in self._pools.values():
            each.chain = self.chain([each.name])
        return pool

    def chain(self, names: Iterable[str]) -> tuple[Pool, ...]:
        """Return pools and those that they draw on in turn, each once."""
        order = list(dict.fromkeys(names))
        for name in order:  # it grows while it is read
            order += [parent for parent in self._pools[name].limits.pools if parent not in order]
        return tuple(self._pools[name] for name in order)

    def remove(self, name: str, users: Sequence[str]) -> None:
        """Remove a pool, or raise SpecError while ``users``, or other pools, draw on it."""
        users = [*users, *(pool.name for pool in self._pools.values() if name in pool.limits.pools)]
        if users and name in self._pools:
            raise in_use(name, users)
        self._pools.pop(name, None)


def full_pool(chain: tuple[Pool, ...], slots: int) -> Pool | None:
    """Return the first pool without room for so many slots, None when each has it."""
    return next((pool for pool in chain if pool.active + slots > pool.limits.max_concurrent), None)


def too_large(chain: tuple[Pool, ...], slots: int, model: str) -> Refusal | None:
    """Return the refusal of slots that are more than a pool has at all."""
    for pool in chain:
        if slots > pool.limits.max_concurrent > 0:
            return Refusal(model=model, reason=RefusalReason.TOO_LARGE, pool=pool.name)
    return None
