"""The endpoints of /v1/responses: the same turns as those of chat completions, told as responses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import UUID

from django.conf import settings
from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from rest_framework.request import Request

from chatgateway import audit, conversations, responses, stored_items, turns
from chatgateway.api_view import in_thread, json_response
from chatgateway.drivers import current
from chatgateway.errors import InvalidRequest
from chatgateway.live import LiveTurn
from chatgateway.models import RESPONSES, Turn
from chatgateway.openai_api import responses_request
from chatgateway.openai_api.error_body import from_failed
from chatgateway.openai_api.responses_input import references_in
from chatgateway.openai_api.responses_reply import ResponseHead, conversation_name, uuid_in
from chatgateway.openai_api.responses_request import ResponseRequest
from chatgateway.openai_api.responses_stream import ResponseStream
from chatgateway.openai_api.sse import PING, json_bytes
from chatgateway.search import Named
from chatgateway.turn_events import TurnFailed
from chatgateway.turns import Subscription
from chatgateway.views import (
    CANCEL_LOOK_SECONDS,
    CANCEL_SECONDS,
    CONVERSATION_HEADER,
    PADDING,
    V1View,
    asked_by,
    for_repeaters,
    named_by,
)
from chatgateway.writer import writer
from profiles.models import Profile

MAX_SEQUENCE_NUMBER = 2**31


class ResponsesView(V1View):
    """`POST /v1/responses`: one turn of an agent, collected, streamed, or begun and left to itself."""

    endpoint = RESPONSES

    async def post(self, request: Request) -> HttpResponseBase:
        body = await self.read_body()
        asked, profile = await self._understand(body)
        named = self._named(asked)
        self.asked = asked_by(body, asked, named)
        self.subscription = found = await turns.join_or_open(
            arrival=self.arrival(), asked=self.asked, chat=asked, profile=profile, named=named
        )
        self.reply_headers = self.headers_for(found, asked.ignored)
        head = _head(found.live, asked)
        if asked.stream:
            return await self._streamed(found, head)
        return self._begun(found, head) if asked.is_background else await self._collected(found, head)

    async def _understand(self, body: Any) -> tuple[ResponseRequest, Profile]:
        """Check the body in the order clients rely on: is it JSON, is there such a model, is the rest right."""
        profile = await self.choose_profile(body)
        caller, stored = self.caller, {}
        if references_in(body.get("input")):
            own_key = caller.api_key_id if caller.only_own_conversations else None
            stored = await in_thread(
                lambda: stored_items.named_in(body, tenant_id=caller.tenant_id, api_key_id=own_key)
            )

        def parse() -> ResponseRequest:
            asked = responses_request.parse(
                body,
                stored=stored,
                client_tools="ignore" if profile.client_tools == Profile.ClientTools.IGNORE else "reject",
                accepts_images=profile.sees_images,
                accepts_remote_images=profile.accepts_remote_images,
                honours_overrides=profile.allows_overrides,
                refuses_ignored=self.caller.refuses_ignored,
            )
            self.note_digest(body)
            return asked

        return await self.parsed(parse, body=body), profile

    def _named(self, asked: ResponseRequest) -> Named:
        """What the body says of where the response belongs wins over headers."""
        named = replace(named_by(self.request, asked), instructions=asked.instructions)
        if asked.previous_response_id:
            return replace(named, previous_response_id=asked.previous_response_id)
        if not asked.conversation:
            return named
        conversation_id = uuid_in(asked.conversation)
        if conversation_id is None:
            raise conversations.not_found()
        return replace(named, conversation_id=conversation_id)

    async def _collected(self, found: Subscription, head: ResponseHead) -> HttpResponseBase:
        live = found.live
        async with self.until_answered(found):
            try:
                async with asyncio.timeout(settings.GATEWAY_UNSTREAMED_KEEPALIVE_SECONDS or None):
                    ended = await live.result()
            except TimeoutError:
                return StreamingHttpResponse(_padded(live, head), content_type="application/json")
            if isinstance(ended, TurnFailed):
                raise from_failed(for_repeaters(ended, found.arrival))
            return json_response(await _whole(live, head))

    def _begun(self, found: Subscription, head: ResponseHead) -> HttpResponseBase:
        """The response as it stands; the agent is not waited for."""
        live = found.live
        return json_response(head.resource("in_progress" if live.accepted.is_set() else "queued"))

    async def _streamed(self, found: Subscription, head: ResponseHead) -> HttpResponseBase:
        """Send headers once the agent has the message, or a moment after the request: whichever is first. Until then
        a failure has its own status, but for a response in the background, which exists from now on."""
        live = found.live
        async with self.until_answered(found):
            try:
                async with asyncio.timeout(0 if head.is_background else settings.GATEWAY_HEADERS_WITHIN_SECONDS):
                    await live.accepted.wait()
            except TimeoutError:
                pass
            if isinstance(live.ended, TurnFailed) and not head.is_background:
                raise from_failed(for_repeaters(live.ended, found.arrival))
        return _event_stream(live, head)


class ResponseView(V1View):
    """`GET` and `DELETE /v1/responses/{id}`: a response as it stands, or its stream from a number on."""

    async def get(self, request: Request, response_id: str) -> HttpResponseBase:
        responses.check_include(request.GET)
        turn = await in_thread(lambda: responses.find(self.caller, response_id))
        self.reply_headers = _conversation_of(turn)
        if request.GET.get("stream", "false").lower() in ("true", "1"):
            return _event_stream(
                current().subscription(turn), stored_items.head_of(turn), after=_starting_after(request)
            )
        return json_response(await in_thread(lambda: stored_items.resource_of(turn)))

    async def delete(self, _: Request, response_id: str) -> HttpResponse:
        """The response is given out no more, and an agent that is at work on it is stopped."""
        turn = await in_thread(lambda: responses.find(self.caller, response_id))
        await writer.run(lambda: audit.forget_response(turn))
        if turn.outcome == Turn.Outcome.OPEN:
            await turns.cancel(turn.pk, reason="request")
        return json_response({"id": turn.reply_id, "object": "response", "deleted": True})


class ResponseCancelView(V1View):
    """`POST /v1/responses/{id}/cancel`: stop the agent of a response in the background."""

    endpoint = "responses.cancel"

    async def post(self, _: Request, response_id: str) -> HttpResponse:
        turn = await in_thread(lambda: responses.find(self.caller, response_id))
        if not turn.is_background:
            raise InvalidRequest(
                "Only responses in the background can be cancelled. Close the connection to stop any other.",
                code="unsupported_value",
            )
        if turn.outcome == Turn.Outcome.OPEN:
            await turns.cancel(turn.pk, reason="request")
        give_up_at = time.monotonic() + CANCEL_SECONDS
        while turn.outcome == Turn.Outcome.OPEN and time.monotonic() < give_up_at:
            await asyncio.sleep(CANCEL_LOOK_SECONDS)
            turn = await in_thread(lambda: responses.find(self.caller, response_id))
        return json_response(await in_thread(lambda: stored_items.resource_of(turn)))


class InputItemsView(V1View):
    """`GET /v1/responses/{id}/input_items`: what its own request held."""

    async def get(self, request: Request, response_id: str) -> HttpResponse:
        page = responses.page_in(request.GET)
        turn = await in_thread(lambda: responses.find(self.caller, response_id))
        items = await in_thread(lambda: stored_items.input_of(turn))
        return json_response(responses.paged(items, page))


class UnservedView(V1View):
    """`POST /v1/responses/compact` and `/input_tokens`: refused by name, after what is checked of every request."""

    reason = ""

    async def post(self, _: Request) -> HttpResponse:
        await self.choose_profile(await self.read_body())
        raise InvalidRequest(self.reason, code="unsupported_endpoint")


class CompactView(UnservedView):
    endpoint = "responses.compact"
    reason = (
        "Responses cannot be compacted here: agents shorten their history by themselves. Go on with "
        "'previous_response_id' or 'conversation'."
    )


class InputTokensView(UnservedView):
    endpoint = "responses.input_tokens"
    reason = (
        "Tokens cannot be counted before a run: an agent calls its model as often as the task needs. The usage of a "
        "response says what it took."
    )


def _head(live: LiveTurn, asked: ResponseRequest) -> ResponseHead:
    conversation_id: UUID | None = live.conversation_id if asked.conversation else None
    return ResponseHead(
        reply_id=live.reply_id,
        created=live.created,
        model=asked.model,
        parameters=asked.raw,
        conversation_id=None if conversation_id is None else conversation_name(conversation_id),
    )


def _event_stream(live: LiveTurn, head: ResponseHead, *, after: int = -1) -> StreamingHttpResponse:
    response = StreamingHttpResponse(
        _numbered(live, head, after=after), content_type="text/event-stream; charset=utf-8"
    )
    response["Cache-Control"] = "no-cache, no-transform"
    response["X-Accel-Buffering"] = "no"
    return response


async def _numbered(live: LiveTurn, head: ResponseHead, *, after: int) -> AsyncIterator[bytes]:
    """The events of a response after a number. Everything before is made too: the numbers follow from it."""
    stream = ResponseStream(head)
    yield PING + b"".join(data for number, data in stream.opening() if number > after)
    async for batch in live.batches(quiet_seconds=settings.GATEWAY_PING_SECONDS):
        numbered = stream.begun() if live.accepted.is_set() and not live.ended else []
        numbered += stream.events(batch, closed_at=live.closed_at)
        data = b"".join(data for number, data in numbered if number > after)
        if data or not batch:
            yield data or PING


async def _whole(live: LiveTurn, head: ResponseHead) -> dict[str, Any]:
    """The response of a turn that has ended."""
    stream = ResponseStream(head)
    stream.opening()
    async for batch in live.batches(quiet_seconds=settings.GATEWAY_PING_SECONDS):
        stream.events(batch, closed_at=live.closed_at)
    return stream.resource


async def _padded(live: LiveTurn, head: ResponseHead) -> AsyncIterator[bytes]:
    """White space while the agent works, then the JSON. The status is spent by then: a failure is a failed response."""
    yield PADDING
    async for batch in live.batches(quiet_seconds=settings.GATEWAY_PING_SECONDS):
        if not batch:
            yield PADDING
    yield json_bytes(await _whole(live, head))


def _starting_after(request: Request) -> int:
    text = request.GET.get("starting_after", "")
    if not text:
        return -1
    if not (text.isascii() and text.isdigit() and int(text[:12]) < MAX_SEQUENCE_NUMBER):
        raise InvalidRequest(
            "'starting_after' must be the sequence_number of an event, a whole number.", param="starting_after"
        )
    return int(text)


def _conversation_of(turn: Turn) -> dict[str, str]:
    return {CONVERSATION_HEADER: str(turn.conversation_id)} if turn.conversation_id else {}
