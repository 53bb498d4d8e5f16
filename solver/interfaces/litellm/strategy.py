"""The strategy object: one object that LiteLLM asks to select (E1) and tells about calls (callbacks).

Signatures are LiteLLM's; keyword names count, since a renamed one fails silently. Tested on the versions in
``tests/interfaces/litellm``.
"""

from __future__ import annotations

import itertools
import logging
import math
import random
from typing import TYPE_CHECKING, Any

import httpx
import litellm
from litellm.integrations.custom_logger import CustomLogger
from litellm.types.router import CustomRoutingStrategyBase

from solver.interfaces.litellm.router_access import (
    deployments_of,
    healthy,
    healthy_now,
    plug_in,
    version_of,
)
from solver.interfaces.litellm.selection import Selector, end_of, owner, retry_after_s

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from solver.interfaces.litellm.fleet import FleetOptions
    from solver.load.tracker import LoadTracker
    from solver.online.decision import Decision
    from solver.online.router import OptimalRouter
    from solver.online.window import AgentRow

_log = logging.getLogger(__name__)
_TRACE_KEY = "litellm_trace_id"
"""Key of LiteLLM's trace id in the metadata of a request."""

_WAITED_TOO_LONG = "no slot came free within queue_timeout_s"

_INSTANCES = itertools.count()
_CALLBACK_LISTS = (
    "callbacks",
    "input_callback",
    "success_callback",
    "failure_callback",
    "_async_input_callback",
    "_async_success_callback",
    "_async_failure_callback",
)


def install(
    router: Any, *, tracker: LoadTracker | None = None, options: FleetOptions | None = None
) -> OptimalStrategy:
    """Make a ``litellm.Router`` route by prices.

    Parameters
    ----------
    router : litellm.Router
        Its model list states capacities: ``max_parallel_requests``, ``rpm``, ``tpm``.
    tracker : LoadTracker, optional
        One over Redis where several processes share the fleet.
    options : FleetOptions, optional
        Scores and weights.

    Returns
    -------
    OptimalStrategy
        Call its ``close`` when the router is dropped.
    """
    strategy = OptimalStrategy(tracker, options)
    strategy.attach(router)
    litellm.logging_callback_manager.add_litellm_callback(strategy)
    return strategy


