"""Which conversation does a request continue, or start? `find_for` is the one door; no view fetches one itself.

The only writer of `Conversation` rows. Synchronous; runs inside the transaction that opens or closes a turn.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.utils import timezone

from chatgateway import agents, message_store, sql
from chatgateway.errors import NotFound
from chatgateway.models import AgentServer, Conversation, Turn
from chatgateway.openai_api.messages import parse_messages
from chatgateway.openai_api.transcript import (
    EarlierMessage,
    TextPart,
    Transcript,
    UserPart,
    new_fence,
    replay,
    texts_of,
)
from profiles.access import Caller
from profiles.models import ApiKey, Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The conversation of a request, how it was found, and what to send to it.

    `how` is the value of the response header: `header`, `replay` or `new`. `parts` is the user message for the
    agent: the new turn alone when the conversation lives, with the earlier turns told in it when it is new.
    """

    conversation: Conversation
    how: str
    parts: tuple[UserPart, ...]


def find_for(
    *, caller: Caller, profile: Profile, requested: UUID | None, transcript: Transcript, end_user: str
) -> Found:
    """Return the conversation this request continues, or a new one, already written.

    Raises NotFound, with one text, both when `requested` is unknown and when it is not this caller's. One query
    when a conversation is named, one insert when not.
    """
    if requested is None:
        conversation = _create(caller, profile, transcript.system_suffix, end_user)
        return Found(conversation=conversation, how="replay" if transcript.earlier else "new", parts=told(transcript))
    known = _continued(caller, requested)
    if _must_start_anew(known, profile, transcript):
        suffix = transcript.system_suffix or known.system_suffix
        full = transcript if transcript.earlier else with_history_of(known, transcript)
        conversation = _create(caller, profile, suffix, end_user, told_from=None if transcript.earlier else known)
        return Found(conversation=conversation, how="replay", parts=told(full))
    if known.state == Conversation.State.LOST:
        return Found(conversation=known, how="header", parts=told(with_history_of(known, transcript)))
    return Found(conversation=known, how="header", parts=transcript.user_parts)


def get_for(*, caller: Caller, conversation_id: UUID, for_management: bool = False) -> Conversation:
    """Return a conversation the caller may know of; raises NotFound, the same for unknown and foreign ones.

    `for_management`: the routes under /api, where a global key sees every tenant's.
    """
    rows = Conversation.objects.all()
    if for_management:
        rows = rows.select_related("agent_server")
    if not (for_management and caller.is_global):
        rows = rows.of_caller(
            tenant_id=caller.tenant_id, api_key_id=caller.api_key_id, only_own=caller.only_own_conversations
        )
    known = rows.filter(pk=conversation_id).exclude(state=Conversation.State.DELETED).first()
    if known is None:
        raise not_found()
    return known


def _continued(caller: Caller, conversation_id: UUID) -> Conversation:
    """`get_for`, for the turns of a conversation: each of them asks."""
    whose = {"tenant_id": caller.tenant_id}
    if caller.only_own_conversations:
        whose["api_key_id"] = caller.api_key_id
    found = sql.select(Conversation, where={"id": conversation_id, **whose})
    if not found or found[0].state == Conversation.State.DELETED:
        raise not_found()
    return found[0]


def not_found() -> NotFound:
    return NotFound(
        "There is no such conversation. Leave out the id to start a new one, or send the one a reply's "
        "X-OpenHands-ServerConversation-ID header gave you.",
        code="conversation_not_found",
    )


def _must_start_anew(known: Conversation, profile: Profile, transcript: Transcript) -> bool:
    """A live agent's tools, prompt and system text are fixed when it starts."""
    if known.profile_id != profile.pk or (known.agent_digest and known.agent_digest != agents.agent_digest(profile)):
        return True
    return bool(transcript.system_suffix) and transcript.system_suffix != known.system_suffix


def parts_for(conversation: Conversation, *, transcript: Transcript, how: str) -> tuple[UserPart, ...]:
    """Return the user message for the agent once more, for a turn that was opened with `how` and never begun."""
    if how == "header":
        if conversation.state == Conversation.State.LOST:
            return told(with_history_of(conversation, transcript))
        return transcript.user_parts
    if conversation.told_from is not None and not transcript.earlier:
        return told(with_history_of(conversation.told_from, transcript))
    return told(transcript)


