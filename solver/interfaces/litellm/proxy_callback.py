"""The callback object of LiteLLM's proxy: attaches itself to the proxy's router, follows its reloads.

The proxy calls some hooks only where the registered object's own class defines them, so they are defined here.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from solver.interfaces.litellm.strategy import OptimalStrategy
from solver.load.tracker import LoadTracker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from solver.online.decision import Decision

__all__ = ["ProxyStrategy", "proxy"]

_REMEMBERED_REFUSALS = 10_000
"""Refused requests whose headers are still to be sent."""


class ProxyStrategy(OptimalStrategy):
    """The strategy of a proxy process; ``SOLVER_REPLICAS`` of them share a fleet over ``SOLVER_REDIS_URL``."""

    def __init__(self) -> None:
        url = os.environ.get("SOLVER_REDIS_URL")
        tracker = None
        if url:
            from solver.load.store.redis import RedisStore

            tracker = LoadTracker(RedisStore(url, replicas=int(os.environ.get("SOLVER_REPLICAS", "1"))))
        super().__init__(tracker)
        self._waits: OrderedDict[str, str] = OrderedDict()

    async def async_pre_call_hook(
        self,
        user_api_key_dict: Any,
        cache: Any,
        data: dict[str, Any],
        call_type: Any,
    ) -> None:
        """Attach to the proxy's router: here at first, and again when a reload made a new one."""
        from litellm.proxy import proxy_server

        router = proxy_server.llm_router
        if router is not None and router is not self.router:
            self.attach(router)

    async def async_post_call_streaming_iterator_hook(
        self,
        user_api_key_dict: Any,
        response: Any,
        request_data: dict[str, Any],
    ) -> AsyncIterator[Any]:
        """Pass a stream on, and release when it ends, however it does."""
        try:
            async for chunk in response:
                yield chunk
        finally:
            self._finish(request_data.get("litellm_call_id"), None, success=True)

    async def async_post_call_response_headers_hook(
        self,
        data: dict[str, Any],
        user_api_key_dict: Any,
        response: Any,
        request_headers: dict[str, str] | None = None,
        litellm_call_info: Any = None,
    ) -> dict[str, str]:
        """Give refused clients a real Retry-After header."""
        wait = self._waits.pop(data.get("litellm_call_id") or "", None)
        return {} if wait is None else {"Retry-After": wait}

    def _refused(self, decision: Decision, model: str, request: Mapping[str, Any]) -> Exception:
        error = super()._refused(decision, model, request)
        call_id = request.get("litellm_call_id")
        if call_id:
            self._waits[call_id] = error.response.headers["retry-after"]  # type: ignore[attr-defined]
            while len(self._waits) > _REMEMBERED_REFUSALS:
                self._waits.popitem(last=False)
        return error


proxy = ProxyStrategy()
"""What ``litellm_settings.callbacks`` names: ``solver.interfaces.litellm.proxy``."""
