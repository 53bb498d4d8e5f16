"""LiteLLM's side of ``bench_load_litellm.py``: run by an interpreter that has LiteLLM, and by nothing else.

Reads one JSON line, ``{"strategy": ..., "deployments": ..., "calls": ...}``, answers with one JSON line of
processor times in seconds, and ends with its input.
"""

from __future__ import annotations

import json
import os
import sys
import time

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # otherwise the import tries the network

from litellm import Router

routers: dict[tuple[str, int], Router] = {}
for line in sys.stdin:
    order = json.loads(line)
    key = (order["strategy"], order["deployments"])
    if key not in routers:
        routers[key] = Router(
            model_list=[
                {
                    "model_name": "fleet",
                    "litellm_params": {"model": f"openai/m{j}", "api_key": "none"},
                    "model_info": {"id": f"m{j}"},
                }
                for j in range(order["deployments"])
            ],
            routing_strategy=order["strategy"],
        )
    router, messages, took = routers[key], [{"role": "user", "content": "hello"}], []
    for _ in range(order["calls"]):
        started = time.process_time()
        router.get_available_deployment(model="fleet", messages=messages)
        took.append(time.process_time() - started)
    print(json.dumps({"took_s": took}), flush=True)
