"""Calling listeners: one that raises neither breaks what was being done nor keeps the others from being called."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_T = TypeVar("_T")
_LOG = logging.getLogger("solver.load")


def notify(listeners: Iterable[Callable[[_T], object]], news: _T) -> None:
    """Call every listener with the news; an exception of one is logged with its traceback, and that is all."""
    for listener in listeners:
        try:
            listener(news)
        except Exception:  # noqa: BLE001 # whatever one listener does, the others must be called
            _LOG.exception("a listener failed: %r", listener)
