"""An aiohttp application in a thread of its own, on a free port of the loopback interface.

The live tests' LLM providers run this way: their event loop is never the test's, so a test may block, and a test's
loop may be closed, without the provider noticing.
"""

from __future__ import annotations

import abc
import asyncio
import threading
from types import TracebackType
from typing import Self

from aiohttp import web

# Starting binds a socket and stopping cancels handlers: both take milliseconds. A test machine under load gets a
# thousand times that before the wait is called a hang.
_DEADLINE_SECONDS = 60.0


class LoopbackServer(abc.ABC):
    """Base of the test providers. A subclass says in `routes` what it answers; `start` once, `stop` once.

    Handlers are cancelled when their client leaves, which is how a provider sees an interrupted call.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._port = 0

    @abc.abstractmethod
    def routes(self) -> list[web.RouteDef]:
        """What this server answers; read once, by `start`."""

    @property
    def origin(self) -> str:
        """`http://127.0.0.1:<port>`, known after `start`."""
        if not self._port:
            raise RuntimeError(f"{type(self).__name__} is not running.")
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> Self:
        """Return when the port accepts connections."""
        if self._thread is not None:
            raise RuntimeError(f"{type(self).__name__} was started before.")
        ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(self._loop, ready), name=type(self).__name__)
        self._thread.start()
        if not ready.wait(_DEADLINE_SECONDS) or not self._port:
            raise RuntimeError(f"{type(self).__name__} did not start.")
        return self

    def stop(self) -> None:
        """Close the port and every connection. Harmless on a server that does not run."""
        if self._thread is None or self._loop is None or not self._thread.is_alive():
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_DEADLINE_SECONDS)
        if self._thread.is_alive():
            raise RuntimeError(f"{type(self).__name__} did not stop.")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self, loop: asyncio.AbstractEventLoop, ready: threading.Event) -> None:
        asyncio.set_event_loop(loop)
        application = web.Application(client_max_size=64 * 2**20)
        application.add_routes(self.routes())
        # A shutdown does not wait for requests that hang: hanging is what some of them are for.
        runner = web.AppRunner(application, handler_cancellation=True, access_log=None, shutdown_timeout=0)
        try:
            loop.run_until_complete(self._listen(runner))
            ready.set()
            loop.run_forever()
        finally:
            ready.set()
            loop.run_until_complete(runner.cleanup())
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    async def _listen(self, runner: web.AppRunner) -> None:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self._port = runner.addresses[0][1]
