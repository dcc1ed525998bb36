"""How long conversations stay on their agent-servers, and the removal of what they leave there.

Sweeps for the worker. Each works from rows in short transactions, so it may run twice at once and die at any line: what
a conversation leaves is written down in the transaction that ends its time, and is struck off when it is gone.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import aiohttp
from django.db import transaction
from django.db.models import Count, F, Q, QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from chatgateway import audit, conversations, servers
from chatgateway.agentserver.client import AgentServerClient, new_http_session
from chatgateway.agentserver.exceptions import AgentServerError, ConversationMissing, Unreachable
from chatgateway.models import AgentServer, Conversation, Leftover, Turn
from profiles.models import Profile

logger = logging.getLogger(__name__)

# With what it has begun by then, a sweep ends before the next one is due, a minute after it began.
SWEEP_SECONDS = 25.0
# Asking for a conversation and deleting it take milliseconds; a directory with a million files takes a while.
CALL_SECONDS = 10.0
DIRECTORY_SECONDS = 30.0
# Longer than one leftover's calls take together: the time in which no turn begins where something is being removed.
CLAIM_SECONDS = 60
# What is in use at the moment is looked at again after this.
IN_USE_SECONDS = 600
AT_ONCE = 10
LONGEST_PAUSE = dt.timedelta(hours=6)
IDEMPOTENCY_HOURS = 24
# States in which a conversation may have something on an agent-server that is not written down as left there.
_IN_TIME = (Conversation.State.NEW, Conversation.State.LIVE, Conversation.State.LOST)


# --- the end of a conversation's time ---------------------------------------------------------------------------------


def expire_idle() -> int:
    """End the time of conversations that nobody has gone on with for as long as their profile says. Return how many.

    Also of those whose first turn never began: a process that died may have started one that no row speaks of.
    """
    now = timezone.now()
    over = Conversation.objects.filter(state__in=_IN_TIME, expires_at__lt=now)
    ids = over.order_by("expires_at").values_list("pk", flat=True)
    return _expire_all(ids, is_due=lambda row: row.expires_at is not None and row.expires_at < now)


def expire_beyond_limits() -> int:
    """Where a server has more conversations than it may, end the time of those idle for longest. Return how many."""
    living = Conversation.objects.filter(state=Conversation.State.LIVE)
    counts = dict(living.order_by().values_list("agent_server_id").annotate(n=Count("pk")))
    ended = 0
    for server in AgentServer.objects.filter(pk__in=[pk for pk in counts if pk is not None]):
        on_it, most = living.filter(agent_server=server), server.max_conversations
        # Two queries over partial indexes of a handful of rows; joined with OR they would read every turn there was.
        idle = on_it.exclude(pk__in=_of(Turn.objects.open())).exclude(pk__in=_of(Turn.objects.holding_a_slot()))
        ids = idle.order_by("last_turn_at").values_list("pk", flat=True)
        excess = max(0, counts[server.pk] - most)
        # Counted again for each: another worker may be at it too.
        ended += _expire_all(ids[:excess], is_due=lambda _, on_it=on_it, most=most: on_it.count() > most)  # type: ignore[misc]
    return ended


def _expire_all(ids: Iterable[UUID], *, is_due: Callable[[Conversation], bool]) -> int:
    """End the time of conversations in order, as long as it is due and none of their agents is at work."""
    until = time.monotonic() + SWEEP_SECONDS
    return sum(_expire(pk, is_due) for pk in ids if time.monotonic() < until)


def _expire(conversation_id: UUID, is_due: Callable[[Conversation], bool]) -> bool:
    with transaction.atomic():
        servers.lock()  # turns are opened under it too: none can begin while this looks
        rows = Conversation.objects.filter(pk=conversation_id, state__in=_IN_TIME)
        row = rows.select_for_update(of=("self",), skip_locked=True).first()
        if row is None or servers.is_at_work(row.pk) or not is_due(row):
            return False
        conversations.expire(row)
    logger.info("conversation %s has expired", conversation_id)
    return True


def _of(turns: QuerySet[Turn]) -> QuerySet[Turn, Any]:
    return turns.filter(conversation__isnull=False).order_by().values("conversation")


# --- what is left on agent-servers ------------------------------------------------------------------------------------


@dataclass(slots=True)
class Removals:
    """What became of leftovers. `kept`: a later incarnation uses it again, or will."""

    removed: int = 0
    kept: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Claimed:
    """A leftover that this sweep alone may remove until its claim is over. `incarnation` is the conversation's now."""

    leftover: Leftover
    server: AgentServer
    tenant_id: int | None
    incarnation: int


def remove_leftovers() -> Removals:
    """Remove what is due from agent-servers that answer."""
    until = time.monotonic() + SWEEP_SECONDS
    done = Removals()
    while time.monotonic() < until:
        ids = list(_due().values_list("pk", flat=True)[:AT_ONCE])
        if not ids:
            break
        claimed = list(_claim_all(ids, done))
        for one, error in zip(claimed, asyncio.run(_remove_all(claimed)), strict=True):
            _note(one, error, done)
    return done


def _due() -> QuerySet[Leftover]:
    """A server that is down gets its turn when it is up again, one that was disabled when it is enabled or deleted."""
    unclaimed = Q(claimed_until__isnull=True) | Q(claimed_until__lt=Now())
    asked = Q(agent_server__state=AgentServer.State.DISABLED) | Q(agent_server__health=AgentServer.Health.DOWN)
    return Leftover.objects.filter(unclaimed, due_at__lte=Now()).exclude(asked).order_by("due_at")