class OptimalStrategy(CustomRoutingStrategyBase, CustomLogger):  # type: ignore[misc]  # litellm is not typed
    """Selects by price and live load, reserves at selection, and releases each lease once.

    Parameters
    ----------
    tracker : LoadTracker, optional
        The live load.
    options : FleetOptions, optional
        What the model list does not say.
    """

    def __init__(self, tracker: LoadTracker | None = None, options: FleetOptions | None = None) -> None:
        CustomLogger.__init__(self)
        # LiteLLM takes two callbacks of one class for the same one unless a public attribute differs.
        self.instance_name = f"solver-{next(_INSTANCES)}"
        self.selector = Selector(tracker, options)
        self.router: Any = None
        self._version: Any = None

    def use(self, tracker: LoadTracker | None, options: FleetOptions | None) -> None:
        """Begin anew with another tracker and other options, before the first request."""
        self.selector.close()
        self.selector = Selector(tracker, options)

    def attach(self, router: Any) -> None:
        """Become the strategy of a router."""
        self.selector.follow(deployments_of(router))
        self.router, self._version = router, version_of(router)
        plug_in(router, self)

    def close(self) -> None:
        """Stop the threads and take no further part in LiteLLM's callbacks; a router still in use chooses by chance."""
        for name in _CALLBACK_LISTS:
            listed = getattr(litellm, name, None)
            if isinstance(listed, list):
                listed[:] = [entry for entry in listed if entry is not self]
        self.selector.close()

    # -- selection

    async def async_get_available_deployment(
        self,
        model: str,
        messages: list[dict[str, str]] | None = None,
        input: str | list[Any] | None = None,
        specific_deployment: bool | None = False,
        request_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Select for an asynchronous call."""
        request = {} if request_kwargs is None else request_kwargs
        found = await healthy(
            self.router,
            model=model,
            request_kwargs=request,
            messages=messages,
            input=input,
            specific_deployment=specific_deployment,
        )
        found = [found] if isinstance(found, dict) else found
        if not self._reserves(found, request):
            return found[0] if found else None
        try:
            router, row, of_pool = self._prepare(found, request, messages, input)
            decision = await router.route_row_async(row, None, self.selector.options.select_ttl_s)
        except Exception:  # noqa: BLE001 - logged; an error of ours must not become one of the caller's
            return _unreserved(found)
        queue = self.selector.queue
        if queue is not None and not await queue.wait_async(decision):
            raise self._refused(decision, model, request, _WAITED_TOO_LONG)
        return self._chosen(decision, of_pool, model, request)

    def get_available_deployment(
        self,
        model: str,
        messages: list[dict[str, str]] | None = None,
        input: str | list[Any] | None = None,
        specific_deployment: bool | None = False,
        request_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Select for a synchronous call."""
        request = {} if request_kwargs is None else request_kwargs
        found = healthy_now(
            self.router,
            model=model,
            request_kwargs=request,
            messages=messages,
            input=input,
            specific_deployment=specific_deployment,
        )
        found = [found] if isinstance(found, dict) else found
        if not self._reserves(found, request):
            return found[0] if found else None
        try:
            router, row, of_pool = self._prepare(found, request, messages, input)
            decision = router.route_row(row, None, self.selector.options.select_ttl_s)
        except Exception:  # noqa: BLE001 - as above
            return _unreserved(found)
        queue = self.selector.queue
        if queue is not None and not queue.wait(decision):
            raise self._refused(decision, model, request, _WAITED_TOO_LONG)
        return self._chosen(decision, of_pool, model, request)

    def _reserves(self, found: Sequence[Mapping[str, Any]], request: Mapping[str, Any]) -> bool:
        """Return whether a slot is to be reserved: not for a poll or a look-up, nor after :meth:`close`."""
        return bool(found) and _TRACE_KEY in request and not self.selector.closed

    def _prepare(
        self, found: Sequence[Mapping[str, Any]], request: Mapping[str, Any], messages: Any, text: Any
    ) -> tuple[OptimalRouter, AgentRow, dict[str, Mapping[str, Any]]]:
        """Give back what this task selected before, follow changes of the router, and read the request."""
        self.selector.ledger.forget_selections(_trace(request), owner())
        version = version_of(self.router)
        if version != self._version:
            self._version = version
            self.selector.follow(deployments_of(self.router))
        return self.selector.prepare(found, request, messages, text)

    def _chosen(
        self,
        decision: Decision,
        of_pool: Mapping[str, Mapping[str, Any]],
        model: str,
        request: Mapping[str, Any],
    ) -> Any:
        """Return the deployment decided on, or raise the refusal as LiteLLM's own error."""
        if decision.model is None:
            raise self._refused(decision, model, request, decision.reason)
        deployment = of_pool[decision.model]
        self.selector.keep(decision, deployment, _trace(request))
        return deployment

    def _refused(self, decision: Decision, model: str, request: Mapping[str, Any], why: str) -> Exception:
        """Return a final 429: an ordinary one would be retried, and the wait multiplied."""
        refusal = decision.refusal
        wait_s = 1.0 if refusal is None or refusal.retry_after_s is None else refusal.retry_after_s
        response = httpx.Response(
            429,
            headers={"retry-after": str(max(1, math.ceil(wait_s)))},
            request=httpx.Request("POST", "http://litellm.invalid"),
        )
        error = litellm.RateLimitError(
            message=f"solver: {why}", llm_provider="", model=model, response=response
        )
        error.num_retries = 0
        return error  # type: ignore[no-any-return]  # litellm is not typed

    # -- the life of a call

    async def async_pre_call_deployment_hook(self, kwargs: dict[str, Any], call_type: Any) -> None:
        """Tie the reservation to the call that starts."""
        info = kwargs.get("model_info") or {}
        deployment_id = info.get("original_model_id") or info.get("id")
        self._bind(
            _trace(kwargs), deployment_id, kwargs.get("litellm_call_id"), kwargs.get("litellm_logging_obj")
        )

    def _bind(self, trace: Any, deployment_id: Any, call_id: Any, logging_object: Any) -> None:
        try:
            self.selector.ledger.bind(trace, deployment_id or "", call_id or "", logging_object)
        except Exception:  # noqa: BLE001 - an error here would fail the caller's request
            _log.exception("a lease could not be renewed at the start of a call")

    async def async_post_call_success_deployment_hook(
        self,
        request_data: dict[str, Any],
        response: Any,
        call_type: Any,
    ) -> None:
        """Release after an answer."""
        self._finish(request_data.get("litellm_call_id"), response, success=True)

    async def async_post_call_failure_deployment_hook(
        self,
        request_data: dict[str, Any],
        exception: Exception,
        call_type: Any,
        fallback_depth: int | None = None,
    ) -> None:
        """Release after a failure, and leave a server alone that asked for it."""
        info = request_data.get("model_info") or {}
        self._failed(request_data.get("litellm_call_id"), info, exception)

    async def async_log_success_event(
        self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """Release at the end of a stream, and where nothing came before."""
        self._finish(
            kwargs.get("litellm_call_id"), response_obj, success=True, cached=bool(kwargs.get("cache_hit"))
        )

    async def async_log_failure_event(
        self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """Release after a stream that was cut off."""
        self._failed(kwargs.get("litellm_call_id"), _info(kwargs), kwargs.get("exception"))

    def log_pre_api_call(self, model: Any, messages: Any, kwargs: dict[str, Any]) -> None:
        """Tie the reservation to a synchronous call; an asynchronous one was tied before."""
        trace, info = _trace(kwargs) or _trace(_params(kwargs)), _info(kwargs)
        self._bind(trace, info.get("id"), kwargs.get("litellm_call_id"), None)

    def log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        """Release after a synchronous answer."""
        self._finish(kwargs.get("litellm_call_id"), response_obj, success=True)

    def log_failure_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        """Release after a synchronous failure."""
        self._failed(kwargs.get("litellm_call_id"), _info(kwargs), kwargs.get("exception"))

    def _failed(self, call_id: str | None, info: Mapping[str, Any], error: BaseException | None) -> None:
        seconds = None if error is None else retry_after_s(error)
        if seconds is not None and getattr(error, "status_code", None) == 429:
            self.selector.pause(info.get("original_model_id") or info.get("id"), seconds)
        self._finish(call_id, None, success=False)

    def _finish(self, call_id: str | None, response: Any, *, success: bool, cached: bool = False) -> None:
        """Release once; an error of ours must not become one of the caller's."""
        try:
            self.selector.ledger.finish(call_id, end_of(response, success=success, cached=cached))
        except Exception:  # noqa: BLE001 - logged; the caller has its answer
            _log.exception("a lease could not be released; it ends with its time to live")


def _unreserved(found: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Log the error that is being handled, and choose as LiteLLM does by default, without a reservation."""
    _log.exception("a request could not be placed; it is sent anywhere, and holds no slot")
    return random.choice(found)  # noqa: S311 - load, not secrets


def _trace(request: Mapping[str, Any]) -> Any:
    """Return LiteLLM's trace id; callers may set it to anything."""
    trace = request.get(_TRACE_KEY)
    return trace if trace is None or isinstance(trace, str) else repr(trace)


def _params(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    return kwargs.get("litellm_params") or {}


def _info(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    return kwargs.get("model_info") or _params(kwargs).get("model_info") or {}
