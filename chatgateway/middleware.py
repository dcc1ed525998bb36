"""The short middleware list of /v1 and /api. All of it is async-native: a synchronous one costs a thread hop."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from uuid import uuid4

from asgiref.sync import markcoroutinefunction
from corsheaders.middleware import CorsMiddleware
from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from chatgateway.errors import InvalidRequest
from chatgateway.exception_handler import error_response

Next = Callable[[HttpRequest], Awaitable[HttpResponseBase]]

# What a browser client of an OpenAI SDK may ask to send.
_ALLOWED_HEADER = re.compile(
    r"authorization|content-type|user-agent|accept|idempotency-key|x-session-api-key|http-referer|x-title|"
    r"x-request-id|traceparent|tracestate|openai-[a-z-]+|x-stainless-[a-z-]+|x-openhands-[a-z-]+|x-gateway-[a-z-]+",
    re.IGNORECASE,
)


class RequestIdentity:
    """Gives each request an id, refuses unknown hosts in JSON, and stamps every reply."""

    async_capable = True
    sync_capable = False

    def __init__(self, get_response: Next) -> None:
        self.get_response = get_response
        markcoroutinefunction(self)

    async def __call__(self, request: HttpRequest) -> HttpResponseBase:
        started = time.perf_counter()
        request_id = f"req_{uuid4().hex}"
        request.META["gateway.request_id"] = request_id
        try:
            request.get_host()
        except DisallowedHost:
            error = InvalidRequest(
                "This gateway does not answer to that host name. The administrator adds it to GATEWAY_ALLOWED_HOSTS.",
                code="host_not_allowed",
            )
            response: HttpResponseBase = error_response(error)
        else:
            response = await self.get_response(request)
        response["x-request-id"] = request_id
        response["openai-processing-ms"] = str(round((time.perf_counter() - started) * 1000))
        response["openai-version"] = "2020-10-01"
        return response


class ApiCors(CorsMiddleware):
    """The library's rules; preflights are answered 204 and get the headers they asked for, if all are allowed."""

    def check_preflight(self, request: HttpRequest) -> HttpResponseBase | None:
        response = super().check_preflight(request)
        return None if response is None else HttpResponse(status=204)

    def add_response_headers(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        super().add_response_headers(request, response)
        asked = request.headers.get("access-control-request-headers", "")
        if "access-control-allow-headers" in response and asked:
            names = [name.strip() for name in asked.split(",")]
            if all(map(_may_be_sent, names)):
                response["access-control-allow-headers"] = ", ".join(names)
        return response


def _may_be_sent(name: str) -> bool:
    own = (*settings.GATEWAY_CHAT_ID_HEADERS, *settings.GATEWAY_END_USER_HEADERS)
    return _ALLOWED_HEADER.fullmatch(name) is not None or name.lower() in map(str.lower, own)
