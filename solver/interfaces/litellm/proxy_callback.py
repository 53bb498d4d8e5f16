"""The callback object of LiteLLM's proxy: attaches itself to the proxy's router, follows its reloads.

The proxy calls some hooks only where the registered object's own class defines them, so they are defined here.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import litellm

from solver.errors import SpecError, Violation
from solver.interfaces.litellm.fleet import FleetOptions
from solver.interfaces.litellm.strategy import OptimalStrategy
from solver.load.tracker import LoadTracker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from solver.online.decision import Decision

_REMEMBERED_REFUSALS = 10_000
"""Refused requests whose headers are still to be sent."""

_OPTIONS_KEY = "solver_options"
"""Key of the options in ``litellm_settings``; the proxy keeps keys that it does not know as attributes of LiteLLM."""


class ProxyStrategy(OptimalStrategy):
    """The strategy of a proxy process; ``SOLVER_REPLICAS`` of them share a fleet over ``SOLVER_REDIS_URL``.

    ``litellm_settings.solver_options`` states :class:`~solver.interfaces.litellm.FleetOptions`. It is read, and
    Redis is connected to, when the first request comes: the callback is made while the configuration is being read.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ready = False
        self._waits: OrderedDict[str, str] = OrderedDict()

    def attach(self, router: Any) -> None:
        """Become the strategy of a router, the first time with what the configuration says."""
        if not self._ready:
            self.use(_shared_tracker(), options_of(getattr(litellm, _OPTIONS_KEY, None)))
            self._ready = True
        super().attach(router)

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

    def _refused(self, decision: Decision, model: str, request: Mapping[str, Any], why: str) -> Exception:
        error = super()._refused(decision, model, request, why)
        call_id = request.get("litellm_call_id")
        if call_id:
            self._waits[call_id] = error.response.headers["retry-after"]  # type: ignore[attr-defined]
            while len(self._waits) > _REMEMBERED_REFUSALS:
                self._waits.popitem(last=False)
        return error


def options_of(given: Any) -> FleetOptions:
    """Return the options that a configuration states, the defaults where it states none.

    Raises
    ------
    SpecError
        Naming each key that is unknown, and each value out of range, by its path in the configuration.
    """
    path = f"litellm_settings.{_OPTIONS_KEY}"
    if given is None:
        return FleetOptions()
    if not isinstance(given, dict):
        raise SpecError(Violation(path, "expected a mapping", given))
    known = FleetOptions.__dataclass_fields__
    wrong = [
        Violation(f"{path}.{name}", f"expected one of {', '.join(known)}", shown=str(name))
        for name in given
        if name not in known
    ]
    if wrong:
        raise SpecError(*wrong)
    try:
        return FleetOptions(**given)
    except SpecError as error:
        raise SpecError(*(each.within(path) for each in error.violations)) from error


def _shared_tracker() -> LoadTracker | None:
    """Return a tracker over Redis where the environment names one."""
    url = os.environ.get("SOLVER_REDIS_URL")
    if not url:
        return None
    from solver.load.store.redis import RedisStore

    return LoadTracker(RedisStore(url, replicas=int(os.environ.get("SOLVER_REPLICAS", "1"))))


proxy = ProxyStrategy()
"""What ``litellm_settings.callbacks`` names: ``solver.interfaces.litellm.proxy``."""
