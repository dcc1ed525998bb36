"""Writes conversations and turns that were over before they were written: for `seed_demo`.

The rows are made by the functions that make those of real turns; here they get their times, and go to the database
many at a time. Synchronous; one transaction per call.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import batched
from typing import Any
from uuid import UUID

from django.db import models, transaction

from chatgateway import audit, ledger, message_store, sql, turn_texts
from chatgateway.agentserver.schemas import DurableEvent
from chatgateway.audit import Arrival, Asked, Ending
from chatgateway.models import AgentServer, Attempt, Conversation, Event, Message, Turn
from profiles.models import Profile

# SQLite takes 32,766 parameters in a statement, and a turn has about seventy columns.
_PARAMETERS = 30_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PastTurn:
    """A request and what became of it. Without `conversation` it was refused; without `ending` it is still open."""

    id: UUID
    arrival: Arrival
    asked: Asked
    opened_at: dt.datetime
    closed_at: dt.datetime
    ending: Ending | None
    profile: Profile | None = None
    snapshot: dict[str, Any] = field(default_factory=dict)
    conversation: Conversation | None = None
    server: AgentServer | None = None
    match: str = ""
    parent_id: UUID | None = None
    request_digest: str = ""
    user_event_seq: int | None = None
    started_at: dt.datetime | None = None
    accepted_at: dt.datetime | None = None
    leaf_event_id: str = ""
    events: Sequence[DurableEvent] = ()
    is_delivered: bool = True


def write(conversations: Sequence[Conversation], turns: Iterable[PastTurn]) -> int:
    """Write new conversations and turns with all that belongs to them; return how many turns."""
    turn_rows: list[Turn] = []
    attempts: list[Attempt] = []
    events: list[Event] = []
    messages: dict[UUID, Message] = {}
    for past in turns:
        row = _turn(past, messages)
        turn_rows.append(row)
        attempts.append(_attempt(past, row))
        events += (audit.event_row(row, event, at=past.closed_at) for event in past.events)
    with transaction.atomic():
        _insert(conversations)
        _insert(list(messages.values()), ignore_conflicts=True)
        _insert(turn_rows)
        _insert(attempts)
        _insert(events)
        for row in turn_rows:
            if row.closed_at is not None:
                ledger.settle(row)
        turn_texts.write(row for row in turn_rows if row.closed_at is not None)
    return len(turn_rows)


def _turn(past: PastTurn, messages: dict[UUID, Message]) -> Turn:
    body = past.asked.body
    chain = message_store.chain_rows(past.arrival.caller.tenant_id, body["messages"], {})
    for message in chain:
        message.created_at = past.opened_at
        messages.setdefault(message.pk, message)
    parameters = {name: None if name == "messages" else value for name, value in body.items()}
    turn = audit.unsaved(past.arrival, past.asked, turn_id=past.id, parameters=parameters, last_message=chain[-1])
    turn.opened_at = past.opened_at
    turn.arrival = int(past.opened_at.timestamp() * 1_000_000)
    turn.profile, turn.profile_snapshot = past.profile, past.snapshot
    turn.match, turn.parent_id, turn.request_digest = past.match, past.parent_id, past.request_digest
    if past.conversation is not None and past.profile is not None:
        turn.prices = past.profile.prices()
        turn.conversation, turn.incarnation = past.conversation, 0
        turn.deadline_at = past.opened_at + dt.timedelta(seconds=past.profile.time_limit_seconds)
        turn.lease_generation = 1
    if past.server is not None:
        turn.agent_server, turn.server_url, turn.phase = past.server, past.server.url, Turn.Phase.RUNNING
        turn.started_at, turn.accepted_at = past.started_at, past.accepted_at
        turn.user_event_seq = past.user_event_seq
    if past.ending is None:
        turn.lease_owner, turn.lease_expires_at = "seed_demo", audit.LEASE_END
    else:
        audit.ended(turn, past.ending, at=past.closed_at, leaf_event_id=past.leaf_event_id)
    return turn


def _attempt(past: PastTurn, turn: Turn) -> Attempt:
    ended_at = None if past.ending is None else past.closed_at
    return Attempt(
        turn_id=turn.pk,
        request_id=past.arrival.request_id,
        address=turn.address,
        client=turn.client,
        retry_count=past.arrival.retry_count,
        attached_at=past.opened_at,
        lease_expires_at=audit.LEASE_END if ended_at is None else None,
        detached_at=ended_at,
        delivered_at=ended_at if past.is_delivered else None,
    )


def _insert(rows: Sequence[models.Model], *, ignore_conflicts: bool = False) -> None:
    if rows:
        for some in batched(rows, _PARAMETERS // len(type(rows[0])._meta.concrete_fields)):
            sql.insert(some, ignore_conflicts=ignore_conflicts)
