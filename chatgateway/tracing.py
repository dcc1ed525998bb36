"""OpenTelemetry traces, for who sends them somewhere: what each request and each turn took, and how it ended.

Off unless OpenTelemetry's own variables name a collector; then nothing of it is imported. A request's span is made
while it runs. Those of a turn are made when the turn has closed, from its row: so they are whole whichever process
closed it, and what a turn was is said in one place. No span holds a text of a request or an answer.
"""

from __future__ import annotations

import datetime as dt
import functools
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest

from chatgateway.models import Turn

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer
    from opentelemetry.util.types import AttributeValue

SERVICE_NAME = "openhands-gateway"
# Of GenAI's conventions: who is asked. Theirs has no name for agents of OpenHands.
PROVIDER = "openhands"
_UNTRACED = ("/health", "/ready", "/metrics")
_FAILED = {Turn.Outcome.FAILED, Turn.Outcome.TIMED_OUT, Turn.Outcome.ABANDONED, Turn.Outcome.REFUSED}


class RequestSpan:
    """The span of one HTTP request, until its last byte. `traceparent` is what its turn is filed under."""

    def __init__(self, request: HttpRequest) -> None:
        from opentelemetry.trace import SpanKind

        self._span = _tracer().start_span(
            f"{request.method}",
            context=_context(request.headers.get("traceparent", ""), request.headers.get("tracestate", "")),
            kind=SpanKind.SERVER,
            attributes={
                "http.request.method": str(request.method),
                "url.path": request.path,
                "url.scheme": str(request.scheme),
                "user_agent.original": request.headers.get("User-Agent", "")[:200],
            },
        )

    @property
    def traceparent(self) -> str:
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"

    def joins(self, traceparent: str, *, turn_id: UUID) -> None:
        """The request waits for a turn that another one opened, most likely in another trace."""
        from opentelemetry.trace import get_current_span

        opened_by = get_current_span(_context(traceparent)).get_span_context()
        if opened_by.is_valid:
            self._span.add_link(opened_by, {"gateway.turn.id": str(turn_id)})

    def end(self, request: HttpRequest, *, status: int | None) -> None:
        """`status`: None if the caller had gone before there was a response."""
        from opentelemetry.trace import StatusCode

        route = _template(request.resolver_match.route) if request.resolver_match else ""
        if route:
            self._span.update_name(f"{request.method} {route}")
            self._span.set_attribute("http.route", route)
        self._span.set_attribute("gateway.request.id", str(request.META.get("gateway.request_id", "")))
        if status is None:
            self._span.set_attribute("error.type", "client_disconnected")
        else:
            self._span.set_attribute("http.response.status_code", status)
            if status >= 500:
                self._span.set_attribute("error.type", str(status))
                self._span.set_status(StatusCode.ERROR)
        self._span.end()


def begin_request(request: HttpRequest) -> RequestSpan | None:
    """Begin the span of a request; None when traces are off, and for probes."""
    if not settings.TRACES_ARE_SENT or request.path.startswith(_UNTRACED):
        return None
    span = RequestSpan(request)
    request.META["gateway.span"] = span
    return span


def span_of(request: HttpRequest) -> RequestSpan | None:
    found = request.META.get("gateway.span")
    return found if isinstance(found, RequestSpan) else None


def turn_closed(turn: Turn) -> None:
    """Send the spans of a turn whose end is committed: itself, its wait for an agent-server, and its run there."""
    if not settings.TRACES_ARE_SENT or not turn.traceparent or turn.closed_at is None:
        return
    from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context

    is_agent = turn.kind == Turn.Kind.AGENT
    slug = str(turn.profile_snapshot.get("slug", ""))
    span = _tracer().start_span(
        f"invoke_agent {slug}".strip() if is_agent else f"chat {turn.housekeeping_task}",
        context=_context(turn.traceparent),
        kind=SpanKind.INTERNAL if is_agent else SpanKind.CLIENT,
        start_time=_nanoseconds(turn.opened_at),
        attributes=_attributes(turn, slug),
    )
    if turn.outcome in _FAILED:
        span.set_attribute("error.type", turn.error_code or turn.outcome)
        span.set_status(StatusCode.ERROR, turn.error_code)
    inside = set_span_in_context(span)
    if is_agent and turn.lease_owner and turn.started_at != turn.opened_at:
        _child("wait for an agent-server", inside, turn.opened_at, turn.started_at or turn.closed_at)
    if turn.started_at is not None:
        _run(turn, inside, started_at=turn.started_at, ended_at=turn.closed_at)
    span.end(_nanoseconds(turn.closed_at))


