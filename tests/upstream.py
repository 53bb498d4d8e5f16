"""A loopback server that speaks enough of OpenAI's API: latency, failures, 429s, streams, and what it saw.

Each model name has a behaviour, see :class:`Behaviour`. ``python -m tests.upstream --port 8001`` answers any model
until it is interrupted; one called ``slow`` takes a second.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


@dataclass
class Behaviour:
    """How a model answers."""

    latency_s: float = 0.0
    jitter: float = 0.0  # standard deviation of the logarithm of the latency
    slots: int | None = None  # more at once get status 429
    servers: int | None = None  # more at once wait
    fail_first: int = 0  # so many requests get `status`
    status: int = 500
    retry_after_s: float | None = None
    chunks: int = 5
    chunk_s: float = 0.0
    cut_after: int | None = None  # chunks, then the connection is closed
    usage: dict[str, Any] | None = field(default_factory=lambda: dict(USAGE))  # None: the answer states none


class Upstream:
    """The server, in threads, on a free port."""

    listen_port = 0  # a free one

    def __init__(self, **behaviours: Behaviour) -> None:
        self.behaviours = behaviours
        self.running: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.served: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.random = random.Random(0)  # noqa: S311 - latencies, not secrets
        self.turns = {
            name: threading.Semaphore(behaviour.servers)
            for name, behaviour in behaviours.items()
            if behaviour.servers is not None
        }
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else kept connections answer 40 ms late

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

            def do_POST(self) -> None:
                owner.answer(self, json.loads(self.rfile.read(int(self.headers["content-length"]))))

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, *_: object) -> None:
                """Clients that leave are part of the tests."""

        self.server = Server(("127.0.0.1", self.listen_port), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def answer(self, handler: Any, body: dict[str, Any]) -> None:
        model = body["model"]
        behaviour = self.behaviours.get(model, Behaviour())
        with self.lock:
            full = behaviour.slots is not None and self.running[model] >= behaviour.slots
            fails = behaviour.fail_first > 0
            if full or fails:
                behaviour.fail_first -= fails
                self.refused[model] += 1
            else:
                self.running[model] += 1
                self.most[model] = max(self.most[model], self.running[model])
        if full or fails:
            self.send(
                handler,
                429 if full else behaviour.status,
                {"error": {"message": "no"}},
                behaviour.retry_after_s,
            )
            return
        counted = True
        try:
            with self.turns.get(model, contextlib.nullcontext()):
                spread = self.random.gauss(-0.5 * behaviour.jitter**2, behaviour.jitter)
                time.sleep(behaviour.latency_s * math.exp(spread))
            if body.get("stream"):
                self.stream(handler, model, behaviour)
            else:
                with self.lock:  # before the answer: whoever has read it may send the next request at once
                    self.running[model] -= 1
                counted = False
                self.send(handler, 200, answer_of(handler.path, model, behaviour.usage))
            with self.lock:
                self.served[model] += 1
        except OSError:
            handler.close_connection = True
        finally:
            if counted:
                with self.lock:
                    self.running[model] -= 1

    @staticmethod
    def send(handler: Any, status: int, body: dict[str, Any], retry_after_s: float | None = None) -> None:
        data = json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", str(len(data)))
        if retry_after_s is not None:
            handler.send_header("retry-after", f"{retry_after_s:g}")
        handler.end_headers()
        handler.wfile.write(data)

    @staticmethod
    def stream(handler: Any, model: str, behaviour: Behaviour) -> None:
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.send_header("connection", "close")
        handler.end_headers()
        handler.close_connection = True
        for k in range(behaviour.chunks):
            if behaviour.cut_after == k:
                return
            time.sleep(behaviour.chunk_s)
            delta = {"role": "assistant", "content": "x"}
            last = "stop" if k == behaviour.chunks - 1 else None
            chunk = {
                "id": "c",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": model,
                "choices": [{"index": 0, "delta": delta, "finish_reason": last}],
            }
            handler.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
            handler.wfile.flush()
        handler.wfile.write(b"data: [DONE]\n\n")


def answer_of(path: str, model: str, usage: dict[str, Any] | None) -> dict[str, Any]:
    answer: dict[str, Any]
    if path.endswith("/embeddings"):
        answer = {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}]}
    elif path.endswith("/responses"):
        text = {"type": "output_text", "text": "hello", "annotations": []}
        message = {
            "id": "m",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [text],
        }
        answer = {
            "id": "r",
            "object": "response",
            "created_at": 1,
            "status": "completed",
            "output": [message],
        }
        answer |= {"parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "error": None}
        if usage is not None:
            counted = {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"]}
            usage = {**counted, "total_tokens": usage["total_tokens"]}
    else:
        message = {"role": "assistant", "content": "hello"}
        answer = {"id": "c", "object": "chat.completion", "created": 1}
        answer["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return answer | {"model": model} | ({} if usage is None else {"usage": usage})


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="A stand-in for any server that speaks OpenAI's API.")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    Upstream.listen_port = parser.parse_args().port
    slow = Behaviour(latency_s=1.0, chunk_s=0.2)
    with contextlib.suppress(KeyboardInterrupt), Upstream(slow=slow) as served:
        print(f"serving at {served.url}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
