"""DRF's views, made async: authentication, permissions, throttles and parsers are DRF's, handlers are coroutines.

DRF itself has no async code. `dispatch` runs its checks, awaits the handler and turns exceptions into the error
envelope; a request that needs no database for its checks stays on the event loop.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import orjson
from asgiref.sync import sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.db import close_old_connections
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from rest_framework import exceptions as drf
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.views import APIView

from chatgateway.errors import GatewayError
from chatgateway.exception_handler import error_response, gateway_error
from profiles.access import Caller
from profiles.authentication import ApiKeyAuthentication

T = TypeVar("T")

# Reading a larger body on the event loop would hold up every stream of the process for milliseconds.
LARGE_BODY_BYTES = 64 * 1024


class AlwaysJson(BaseContentNegotiation):
    """Clients of streams ask for JSON, and the other way round (measured): `Accept` decides nothing here."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        sent = (request.content_type or "").partition(";")[0].strip().lower()
        return next((parser for parser in parsers if parser.media_type == sent), None)

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


class StrictJsonParser(BaseParser):
    """JSON as RFC 8259 has it: no NaN, no Infinity, nothing nested until Python's stack is full."""

    media_type = "application/json"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        try:
            return json.loads(stream.read().decode("utf-8"), parse_constant=_refuse_constant)
        except UnicodeDecodeError:
            raise drf.ParseError("The body is not UTF-8.") from None
        except RecursionError:
            raise drf.ParseError("The body is nested too deeply.") from None
        except ValueError as error:
            raise drf.ParseError(f"The body is not valid JSON: {error}"[:300]) from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


class AsyncAPIView(APIView):
    """The base of every view of /v1 and /api. Handlers are coroutines and return Django responses."""

    authentication_classes = [ApiKeyAuthentication]
    content_negotiation_class = AlwaysJson
    parser_classes = [StrictJsonParser]
    renderer_classes: list[type[BaseRenderer]] = [JSONRenderer]
    throttle_classes: list[Any] = []  # rates are counted per key by whoever opens turns; a site may add its own
    http_method_names = ["get", "post", "delete", "head"]

    async def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:  # type: ignore[override]
        self.args, self.kwargs = args, kwargs
        self.request = self.initialize_request(request, *args, **kwargs)
        try:
            await self._check(self.request)
            response: HttpResponseBase = await self._handler()(self.request, *args, **kwargs)
        except Exception as error:  # noqa: BLE001  the outer edge: every failure has the same body
            response = await self.refuse(gateway_error(error))
            if isinstance(error, drf.MethodNotAllowed):
                response["Allow"] = ", ".join(self.allowed_methods)
        self.decorate(response)
        return response

    async def _check(self, request: Request) -> None:
        """DRF's `initial`: who is calling, and may they. On the event loop when the key is known already."""
        try:
            self.initial(request, *self.args, **self.kwargs)
        except SynchronousOnlyOperation:
            await in_thread(lambda: self.initial(request, *self.args, **self.kwargs))

    def _handler(self) -> Callable[..., Any]:
        method = (self.request.method or "").lower()
        handler = getattr(self, method, None) if method in self.http_method_names else None
        if handler is None:
            raise drf.MethodNotAllowed(self.request.method or "")
        return handler  # type: ignore[no-any-return]

    async def refuse(self, error: GatewayError) -> HttpResponse:
        """Return the reply for a request that failed."""
        return error_response(error)

    def decorate(self, response: HttpResponseBase) -> None:
        """Add headers that every reply of the view carries."""

    @property
    def caller(self) -> Caller:
        assert isinstance(self.request.auth, Caller)
        return self.request.auth

    @property
    def request_id(self) -> str:
        return str(self.request.META["gateway.request_id"])

    async def read_body(self) -> Any:
        """Return the parsed JSON body; large ones are parsed off the event loop."""
        if int(self.request.META.get("CONTENT_LENGTH") or 0) > LARGE_BODY_BYTES:
            return await in_thread(lambda: self.request.data)
        return self.request.data


async def in_thread(work: Callable[[], T]) -> T:
    """Run database work or heavy computing in a thread, and leave no connection behind.

    A connection that stays with the request's thread would be held for as long as the request streams.
    """

    def run() -> T:
        try:
            return work()
        finally:
            close_old_connections()

    return await sync_to_async(run)()


def json_response(body: Any, *, status: int = 200) -> HttpResponse:
    return HttpResponse(orjson.dumps(body), status=status, content_type="application/json")