def _run(turn: Turn, inside: Context, *, started_at: dt.datetime, ended_at: dt.datetime) -> None:
    from opentelemetry.trace import SpanKind

    server = urlsplit(turn.server_url)
    span = _tracer().start_span(
        "run on agent-server",
        context=inside,
        kind=SpanKind.CLIENT,
        start_time=_nanoseconds(started_at),
        attributes={"server.address": server.hostname or "", **({"server.port": server.port} if server.port else {})},
    )
    for name, moment in (("message accepted", turn.accepted_at), ("first text", turn.first_text_at)):
        if moment is not None:
            span.add_event(name, timestamp=_nanoseconds(moment))
    span.end(_nanoseconds(ended_at))


def _child(name: str, inside: Context, began: dt.datetime, ended: dt.datetime) -> None:
    _tracer().start_span(name, context=inside, start_time=_nanoseconds(began)).end(_nanoseconds(ended))


def _attributes(turn: Turn, slug: str) -> dict[str, AttributeValue]:
    is_agent = turn.kind == Turn.Kind.AGENT
    first_text = None if turn.first_text_at is None else (turn.first_text_at - turn.opened_at).total_seconds()
    known: dict[str, AttributeValue | None] = {
        "gen_ai.operation.name": "invoke_agent" if is_agent else "chat",
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.agent.name": slug or None,
        "gen_ai.conversation.id": str(turn.conversation_id) if turn.conversation_id else None,
        "gen_ai.request.model": turn.model_id or None,
        "gen_ai.request.stream": turn.is_stream,
        "gen_ai.response.model": str(turn.profile_snapshot.get("llm_model", "")) or None,
        "gen_ai.response.id": turn.reply_id,
        "gen_ai.response.finish_reasons": (turn.finish_reason,) if turn.finish_reason else None,
        "gen_ai.response.time_to_first_chunk": first_text,
        "gen_ai.usage.input_tokens": turn.input_tokens,
        "gen_ai.usage.output_tokens": turn.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": turn.cached_tokens or None,
        "gen_ai.usage.cache_creation.input_tokens": turn.cache_write_tokens or None,
        "gen_ai.usage.reasoning.output_tokens": turn.reasoning_tokens or None,
        "gateway.turn.id": str(turn.pk),
        "gateway.turn.outcome": turn.outcome,
        "gateway.turn.match": turn.match or None,
        "gateway.turn.endpoint": turn.endpoint,
        "gateway.turn.cost_usd": None if turn.cost_usd is None else float(turn.cost_usd),
        "gateway.tenant": turn.tenant_name or None,
        "gateway.key.prefix": turn.key_prefix or None,
        "gateway.request.id": turn.request_id,
    }
    return {name: value for name, value in known.items() if value is not None}


def trace_id(turn: Turn) -> str:
    """The trace that a turn belongs to, for its log line; empty when there is none."""
    return turn.traceparent.split("-")[1] if turn.traceparent else ""


@functools.cache
def _template(route: str) -> str:
    """A route of `urls` in the words of its documentation, such as `/v1/models/{model_id}`; empty for what is none."""
    if "(?:" in route:
        return ""
    named = re.sub(r"\(\?P<(\w+)>.*?\)(?=/|$)", r"{\1}", route.removeprefix("^").removesuffix("$").removesuffix("/?"))
    return f"/{named}"


def _nanoseconds(moment: dt.datetime) -> int:
    # By whole microseconds: as a float the moment would be off by some of them.
    since = moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return (since // dt.timedelta(microseconds=1)) * 1000


def _context(traceparent: str, tracestate: str = "") -> Context:
    """What a caller or a turn says of its trace, as a parent; a new trace if that is nothing, or nonsense."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {"traceparent": traceparent, **({"tracestate": tracestate} if tracestate else {})}
    return TraceContextTextMapPropagator().extract(carrier, context=Context())


def stop() -> None:
    """Send what is left, at the end of a process that a signal ends: the SDK's own handler does not run there."""
    if _provider.cache_info().currsize:
        _provider().shutdown()


def _tracer() -> Tracer:
    return _provider().get_tracer("chatgateway")


@functools.cache
def _provider() -> TracerProvider:
    """Made on first use. The SDK reads its variables itself, and sends from a thread of its own."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME as KEY
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    is_named = KEY in OTELResourceDetector().detect().attributes
    provider = TracerProvider(resource=Resource.create({} if is_named else {KEY: SERVICE_NAME}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
