"""One class per endpoint of /v1: HTTP in, HTTP out, no decisions.

`ChatCompletionsView.post` is the walk of a request; every step is one call.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.conf import settings
from django.db.utils import Error as DatabaseError
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from rest_framework.request import Request

from chatgateway import audit, chats, completions, conversations, health, metrics, tracing, turns
from chatgateway.api_view import LARGE_BODY_BYTES, AsyncAPIView, in_thread, json_response
from chatgateway.audit import Arrival, Asked
from chatgateway.delivery import Delivery
from chatgateway.errors import CompletionInProgress, GatewayError, NotFound
from chatgateway.exception_handler import error_response
from chatgateway.live import LiveTurn
from chatgateway.models import Turn
from chatgateway.openai_api import chat_request, model_ids, repeat_marks
from chatgateway.openai_api.answer_form import takes_long
from chatgateway.openai_api.chat_reply import ChatStream, CollectedReply
from chatgateway.openai_api.chat_request import ChatRequest
from chatgateway.openai_api.error_body import from_failed
from chatgateway.openai_api.sse import json_bytes
from chatgateway.openai_api.text_completion import TextReply, TextStream
from chatgateway.search import Named
from chatgateway.stored_reply import ending_of
from chatgateway.turn_events import TurnFailed
from chatgateway.turns import Subscription
from chatgateway.writer import writer
from profiles import access
from profiles.authentication import MayChat, address_of
from profiles.exceptions import UnknownProfile
from profiles.models import Profile

logger = logging.getLogger(__name__)

CONVERSATION_HEADER = "X-OpenHands-ServerConversation-ID"
MATCH_HEADER = "X-Gateway-Conversation-Match"
IGNORED_HEADER = "X-Gateway-Ignored"
HOUSEKEEPING_HEADER = "X-Gateway-Housekeeping"
ELIDED_HEADER = "X-Gateway-History-Elided"
REPLAYED_HEADER = "Idempotent-Replayed"

# Leading white space is part of no JSON value; every client that was tried reads past it.
PADDING = b" \n"
# An interrupt is confirmed within milliseconds; a cancel that takes longer is answered while it goes on.
CANCEL_SECONDS = 5.0
CANCEL_LOOK_SECONDS = 0.05
MAX_RETRY_COUNT = 1000
# What chat UIs send for chats that have no id of their own, one value for many: Open WebUI for temporary ones
# (`local`, `local:` and a browser's session), others for new ones; or a placeholder that nobody filled in.
NO_CHAT = re.compile(r"(?i)(?:local(?::.*)?|new|null|none|undefined|\{\{.*)\Z")


class V1View(AsyncAPIView):
    """What the endpoints of /v1 share: every authenticated POST leaves a turn, a refused one too."""

    permission_classes = [MayChat]
    endpoint = ""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # What is known of the request so far, for the row of a refusal.
        self.asked = Asked(body=None)
        self.profile: Profile | None = None
        self.subscription: Subscription | None = None
        self.retry_digest = ""
        self.reply_headers: dict[str, str] = {}

    async def refuse(self, error: GatewayError) -> HttpResponse:
        """Answer with the error; a request that opened no turn leaves the row of a refused one."""
        is_authenticated = getattr(self.request, "_authenticator", None) is not None
        if self.request.method == "POST" and is_authenticated and self.subscription is None:
            asked, profile, arrival = self.asked, self.profile, self.arrival()
            try:
                turn = await writer.run(
                    lambda: audit.record_refusal(arrival=arrival, asked=asked, error=error, profile=profile)
                )
                metrics.turn_closed(turn)
            except DatabaseError:
                # Nothing was started; that the refusal itself cannot be recorded must not hide it from the caller.
                logger.exception("the refusal of request %s could not be recorded", self.request_id)
        return error_response(error)

    def decorate(self, response: HttpResponseBase) -> None:
        for name, value in self.reply_headers.items():
            response[name] = value
        if self.subscription is not None:
            if self.subscription.joined_trace and (span := tracing.span_of(self.request)):
                span.joins(self.subscription.joined_trace, turn_id=self.subscription.live.turn_id)
            response.delivery = Delivery(self.subscription)  # type: ignore[attr-defined]  # read by asgi.ApiHandler

    def arrival(self) -> Arrival:
        headers = self.request.headers
        return Arrival(
            request_id=self.request_id,
            endpoint=self.endpoint,
            address=address_of(self.request),
            client=_client(headers),
            caller=self.caller,
            idempotency_key=repeat_marks.key_in(headers),
            retry_count=_retry_count(headers),
            retry_digest=self.retry_digest,
            traceparent=span.traceparent if (span := tracing.span_of(self.request)) else "",
        )

    async def choose_profile(self, body: Any) -> Profile:
        """Return the profile that a body names; raises InvalidRequest or ModelNotFound."""
        self.asked = Asked(body=body)
        model_id = chat_request.parse_model(body)
        self.asked = Asked(body=body, model_id=model_id)
        slug = model_ids.to_slug(model_id)
        profile = access.cached_profile_for(self.caller, slug) if slug else None
        if profile is None:
            profile = await in_thread(lambda: profile_named(self.caller, model_id))
        self.profile = profile
        repeat_marks.check_key(self.request.headers)
        return profile

    def note_digest(self, body: Any) -> None:
        """Note what a repeat of this request is recognised by."""
        self.retry_digest = repeat_marks.digest_of(
            self.endpoint,
            body,
            self.request.headers,
            selecting=(*settings.GATEWAY_CHAT_ID_HEADERS, *settings.GATEWAY_END_USER_HEADERS),
        )

    async def parsed[T](self, parse: Callable[[], T], *, body: Any) -> T:
        """Run `parse`, off the event loop for a large body and for one whose schema takes long to check."""
        is_large = int(self.request.META.get("CONTENT_LENGTH") or 0) > LARGE_BODY_BYTES
        return await sync_to_async(parse)() if is_large or takes_long(body) else parse()

    def headers_for(self, found: Subscription, ignored: tuple[str, ...]) -> dict[str, str]:
        """The headers of a reply that comes from a turn."""
        return {
            **({CONVERSATION_HEADER: str(found.live.conversation_id)} if found.live.conversation_id else {}),
            **({MATCH_HEADER: found.match} if found.match else {}),
            **({HOUSEKEEPING_HEADER: found.task} if found.task else {}),
            **({ELIDED_HEADER: str(found.elided)} if found.elided else {}),
            **({IGNORED_HEADER: ", ".join(ignored)} if ignored else {}),
            **found.limits,
            **({REPLAYED_HEADER: "true"} if found.is_replay else {}),
        }

    @asynccontextmanager
    async def until_answered(self, found: Subscription) -> AsyncIterator[None]:
        """A client that goes away before there is a response leaves here; later, its `Delivery` sees it."""
        try:
            yield
        except asyncio.CancelledError:
            turns.leave(found, delivered=False)
            raise


class ModelsView(V1View):
    """`GET /v1/models`: the profiles this key may use. From the database alone, whatever state the agents are in."""

    async def get(self, _: Request) -> HttpResponse:
        profiles = await in_thread(lambda: access.profiles_for(self.caller))
        return json_response(model_ids.model_list(_model(profile) for profile in profiles))


class ModelView(V1View):
    """`GET /v1/models/{id}`."""

    async def get(self, _: Request, model_id: str) -> HttpResponse:
        profile = await in_thread(lambda: profile_named(self.caller, model_id))
        return json_response(_model(profile))


class ChatCompletionsView(V1View):
    """`POST /v1/chat/completions`: one turn of an agent, streamed or collected by the same engine.

    `parse`, `reply` and `stream` are its wire format; an endpoint with another one has its own.
    """

    endpoint = "chat.completions"
    parse = staticmethod(chat_request.parse)

    def reply(self, live: LiveTurn, chat: ChatRequest) -> CollectedReply | TextReply:
        return CollectedReply(
            reply_id=live.reply_id, created=live.created, model=chat.model, service_tier_sent=chat.service_tier_sent
        )

    def stream(self, live: LiveTurn, chat: ChatRequest) -> ChatStream | TextStream:
        return ChatStream(
            reply_id=live.reply_id,
            created=live.created,
            model=chat.model,
            include_usage=chat.include_usage,
            service_tier_sent=chat.service_tier_sent,
        )

    async def post(self, request: Request) -> HttpResponseBase:
        body = await self.read_body()
        chat, profile = await self._understand(body)
        named = named_by(request, chat)
        self.asked = asked_by(chat.raw, chat, named)
        self.subscription = found = await turns.join_or_open(
            arrival=self.arrival(),
            asked=self.asked,
            chat=chat,
            profile=profile,
            named=named,
        )
        self.reply_headers = self.headers_for(found, chat.ignored)
        return await (self._streamed(found, chat) if chat.stream else self._collected(found, chat))

    async def _understand(self, body: Any) -> tuple[ChatRequest, Profile]:
        """Check the body in the order clients rely on: is it JSON, is there such a model, is the rest right."""
        chosen = await self.choose_profile(body)

        def parse() -> ChatRequest:
            chat = self.parse(
                body,
                client_tools="ignore" if chosen.client_tools == Profile.ClientTools.IGNORE else "reject",
                accepts_images=chosen.sees_images,
                accepts_remote_images=chosen.accepts_remote_images,
                honours_overrides=chosen.allows_overrides,
                refuses_ignored=self.caller.refuses_ignored,
            )
            self.note_digest(body)
            return chat

        return await self.parsed(parse, body=body), chosen

    async def _collected(self, found: Subscription, chat: ChatRequest) -> HttpResponseBase:
        live = found.live
        reply = self.reply(live, chat)
        async with self.until_answered(found):
            try:
                async with asyncio.timeout(settings.GATEWAY_UNSTREAMED_KEEPALIVE_SECONDS or None):
                    ended = await live.result()
            except TimeoutError:
                return StreamingHttpResponse(_padded(live, reply), content_type="application/json")
        if isinstance(ended, TurnFailed):
            raise from_failed(for_repeaters(ended, found.arrival))
        return json_response(reply.answered(ended))

    async def _streamed(self, found: Subscription, chat: ChatRequest) -> HttpResponseBase:
        """Send headers once the agent has the message, or a moment after the request: whichever is first."""
        live = found.live
        async with self.until_answered(found):
            try:
                async with asyncio.timeout(settings.GATEWAY_HEADERS_WITHIN_SECONDS):
                    await live.accepted.wait()
            except TimeoutError:
                pass
        if isinstance(live.ended, TurnFailed):
            raise from_failed(for_repeaters(live.ended, found.arrival))
        stream = self.stream(live, chat)
        response = StreamingHttpResponse(_event_stream(live, stream), content_type="text/event-stream; charset=utf-8")
        response["Cache-Control"] = "no-cache, no-transform"
        response["X-Accel-Buffering"] = "no"
        return response


class CompletionView(V1View):
    """`GET /v1/chat/completions/{id}`: a completion that was made, for whoever lost it."""

    async def get(self, _: Request, completion_id: str) -> HttpResponse:
        turn = await in_thread(lambda: completions.find(self.caller, completion_id))
        if turn.conversation_id is not None:
            self.reply_headers = {CONVERSATION_HEADER: str(turn.conversation_id)}
        if turn.outcome == Turn.Outcome.OPEN:
            raise CompletionInProgress("The agent is still at work. Ask again in a moment.")
        ended = ending_of(turn)
        if isinstance(ended, TurnFailed):
            raise from_failed(ended)
        return json_response(completions.reply_for(turn).answered(ended))


class CancelView(V1View):
    """`POST /v1/chat/completions/{id}/cancel`: stop the agent. Whoever waits for the answer gets an error."""

    endpoint = "chat.completions.cancel"

    async def post(self, _: Request, completion_id: str) -> HttpResponse:
        turn = await in_thread(lambda: completions.find(self.caller, completion_id))
        if turn.outcome == Turn.Outcome.OPEN:
            await turns.cancel(turn.pk, reason="request")
        give_up_at = time.monotonic() + CANCEL_SECONDS
        while turn.outcome == Turn.Outcome.OPEN and time.monotonic() < give_up_at:
            await asyncio.sleep(CANCEL_LOOK_SECONDS)
            turn = await in_thread(lambda: completions.find(self.caller, completion_id))
        status = "cancelling" if turn.outcome == Turn.Outcome.OPEN else turn.outcome
        return json_response({"id": turn.reply_id, "object": "chat.completion.cancellation", "status": status})


async def _event_stream(live: LiveTurn, stream: ChatStream | TextStream) -> AsyncIterator[bytes]:
    yield stream.opening()
    async for batch in live.batches(quiet_seconds=settings.GATEWAY_PING_SECONDS):
        chunk = stream.events(batch) if batch else stream.ping()
        if chunk:
            yield chunk


async def _padded(live: LiveTurn, reply: CollectedReply | TextReply) -> AsyncIterator[bytes]:
    """White space while the agent works, then the JSON: proxies and clients give up on a silent connection.

    The status is spent by then, so a failure has the shape of a completion without choices, and its error beside it.
    """
    yield PADDING
    async for batch in live.batches(quiet_seconds=settings.GATEWAY_PING_SECONDS):
        if not batch:
            yield PADDING
    assert live.ended is not None
    ended = live.ended
    yield json_bytes(reply.failed(ended) if isinstance(ended, TurnFailed) else reply.answered(ended))


def for_repeaters(ended: TurnFailed, arrival: Arrival) -> TurnFailed:
    """A client whose repeat would be recognised is welcome to come again when a turn is handed to another process."""
    if ended.is_handover and arrival.may_be_repeated:
        return replace(ended, headers={"Retry-After": "1"})
    return ended


def profile_named(caller: access.Caller, model_id: str) -> Profile:
    """Return the profile behind a model id; raises ModelNotFound, the same for unknown and forbidden ones."""
    slug = model_ids.to_slug(model_id)
    if slug is None:
        raise model_ids.model_not_found(model_id)
    try:
        return access.profile_for(caller, slug)
    except UnknownProfile:
        raise model_ids.model_not_found(model_id) from None


def _model(profile: Profile) -> dict[str, Any]:
    created = int(profile.created_at.timestamp())
    return model_ids.model_object(slug=profile.slug, created=created, description=profile.description)


def asked_by(body: Any, chat: ChatRequest, named: Named) -> Asked:
    return Asked(
        body=body,
        model_id=chat.model,
        is_stream=chat.stream,
        end_user=named.end_user,
        ignored=chat.ignored,
        is_stored=chat.store,
    )


def named_by(request: Request, chat: ChatRequest) -> Named:
    """Return what the request says of where it belongs. An end user named in the body wins over one in a header."""
    chat_id = _first_of(settings.GATEWAY_CHAT_ID_HEADERS, request)
    return Named(
        conversation_id=_requested_conversation(request, chat),
        chat_id="" if NO_CHAT.match(chat_id) else chat_id,
        end_user=chat.end_user or _first_of(settings.GATEWAY_END_USER_HEADERS, request),
        sends_history=chats.is_from_client_that_sends_history(request.headers),
    )


def _first_of(names: list[str], request: Request) -> str:
    """Return the value of the first of these headers that was sent, empty if none was."""
    values = (request.headers.get(name, "").strip() for name in names)
    return next((value for value in values if value), "")


def _requested_conversation(request: Request, chat: ChatRequest) -> UUID | None:
    """Return the conversation the caller names, in the header or in the metadata; the header wins."""
    named = request.headers.get(CONVERSATION_HEADER) or chat.metadata.get("conversation_id")
    if not named:
        return None
    try:
        return UUID(named.strip())
    except ValueError:
        raise conversations.not_found() from None


def _retry_count(headers: Any) -> int | None:
    """Return how often an OpenAI SDK has tried this request before; None for clients that do not say."""
    text = headers.get("X-Stainless-Retry-Count", "")
    return min(int(text), MAX_RETRY_COUNT) if text.isascii() and text.isdigit() and len(text) < 9 else None


def _client(headers: Any) -> str:
    """Return the client's own name, such as `OpenAI/Python 2.54.0`."""
    agent = str(headers.get("User-Agent", ""))
    language, version = headers.get("X-Stainless-Lang", ""), headers.get("X-Stainless-Package-Version", "")
    return agent or f"{language} {version}".strip()


