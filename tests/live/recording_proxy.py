"""Stands between a client and the gateway, passes everything on, and writes down what the client asked for."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web

from tests.live.loopback_server import LoopbackServer

# What says nothing of the client, or is a secret.
_LEFT_OUT = {"host", "content-length", "authorization", "connection"}


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One request. `status` is of the gateway's answer; it `is_over` when all was passed on, or `was_left`: the client
    went away before."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    status: int = 0
    is_over: bool = False
    was_left: bool = False

    @property
    def is_streamed(self) -> bool:
        return bool(self.body and self.body.get("stream"))


class RecordingProxy(LoopbackServer):
    def __init__(self, target: str) -> None:
        super().__init__()
        self._target = target
        self._lock = threading.Lock()
        self._exchanges: list[Exchange] = []

    @property
    def exchanges(self) -> list[Exchange]:
        """All requests, in order of arrival."""
        with self._lock:
            return list(self._exchanges)

    def routes(self) -> list[web.RouteDef]:
        return [web.route("*", "/{path:.*}", self._passed_on)]

    async def _passed_on(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        exchange = Exchange(
            method=request.method,
            path=request.path_qs,
            headers={name: value for name, value in request.headers.items() if name.lower() not in _LEFT_OUT},
            body=json.loads(body) if body else None,
        )
        with self._lock:
            self._exchanges.append(exchange)
        given = {name: value for name, value in request.headers.items() if name.lower() not in ("host", "connection")}
        try:
            async with (
                aiohttp.ClientSession(auto_decompress=False) as session,
                session.request(
                    request.method, f"{self._target}{request.path_qs}", data=body, headers=given
                ) as answered,
            ):
                exchange.status = answered.status
                reply = web.StreamResponse(status=answered.status)
                reply.headers["Content-Type"] = answered.headers["Content-Type"]
                await reply.prepare(request)
                async for piece in answered.content.iter_any():
                    await reply.write(piece)
                await reply.write_eof()
                exchange.is_over = True
                return reply
        except (asyncio.CancelledError, ConnectionResetError):
            exchange.was_left = True
            raise
