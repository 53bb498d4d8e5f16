"""The strategy object: one object that LiteLLM asks to select (E1) and tells about calls (callbacks).

Signatures are LiteLLM's; keyword names count, since a renamed one fails silently. Tested on the versions in
``tests/interfaces/litellm``.
"""

from __future__ import annotations

import itertools
import logging
from typing import TYPE_CHECKING, Any

import httpx
import litellm
from litellm.integrations.custom_logger import CustomLogger
from litellm.types.router import CustomRoutingStrategyBase

from solver.interfaces.litellm.router_access import deployments_of, healthy, healthy_now, plug_in
from solver.interfaces.litellm.selection import Selector, end_of, owner, retry_after_s

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from solver.interfaces.litellm.fleet import FleetOptions
    from solver.load.tracker import LoadTracker
    from solver.online.decision import Decision

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

    def use(self, tracker: LoadTracker | None, options: FleetOptions | None) -> None:
        """Begin anew with another tracker and other options, before the first request."""
        self.selector.close()
        self.selector = Selector(tracker, options)

    def attach(self, router: Any) -> None:
        """Become the strategy of a router."""
        self.router = router
        self.selector.learn(deployments_of(router))
        plug_in(router, self)

    def close(self) -> None:
        """Stop the threads and take no further part in LiteLLM's callbacks."""
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
        if isinstance(found, dict):
            return await self._reserve_async([found], model, request, messages, input)
        if _TRACE_KEY not in request:  # a poll or a look-up, not a call
            return found[0] if found else None
        return await self._reserve_async(found, model, request, messages, input)

    async def _reserve_async(
        self,
        found: Sequence[Mapping[str, Any]],
        model: str,
        request: dict[str, Any],
        messages: Any,
        text: Any,
    ) -> Any:
        if _TRACE_KEY not in request or not found:
            return found[0] if found else None
        trace = request[_TRACE_KEY]
        self.selector.ledger.forget_selections(trace, owner())
        router, row, of_pool = self.selector.prepare(found, request, messages, text)
        ttl_s = self.selector.options.select_ttl_s
        decision = await router.route_row_async(row, None, ttl_s)
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
        if _TRACE_KEY not in request or not found:
            return found[0] if found else None
        self.selector.ledger.forget_selections(request[_TRACE_KEY], owner())
        router, row, of_pool = self.selector.prepare(found, request, messages, input)
        ttl_s = self.selector.options.select_ttl_s
        decision = router.route_row(row, None, ttl_s)
        queue = self.selector.queue
        if queue is not None and not queue.wait(decision):
            raise self._refused(decision, model, request, _WAITED_TOO_LONG)
        return self._chosen(decision, of_pool, model, request)

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
        self.selector.keep(decision, deployment, request[_TRACE_KEY])
        return deployment

    def _refused(self, decision: Decision, model: str, request: Mapping[str, Any], why: str) -> Exception:
        """Return a final 429: an ordinary one would be retried, and the wait multiplied."""
        refusal = decision.refusal
        wait_s = 1.0 if refusal is None or refusal.retry_after_s is None else refusal.retry_after_s
        response = httpx.Response(
            429,
            headers={"retry-after": str(max(1, round(wait_s)))},
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
        try:
            self.selector.ledger.bind(
                kwargs.get(_TRACE_KEY),
                info.get("original_model_id") or info.get("id") or "",
                kwargs.get("litellm_call_id") or "",
                kwargs.get("litellm_logging_obj"),
            )
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
        trace, info = kwargs.get(_TRACE_KEY) or _params(kwargs).get(_TRACE_KEY), _info(kwargs)
        self.selector.ledger.bind(trace, info.get("id") or "", kwargs.get("litellm_call_id") or "", None)

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


def _params(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    return kwargs.get("litellm_params") or {}


def _info(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    return kwargs.get("model_info") or _params(kwargs).get("model_info") or {}
