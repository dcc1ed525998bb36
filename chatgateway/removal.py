"""Takes out of the record what is no longer to be kept: texts, whole turns, what points to a person.

The only code that deletes `Turn`, `TurnText`, `Event`, `FileChanges`, `Message` and `Image` rows, or empties their
columns. Synchronous, in short transactions under the lock that turns are opened under: a message can become another
turn's earlier message at any moment, and must not be deleted while that happens.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone

from chatgateway import servers
from chatgateway.models import (
    Attempt,
    Conversation,
    Event,
    FileChanges,
    Frame,
    Image,
    Leftover,
    Message,
    Turn,
    TurnText,
)

# A transaction keeps other turns from being opened: so many rows take milliseconds.
BATCH = 100
# After a turn has closed its driver may still write events: within a second, says `audit`.
SETTLED_SECONDS = 30

# What a turn holds of what was said, and what it is without it. Digests of a text go with it: they would find a turn
# that can no longer be told.
CONTENT: Mapping[str, Any] = MappingProxyType(
    {
        "parameters": {},
        "last_message": None,
        "answer": "",
        "continued_text": "",
        "reasoning": "",
        "error_param": "",
        "error_message": "",
        "error_detail": "",
        "request_digest": "",
        "end_digest": "",
        "retry_digest": "",
        "idempotency_key": "",
    }
)
# What points to the person who asked.
PERSON: Mapping[str, Any] = MappingProxyType({"end_user": "", "address": "", "client": ""})
# States in which no agent-server has the conversation.
_GONE = (Conversation.State.DELETED, Conversation.State.LOST, Conversation.State.EXPIRED)


def remove_content(turn_ids: Collection[UUID], *, why: str) -> int:
    """Take texts and events off turns that have ended, and say on them why and when. Return how many there were.

    A message goes when no other turn's request holds it any more, an image when no message does.
    """
    rows = Turn.objects.filter(settled(), pk__in=turn_ids, content_removed_at__isnull=True)
    # Before the lock: they are most of the work, and nobody writes events of such turns any more. What dies in between
    # is found again by the next sweep.
    ended = list(rows.values_list("pk", flat=True))
    Event.objects.filter(turn_id__in=ended).delete()
    Frame.objects.filter(turn_id__in=ended).delete()
    with transaction.atomic():
        servers.lock()
        found = list(rows.values_list("pk", "last_message_id"))
        removed = Turn.objects.filter(pk__in=[pk for pk, _ in found]).update(
            **CONTENT, content_removed_at=timezone.now(), content_removed_by=why[:200]
        )
        # After the update, which waits for whoever writes one of a turn at this moment.
        FileChanges.objects.filter(turn_id__in=[pk for pk, _ in found]).delete()
        # After the turns are locked: whoever indexes texts locks them first, and cannot bring these back.
        TurnText.objects.filter(turn_id__in=[pk for pk, _ in found]).delete()
        _drop_messages({last for _, last in found})
    return removed


def remove_person(turn_ids: Collection[UUID]) -> None:
    """Take off turns who asked and from where."""
    with transaction.atomic():
        Turn.objects.filter(settled(), pk__in=turn_ids).update(**PERSON)
        Attempt.objects.filter(turn_id__in=turn_ids).update(address="", client="")


def delete_turns(turn_ids: Collection[UUID]) -> int:
    """Delete turns that have ended, with all that belongs to them. Return how many there were."""
    rows = Turn.objects.filter(settled(), pk__in=turn_ids)
    ended = list(rows.values_list("pk", flat=True))
    Event.objects.filter(turn_id__in=ended).delete()  # before the lock, as in `remove_content`
    Frame.objects.filter(turn_id__in=ended).delete()
    with transaction.atomic():
        servers.lock()
        messages = set(rows.values_list("last_message_id", flat=True))
        _, by_model = rows.delete()
        _drop_messages(messages)
    return by_model.get(Turn._meta.label, 0)


def remove_system_texts(conversations: Iterable[UUID]) -> int:
    """Take the callers' system messages, and what a conversation was made with, off conversations that no agent-server
    has."""
    with transaction.atomic():
        servers.lock()
        rows = Conversation.objects.filter(pk__in=list(conversations), state__in=_GONE)
        messages = set(rows.values_list("first_items_id", flat=True))
        changed = rows.update(system_suffix="", instructions="", metadata={}, first_items=None)
        _drop_messages(messages)
    return changed


def delete_empty_conversations(*, of: Q, before: dt.datetime) -> int:
    """Delete conversations without turns that were last used before a moment and have left nothing on a server."""
    with transaction.atomic():
        servers.lock()
        empty = (
            Conversation.objects.filter(of, last_turn_at__lt=before, state__in=_GONE)
            .exclude(Exists(Turn.objects.filter(conversation=OuterRef("pk"))))
            .exclude(Exists(Leftover.objects.filter(conversation=OuterRef("pk"))))
        )
        found = list(empty.values_list("pk", "first_items_id")[:BATCH])
        _, by_model = Conversation.objects.filter(pk__in=[pk for pk, _ in found]).delete()
        _drop_messages({first_items for _, first_items in found})
    return by_model.get(Conversation._meta.label, 0)


def settled() -> Q:
    """Turns of which nobody writes any more."""
    quiet_since = timezone.now() - dt.timedelta(seconds=SETTLED_SECONDS)
    return ~Q(outcome=Turn.Outcome.OPEN) & Q(closed_at__lt=quiet_since)


def _drop_messages(of_turns: Collection[UUID | None]) -> None:
    """Delete those of the messages, and of the ones before them, that no request holds any more."""
    ids = {pk for pk in of_turns if pk is not None}
    images: dict[int, set[str]] = {}
    while ids:
        unused = (
            Message.objects.filter(pk__in=ids)
            .exclude(Exists(Turn.objects.filter(last_message=OuterRef("pk"))))
            .exclude(Exists(Conversation.objects.filter(first_items=OuterRef("pk"))))
            .exclude(Exists(Message.objects.filter(parent=OuterRef("pk"))))
        )
        rows = list(unused.only("parent_id", "tenant_id", "body"))
        for row in rows:
            images.setdefault(row.tenant_id, set()).update(_image_references(row.body))
        Message.objects.filter(pk__in=[row.pk for row in rows]).delete()
        ids = {row.parent_id for row in rows if row.parent_id is not None}
    for tenant_id, digests in images.items():
        for sha256 in digests:
            _drop_image(tenant_id, sha256)


def _drop_image(tenant_id: int, sha256: str) -> None:
    if not Message.objects.filter(tenant_id=tenant_id, body__icontains=sha256).exists():
        Image.objects.filter(tenant_id=tenant_id, sha256=sha256).delete()


def _image_references(value: Any) -> set[str]:
    """The digests of the images that a stored message refers to."""
    if isinstance(value, dict):
        found = {str(value["$image"])} if "$image" in value else set()
        return found.union(*(_image_references(item) for item in value.values()))
    if isinstance(value, list):
        return set().union(*(_image_references(item) for item in value))
    return set()
