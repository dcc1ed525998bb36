"""The only production entry point: two Django handlers behind a small dispatcher.

/v1, /api and the probes run through a handler with a middleware list of three; everything else gets the site's.
The dispatcher also limits request bodies, because Django would answer a large one with a page of HTML, and reads
them in full before it asks who is calling.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, closing
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any, cast

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway_project.settings")
django.setup(set_prefix=False)

from asgiref.sync import ThreadSensitiveContext, sync_to_async  # noqa: E402  Django must be set up before anything of ours is imported
from django.conf import settings  # noqa: E402
from django.core.exceptions import RequestAborted  # noqa: E402
from django.core.handlers.asgi import ASGIHandler, ASGIRequest, get_script_prefix  # noqa: E402
from django.db import close_old_connections  # noqa: E402
from django.http import HttpRequest, StreamingHttpResponse  # noqa: E402
from django.http.response import HttpResponseBase  # noqa: E402
from django.urls import set_script_prefix  # noqa: E402
from django.utils import timezone  # noqa: E402

from chatgateway import tracing  # noqa: E402
from chatgateway.errors import GatewayError, InvalidRequest  # noqa: E402
from chatgateway.exception_handler import error_response  # noqa: E402
from chatgateway.middleware import ApiCors, RequestIdentity  # noqa: E402
from profiles import access  # noqa: E402
from profiles.authentication import key_in_headers  # noqa: E402
from profiles.exceptions import UnknownKey  # noqa: E402

logger = logging.getLogger(__name__)

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

API_PREFIXES = ("/v1/", "/api/")
API_PATHS = {"/", "/v1", "/api", "/health", "/health/", "/ready", "/ready/", "/metrics", "/metrics/"}
# Whoever has shown no key yet gets no more of our memory than this.
UNKNOWN_CALLER_BYTES = 1024 * 1024
# A refused body is read on and thrown away up to here, because a client that is still sending does not read replies.
DISCARD_BYTES = 128 * 1024 * 1024


class ApiHandler(ASGIHandler):
    """Django's handler with API_MIDDLEWARE in place of MIDDLEWARE."""

    def load_middleware(self, is_async: bool = False) -> None:
        site = settings.MIDDLEWARE
        settings.MIDDLEWARE = settings.API_MIDDLEWARE
        try:
            super().load_middleware(is_async=is_async)
        finally:
            settings.MIDDLEWARE = site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # type: ignore[override]
        """Django's own, in two parts: an open stream holds on to nothing of its request that it does not need
        (measured: a fifth of its memory). And without the signals that look after database connections at both ends of
        a request.

        They cost each request a thread, started and joined (measured: a quarter of a short turn's CPU on this side
        of the database). Nothing here holds a connection that long: `in_thread` and the writer close their own.
        """
        try:
            async with ThreadSensitiveContext():
                answer = await self._answer(scope, receive)
            if answer is not None:
                await self._deliver(answer, receive, send)
        except BaseExceptionGroup as group:
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from None
            raise

    async def _answer(self, scope: Scope, receive: Receive) -> _Answer | None:
        """Return the response to a request; None if the client goes away before there is one."""
        try:
            body_file = await self.read_body(receive)
        except RequestAborted:
            return None
        with closing(body_file):
            set_script_prefix(get_script_prefix(scope))
            request, refusal = self.create_request(scope, body_file)
            if request is None:
                assert refusal is not None
                return _Answer(refusal)
            span = tracing.begin_request(request)
            response = None
            try:
                async with asyncio.TaskGroup() as tasks:
                    leaving = tasks.create_task(self.listen_for_disconnect(receive))
                    response = await self.run_get_response(request)
                    leaving.cancel()
            except* RequestAborted:
                pass
            finally:
                if response is None and span is not None:
                    span.end(request, status=None)
            if response is None:
                return None
            if response.streaming:
                # Its body was read in full before the view was called.
                request.close()
                response._resource_closers.remove(request.close)  # type: ignore[attr-defined]
            return _Answer(response, None if span is None else partial(span.end, request))

    async def _deliver(self, answer: _Answer, receive: Receive, send: Send) -> None:
        response = answer.response
        was_sent = False
        try:
            async with asyncio.TaskGroup() as tasks:
                leaving = tasks.create_task(self.listen_for_disconnect(receive))
                if isinstance(response, StreamingHttpResponse) and response.is_async:
                    await _send_stream(response, send)
                else:
                    await self.send_response(response, send)
                was_sent = True
                leaving.cancel()
        except* RequestAborted:
            pass
        finally:
            response.close()
            if (delivery := getattr(response, "delivery", None)) is not None:
                delivery.over(was_sent=was_sent, is_connected=lambda: _is_connected(receive))
            if answer.end_span is not None:
                answer.end_span(status=response.status_code)


