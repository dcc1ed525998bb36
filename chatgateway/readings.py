"""Who read what callers asked and agents answered: the only writer of `TranscriptReading` rows.

Every page and file of the admin that shows a text of a turn calls `note` before it sends it.
"""

from __future__ import annotations

from django.contrib.auth.models import AbstractUser
from django.http import HttpRequest

from chatgateway.models import Conversation, TranscriptReading, Turn
from profiles.authentication import address_of

PERMISSION = "chatgateway.read_transcript"

What = TranscriptReading.What


def may_read(request: HttpRequest) -> bool:
    """Whether the person may see texts at all; lists of turns without their texts need no such permission."""
    return request.user.has_perm(PERMISSION)


def note(
    request: HttpRequest,
    what: TranscriptReading.What,
    *,
    turn: Turn | None = None,
    conversation: Conversation | None = None,
    turns: int = 1,
    selection: str = "",
) -> None:
    """Write down that the person behind `request` is about to read texts.

    `turns`: of how many turns. `selection`: of an export or a search, what was selected, in words; no searched text.
    """
    user = request.user
    assert isinstance(user, AbstractUser)
    shown = conversation if conversation is not None else turn
    TranscriptReading.objects.create(
        user=user,
        username=user.get_username(),
        address=address_of(request)[:64],
        what=what,
        turn=turn,
        conversation_id=conversation.pk if conversation is not None else turn.conversation_id if turn else None,
        tenant_name=shown.tenant_name if shown is not None else "",
        turns=turns,
        selection=selection[:500],
    )
