"""Conversations as rows: made, continued, begun anew, ended.

The only writer of `Conversation` rows, and of the `Leftover` rows that say what one leaves on an agent-server. Which
one a request belongs to is found by `finding`. Synchronous; runs inside the transaction that opens or closes a turn, or
ends the conversation's time.
"""

from __future__ import annotations

import datetime as dt
from typing import Any
from uuid import UUID

from django.utils import timezone

from chatgateway import agents, message_store, sql
from chatgateway.errors import InvalidRequest, NotFound
from chatgateway.models import AgentServer, Conversation, Leftover, Message, Turn
from profiles.access import Caller
from profiles.models import ApiKey, Profile

# What was asked not to be stored stays on its agent-server for no longer than somebody takes to answer.
UNSTORED_HOURS = 1
# Of conversations whose profile was deleted: what profiles say unless they are told otherwise.
DEFAULT_KEEP_DAYS = 7


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


def continued(caller: Caller, conversation_id: UUID) -> Conversation:
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


def root_of(conversation: Conversation) -> UUID:
    """The first of the family of conversations that branched off from one another."""
    return conversation.root_id or conversation.pk


# --- how they begin -----------------------------------------------------------------------------------------------


def start(
    *,
    caller: Caller,
    profile: Profile,
    end_user: str,
    system_suffix: str,
    root_id: UUID | None,
    told_from: Conversation | None,
) -> Conversation:
    """Write a conversation that begins with a turn. `told_from` is the one whose history its agent will be told."""
    conversation = _unsaved(
        caller=caller, profile=profile, end_user=end_user, system_suffix=system_suffix, root_id=root_id
    )
    conversation.told_from = told_from
    sql.insert([conversation])
    return conversation


def branch(
    *, caller: Caller, profile: Profile, end_user: str, at: Turn, source: Conversation, server: AgentServer
) -> Conversation:
    """Write a conversation whose agent will be a fork of the source's, beside it in its directory."""
    conversation = _unsaved(
        caller=caller,
        profile=profile,
        end_user=end_user,
        system_suffix=source.system_suffix,
        root_id=root_of(source),
    )
    conversation.branched_at = at
    conversation.agent_server = server
    conversation.working_dir = source.working_dir
    conversation.good_leaf_event_id = at.leaf_event_id
    conversation.instructions = source.instructions
    sql.insert([conversation])
    return conversation


def _unsaved(
    *, caller: Caller, profile: Profile, end_user: str, system_suffix: str, root_id: UUID | None
) -> Conversation:
    return Conversation(
        tenant_id=caller.tenant_id,
        api_key_id=caller.api_key_id,
        profile=profile,
        tenant_name=caller.tenant_name,
        profile_slug=profile.slug,
        end_user=message_store.storable_text(end_user)[:256],
        system_suffix=message_store.storable_text(system_suffix),
        agent_digest=agents.agent_digest(profile),
        root_id=root_id,
        expires_at=_idle_until(profile),
    )


def begin(conversation: Conversation, *, profile: Profile, end_user: str, system_suffix: str) -> None:
    """Note the first turn of a conversation that was made before anybody knew what for (`make`)."""
    update(
        conversation,
        profile=profile,
        profile_slug=profile.slug,
        agent_digest=agents.agent_digest(profile),
        end_user=message_store.storable_text(end_user)[:256],
        system_suffix=message_store.storable_text(system_suffix),
        expires_at=_idle_until(profile),
    )


def make(*, caller: Caller, metadata: dict[str, str], items: list[dict[str, Any]]) -> Conversation:
    """Write a conversation of no profile yet: the first response that names it decides. It may begin with items."""
    conversation = Conversation(
        tenant_id=caller.tenant_id,
        api_key_id=caller.api_key_id,
        tenant_name=caller.tenant_name,
        metadata=message_store.storable(metadata),
        first_items_id=_stored(caller, items),
    )
    sql.insert([conversation])
    return conversation


def add_first_items(conversation: Conversation, *, caller: Caller, items: list[dict[str, Any]]) -> None:
    """Write more of the items that a conversation begins with. Raises InvalidRequest once it has begun."""
    _lock(conversation)
    if conversation.turns.exists():
        raise InvalidRequest(
            "The conversation has begun, and its agent learns only what it is sent with a message. Send the items as "
            "'input' of the next response.",
            param="items",
            code="unsupported_value",
        )
    known = [] if conversation.first_items_id is None else message_store.chain(conversation.first_items_id)
    update(conversation, first_items_id=_stored(caller, [*known, *items]))


def take_back_item(conversation: Conversation, *, item_id: str) -> None:
    """Remove the last of the items that a conversation begins with. Raises InvalidRequest for any other, and once it
    has begun."""
    _lock(conversation)
    last_id = conversation.first_items_id
    if last_id is None or not item_id.endswith(last_id.hex) or conversation.turns.exists():
        raise InvalidRequest(
            "An agent cannot be made to forget one item: only the last one can be taken back, and only until there is "
            "a response. Go on after an earlier response with 'previous_response_id', or delete the conversation.",
            code="unsupported_endpoint",
        )
    update(conversation, first_items_id=Message.objects.values_list("parent_id", flat=True).get(pk=last_id))


def _lock(conversation: Conversation) -> None:
    """Read the row again, and let nobody else change it until the transaction ends."""
    conversation.refresh_from_db(from_queryset=Conversation.objects.select_for_update())


def _stored(caller: Caller, items: list[dict[str, Any]]) -> UUID | None:
    if not items:
        return None
    return message_store.store_chain(caller.tenant_id, [message_store.storable(item) for item in items]).pk


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


def deleted(conversation: Conversation, *, with_files: bool = False) -> None:
    """Note that the conversation is not to be gone on with. The row and its turns stay for the audit.

    `with_files`: its directory goes at once too, not after the days its profile keeps it.
    """
    home = _home_of(conversation)
    update(conversation, state=Conversation.State.DELETED, deleted_at=timezone.now())
    if home is not None:
        _leave(conversation, home, incarnation=conversation.incarnation)
    if with_files:
        Leftover.objects.filter(conversation=conversation).update(due_at=timezone.now())


def forget_end_user(conversation: Conversation) -> None:
    """Take off a deleted conversation whose it was."""
    assert conversation.state == Conversation.State.DELETED
    update(conversation, end_user="", system_suffix="")
    Leftover.objects.filter(conversation=conversation).update(due_at=timezone.now())


def given_back(conversation: Conversation, server: AgentServer, *, is_unused: bool) -> None:
    """Note that a turn could not begin on `server`. `is_unused`: the conversation was made there for this turn.

    What may have been made there is left behind; a conversation that has been at work there stays with its server.
    """
    is_there = conversation.state == Conversation.State.LIVE and conversation.agent_server_id == server.pk
    if is_there and not is_unused:
        return
    incarnation, was_to_be_forked = conversation.incarnation, conversation.is_to_be_forked
    if is_there:
        _begin_anew(conversation, state=Conversation.State.LOST)
    _leave(conversation, server, incarnation=incarnation)
    if was_to_be_forked:
        not_forked(conversation)


def not_forked(conversation: Conversation) -> None:
    """Note that the agent could not be forked: it starts anew, wherever there is room, and is told what was said."""
    update(conversation, branched_at=None, agent_server=None, working_dir="", good_leaf_event_id="")


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
