"""Questions that tell whether a program can be used yet. Each answers within a second."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

Probe = Callable[[], Awaitable[bool]]
_SECONDS = 1.0


def http_says_ok(*, host: str, port: int, path: str) -> Probe:
    """Whether GET answers 200."""

    async def ask() -> bool:
        try:
            async with asyncio.timeout(_SECONDS):
                reader, writer = await asyncio.open_connection(host, port)
                try:
                    request = f"GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n"
                    writer.write(request.encode())
                    status_line = await reader.readline()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False
        return status_line.split()[1:2] == [b"200"]

    return ask


def port_listens(*, host: str, port: int) -> Probe:
    """Whether somebody accepts connections."""

    async def ask() -> bool:
        try:
            async with asyncio.timeout(_SECONDS):
                _, writer = await asyncio.open_connection(host, port)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True

    return ask


def file_appears(path: Path) -> Probe:
    """Whether the program has made the file that says it is ready."""

    async def ask() -> bool:
        return path.exists()  # noqa: ASYNC240  one stat, of a local file

    return ask
