"""Eight requests at once with the client of OpenAI: ``UPSTREAM=http://127.0.0.1:8001/v1 python plain_client.py``."""

import asyncio
import os
from collections import Counter

from openai import AsyncOpenAI

import solver

MODELS = [
    solver.Model(id="gpt-4o", capacity=solver.Capacity(max_concurrent=5), capabilities={"general": 0.9}),
    solver.Model(
        id="gpt-4o-mini", capacity=solver.Capacity(max_concurrent=40), capabilities={"general": 0.7}
    ),
]


async def ask(router: solver.OptimalRouter, client: AsyncOpenAI, text: str) -> str:
    async with await router.route_async(solver.Agent(id=text, task_type="general")) as decision:
        if decision.model is None:
            return decision.reason
        messages = [{"role": "user", "content": text}]
        answer = await client.chat.completions.create(model=decision.model, messages=messages)
        return answer.model


async def main() -> None:
    url = os.environ.get("UPSTREAM", "http://127.0.0.1:8001/v1")
    with solver.OptimalRouter(solver.LoadTracker(), MODELS) as router:
        async with AsyncOpenAI(base_url=url, api_key="none") as client:
            answers = await asyncio.gather(*(ask(router, client, f"question {k}") for k in range(8)))
    for model, count in sorted(Counter(answers).items()):
        print(f"{model}: {count} answers")


if __name__ == "__main__":
    asyncio.run(main())
