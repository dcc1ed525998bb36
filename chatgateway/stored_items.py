"""Responses that were made, and the items of their input and output, read back from the record.

Synchronous; reads only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from chatgateway import frame_log, message_store
from chatgateway.models import RESPONSES, Conversation, Message, Turn
from chatgateway.openai_api.responses_input import Item, references_in
from chatgateway.openai_api.responses_reply import ResponseHead, conversation_name, message_item, sent_item, uuid_in
from chatgateway.openai_api.responses_stream import folded
from chatgateway.stored_reply import ending_of
from chatgateway.turn_events import ShownEvent

# An item's id is a word, then the id of its message or response, then for an item of a reply its place in that.
_ID_DIGITS = 32
PREFIX = "resp_"
_CAME_TO_NOTHING = (Turn.Outcome.REFUSED, Turn.Outcome.FAILED)
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
    return _resource(turn, frame_log.frames_of(turn.pk))


def _resource(turn: Turn, frames: Iterable[list[frame_log.Piece]]) -> dict[str, Any]:
    shown: list[ShownEvent] = [event for pieces in frames for event in frame_log.shown_by(pieces)]
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
    return _sent(message_store.identified_chain(last_message_id))


def _sent(chain: Iterable[tuple[UUID, Item]]) -> list[Item]:
    return [sent_item(message_id, body) for message_id, body in chain]


def conversation_items(conversation: Conversation) -> list[Item]:
    """What was said in a conversation, first to last: what it was made with, and its turns' new items and replies.

    Without turns that came to nothing, and those that were not to be stored. As many queries for a long one as for a
    short one.
    """
    stored = conversation.turns.filter(is_stored=True, closed_at__isnull=False)
    turns = list(stored.exclude(outcome__in=_CAME_TO_NOTHING).order_by("arrival"))
    last_ids = [conversation.first_items_id, *(turn.last_message_id for turn in turns)]
    chains = message_store.identified_chains(last_id for last_id in last_ids if last_id is not None)
    frames = frame_log.frames_of_each(turn.pk for turn in turns if turn.is_response)
    items = [] if conversation.first_items_id is None else _sent(chains[conversation.first_items_id])
    for turn in turns:
        sent = [] if turn.last_message_id is None else _sent(chains[turn.last_message_id])
        items += sent if _sends_only_new(turn) or not items else sent[_new_from(sent) :]
        if turn.is_response:
            items += _resource(turn, frames.get(turn.pk, []))["output"]
        elif turn.answer:
            items.append(message_item(f"msg_{turn.pk.hex}0000", turn.answer))
    return items


def _sends_only_new(turn: Turn) -> bool:
    named = turn.parameters.get("previous_response_id") or turn.parameters.get("conversation")
    return turn.is_response and bool(named)


def _new_from(items: list[Item]) -> int:
    """Where the new turn of a request begins that sends its history again: after the last answer in it."""
    answers = (index for index in range(len(items), 0, -1) if items[index - 1].get("role") == "assistant")
    return next(answers, 0)


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
