"""Which agent-server runs a turn, and whether one is free.

A slot is a turn that was given a server and whose run has not been seen to end. Nothing is counted in memory, so
nothing can leak with a process. Synchronous; `pick` and `grant_…` run inside a transaction of the `Writer`,
under a lock on the server rows, so that two processes cannot give away the same slot.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Count, Value
from django.db.models.functions import Coalesce, Now
from django.utils import timezone

from chatgateway import audit, sql
from chatgateway.errors import AgentServerUnavailable, ConversationBusy, TooManyRequests
from chatgateway.models import AgentServer, Conversation, Leftover, Turn

# How old the rows of servers may be that a turn is placed by.
KNOWN_SECONDS = 1.0
# Later than any arrival of a turn.
_NEVER = 2**63 - 1
# Turns that had a slot and gave it back wait as well, whatever the limit of the queue.
MOST_AT_ONCE = 200
# How long a server that failed is passed over while another one can serve.
AVOID_SECONDS = 15


@dataclass(slots=True)
class _Known:
    """The servers that are not switched off, as read a moment ago."""

    rows: list[AgentServer]
    read_at: float


_known = _Known(rows=[], read_at=float("-inf"))


@dataclass(slots=True)
class _Bindings:
    """Which profiles are bound to which servers; read again after a few seconds."""

    by_profile: dict[int, frozenset[int]]
    read_at: float


_bindings = _Bindings(by_profile={}, read_at=float("-inf"))


def forget() -> None:
    """Have servers and bindings read again at once; called by whoever changed them in this process."""
    _bindings.read_at = _known.read_at = float("-inf")


def _bound_servers(profile_id: int) -> frozenset[int]:
    if time.monotonic() - _bindings.read_at > settings.GATEWAY_CACHE_SECONDS:
        by_profile: dict[int, set[int]] = {}
        for server_id, bound_to in AgentServer.profiles.through.objects.values_list("agentserver_id", "profile_id"):
            by_profile.setdefault(bound_to, set()).add(server_id)
        _bindings.by_profile = {profile: frozenset(servers) for profile, servers in by_profile.items()}
        _bindings.read_at = time.monotonic()
    return _bindings.by_profile.get(profile_id, frozenset())


def pick(*, conversation: Conversation, profile_id: int, is_new: bool, arrival: int) -> AgentServer | None:
    """Return the agent-server for a turn that is about to be opened, or None when it must wait.

    Raises TooManyRequests when too many turns wait already, AgentServerUnavailable when no agent-server could ever
    take it.
    """
    known = _locked_servers()
    servers = _candidates(profile_id, conversation, known, frozenset())
    running, waiting = _load()
    must_wait = waiting or (not is_new and _is_behind_another(conversation.pk, arrival, present=_present(known)))
    best = None
    if not must_wait:
        best = _best(servers, running) if is_new else _best_for(conversation, servers, running)
    if best is None and waiting >= settings.GATEWAY_QUEUE_LIMIT:
        raise TooManyRequests("All agents are busy and too many requests are waiting. Try again in a moment.")
    return best


def refuse_if_busy(conversation: Conversation, arrival: int) -> None:
    """Raise ConversationBusy if a turn of the conversation is open, or its run may still go on."""
    if _is_behind_another(conversation.pk, arrival, present=_present(_locked_servers())):
        raise ConversationBusy(
            "The agent of this conversation is still at work. Wait for its answer, or start a new conversation."
        )


def grant_again(turn: Turn, conversation: Conversation, *, avoid: frozenset[int]) -> bool:
    """Give a turn that failed to reach the servers in `avoid` a slot on another one, if one is free.

    False as well when the queue has given it one meanwhile. Raises AgentServerUnavailable when there is no other.
    """
    assert turn.profile_id is not None
    best = _best_for(conversation, _candidates(turn.profile_id, conversation, _locked_servers(), avoid), _load()[0])
    if best is None:
        return False
    try:
        audit.assign(turn, best)
    except audit.TurnLost:
        return False
    return True


def grant_waiting() -> list[UUID]:
    """Give free slots to waiting turns, of all processes; return the ids of those that got one.

    First those of keys with the fewest open turns, then in order of arrival: one busy key cannot starve others.
    """
    servers = _locked_servers()
    present = _present(servers)
    running, in_all = _load()
    if not in_all or not _has_free_slot(servers, running):
        return []
    waiting = list(
        Turn.objects.filter(outcome=Turn.Outcome.OPEN, phase=Turn.Phase.QUEUED)
        .select_related("conversation")
        .only(*_OF_WAITING)
        .order_by("arrival")[: max(settings.GATEWAY_QUEUE_LIMIT, MOST_AT_ONCE)]
    )
    open_by_key: dict[int | None, int] = dict(
        Turn.objects.holding_a_slot().order_by().values_list("api_key_id").annotate(n=Count("pk"))
    )
    granted: list[UUID] = []
    while waiting and _has_free_slot(servers, running):
        waiting.sort(key=lambda turn: (open_by_key.get(turn.api_key_id, 0), turn.arrival))
        turn = waiting.pop(0)
        conversation = turn.conversation
        if conversation is None or turn.profile_id is None:
            continue
        if _is_behind_another(conversation.pk, turn.arrival, present=present):
            continue
        try:
            able = _candidates(turn.profile_id, conversation, servers, frozenset())
            best = _best_for(conversation, able, running)
            if best is not None:
                audit.assign(turn, best)
                running[best.pk] = running.get(best.pk, 0) + 1
                granted.append(turn.pk)
                open_by_key[turn.api_key_id] = open_by_key.get(turn.api_key_id, 0) + 1
        except (AgentServerUnavailable, audit.TurnLost):
            continue  # its driver finds out by itself, at its queue time-out at the latest
    return granted


# What decides about a turn that waits, of the hundred columns of the turn and its conversation.
_OF_WAITING = (
    "arrival",
    "api_key_id",
    "profile_id",
    "conversation__state",
    "conversation__agent_server_id",
)


def _has_free_slot(servers: list[AgentServer], running: dict[int, int]) -> bool:
    return any(server.capacity > running.get(server.pk, 0) for server in servers)


def lock() -> None:
    """Have the sole right to give away slots, and to say that a conversation has none, until the commit."""
    sql.lock_placement()


def _locked_servers() -> list[AgentServer]:
    """The servers that are not switched off, under the lock.

    The rows may be a second old; what counts is the lock and the load, which is counted under it.
    """
    lock()
    if time.monotonic() - _known.read_at > KNOWN_SECONDS:
        _known.rows = list(AgentServer.objects.exclude(state=AgentServer.State.DISABLED).order_by("pk"))
        _known.read_at = time.monotonic()
    return _known.rows


def _load() -> tuple[dict[int, int], int]:
    """Slots taken per server, and how many turns wait for one. One statement: every turn runs it."""
    with connection.cursor() as cursor:
        cursor.execute(
            # Two halves, each of which is what a partial index holds. As one condition with OR, SQLite reads every
            # turn there ever was (measured: 11 ms at 30,000 turns, 0.02 ms like this).
            "SELECT agent_server_id, COUNT(*) FROM chatgateway_turn "
            "WHERE run_ended_at IS NULL AND agent_server_id IS NOT NULL GROUP BY agent_server_id "
            "UNION ALL SELECT NULL, COUNT(*) FROM chatgateway_turn WHERE outcome = 'open' AND phase = 'queued'"
        )
        counted = dict(cursor.fetchall())
    waiting = counted.pop(None, 0)
    return counted, waiting


def is_at_work(conversation_id: UUID) -> bool:
    """Whether a turn of the conversation is open, or its run may still go on. Under the lock it stays so."""
    return _is_behind_another(conversation_id, _NEVER)


def _present(servers: list[AgentServer]) -> list[int]:
    """Of the servers that are not switched off, those that are not gone."""
    return [server.pk for server in servers if not is_gone(server)]


def _is_behind_another(conversation_id: UUID, arrival: int, *, present: list[int] | None = None) -> bool:
    """One conversation, one turn at a time, in order of arrival; a turn whose run may still go on is in the way.

    `present`: a closed turn is in the way only if its server is one of these. Nobody will ever say of a run that was
    lost with its server that it has ended, and its conversation goes on elsewhere.
    """
    key = Turn._meta.get_field("id").get_db_prep_value(conversation_id, connection)
    at_server = "IS NOT NULL" if present is None else f"IN ({', '.join(['%s'] * len(present)) or 'NULL'})"
    statement = (
        "SELECT 1 FROM chatgateway_turn WHERE conversation_id = %s AND arrival < %s "  # noqa: S608  placeholders alone
        f"AND (outcome = 'open' OR (agent_server_id {at_server} AND run_ended_at IS NULL)) LIMIT 1"
    )
    with connection.cursor() as cursor:
        cursor.execute(statement, [key, arrival, *(present or ())])
        return cursor.fetchone() is not None


def _best(servers: list[AgentServer], running: dict[int, int]) -> AgentServer | None:
    """The server with the most free slots, of several the one with the fewest conversations; None when all are full.

    One that has just failed is tried only if all have: a turn rather waits for a place where agents run.
    """
    usable = [server for server in servers if not _is_avoided(server)] or servers
    free = {server.pk: server.capacity - running.get(server.pk, 0) for server in usable}
    most = max(free.values(), default=0)
    if most <= 0:
        return None
    best = [server for server in usable if free[server.pk] == most]
    if len(best) == 1:
        return best[0]
    living = Conversation.objects.filter(state=Conversation.State.LIVE, agent_server__in=best).order_by()
    held = dict(living.values_list("agent_server_id").annotate(n=Count("pk")))
    return min(best, key=lambda server: held.get(server.pk, 0))


def _best_for(conversation: Conversation, servers: list[AgentServer], running: dict[int, int]) -> AgentServer | None:
    """The best server for a conversation that is not new.

    Those on which a sweep is removing, at this moment, what the conversation had left there count as full: it is over
    within seconds, and what was begun there meanwhile would be removed with it.
    """
    best = _best(servers, running)
    if best is None or best.pk == conversation.agent_server_id:
        return best
    at_it = Leftover.objects.filter(conversation_id=conversation.pk, claimed_until__gt=Now())
    claimed = set(at_it.values_list("agent_server_id", flat=True))
    return _best([server for server in servers if server.pk not in claimed], running)


def _candidates(
    profile_id: int, conversation: Conversation, servers: list[AgentServer], avoid: frozenset[int]
) -> list[AgentServer]:
    """Servers that may run the turn, full ones included; raises AgentServerUnavailable when there is none."""
    bound = _bound_servers(profile_id)
    active = [server for server in servers if server.state == AgentServer.State.ACTIVE]
    allowed = [server for server in active if not bound or server.pk in bound]
    fresh = [server for server in allowed if server.pk not in avoid]
    if conversation.has_home:
        return _at_home(conversation, servers, fresh, avoid)
    if not fresh:
        raise AgentServerUnavailable(
            "No agent-server answers. Try again in a moment; the administrator sees why under Agent-servers."
            if allowed
            else "No agent-server is set up for this profile. The administrator adds one in the admin.",
            retry_after_seconds=2,
        )
    return fresh


def _at_home(
    conversation: Conversation, servers: list[AgentServer], fresh: list[AgentServer], avoid: frozenset[int]
) -> list[AgentServer]:
    """The server that has the conversation; or, if that is gone and others can take it, those."""
    home = next((server for server in servers if server.pk == conversation.agent_server_id), None)
    # One that was never started was reserved for its server: it has no history to be told elsewhere.
    if conversation.state == Conversation.State.LIVE and (home is None or is_gone(home)):
        elsewhere = [
            server
            for server in fresh
            if server.pk != conversation.agent_server_id and server.health != AgentServer.Health.DOWN
        ]
        if elsewhere:
            return elsewhere
    if home is None:
        raise AgentServerUnavailable(
            "The agent-server of this conversation is switched off. Start a new conversation, or try again later."
        )
    if home.pk in avoid:
        raise AgentServerUnavailable(
            "The agent-server of this conversation does not answer. Try again in a moment.", retry_after_seconds=5
        )
    return [home]


def is_gone(server: AgentServer) -> bool:
    """Whether the server was switched off, or has been seen to fail for so long, that its conversations are better told
    elsewhere.

    What counts is the time between the first failure and the last: a server that failed once, an hour ago, and was
    not asked since may be well.
    """
    if server.state == AgentServer.State.DISABLED:
        return True
    if server.health != AgentServer.Health.DOWN or server.down_since is None or server.health_checked_at is None:
        return False
    failed_for = server.health_checked_at - server.down_since
    return failed_for.total_seconds() >= settings.GATEWAY_SERVER_GONE_SECONDS


def _is_avoided(server: AgentServer) -> bool:
    if server.health != AgentServer.Health.DOWN or server.health_checked_at is None:
        return False
    return (timezone.now() - server.health_checked_at).total_seconds() < AVOID_SECONDS


def set_state(server: AgentServer, state: AgentServer.State) -> None:
    """Have a server take new conversations, only its own, or none. What runs on it is not stopped."""
    AgentServer.objects.filter(pk=server.pk).update(state=state)
    forget()
    transaction.on_commit(forget)  # another thread may have read the old state before the commit


def note_health(server: AgentServer, *, is_up: bool, message: str = "", **facts: Any) -> None:
    """Write what a call to the server showed. `facts` are `version`, `capabilities`, `usable_tools`."""
    now = timezone.now()
    AgentServer.objects.filter(pk=server.pk).update(
        health=AgentServer.Health.UP if is_up else AgentServer.Health.DOWN,
        health_checked_at=now,
        health_message=message[:300],
        down_since=None if is_up else Coalesce("down_since", Value(now)),
        **facts,
    )
    forget()
