"""The raw record of a turn, as JSON in frames without scripts: the request, the reply, the agent-server's events."""

from __future__ import annotations

import json
from typing import Any

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse

from chatgateway import audit, completions, stored_items, stored_reply
from chatgateway.admin import frames
from chatgateway.models import RESPONSES, Event, Turn
from chatgateway.openai_api.error_body import error_body
from chatgateway.openai_api.text_completion import TextReply
from chatgateway.turn_events import TurnFailed
from profiles.admin_theme import moment

EVENTS_PER_PAGE = 100
# What a browser shows without trouble; the whole request can be downloaded.
MAXIMUM_FRAME_CHARS = 1_000_000


def raw_request(request: HttpRequest, turn: Turn) -> HttpResponse:
    """Return the request's JSON, rebuilt: in a frame, or whole as a file."""
    return _json_document(request, audit.rebuild_request(turn), name=f"request-{turn.pk}.json")


def raw_response(request: HttpRequest, turn: Turn) -> HttpResponse:
    """Return the reply's JSON, as a caller had it that did not ask for a stream."""
    return _json_document(request, reply_of(turn), name=f"response-{turn.pk}.json", note=_reply_note(turn))


def raw_events(request: HttpRequest, turn: Turn) -> HttpResponse:
    """Return a page of the agent-server's events as they were sent."""
    page = Paginator(turn.events.order_by("seq"), EVENTS_PER_PAGE).get_page(request.GET.get("page"))
    text = "\n\n".join(_raw(event) for event in page)
    links = []
    if page.has_previous():
        links.append(("earlier", f"?page={page.previous_page_number()}"))
    if page.has_next():
        links.append(("later", f"?page={page.next_page_number()}"))
    note = f"Events {page.start_index():,} to {page.end_index():,} of {page.paginator.count:,}."
    return frames.document(request, text=text[:MAXIMUM_FRAME_CHARS], note=note, links=links)


def reply_of(turn: Turn) -> dict[str, Any] | None:
    """Return the JSON of a turn's reply, None as long as there is none. Queries for a response."""
    if turn.outcome == Turn.Outcome.OPEN:
        return None
    ending = stored_reply.ending_of(turn)
    if isinstance(ending, TurnFailed):
        is_response = turn.endpoint == RESPONSES and turn.outcome != Turn.Outcome.REFUSED
        return stored_items.resource_of(turn) if is_response else error_body(ending)
    if turn.endpoint == RESPONSES:
        return stored_items.resource_of(turn)
    if turn.endpoint == "completions":
        created = int(turn.opened_at.timestamp())
        return TextReply(reply_id=turn.reply_id, created=created, model=turn.model_id).answered(ending)
    return completions.reply_for(turn).answered(ending)


def _reply_note(turn: Turn) -> str:
    if turn.outcome == Turn.Outcome.OPEN:
        return "There is none yet: the agent is at work."
    status = f"Status {turn.http_status}. " if turn.http_status else ""
    return f"{status}Its caller had it as a stream, of which this is the sum." if turn.is_stream else status


def _json_document(request: HttpRequest, value: Any, *, name: str, note: str = "") -> HttpResponse:
    text = "" if value is None else json.dumps(value, indent=2, ensure_ascii=False)
    if "download" in request.GET:
        response = HttpResponse(text, content_type="application/json; charset=utf-8")
        response["Content-Disposition"] = f'attachment; filename="{name}"'
        response["Cache-Control"] = "no-store, private"
        return response
    if len(text) > MAXIMUM_FRAME_CHARS:
        note = f"The first {MAXIMUM_FRAME_CHARS:,} of {len(text):,} characters. Download it to see the rest."
    return frames.document(request, text=text[:MAXIMUM_FRAME_CHARS], note=note)


def _raw(event: Event) -> str:
    return f"#{event.seq} {event.kind} {moment(event.received_at, seconds=True)}\n{pretty(event.raw)}"


def pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str) if value else ""
