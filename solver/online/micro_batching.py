"""Tasks that wait in the same pass of an event loop are decided on together; no task is made to wait for more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakMethod

if TYPE_CHECKING:
    from collections.abc import Callable

    from solver.online.window import AgentRow


class Gathering:
    """Collects what the tasks of one pass of a loop ask for.

    Parameters
    ----------
    place : callable
        A bound method that returns the column of each row, -1 for none; held weakly, called in the loop's thread.
    """

    def __init__(self, place: Callable[[list[AgentRow]], list[int]]) -> None:
        self._place = WeakMethod(place)
        self._waiting: WeakKeyDictionary[
            asyncio.AbstractEventLoop, list[tuple[AgentRow, asyncio.Future[int]]]
        ] = WeakKeyDictionary()

    async def column(self, row: AgentRow) -> int:
        """Return where the joint placement puts an agent, -1 for nowhere or where it came alone."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        waiting = self._waiting.get(loop)
        if waiting is None:
            self._waiting[loop] = [(row, future)]
            loop.call_soon(self._decide, loop)
        else:
            waiting.append((row, future))
        return await future

    def _decide(self, loop: asyncio.AbstractEventLoop) -> None:
        live = [(row, future) for row, future in self._waiting.pop(loop) if not future.done()]
        try:
            place = self._place()
            assert place is not None  # the awaiting tasks hold its object
            columns = place([row for row, _ in live])
        except BaseException as error:
            for _, future in live:
                future.set_exception(error)
            raise
        for (_, future), column in zip(live, columns, strict=True):
            future.set_result(column)
