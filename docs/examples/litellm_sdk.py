"""Eight requests at once through LiteLLM's Router: ``UPSTREAM=http://127.0.0.1:8001/v1 python litellm_sdk.py``."""

import asyncio
import os
from collections import Counter

from litellm import Router

from solver.interfaces.litellm import FleetOptions, install

UPSTREAM = {"api_base": os.environ.get("UPSTREAM", "http://127.0.0.1:8001/v1"), "api_key": "none"}
FLEET = [
    {
        "model_name": "chat",
        "litellm_params": {"model": "openai/gpt-4o", "max_parallel_requests": 5, "tpm": 300_000, **UPSTREAM},
        "model_info": {"id": "large", "solver_score": 0.9},
    },
    {
        "model_name": "chat",
        "litellm_params": {"model": "openai/gpt-4o-mini", "max_parallel_requests": 40, **UPSTREAM},
        "model_info": {"id": "small", "solver_score": 0.7},
    },
]


async def main() -> None:
    router = Router(model_list=FLEET)
    strategy = install(router, options=FleetOptions(latency_weight=0.05))
    try:
        hello = [{"role": "user", "content": "hello"}]
        answers = await asyncio.gather(*(router.acompletion(model="chat", messages=hello) for _ in range(8)))
    finally:
        strategy.close()
    for model, count in sorted(Counter(answer.model for answer in answers).items()):
        print(f"{model}: {count} answers")


if __name__ == "__main__":
    asyncio.run(main())
