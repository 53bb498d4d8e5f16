"""OptimalRouter as a routing strategy of LiteLLM: in its SDK by :func:`install`, in its proxy by one line of YAML.

.. code-block:: yaml

    litellm_settings:
      callbacks: ["solver.interfaces.litellm.proxy"]

Needs the extra ``[litellm]``; LiteLLM itself is imported when a name of this package is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from solver.interfaces.litellm.fleet import FleetOptions
    from solver.interfaces.litellm.proxy_callback import proxy
    from solver.interfaces.litellm.strategy import OptimalStrategy, install

__all__ = ["FleetOptions", "OptimalStrategy", "install", "proxy"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "proxy":
            from solver.interfaces.litellm.proxy_callback import proxy as value
        elif name == "FleetOptions":
            from solver.interfaces.litellm.fleet import FleetOptions as value
        elif name in ("OptimalStrategy", "install"):
            from solver.interfaces.litellm import strategy

            value = getattr(strategy, name)
        else:
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg)
        globals()[name] = value
        return value
