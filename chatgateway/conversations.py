"""Which conversation does a request continue, or start? `find_for` is the one door; no view fetches one itself.

The only writer of `Conversation` rows, and of the `Leftover` rows that say what one leaves on an agent-server.
Synchronous; runs inside the transaction that opens or closes a turn, or ends the conversation's time.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.utils import timezone

from chatgateway import agents, message_store, sql
from chatgateway.errors import NotFound
from chatgateway.models import AgentServer, Conversation, Leftover, Turn
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

# What was asked not to be stored stays on its agent-server for no longer than somebody takes to answer.
UNSTORED_HOURS = 1
# Of conversations whose profile was deleted: what profiles say unless they are told otherwise.
DEFAULT_KEEP_DAYS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The conversation of a request, how it was found, and what to send to it.

    `how` is the value of the response header: `header`, `replay` or `new`. `parts` is the user message for the
    agent: the new turn alone when the conversation is continued, with the earlier turns told in it when it is new. A
    conversation that has to be made anew under its id is told its record by the driver (`told_again`).
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
        expires_at=_idle_until(profile),
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
        expires_at=_idle_until(profile),
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


def restart(conversation: Conversation, *, on: AgentServer) -> None:
    """Start the conversation anew under its id, on the server `on`: what was kept of it is gone, out of reach or not to
    be trusted. Raises NotFound if that is because its owner deleted it."""
    if Conversation.objects.filter(pk=conversation.pk, state=Conversation.State.DELETED).exists():
        raise not_found()
    home, incarnation = _home_of(conversation), conversation.incarnation
    _begin_anew(conversation, state=Conversation.State.LOST)
    if home is not None and home.pk != on.pk:
        _leave(conversation, home, incarnation=incarnation)


def expire(conversation: Conversation) -> None:
    """Note that the conversation's time on its agent-server is over. The next turn under its id makes it anew."""
    home, incarnation = _home_of(conversation) or _last_tried(conversation), conversation.incarnation
    _begin_anew(conversation, state=Conversation.State.EXPIRED)
    if home is not None:
        _leave(conversation, home, incarnation=incarnation)


def deleted(conversation: Conversation) -> None:
    """Note that the conversation is not to be gone on with. The row and its turns stay for the audit."""
    home = _home_of(conversation)
    update(conversation, state=Conversation.State.DELETED, deleted_at=timezone.now())
    if home is not None:
        _leave(conversation, home, incarnation=conversation.incarnation)


def given_back(conversation: Conversation, server: AgentServer, *, is_unused: bool) -> None:
    """Note that a turn could not begin on `server`. `is_unused`: the conversation was made there for this turn.

    What may have been made there is left behind; a conversation that has been at work there stays with its server.
    """
    is_there = conversation.state == Conversation.State.LIVE and conversation.agent_server_id == server.pk
    if is_there and not is_unused:
        return
    incarnation = conversation.incarnation
    if is_there:
        _begin_anew(conversation, state=Conversation.State.LOST)
    _leave(conversation, server, incarnation=incarnation)


def settle(conversation: Conversation, *, turn: Turn, profile: Profile, **changes: Any) -> None:
    """Write where the agent-server's log stands after a turn (`cursor`, `good_leaf_event_id`, …), and how long the
    conversation may stay there now."""
    until = _idle_until(profile, is_stored=turn.is_stored)
    update(conversation, last_turn_at=timezone.now(), expires_at=until, **changes)


def has_directory_on(conversation: Conversation, server: AgentServer) -> bool:
    """Whether a directory that the conversation left on `server` has not been removed yet."""
    left = Leftover.objects.filter(conversation_id=conversation.pk, agent_server=server)
    return left.filter(kind=Leftover.Kind.DIRECTORY).exists()


def _begin_anew(conversation: Conversation, *, state: Conversation.State) -> None:
    update(
        conversation,
        incarnation=conversation.incarnation + 1,
        agent_server=None,
        state=state,
        cursor=-1,
        good_leaf_event_id="",
        needs_navigation=False,
        usage_baseline={},
        llm_digest="",
    )


def _home_of(conversation: Conversation) -> AgentServer | None:
    """The agent-server that has the conversation; None also when its row was deleted."""
    if conversation.agent_server_id is None:
        return None
    return AgentServer.objects.filter(pk=conversation.agent_server_id).first()


def _last_tried(conversation: Conversation) -> AgentServer | None:
    """The agent-server of the latest turn that had one: where a start that never ended may have left something."""
    placed = Turn.objects.filter(conversation=conversation, agent_server__isnull=False).select_related("agent_server")
    latest = placed.order_by("-arrival").first()
    return latest.agent_server if latest is not None else None


def _leave(conversation: Conversation, server: AgentServer, *, incarnation: int) -> None:
    """Have what the conversation has on `server` removed there. Left twice, it is removed at the later time."""
    anew = {"incarnation": incarnation, "attempts": 0, "message": ""}
    of_it: dict[str, Any] = {"agent_server": server, "conversation": conversation}
    now = timezone.now()
    Leftover.objects.update_or_create(**of_it, kind=Leftover.Kind.CONVERSATION, defaults=anew | {"due_at": now})
    own = agents.own_directory(conversation=conversation, server=server)
    # One that a key or a profile shares is not the conversation's to leave. Without any, the start broke off.
    if conversation.working_dir in ("", own):
        due_at = now + dt.timedelta(days=_keep_days(conversation))
        changes = anew | {"path": own, "due_at": due_at}
        Leftover.objects.update_or_create(**of_it, kind=Leftover.Kind.DIRECTORY, defaults=changes)


def _keep_days(conversation: Conversation) -> int:
    if conversation.profile_id is None:
        return DEFAULT_KEEP_DAYS
    days = Profile.objects.filter(pk=conversation.profile_id).values_list("workspace_keep_days", flat=True).first()
    return DEFAULT_KEEP_DAYS if days is None else days


def _idle_until(profile: Profile, *, is_stored: bool = True) -> dt.datetime:
    hours = profile.conversation_idle_hours if is_stored else min(UNSTORED_HOURS, profile.conversation_idle_hours)
    return timezone.now() + dt.timedelta(hours=hours)


def update(conversation: Conversation, **changes: Any) -> None:
    """Write columns of the row, and the same to the object at hand."""
    for name, value in changes.items():
        setattr(conversation, name, value)
    sql.update(Conversation, where={"id": conversation.pk}, changes=changes)
