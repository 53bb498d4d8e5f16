"""Access to LiteLLM's Router, for its three implementations: until 1.108, 1.109, and from 1.110 in Rust."""

from __future__ import annotations

from typing import Any


def plug_in(router: Any, strategy: Any) -> None:
    """Make a strategy object the one that selects deployments."""
    if hasattr(router, "register_plugin"):
        router.register_plugin(strategy)
    else:
        router.set_custom_routing_strategy(strategy)


def deployments_of(router: Any) -> list[dict[str, Any]]:
    """Return every deployment as a dictionary."""
    listed = router.registry().all() if hasattr(router, "register_plugin") else router.model_list
    return [dict(entry) if isinstance(entry, dict) else entry.model_dump() for entry in listed or ()]


def version_of(router: Any) -> Any:
    """Return something that changes with the deployments of a router; deployments that answer now may be fewer."""
    if hasattr(router, "register_plugin"):
        return router.registry().version
    listed = router.model_list or ()
    return id(listed), len(listed), id(listed[-1]) if listed else 0


async def healthy(router: Any, **call: Any) -> Any:
    """Return what LiteLLM would choose from: cooldown, tags, order and context applied; one dict for a fixed id."""
    if hasattr(router, "register_plugin"):
        model, kwargs = call.pop("model"), call.pop("request_kwargs")
        return await router.select(model, kwargs, kind="healthy", **call)
    return await router.async_get_healthy_deployments(**call)


def healthy_now(router: Any, **call: Any) -> Any:
    """Do :func:`healthy` without an event loop."""
    if not hasattr(router, "register_plugin"):
        found = router._get_healthy_deployments(model=call["model"], parent_otel_span=None)  # noqa: SLF001 - no public call
        return found[0]
    work = healthy(router, **call)
    try:
        work.send(None)  # with no remote cache it ends without waiting
    except StopIteration as end:
        return end.value
    finally:
        work.close()
    down = set(
        router.health().cooldowns.get_active_cooldowns(
            [d["model_info"]["id"] for d in deployments_of(router)], None
        )
    )
    model = call["model"]
    return [
        d for d in deployments_of(router) if d["model_name"] == model and d["model_info"]["id"] not in down
    ]