@dataclass(frozen=True, slots=True)
class _Answer:
    response: HttpResponseBase
    end_span: Callable[..., None] | None = None


async def _send_stream(response: StreamingHttpResponse, send: Send) -> None:
    """As Django sends one whose pieces come from an async generator, with three objects fewer between the two."""
    headers = [(name.encode("ascii"), value.encode("latin-1")) for name, value in response.items()]
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    del headers
    async with aclosing(cast("AsyncGenerator[bytes]", response.streaming_content)) as content:
        async for part in content:
            await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body"})


def _is_connected(receive: Receive) -> bool:
    """Whether the connection of a request whose response is over is still there, as uvicorn sees it.

    ASGI itself has no way to ask: after the response, `receive` says "disconnected" in any case.
    """
    cycle = getattr(getattr(receive, "__self__", None), "cycle", None)
    transport = getattr(cycle, "transport", None)
    return transport is None or not transport.is_closing()


class Dispatcher:
    def __init__(self) -> None:
        self.api = ApiHandler()
        self.site = ASGIHandler()
        self.refuse = RequestIdentity(ApiCors(_refused))  # type: ignore[arg-type]  # async, as what it wraps is

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(f"this application serves HTTP, not {scope['type']}")
        path = scope["path"]
        if not (path in API_PATHS or path.startswith(API_PREFIXES)):
            await self.site(scope, receive, send)
            return
        body = LimitedBody(scope, receive)
        await self.api(scope, body.receive, send)
        if body.is_too_large:
            await body.discard()
            request = ASGIRequest(scope, BytesIO())
            request.META["gateway.refusal"] = body.error()
            await self.api.send_response(await self.refuse(request), send)


class LimitedBody:
    """Counts a request's body. Beyond a mebibyte the caller must be known, beyond the limit nobody goes."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self.cycle = getattr(receive, "__self__", None)  # uvicorn's, which knows the connection
        self._scope = scope
        self._seen = 0
        self._limit = UNKNOWN_CALLER_BYTES
        self._is_complete = False
        self.is_too_large = False

    async def receive(self) -> dict[str, Any]:
        message = await self._receive()
        if message["type"] == "http.request":
            self._seen += len(message.get("body", b""))
            self._is_complete = not message.get("more_body", False)
            if self._seen > self._limit and await self._exceeds_every_limit():
                # To Django the client has gone: it drops what it has read and answers nothing, so that we can.
                self.is_too_large = True
                return {"type": "http.disconnect"}
        return message

    async def _exceeds_every_limit(self) -> bool:
        full = settings.GATEWAY_MAX_BODY_MIB * 1024 * 1024
        if self._limit < full and await sync_to_async(self._caller_is_known)():
            self._limit = full
        return self._seen > self._limit

    def _caller_is_known(self) -> bool:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in self._scope["headers"]}
        key_text = key_in_headers(headers)
        try:
            return key_text is not None and access.caller_for(key_text, now=timezone.now()) is not None
        except UnknownKey:
            return False
        finally:
            close_old_connections()

    async def discard(self) -> None:
        while not self._is_complete and self._seen < DISCARD_BYTES:
            message = await self._receive()
            if message["type"] != "http.request":
                return
            self._seen += len(message.get("body", b""))
            self._is_complete = not message.get("more_body", False)

    def error(self) -> GatewayError:
        if self._limit == UNKNOWN_CALLER_BYTES:
            return InvalidRequest(
                "The request is larger than 1 MiB, which is for known API keys only. Check the key.",
                status=413,
                code="request_too_large",
            )
        return InvalidRequest(
            f"The request is larger than {settings.GATEWAY_MAX_BODY_MIB} MiB. Send less history or smaller images.",
            status=413,
            code="request_too_large",
        )


async def _refused(request: HttpRequest) -> HttpResponseBase:
    """The view behind the middleware of a request whose body was not let in."""
    return error_response(request.META["gateway.refusal"])


application = Dispatcher()
