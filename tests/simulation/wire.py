"""One connection to a real Redis server that asks and reads with little ado: schedules make many small calls."""

from __future__ import annotations

import socket
from typing import Any

import redis

_TIMEOUT_S = 10.0


class Wire:
    """Sends commands one at a time; errors of the server are raised as redis-py raises them.

    Parameters
    ----------
    port : int
        Of a server on this machine.
    """

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._replies = self._socket.makefile("rb")

    def close(self) -> None:
        """Close the connection."""
        self._replies.close()
        self._socket.close()

    def send(self, *command: Any) -> Any:
        """Send a command and return the reply."""
        parts = [f"*{len(command)}\r\n".encode()]
        for each in command:
            text = each if isinstance(each, bytes) else str(each).encode()
            parts.append(b"$%d\r\n%b\r\n" % (len(text), text))
        self._socket.sendall(b"".join(parts))
        reply = self._read()
        if isinstance(reply, Exception):
            raise reply
        return reply

    def evalsha(self, *arguments: Any) -> Any:
        """Run a script that is known."""
        return self.send("EVALSHA", *arguments)

    def script_load(self, script: str) -> Any:
        """Make a script known."""
        return self.send("SCRIPT", "LOAD", script)

    def _read(self) -> Any:
        line = self._replies.readline()
        if not line.endswith(b"\r\n"):
            raise redis.exceptions.ConnectionError("the server has closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"$":
            length = int(rest)
            return None if length < 0 else self._replies.read(length + 2)[:-2]
        if kind == b"*":
            return [self._read() for _ in range(int(rest))]
        if kind == b":":
            return int(rest)
        if kind == b"+":
            return rest
        error = redis.exceptions.NoScriptError if rest.startswith(b"NOSCRIPT") else redis.ResponseError
        return error(rest.decode())
