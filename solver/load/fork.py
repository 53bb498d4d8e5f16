"""Locks that the child of a fork has anew: one that another thread held at the fork stays taken there for ever."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")
_OWNERS: weakref.WeakKeyDictionary[Any, dict[str, Callable[[], Any]]] = weakref.WeakKeyDictionary()


def renewed_after_fork(owner: Any, name: str, make: Callable[[], _T]) -> _T:
    """Return a new lock; in the child of a fork, the owner's attribute of this name is set to another.

    What the lock protects is taken over as it stood, so this is for statistics and the like, of which an update
    by half does no harm.
    """
    _OWNERS.setdefault(owner, {})[name] = make
    return make()


def _renew() -> None:
    for owner, locks in list(_OWNERS.items()):
        for name, make in locks.items():
            setattr(owner, name, make())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
