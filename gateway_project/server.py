"""uvicorn, ended in order: no new turns, streams finish, what is left is handed over."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from types import FrameType

import uvicorn
from django.conf import settings
from django.db.utils import Error as DatabaseError
from django.utils import timezone

from chatgateway import drivers, takeover, tracing
from chatgateway.api_view import in_thread
from chatgateway.writer import writer
from gateway_project import open_files
from profiles import access, bookkeeping

logger = logging.getLogger(__name__)

# Turns whose process died are looked for this often, by every gateway process.
ADOPT_SECONDS = 5.0


class GatewayServer(uvicorn.Server):
    """Uvicorn cancels what still runs at its time limit without letting it clean up; so the drain is ours.

    On the first signal the drivers stop admitting and their turns get a grace period; uvicorn's own shutdown,
    which waits for open responses, runs beside it. A second signal ends the process as uvicorn does.
    """

    adopt_seconds = ADOPT_SECONDS
    _drain: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        loop = self._loop
        if self._drain is None and loop is not None and loop.is_running():
            loop.call_soon_threadsafe(self._begin_drain)

    def _begin_drain(self) -> None:
        if self._drain is None:
            self._drain = asyncio.ensure_future(drivers.current().drain(settings.GATEWAY_SHUTDOWN_GRACE_SECONDS))

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._chores = [
            asyncio.create_task(_adopt_forever(self.adopt_seconds)),
            asyncio.create_task(_keep_warm_forever()),
        ]
        try:
            await super().serve(sockets)
        finally:
            for chore in self._chores:
                chore.cancel()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Uvicorn's own, then ours. Not after `serve`: a process that a signal ended is gone before that returns."""
        await super().shutdown(sockets)
        for chore in self._chores:
            chore.cancel()
        if self._drain is None:
            self._begin_drain()
        assert self._drain is not None
        await asyncio.gather(self._drain, *self._chores, return_exceptions=True)
        await asyncio.to_thread(self.write_what_is_left)

    @staticmethod
    def write_what_is_left() -> None:
        writer.close(timeout_seconds=5)
        bookkeeping.stop()
        tracing.stop()

    _loop: asyncio.AbstractEventLoop | None = None


async def _adopt_forever(pause_seconds: float) -> None:
    while True:
        try:
            await takeover.adopt_expired()
            await takeover.free_slots()
        except Exception:
            # The outer edge of a background loop: the next round may fare better, and the log says what was wrong.
            logger.exception("turns of dead processes could not be taken over")
        await asyncio.sleep(pause_seconds)


async def _keep_warm_forever() -> None:
    """Read keys and profiles that are in use again before they are too old to be believed."""
    while settings.GATEWAY_CACHE_SECONDS > 0:
        await asyncio.sleep(settings.GATEWAY_CACHE_SECONDS / 2)
        try:
            await in_thread(lambda: access.refresh(now=timezone.now()))
        except DatabaseError as error:
            # Requests ask the database themselves then, and tell their callers.
            logger.warning("keys and profiles could not be read again: %s", error)


def run(*, host: str, port: int) -> None:
    """Serve until a signal ends the process."""
    open_files.raise_limit()
    bookkeeping.start()
    config = uvicorn.Config(
        "gateway_project.asgi:application",
        host=host,
        port=port,
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        # By default uvicorn believes the X-Forwarded-For of whoever connects from this host, agents included.
        forwarded_allow_ips=[str(network) for network in settings.GATEWAY_TRUSTED_PROXIES],
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(settings.GATEWAY_SHUTDOWN_GRACE_SECONDS) + 2,
    )
    config.load()
    # What is there now stays until the end. Without it among them, the objects that requests leave behind in circles
    # are found sooner, and in a hundredth of the time.
    gc.collect()
    gc.freeze()
    GatewayServer(config).run()
