"""A TCP proxy on a loopback port: the load balancer in front of the gateways, and a line that can be cut."""

from __future__ import annotations

import asyncio
import itertools
import threading
from types import TracebackType
from typing import Self

# How long a caller is kept waiting while no gateway accepts connections, as load balancers do.
PATIENCE_SECONDS = 10.0
CHUNK = 64 * 1024


class Proxy:
    """Hands each connection to the next of `ports` that accepts it; runs in a thread of its own."""

    def __init__(self, *ports: int) -> None:
        self._ports = ports
        self._turn = itertools.count()
        self._cut_after: bytes | None = None
        self._lines: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(60)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def turn_to(self, *ports: int) -> None:
        """Hand later connections to these."""
        self._ports = ports

    def cut_next_reply_after(self, text: bytes) -> None:
        """Cut the line, without a closing handshake, once this has been passed on to a caller."""
        self._cut_after = text

    @property
    def has_cut(self) -> bool:
        return self._cut_after is None

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._server.close()
        for line in list(self._lines):
            _cut(*line)
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                behind, to_behind = await self._connect()
        except TimeoutError:
            writer.transport.abort()
            return
        line = (writer, to_behind)
        self._lines.add(line)
        pumps = [
            asyncio.create_task(self._pump(reader, to_behind, may_cut=False)),
            asyncio.create_task(self._pump(behind, writer, may_cut=True)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._lines.discard(line)
            _cut(*line)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while True:
            for _ in self._ports:
                port = self._ports[next(self._turn) % len(self._ports)]
                try:
                    return await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    continue
            await asyncio.sleep(0.05)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, may_cut: bool) -> None:
        seen = b""
        while data := await reader.read(CHUNK):
            seen = (seen + data)[-2 * CHUNK :]
            if may_cut and self._cut_after is not None and self._cut_after in seen:
                beyond = len(seen) - seen.index(self._cut_after) - len(self._cut_after)
                writer.write(data[: len(data) - beyond])
                self._cut_after = None
                await writer.drain()
                # What was written must arrive before the reset does.
                await asyncio.sleep(0.05)
                return
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
            await asyncio.sleep(0.05)


def _cut(*writers: asyncio.StreamWriter) -> None:
    for writer in writers:
        writer.transport.abort()