def _create(
    caller: Caller,
    profile: Profile,
    system_suffix: str,
    end_user: str,
    *,
    told_from: Conversation | None = None,
) -> Conversation:
    conversation = Conversation(
        told_from=told_from,
        tenant_id=caller.tenant_id,
        api_key_id=caller.api_key_id,
        profile=profile,
        tenant_name=caller.tenant_name,
        profile_slug=profile.slug,
        end_user=message_store.storable_text(end_user)[:256],
        system_suffix=message_store.storable_text(system_suffix),
        agent_digest=agents.agent_digest(profile),
    )
    sql.insert([conversation])
    return conversation


def reserve(*, api_key: ApiKey, profile: Profile, server: AgentServer) -> Conversation:
    """Write a conversation that will start on `server` and nowhere else: the admin's test of a server."""
    conversation = Conversation(
        tenant_id=api_key.tenant_id,
        api_key=api_key,
        profile=profile,
        agent_server=server,
        tenant_name=api_key.tenant.name,
        profile_slug=profile.slug,
        agent_digest=agents.agent_digest(profile),
    )
    sql.insert([conversation])
    return conversation


def told(transcript: Transcript) -> tuple[UserPart, ...]:
    """Return the new turn with the earlier ones told in it, fenced by an id that occurs in none of them."""
    if not transcript.earlier:
        return transcript.user_parts
    fence = new_fence(texts_of(transcript), lambda: secrets.token_hex(8))
    return replay(transcript, fence=fence)


def told_again(conversation: Conversation, parts: tuple[UserPart, ...]) -> tuple[UserPart, ...]:
    """Return `parts`, a new turn, with the conversation's audited turns told in it."""
    return told(
        with_history_of(
            conversation, Transcript(system_suffix="", earlier=(), user_parts=parts, messages=(), new_from=0)
        )
    )


def with_history_of(conversation: Conversation, transcript: Transcript) -> Transcript:
    """Return `transcript` with the conversation's audited turns as its earlier messages."""
    return Transcript(
        system_suffix=transcript.system_suffix,
        earlier=tuple(_audited(conversation)),
        user_parts=transcript.user_parts,
        messages=transcript.messages,
        new_from=transcript.new_from,
    )


def _audited(conversation: Conversation) -> Iterator[EarlierMessage]:
    """The caller's messages and the answers of a conversation's good turns, oldest first."""
    answered = Turn.objects.filter(conversation=conversation, outcome=Turn.Outcome.ANSWERED).order_by("arrival")
    index = 0
    for position, turn in enumerate(answered.exclude(last_message=None).iterator(chunk_size=100)):
        assert turn.last_message_id is not None
        stored = message_store.chain(turn.last_message_id)
        sent = parse_messages(stored, accepts_images=True, accepts_remote_images=True)
        # The first turn may itself have come with a history; later ones repeat what stands before them.
        if position == 0:
            yield from sent.earlier
        yield EarlierMessage(index=index, role="user", parts=sent.user_parts)
        yield EarlierMessage(index=index + 1, role="assistant", parts=(TextPart(text=turn.answer),))
        index += 2


# --- what a turn leaves behind -----------------------------------------------------------------------------------


def restart(conversation: Conversation) -> None:
    """Start the conversation anew under its id: what its agent-server kept of it is gone or not to be trusted."""
    update(
        conversation,
        incarnation=conversation.incarnation + 1,
        agent_server=None,
        state=Conversation.State.LOST,
        cursor=-1,
        good_leaf_event_id="",
        needs_navigation=False,
        usage_baseline={},
        llm_digest="",
    )


def settle(conversation: Conversation, **changes: Any) -> None:
    """Write where the agent-server's log stands after a turn (`cursor`, `good_leaf_event_id`, …)."""
    update(conversation, last_turn_at=timezone.now(), **changes)


def deleted(conversation: Conversation) -> None:
    """Note that the conversation is gone from its agent-server. The row and its turns stay for the audit."""
    update(conversation, state=Conversation.State.DELETED, deleted_at=timezone.now())


def update(conversation: Conversation, **changes: Any) -> None:
    """Write columns of the row, and the same to the object at hand."""
    for name, value in changes.items():
        setattr(conversation, name, value)
    sql.update(Conversation, where={"id": conversation.pk}, changes=changes)
