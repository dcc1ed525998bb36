"""Responses that were made, and the items of their input and output, read back from the record.

Synchronous; reads only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from chatgateway import frame_log, message_store
from chatgateway.models import RESPONSES, Message, Turn
from chatgateway.openai_api.responses_input import Item, references_in
from chatgateway.openai_api.responses_reply import ResponseHead, conversation_name, sent_item, uuid_in
from chatgateway.openai_api.responses_stream import folded
from chatgateway.stored_reply import ending_of
from chatgateway.turn_events import ShownEvent

# An item's id is a word, then the id of its message or response, then for an item of a reply its place in that.
_ID_DIGITS = 32
PREFIX = "resp_"
# References in one input; each may cost two queries.
MAX_REFERENCES = 100


def turn_named(response_id: str, *, tenant_id: int, api_key_id: int | None = None) -> Turn | None:
    """The turn behind a response's id. None, for whatever reason, unless it is this caller's, was to be stored and had
    begun. One query.

    `api_key_id`: of a key that sees only what it started itself.
    """
    turn_id = uuid_in(response_id, prefix=PREFIX) if response_id.startswith(PREFIX) else None
    if turn_id is None:
        return None
    # A request that was refused at once has no conversation; one that lost its place in the queue has.
    rows = Turn.objects.filter(pk=turn_id, tenant_id=tenant_id, endpoint=RESPONSES, is_stored=True)
    rows = rows.filter(conversation__isnull=False).select_related("conversation", "conversation__agent_server")
    return (rows if api_key_id is None else rows.filter(api_key_id=api_key_id)).first()


def head_of(turn: Turn) -> ResponseHead:
    named = turn.parameters.get("conversation") is not None and turn.conversation_id is not None
    return ResponseHead(
        reply_id=turn.reply_id,
        created=int(turn.opened_at.timestamp()),
        model=turn.model_id,
        parameters=turn.parameters,
        conversation_id=conversation_name(turn.conversation_id) if named and turn.conversation_id else None,
    )


def resource_of(turn: Turn) -> dict[str, Any]:
    """The response of a turn as it stands: what is shown of it so far, and how it ended. One query."""
    shown: list[ShownEvent] = [event for pieces in frame_log.frames_of(turn.pk) for event in frame_log.shown_by(pieces)]
    closed_at = None
    if turn.closed_at is not None:
        shown.append(ending_of(turn))
        closed_at = int(turn.closed_at.timestamp())
    return folded(head_of(turn), shown, has_begun=turn.phase != Turn.Phase.QUEUED, closed_at=closed_at)


def input_of(turn: Turn) -> list[Item]:
    """The items of a turn's own request, first to last, each with its id."""
    return [] if turn.last_message_id is None else sent_items(turn.last_message_id)


def sent_items(last_message_id: UUID) -> list[Item]:
    """The items of a chain of messages, first to last, each with its id."""
    return [sent_item(message_id, body) for message_id, body in message_store.identified_chain(last_message_id)]


def named_in(body: Any, *, tenant_id: int, api_key_id: int | None = None) -> dict[str, Item]:
    """Look up the items that a request's input refers to; those that are not this caller's are left out.

    `api_key_id`: of a key that sees only what it started itself.
    """
    references = references_in(body.get("input")) if isinstance(body, dict) else []
    return _found(dict.fromkeys(references[:MAX_REFERENCES]), tenant_id, api_key_id) if references else {}


def _found(names: Iterable[str], tenant_id: int, api_key_id: int | None) -> dict[str, Item]:
    turns = Turn.objects.filter(tenant_id=tenant_id, endpoint=RESPONSES, is_stored=True)
    if api_key_id is not None:
        turns = turns.filter(api_key_id=api_key_id)
    found: dict[str, Item] = {}
    for name in names:
        owner, place = _parts_of(name)
        if owner is None:
            continue
        if place is None:
            # A message row is shared by all requests of a tenant that begin alike; it is known by its text alone.
            row = Message.objects.filter(pk=owner, tenant_id=tenant_id).first()
            if row is not None and (api_key_id is None or turns.filter(last_message_id=owner).exists()):
                found[name] = message_store.whole(row)
            continue
        turn = turns.filter(pk=owner).first()
        output = [] if turn is None else resource_of(turn)["output"]
        found |= {item["id"]: item for item in output if item["id"] == name}
    return found


def _parts_of(name: str) -> tuple[UUID | None, str | None]:
    digits = name.partition("_")[2]
    try:
        return UUID(hex=digits[:_ID_DIGITS]), digits[_ID_DIGITS:] or None
    except ValueError:
        return None, None
