"""The removal of everything that one end user said and was told: the only writer of `Erasure` rows.

Turns keep their figures, so that bills stay right; they no longer say whose they were. `carry_out` works in batches,
may be run twice at once, and is run again until nothing is left.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone
from django.utils.crypto import salted_hmac

from chatgateway import audit, chats, conversations, removal, servers, turn_texts
from chatgateway.models import Conversation, Erasure, Turn
from profiles.models import Tenant

BATCH_SECONDS = 25.0
# How long SQLite may take to write its index of texts without the words that are gone.
FORGET_SECONDS = 20.0
WHY = "Deleted on request, with all of this end user's data."


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What there is of an end user. `open_turns` are stopped first."""

    turns: int
    conversations: int
    open_turns: int


def digest_of(end_user: str) -> str:
    """Return what is kept of an id after the erasure."""
    secret = settings.GATEWAY_API_KEY_PEPPER
    return salted_hmac("chatgateway.erasure", end_user, secret=secret, algorithm="sha256").hexdigest()


def found(tenant: Tenant, end_user: str) -> Found:
    """Count what an erasure would remove."""
    turns = _turns(tenant.pk, end_user)
    return Found(
        turns=turns.count(),
        conversations=_conversations(tenant.pk, end_user).count(),
        open_turns=turns.filter(outcome=Turn.Outcome.OPEN).count(),
    )


def ask(*, tenant: Tenant, end_user: str, by: str) -> Erasure:
    """Write down that somebody's data is to be removed. `by`: who asked for it."""
    return Erasure.objects.create(
        tenant=tenant,
        tenant_name=tenant.name,
        end_user=end_user,
        end_user_digest=digest_of(end_user),
        asked_by=by[:200],
    )


def carry_out_all() -> tuple[int, int]:
    """Go on with everything that was asked for. Return how many were completed, and how many are not yet."""
    until = time.monotonic() + BATCH_SECONDS
    waiting = list(Erasure.objects.filter(done_at__isnull=True).order_by("asked_at"))
    completed = sum(carry_out(erasure, until=until) for erasure in waiting if time.monotonic() < until)
    return completed, len(waiting) - completed


def carry_out(erasure: Erasure, *, until: float) -> bool:
    """Remove what there is until `until`, on the monotonic clock. Return whether nothing is left.

    Open turns are stopped and removed in a later call, when they have ended.
    """
    if erasure.tenant_id is None:
        return _note(erasure, is_done=True)  # its conversations went with the tenant, or belong to nobody
    tenant_id, end_user = erasure.tenant_id, erasure.end_user
    open_turns = _turns(tenant_id, end_user).filter(outcome=Turn.Outcome.OPEN)
    audit.request_cancel(list(open_turns.values_list("pk", flat=True)), reason="admin")
    for row in _conversations(tenant_id, end_user).exclude(state=Conversation.State.DELETED).iterator():
        erasure.conversations += _end(row)
    chats.forget_end_user(tenant_id=tenant_id, end_user=end_user)
    while time.monotonic() < until:
        ids = list(_turns(tenant_id, end_user).filter(removal.settled()).values_list("pk", flat=True)[: removal.BATCH])
        if not ids:
            break
        erasure.turns += removal.remove_content(ids, why=WHY)
        removal.remove_person(ids)
    is_left = _turns(tenant_id, end_user).exists() or (
        _conversations(tenant_id, end_user).exclude(state=Conversation.State.DELETED).exists()
    )
    if not is_left:
        for row in _conversations(tenant_id, end_user):
            conversations.forget_end_user(row)
        turn_texts.forget_deleted(seconds=FORGET_SECONDS)
    return _note(erasure, is_done=not is_left)


def _note(erasure: Erasure, *, is_done: bool) -> bool:
    if is_done:
        erasure.done_at, erasure.end_user = timezone.now(), ""
    erasure.save(update_fields=["turns", "conversations", "done_at", "end_user"])
    return is_done


def _end(row: Conversation) -> bool:
    """Have the agent-server forget the conversation too; False while its agent is at work."""
    with transaction.atomic():
        servers.lock()
        if servers.is_at_work(row.pk):
            return False
        conversations.deleted(row, with_files=True)
    return True


def _turns(tenant_id: int, end_user: str) -> QuerySet[Turn]:
    """Turns in which the person is named, and unnamed ones of conversations that were begun for it, as long as they
    hold anything of it."""
    unnamed = Q(end_user="", conversation__end_user=end_user, content_removed_at__isnull=True)
    return Turn.objects.filter(Q(end_user=end_user) | unnamed, tenant_id=tenant_id)


def _conversations(tenant_id: int, end_user: str) -> QuerySet[Conversation]:
    """Those that were begun for the person, and those in which it said something: their agents have read it."""
    named = Turn.objects.filter(tenant_id=tenant_id, end_user=end_user, conversation__isnull=False)
    return Conversation.objects.filter(
        Q(end_user=end_user) | Q(pk__in=named.order_by().values("conversation")), tenant_id=tenant_id
    )
