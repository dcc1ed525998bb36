"""The gateway on a loopback port, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading

import uvicorn

from gateway_project.server import GatewayServer


class _Server(GatewayServer):
    adopt_seconds = 0.5
    running = 0  # in this process, which has one writer for all of them

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        type(self).running += 1
        await super().serve(sockets)

    def write_what_is_left(self) -> None:  # type: ignore[override]  # static there: it is a process's, not a server's
        type(self).running -= 1
        if type(self).running == 0:
            super().write_what_is_left()

    def install_signal_handlers(self) -> None:
        """Signals belong to the test runner."""

    def capture_signals(self):
        from contextlib import nullcontext

        return nullcontext()


class LiveGateway:
    """`start` returns when the socket listens; `stop` drains as SIGTERM would, with a short grace."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.key = ""
        config = uvicorn.Config(
            "gateway_project.asgi:application", lifespan="off", log_config=None, timeout_graceful_shutdown=2
        )
        self._server = _Server(config)
        self._thread = threading.Thread(target=self._run, name="test-gateway", daemon=True)

    def start(self) -> None:
        self._thread.start()
        deadline = threading.Event()
        for _ in range(1000):
            if self._server.started:
                return
            deadline.wait(0.01)
        raise RuntimeError("the gateway did not start")

    def stop(self) -> None:
        """Harmless if it was stopped before."""
        self._server.handle_exit(signal.SIGTERM, None)
        self._thread.join(20)
        if self._thread.is_alive():
            raise RuntimeError("the gateway did not stop")

    def _run(self) -> None:
        try:
            asyncio.run(self._server.serve(sockets=[self._socket]))
        finally:
            self._socket.close()