# --- outside /v1 -----------------------------------------------------------------------------------------------------


async def health_view(_: HttpRequest) -> JsonResponse:
    """`GET /health`: the process answers. No key, no database."""
    return JsonResponse({"status": "ok"})


async def ready_view(_: HttpRequest) -> JsonResponse:
    """`GET /ready`: 200 when turns can be served, 503 with what is missing; in both cases what is wrong besides."""
    found = await in_thread(health.look)
    status, code = ("unavailable", 503) if found.missing else ("ready", 200)
    return JsonResponse({"status": status, "missing": found.missing, "impaired": found.impaired}, status=code)


async def root_view(_: HttpRequest) -> JsonResponse:
    """`GET /` and `/v1`: what this is, for people who look."""
    return JsonResponse(
        {
            "name": "OpenHands gateway",
            "description": "Agents as models, for OpenAI clients.",
            "models": "/v1/models",
            "chat": "/v1/chat/completions",
            "responses": "/v1/responses",
            "admin": "/admin/",
        }
    )


class UnknownUrlView(V1View):
    """Whatever else is asked under /v1 and /api: 404 in the envelope, for whoever has a key."""

    permission_classes = []

    async def get(self, _: Request, **__: str) -> HttpResponse:
        raise NotFound("There is nothing at this URL. This gateway serves agents under /v1.", code="unknown_url")

    post = put = patch = delete = get
    http_method_names = ["get", "post", "put", "patch", "delete", "head"]