def _claim_all(ids: list[int], done: Removals) -> Iterator[_Claimed]:
    for pk in ids:
        with transaction.atomic():
            servers.lock()
            leftover = (
                _due()
                .select_related("agent_server", "conversation")
                .select_for_update(of=("self",), skip_locked=True)
                .filter(pk=pk)
                .first()
            )
            if leftover is None:
                continue  # another worker has it
            if _is_current(leftover):
                leftover.delete()
                done.kept += 1
                continue
            if _is_in_use(leftover):
                Leftover.objects.filter(pk=pk).update(due_at=Now() + dt.timedelta(seconds=IN_USE_SECONDS))
                done.kept += 1
                continue
            Leftover.objects.filter(pk=pk).update(claimed_until=Now() + dt.timedelta(seconds=CLAIM_SECONDS))
        yield _Claimed(
            leftover=leftover,
            server=leftover.agent_server,
            tenant_id=leftover.conversation.tenant_id,
            incarnation=leftover.conversation.incarnation,
        )


def _is_current(leftover: Leftover) -> bool:
    """Whether the conversation has come back to the server: it leaves it anew one day."""
    conversation = leftover.conversation
    is_there = (
        conversation.state == Conversation.State.LIVE and conversation.agent_server_id == leftover.agent_server_id
    )
    return is_there and (leftover.kind == Leftover.Kind.CONVERSATION or conversation.working_dir == leftover.path)


def _is_in_use(leftover: Leftover) -> bool:
    """Whether a turn is about to bring the conversation back, or somebody else works in its directory."""
    turns = Turn.objects.holding_a_slot().filter(conversation=leftover.conversation_id)
    if turns.filter(agent_server=leftover.agent_server_id).exists():
        return True
    if leftover.kind == Leftover.Kind.CONVERSATION or not leftover.path:
        return False
    fixed = Q(workspace_path__startswith=leftover.path) | Q(workspace_template__startswith=leftover.path)
    others = Conversation.objects.filter(
        agent_server=leftover.agent_server_id, state=Conversation.State.LIVE, working_dir=leftover.path
    )
    return Profile.objects.filter(fixed).exists() or others.exclude(pk=leftover.conversation_id).exists()


async def _remove_all(claimed: list[_Claimed]) -> list[AgentServerError | ValueError | None]:
    async with new_http_session() as http:
        return await asyncio.gather(*(_remove(one, http) for one in claimed))


async def _remove(one: _Claimed, http: aiohttp.ClientSession) -> AgentServerError | ValueError | None:
    """Remove one leftover; return what stood in the way."""
    server = one.server
    client = AgentServerClient(base_url=server.url, session_api_key=server.session_api_key.reveal(), http=http)
    try:
        if one.leftover.kind == Leftover.Kind.CONVERSATION:
            await _remove_conversation(one, client)
        else:
            await _remove_directory(one, client)
    except (AgentServerError, ValueError) as error:
        return error
    return None


async def _remove_conversation(one: _Claimed, client: AgentServerClient) -> None:
    conversation_id = one.leftover.conversation_id
    try:
        info = await client.conversation(conversation_id, timeout_seconds=CALL_SECONDS)
    except ConversationMissing:
        return
    incarnation = info.tags.get("incarnation", "")
    if not incarnation.isdecimal() or int(incarnation) > one.incarnation:
        # Made by somebody else, or by a gateway whose record goes on where ours, put back from a backup, ends.
        logger.warning("conversation %s on %s is not ours and stays there", conversation_id, one.server.name)
        return
    await client.delete(conversation_id, timeout_seconds=CALL_SECONDS)


async def _remove_directory(one: _Claimed, client: AgentServerClient) -> None:
    if one.tenant_id is None:
        raise ValueError(f"{one.leftover.path!r} belongs to a tenant that was deleted")
    await client.delete_directory(
        one.leftover.path,
        root=one.server.workspace_root,
        tenant_id=one.tenant_id,
        conversation_id=one.leftover.conversation_id,
        timeout_seconds=DIRECTORY_SECONDS,
    )


def _note(one: _Claimed, error: AgentServerError | ValueError | None, done: Removals) -> None:
    leftover = one.leftover
    if error is None:
        Leftover.objects.filter(pk=leftover.pk, due_at=leftover.due_at).delete()
        done.removed += 1
        return
    done.failed += 1
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, Unreachable):
        servers.note_health(one.server, is_up=False, message=message)
    if isinstance(error, ValueError):
        logger.error("refused to delete on %s: %s", one.server.name, error)
        pause = LONGEST_PAUSE
    else:
        logger.warning("%s could not be removed from %s: %s", leftover, one.server.name, error)
        pause = min(LONGEST_PAUSE, dt.timedelta(minutes=2 ** min(leftover.attempts, 10)))
    # The claim stays until it is over by itself: a call that timed out may still have its effect.
    Leftover.objects.filter(pk=leftover.pk).update(
        due_at=Now() + pause, attempts=F("attempts") + 1, message=message[:300]
    )


# --- keys of repeated requests ----------------------------------------------------------------------------------------


def release_idempotency_keys() -> int:
    """Let keys of a day ago name new requests. Return how many."""
    return audit.release_idempotency_keys(before=timezone.now() - dt.timedelta(hours=IDEMPOTENCY_HOURS))
