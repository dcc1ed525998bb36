"""The record of turns: opened before an agent is set to work, closed exactly once. The only writer of `Turn`,
`Attempt`, `Event`, `Message` and `Image` rows, together with `past`, which writes what was over before it was written;
`removal` alone takes away what they wrote.

Synchronous; `open_turn`, `advance` and `close_turn` run as jobs of the `Writer`, inside its transaction. Every
write of a driver names the generation of its lease; `TurnLost` says that another process has taken the turn over.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from django.db import transaction
from django.db.models import F, Q
from django.db.models.functions import Now
from django.utils import timezone

from chatgateway import agents, ledger, message_store, sql, turn_texts
from chatgateway.agentserver.schemas import DurableEvent
from chatgateway.errors import GatewayError
from chatgateway.models import RESPONSES, AgentServer, Attempt, Conversation, Event, Message, Turn
from chatgateway.openai_api import histories
from chatgateway.querysets import TurnQuerySet
from chatgateway.turn_events import TokenCounts, TurnAnswered
from profiles.access import Caller
from profiles.models import Profile
from profiles.pricing import cost_usd

LEASE_SECONDS = 20
# By the database's clock: the clocks of two machines need not agree.
LEASE_END = sql.InSeconds(LEASE_SECONDS)
# A lease that ends later than any is given was written by a clock that was set back since. The slack is for statements
# that wait: PostgreSQL takes their time when they arrive and looks at the rows when their locks are there, so that one
# may see leases that are, by its own time, longer than any is given.
_LONGEST_LEASE_SECONDS = 2 * LEASE_SECONDS


_REPLY_PREFIXES = {"completions": "cmpl-", RESPONSES: "resp_"}


class TurnLost(Exception):
    """The turn's row no longer carries this driver's lease: another process drives it, or it was closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """How a request came in: everything of it that is not its body."""

    request_id: str
    endpoint: str
    address: str
    client: str
    caller: Caller
    # What a repeat is recognised by. `retry_count` is the SDK's own, None for clients that do not count.
    idempotency_key: str = ""
    retry_count: int | None = None
    retry_digest: str = ""
    traceparent: str = ""

    @property
    def may_be_repeated(self) -> bool:
        """Whether the client would mark a repeat of this request as one."""
        return self.retry_count is not None or bool(self.idempotency_key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a request asked for, as far as it could be read. `body` is its JSON, whatever it was."""

    body: Any
    model_id: str = ""
    is_stream: bool = False
    end_user: str = ""
    ignored: tuple[str, ...] = ()
    is_stored: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a turn ended. Exactly one of `answered` and `error` is given."""

    outcome: Turn.Outcome
    answered: TurnAnswered | None = None
    error: GatewayError | None = None
    answer: str = ""  # kept in the record even when the caller gets an error: the partial text
    reasoning: str = ""
    shown: str = ""  # what a stream carried as the answer: it may hold thoughts that the answer alone does not
    usage: TokenCounts = field(default_factory=TokenCounts)
    is_usage_estimated: bool = False
    run_ended: bool = True
    first_text_at: dt.datetime | None = None
    answered_by: str = ""  # of a housekeeping call: a `Turn.AnsweredBy`
    detail: str = ""  # what auditors should know of a good end


def open_turn(
    *,
    arrival: Arrival,
    asked: Asked,
    profile: Profile,
    conversation: Conversation,
    match: str,
    server: AgentServer | None,
    lease_owner: str,
    deadline_at: dt.datetime,
    at: int,
    parent: Turn | None = None,
    request_digest: str = "",
    continued_text: str = "",
    elided_messages: int = 0,
    held_usd: Decimal | None = None,
) -> Turn:
    """Write the row of a turn, its messages and its first attempt.

    With a `server` it has a slot and may start; without, it is queued. `at` is `new_arrival()`. `parent` is the turn
    it goes on after. Raises IntegrityError if another turn was first to do so in the same conversation.
    `continued_text` is what the caller has of the answer that is to be gone on with.
    """
    turn = _new_turn(arrival, asked)
    _drive(turn, arrival, profile=profile, lease_owner=lease_owner, deadline_at=deadline_at)
    turn.prices = profile.prices()
    turn.conversation = conversation
    turn.incarnation = conversation.incarnation
    turn.match = match
    turn.elided_messages = elided_messages
    turn.parent, turn.request_digest = parent, request_digest
    turn.continued_text = message_store.storable_text(continued_text)
    turn.held_usd = held_usd
    turn.arrival = at
    if server is not None:
        turn.phase, turn.agent_server, turn.server_url = Turn.Phase.STARTING, server, server.url
        turn.started_at = turn.opened_at
    sql.insert([turn])
    _attach(turn, arrival)
    return turn


def open_housekeeping(
    *,
    arrival: Arrival,
    asked: Asked,
    profile: Profile,
    task: str,
    lease_owner: str,
    deadline_at: dt.datetime,
    held_usd: Decimal | None = None,
) -> Turn:
    """Write the row of a housekeeping call: a turn that has no conversation, needs no slot and has begun."""
    turn = _new_turn(arrival, asked)
    _drive(turn, arrival, profile=profile, lease_owner=lease_owner, deadline_at=deadline_at)
    turn.kind, turn.housekeeping_task = Turn.Kind.HOUSEKEEPING, task
    turn.prices = profile.housekeeping_prices()
    turn.held_usd = held_usd
    turn.phase = Turn.Phase.RUNNING
    sql.insert([turn])
    _attach(turn, arrival)
    return turn


def new_arrival() -> int:
    """Return what orders turns: microseconds since 1970."""
    return time.time_ns() // 1000


def record_refusal(*, arrival: Arrival, asked: Asked, error: GatewayError, profile: Profile | None = None) -> Turn:
    """Write the row of a request that was refused before a turn was opened for it."""
    turn = _new_turn(arrival, asked, is_refused=True)
    if profile is not None:
        turn.profile = profile
        turn.profile_snapshot = agents.snapshot(profile)
    now = timezone.now()
    turn.outcome = Turn.Outcome.REFUSED
    turn.phase = Turn.Phase.CLOSED
    turn.closed_at = turn.run_ended_at = now
    _set_error(turn, error)
    sql.insert([turn])
    _attach(turn, arrival, detached_at=now)
    turn_texts.write([turn])
    return turn


def lighten(turn: Turn) -> None:
    """Let go of what the row has and the end of a run does not ask for: a run may be long, and there may be many."""
    turn.profile_snapshot = {name: turn.profile_snapshot.get(name) for name in ("slug", "llm_model")}
    if not turn.is_response:
        turn.parameters = {}


def assign(turn: Turn, server: AgentServer) -> None:
    """Give the turn a slot on `server`: from now on it may call it."""
    now = timezone.now()
    changed = Turn.objects.filter(pk=turn.pk, phase=Turn.Phase.QUEUED, outcome=Turn.Outcome.OPEN).update(
        phase=Turn.Phase.STARTING, agent_server=server, server_url=server.url, started_at=now, run_ended_at=None
    )
    if not changed:
        raise TurnLost(str(turn.pk))
    turn.phase, turn.agent_server, turn.server_url, turn.started_at = Turn.Phase.STARTING, server, server.url, now


def release(turn: Turn) -> None:
    """Put a turn whose agent-server could not be reached back into the queue; nothing was started there."""
    _update_mine(turn, {"phase": Turn.Phase.QUEUED, "agent_server": None, "server_url": "", "started_at": None})
    turn.phase, turn.agent_server, turn.server_url = Turn.Phase.QUEUED, None, ""


def advance(turn: Turn, **changes: Any) -> None:
    """Write where the driver has got to (`phase`, `accepted_at`, `user_event_seq`, `incarnation`, `match`, …)."""
    _update_mine(turn, changes)
    for name, value in changes.items():
        setattr(turn, name, value)


def hold(turn: Turn) -> None:
    """Raise TurnLost unless the turn is this driver's, and keep it so until the transaction ends."""
    rows = Turn.objects.open().select_for_update().filter(pk=turn.pk, lease_generation=turn.lease_generation)
    if not rows.values_list("pk", flat=True).first():
        raise TurnLost(str(turn.pk))


def append_events(of_turns: Iterable[tuple[Turn, Iterable[DurableEvent]]]) -> None:
    """Write events of the agent-server's log, of several turns at once; those already there are passed over."""
    now = timezone.now()
    rows = [event_row(turn, event, at=now) for turn, events in of_turns for event in events]
    sql.insert(rows, ignore_conflicts=True)


def event_row(turn: Turn, event: DurableEvent, *, at: dt.datetime) -> Event:
    """Return the unsaved row of an event; `at` counts where it does not say itself when it occurred."""
    assert turn.conversation_id is not None
    return Event(
        turn_id=turn.pk,
        conversation_id=turn.conversation_id,
        incarnation=turn.incarnation,
        seq=event.seq,
        kind=event.kind[:60],
        source=str(event.event.get("source", ""))[:20],
        tool=(event.tool or "")[:100],
        summary=event.summary[:300],
        is_error=event.is_error,
        raw=message_store.storable_event(event.event),
        received_at=event.occurred_at or at,
    )


def close_turn(turn: Turn, ending: Ending, *, leaf_event_id: str = "") -> None:
    """Close the row. Raises TurnLost when it is closed already or belongs to another driver.

    `leaf_event_id`: where the agent-server's log stands now.
    """
    ended(turn, ending, at=timezone.now(), leaf_event_id=leaf_event_id)
    _update_mine(turn, {name: getattr(turn, name) for name in _CLOSING_COLUMNS})
    ledger.settle(turn)
    turn_texts.write([turn])


def ended(turn: Turn, ending: Ending, *, at: dt.datetime, leaf_event_id: str = "") -> None:
    """Set the columns of a turn that ends, and write nothing."""
    turn.outcome, turn.phase, turn.closed_at = ending.outcome, Turn.Phase.CLOSED, at
    if ending.outcome == Turn.Outcome.REFUSED:
        turn.idempotency_key = ""  # nothing was begun: the client may come again with it
    turn.first_text_at = ending.first_text_at
    if ending.run_ended:
        turn.run_ended_at = at
    turn.answer = message_store.storable_text(ending.answer)
    turn.reasoning = message_store.storable_text(ending.reasoning)
    turn.leaf_event_id = leaf_event_id
    if ending.outcome == Turn.Outcome.ANSWERED:
        delivered = (ending.shown or ending.answer) if turn.is_stream else ending.answer
        answer = turn.continued_text + message_store.storable_text(delivered)  # chat UIs join the two
        turn.end_digest = histories.end_digest(turn.request_digest, answer)
    turn.input_tokens = ending.usage.input
    turn.output_tokens = ending.usage.output
    turn.cached_tokens = ending.usage.cached
    turn.cache_write_tokens = ending.usage.cache_write
    turn.reasoning_tokens = ending.usage.reasoning
    turn.is_usage_estimated = ending.is_usage_estimated
    turn.answered_by = ending.answered_by
    turn.error_detail = message_store.storable_text(ending.detail)[:20_000]
    turn.cost_usd = cost_usd(
        turn.prices,
        input_tokens=ending.usage.input,
        output_tokens=ending.usage.output,
        cached_tokens=ending.usage.cached,
        cache_write_tokens=ending.usage.cache_write,
    )
    if ending.answered is not None:
        turn.http_status = 200
        turn.finish_reason = ending.answered.finish_reason
    if ending.error is not None:
        _set_error(turn, ending.error)


_CLOSING_COLUMNS = (
    "outcome",
    "phase",
    "accepted_at",
    "user_event_seq",
    "closed_at",
    "first_text_at",
    "run_ended_at",
    "answer",
    "reasoning",
    "leaf_event_id",
    "end_digest",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "is_usage_estimated",
    "cost_usd",
    "answered_by",
    "http_status",
    "finish_reason",
    "error_type",
    "error_code",
    "error_param",
    "error_message",
    "error_detail",
    "cancel_reason",
    "idempotency_key",
)


def holding_after_close(limit: int) -> list[Turn]:
    """Return closed turns whose run has not been seen to end, a while after they closed."""
    a_while_ago = timezone.now() - dt.timedelta(seconds=LEASE_SECONDS)
    rows = Turn.objects.holding_a_slot().exclude(outcome=Turn.Outcome.OPEN).filter(closed_at__lt=a_while_ago)
    return list(rows.select_related("agent_server").order_by("closed_at")[:limit])


def run_seen_to_end(turn_id: UUID) -> None:
    """Free the slot of a closed turn whose interrupt had not been confirmed when it closed."""
    Turn.objects.filter(pk=turn_id, run_ended_at__isnull=True).update(run_ended_at=timezone.now())


def release_idempotency_keys(*, before: dt.datetime) -> int:
    """Take the keys off turns that were opened before a moment and have ended; return how many there were."""
    old = Turn.objects.exclude(idempotency_key="").exclude(outcome=Turn.Outcome.OPEN).filter(opened_at__lt=before)
    return old.update(idempotency_key="")


def renew_leases(owner: str, turn_ids: list[UUID]) -> None:
    """Keep this process's claim on its turns; called every few seconds for all of them at once.

    Those that are being written to at this moment are passed over, and renewed the next time: to wait for them, with
    others of them locked, could be to wait for oneself.
    """
    with transaction.atomic():
        mine = Turn.objects.open().filter(pk__in=turn_ids, lease_owner=owner)
        free = list(mine.select_for_update(skip_locked=True).values_list("pk", flat=True))
        Turn.objects.filter(pk__in=free).update(lease_expires_at=LEASE_END)


def no_longer_allowed(turn_ids: list[UUID]) -> list[UUID]:
    """Return those whose key was revoked or has expired, or whose profile was switched off, since they were opened."""
    now = timezone.now()
    withdrawn = Q(api_key__revoked_at__isnull=False) | Q(api_key__expires_at__lte=now) | Q(profile__is_enabled=False)
    return list(Turn.objects.open().filter(withdrawn, pk__in=turn_ids).values_list("pk", flat=True))


def cancellations(turn_ids: list[UUID]) -> list[tuple[UUID, str]]:
    """Return those of the open turns that somebody wants stopped, with the reason."""
    rows = Turn.objects.open().filter(pk__in=turn_ids, cancel_requested_at__isnull=False)
    return list(rows.values_list("pk", "cancel_reason"))


def request_cancel(turn_ids: Iterable[UUID], *, reason: str) -> int:
    """Have open turns stopped by whichever process drives them, within a second. Return how many there were.

    The first reason stays.
    """
    rows = Turn.objects.open().filter(pk__in=list(turn_ids), cancel_requested_at__isnull=True)
    return rows.update(cancel_requested_at=Now(), cancel_reason=reason)


def cancel_if_nobody_waits(turn_id: UUID) -> bool:
    """Have an open turn stopped unless a request waits for it, in whatever process. Return whether it is."""
    turn = Turn.objects.open().select_for_update().filter(pk=turn_id).first()
    if turn is None or is_waited_for(turn):
        return False
    return bool(request_cancel([turn_id], reason="disconnect"))


def is_waited_for(turn: Turn) -> bool:
    """Whether a request of a living process is attached to the turn."""
    return turn.attempts.filter(detached_at__isnull=True, lease_expires_at__gt=Now()).exists()


def join(turn: Turn, arrival: Arrival) -> None:
    """Attach a repeated request to the turn it repeats."""
    _attach(turn, arrival)


def release_key(turn: Turn) -> None:
    """Let the turn's idempotency key name another turn from now on."""
    Turn.objects.filter(pk=turn.pk).update(idempotency_key="")


def renew_attempts(request_ids: list[str]) -> None:
    """Keep saying that these requests wait; called together with `renew_leases`, and as that does."""
    with transaction.atomic():
        waiting = Attempt.objects.filter(request_id__in=request_ids, detached_at__isnull=True)
        free = list(waiting.select_for_update(skip_locked=True).values_list("pk", flat=True))
        Attempt.objects.filter(pk__in=free).update(lease_expires_at=LEASE_END)


def drop_leases(owner: str, turn_ids: list[UUID]) -> None:
    """Let other processes take the turns over at once."""
    Turn.objects.filter(pk__in=turn_ids, lease_owner=owner, outcome=Turn.Outcome.OPEN).update(
        lease_expires_at=Now() - dt.timedelta(seconds=1)
    )


def unclaimed(*, for_seconds: int = 0) -> TurnQuerySet:
    """Open turns that nobody drives any more: their lease ran out so long ago, or ends when no lease can.

    By the database's clock: the clocks of two machines need not agree.
    """
    ran_out = Q(lease_expires_at__lt=sql.InSeconds(-for_seconds))
    return Turn.objects.open().filter(ran_out | Q(lease_expires_at__gt=sql.InSeconds(_LONGEST_LEASE_SECONDS)))


def take_over(turn: Turn, *, owner: str) -> bool:
    """Claim a turn of `unclaimed()`. False when another process was first, or its own has renewed its lease since."""
    changed = (
        unclaimed()
        .filter(pk=turn.pk, lease_generation=turn.lease_generation)
        .update(
            lease_owner=owner,
            lease_generation=F("lease_generation") + 1,
            lease_expires_at=LEASE_END,
        )
    )
    if changed:
        turn.lease_generation += 1
    return bool(changed)


def detach(request_id: str) -> None:
    """Note that a request stopped waiting for its turn, without the whole reply."""
    _detach(request_id, {"detached_at": timezone.now()})


def delivered(replies: Iterable[tuple[str, dt.datetime]]) -> None:
    """Note which requests had their whole reply, and when."""
    for request_id, at in replies:
        _detach(request_id, {"detached_at": at, "delivered_at": at})


def _detach(request_id: str, changes: dict[str, dt.datetime]) -> None:
    sql.update(Attempt, where={"request_id": request_id, "detached_at": None}, changes=changes)


def forget_response(turn: Turn) -> None:
    """Give a response out no more; the record keeps it."""
    Turn.objects.filter(pk=turn.pk).update(is_stored=False)


def rebuild_request(turn: Turn) -> dict[str, Any]:
    """Return the JSON body of the request as it was sent. Equal as JSON; white space and key order may differ."""
    if turn.last_message_id is None:
        return dict(turn.parameters)
    return message_store.with_messages(turn.parameters, message_store.chain(turn.last_message_id))


def _new_turn(arrival: Arrival, asked: Asked, *, is_refused: bool = False) -> Turn:
    parameters, last_message = message_store.store(
        tenant_id=arrival.caller.tenant_id, body=asked.body, is_refused=is_refused
    )
    return unsaved(arrival, asked, turn_id=uuid4(), parameters=parameters, last_message=last_message)


def unsaved(
    arrival: Arrival, asked: Asked, *, turn_id: UUID, parameters: dict[str, Any], last_message: Message | None
) -> Turn:
    """Return a turn's row with what its request says; `parameters` and the last message are as stored."""
    caller = arrival.caller
    return Turn(
        id=turn_id,
        reply_id=f"{_REPLY_PREFIXES.get(arrival.endpoint, 'chatcmpl-')}{turn_id.hex}",
        request_id=arrival.request_id,
        traceparent=arrival.traceparent,
        endpoint=arrival.endpoint,
        tenant_id=caller.tenant_id,
        api_key_id=caller.api_key_id,
        tenant_name=caller.tenant_name,
        key_name=caller.key_name,
        key_prefix=caller.key_prefix,
        model_id=message_store.storable_text(asked.model_id)[:300],
        end_user=message_store.storable_text(asked.end_user)[:256],
        is_stream=asked.is_stream,
        is_stored=asked.is_stored,
        retry_digest=arrival.retry_digest,
        parameters=parameters,
        last_message=last_message,
        ignored_parameters=list(asked.ignored),
        client=message_store.storable_text(arrival.client)[:200],
        address=arrival.address[:64],
        arrival=new_arrival(),
    )


def _drive(turn: Turn, arrival: Arrival, *, profile: Profile, lease_owner: str, deadline_at: dt.datetime) -> None:
    """Give a new turn to the process that is to bring it to its end."""
    turn.idempotency_key = arrival.idempotency_key
    turn.profile = profile
    turn.profile_snapshot = agents.snapshot(profile)
    turn.deadline_at = deadline_at
    turn.lease_owner = lease_owner
    turn.lease_expires_at = LEASE_END
    turn.lease_generation = 1


def _attach(turn: Turn, arrival: Arrival, *, detached_at: dt.datetime | None = None) -> None:
    attempt = Attempt(
        turn_id=turn.pk,
        request_id=arrival.request_id,
        address=arrival.address[:64],
        client=message_store.storable_text(arrival.client)[:200],
        retry_count=arrival.retry_count,
        lease_expires_at=None if detached_at else LEASE_END,
        detached_at=detached_at,
    )
    sql.insert([attempt])


def _update_mine(turn: Turn, changes: dict[str, Any]) -> None:
    """Write to the row as long as this driver holds its lease; TurnLost otherwise."""
    mine = {"id": turn.pk, "outcome": Turn.Outcome.OPEN, "lease_generation": turn.lease_generation}
    if not sql.update(Turn, where=mine, changes=changes):
        raise TurnLost(str(turn.pk))


def _set_error(turn: Turn, error: GatewayError) -> None:
    turn.http_status = error.status
    turn.error_type = error.type[:40]
    turn.error_code = error.code[:60]
    turn.error_param = message_store.storable_text(error.param or "")[:200]
    turn.error_message = message_store.storable_text(error.message)
    turn.error_detail = message_store.storable_text(error.detail)[:20_000]
