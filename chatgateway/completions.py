"""Completions that were made: the one door to a turn that a caller names by its reply's id."""

from __future__ import annotations

from uuid import UUID

from chatgateway.errors import NotFound
from chatgateway.models import Turn
from chatgateway.openai_api.chat_reply import CollectedReply
from profiles.access import Caller

ENDPOINT = "chat.completions"
PREFIX = "chatcmpl-"


def find(caller: Caller, completion_id: str) -> Turn:
    """Return the turn behind an id. Raises NotFound, with one text, for unknown ids, those of other tenants (or keys,
    for a key that sees only its own), refused requests and completions that were not to be stored. One query."""
    turn = None
    if (turn_id := _uuid_of(completion_id)) is not None:
        rows = Turn.objects.filter(pk=turn_id, tenant_id=caller.tenant_id, endpoint=ENDPOINT, is_stored=True)
        if caller.only_own_conversations:
            rows = rows.filter(api_key_id=caller.api_key_id)
        turn = rows.exclude(outcome=Turn.Outcome.REFUSED).first()
    if turn is None:
        raise NotFound(
            "There is no such completion. Completions sent with 'store': false are not kept.",
            code="completion_not_found",
        )
    return turn


def reply_for(turn: Turn) -> CollectedReply:
    return CollectedReply(
        reply_id=turn.reply_id,
        created=int(turn.opened_at.timestamp()),
        model=turn.model_id,
        service_tier_sent=turn.parameters.get("service_tier") is not None,
    )


def _uuid_of(completion_id: str) -> UUID | None:
    try:
        return UUID(hex=completion_id.removeprefix(PREFIX)) if completion_id.startswith(PREFIX) else None
    except ValueError:
        return None
