"""Opening turns, and joining those who wait for them. The conductor."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from django.db.utils import IntegrityError
from django.utils import timezone

from chatgateway import (
    audit,
    ceilings,
    finding,
    housekeeping,
    metrics,
    repeats,
    servers,
)
from chatgateway.audit import Arrival, Asked
from chatgateway.drivers import current
from chatgateway.housekeeping import Chore
from chatgateway.live import LiveTurn
from chatgateway.models import AgentServer, Conversation, Turn
from chatgateway.openai_api.chat_request import ChatRequest
from chatgateway.openai_api.housekeeping import Task
from chatgateway.places import StillOpen
from chatgateway.preparation import Assignment
from chatgateway.search import Found, Named
from chatgateway.writer import log_failure, writer
from profiles.models import OnDisconnect, Profile

logger = logging.getLogger(__name__)

# A turn whose caller has gone is closed within moments; a request that goes on after it waits for so long at most, and
# for one whose caller may have gone this very moment a shorter time. It looks again and again.
CLOSING_SECONDS = 3.0
LEAVING_SECONDS = 0.5
LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """A request's place among those who wait for a turn.

    `match` says how the conversation was found, empty for a housekeeping call, whose `task` is told. `elided` counts
    what was left out of the told history. `is_replay`: the turn had ended when the request came. `cancels`: the run is
    stopped when nobody waits any more, after `grace_seconds`.
    """

    live: LiveTurn
    arrival: Arrival
    match: str
    task: str
    elided: int
    is_replay: bool
    cancels: bool
    grace_seconds: float
    limits: dict[str, str]  # headers that say what is left of the caller's ceilings
    joined_trace: str = ""  # `Turn.traceparent` of a turn that was there already


# The turn, its place in a conversation or its task as a housekeeping call (None: it was there already), and what is
# left of the caller's ceilings.
_Opened = tuple[Turn, Found | Task | None, dict[str, str]]


async def join_or_open(
    *, arrival: Arrival, asked: Asked, chat: ChatRequest, profile: Profile, named: Named
) -> Subscription:
    """Join the turn that a checked request repeats, or open one for it and start to drive it.

    Raises IdempotencyMismatch, ConversationBusy, NotFound, TooManyRequests or AgentServerUnavailable before anything
    was started; then no row is left, and the caller records the refusal.
    """
    drivers = current()
    drivers.refuse_if_draining()
    # Who names a conversation means that conversation.
    # No chat UI sends such calls as responses.
    may_be_task = named.conversation_id is None and chat.instructions is None
    task = housekeeping.task_of(chat, profile) if may_be_task else None

    def join_or_open_row(*, may_wait: bool) -> _Opened:
        servers.lock()  # before the turn that this may repeat is locked: whoever closes that may have this lock
        repeated = repeats.find(arrival)
        if repeated is not None:
            audit.join(repeated, arrival)
            return repeated, None, {}
        if task is not None:
            lease_owner = drivers.owner
            opened, limits = housekeeping.open_turn(
                arrival=arrival, asked=asked, profile=profile, task=task, lease_owner=lease_owner
            )
            return opened, task, limits
        return _open_row(
            lease_owner=drivers.owner,
            arrival=arrival,
            asked=asked,
            chat=chat,
            profile=profile,
            named=named,
            may_wait=may_wait,
            placed=placed,
        )

    def placed(found: Found, server: AgentServer) -> None:
        if found.is_new and found.conversation.state == Conversation.State.NEW:
            head_starts.begin(
                partial(
                    drivers.head_start,
                    server=server,
                    conversation=found.conversation,
                    profile=profile,
                    overrides=chat.overrides,
                    instructions=found.instructions,
                )
            )

    with drivers.head_starts() as head_starts:
        try:
            turn, found, limits = await _patiently(join_or_open_row)
        except IntegrityError:
            # The same Idempotency-Key, or the same history, came to another process at the same moment and was first.
            turn, found, limits = await _patiently(join_or_open_row)
        head_start = head_starts.take(turn.conversation_id)
    if found is None:
        logger.info("request %s joins turn %s", arrival.request_id, turn.pk)
        metrics.request_joined()
        live = drivers.subscription(turn)
    elif isinstance(found, str):
        live = drivers.start_housekeeping(Chore(turn=turn, profile=profile, chat=chat, task=found))
    else:
        live = drivers.start(
            Assignment(
                turn=turn,
                conversation=found.conversation,
                profile=profile,
                overrides=chat.overrides,
                parts=found.parts,
                whole=found.whole,
                head_start=head_start,
                form=chat.form,
                instructions=found.instructions,
                max_tool_calls=chat.max_tool_calls,
            )
        )
    live.subscribers += 1
    drivers.attach(arrival.request_id)
    stops_when_left = (arrival.caller.on_disconnect or profile.on_disconnect) == OnDisconnect.CANCEL
    return Subscription(
        live=live,
        arrival=arrival,
        match=turn.match,
        task=turn.housekeeping_task,
        elided=turn.elided_messages,
        is_replay=found is None and turn.outcome != Turn.Outcome.OPEN,
        # An LLM call cannot be taken back; what it costs is better known than guessed.
        cancels=stops_when_left and not chat.is_background and turn.kind == Turn.Kind.AGENT,
        grace_seconds=profile.disconnect_grace_seconds if arrival.may_be_repeated and not chat.stream else 0,
        limits=limits,
        joined_trace=turn.traceparent if found is None else "",
    )


async def _patiently(open_row: Callable[..., _Opened]) -> _Opened:
    """Open a turn. One that goes on after an answer whose reader has just gone away waits for that to be put down."""
    started = time.monotonic()
    while True:
        try:
            return await writer.run(partial(open_row, may_wait=True))
        except StillOpen as place:
            if time.monotonic() - started > (CLOSING_SECONDS if place.is_left else LEAVING_SECONDS):
                return await writer.run(partial(open_row, may_wait=False))
            await asyncio.sleep(LOOK_SECONDS)


def _open_row(
    *,
    lease_owner: str,
    arrival: Arrival,
    asked: Asked,
    chat: ChatRequest,
    profile: Profile,
    named: Named,
    may_wait: bool,
    placed: Callable[[Found, AgentServer], None],
) -> _Opened:
    """`placed` is told which agent-server the turn has, when nothing is left that could refuse it."""
    servers.lock()  # from here on no sweep ends the conversation's time, and nobody else opens a turn
    admission = ceilings.admit(arrival.caller, profile)
    at = audit.new_arrival()
    found = finding.find_for(
        caller=arrival.caller,
        profile=profile,
        named=named,
        transcript=chat.transcript,
        may_wait=may_wait,
    )
    is_new = found.is_new
    if not is_new and profile.when_busy == Profile.WhenBusy.REJECT:
        servers.refuse_if_busy(found.conversation, at)
    server = servers.pick(conversation=found.conversation, profile_id=profile.pk, is_new=is_new, arrival=at)
    if server is not None:
        placed(found, server)
    turn = audit.open_turn(
        arrival=arrival,
        asked=asked,
        profile=profile,
        conversation=found.conversation,
        match=found.how,
        parent=found.parent,
        request_digest=found.request_digest,
        continued_text=chat.transcript.continued_text,
        elided_messages=found.elided,
        server=server,
        lease_owner=lease_owner,
        deadline_at=timezone.now() + dt.timedelta(seconds=profile.time_limit_seconds),
        at=at,
        held_usd=admission.held_usd,
    )
    return turn, found, admission.headers


def leave(subscription: Subscription, *, delivered: bool) -> None:
    """A request stops waiting for its turn. When it was the last one, the profile says what becomes of the run."""
    live = subscription.live
    let_go(subscription)
    note_end(subscription, delivered=delivered)
    drivers = current()
    # A process that ends cuts its callers off; they have not gone away by themselves.
    if live.ended is None and live.subscribers == 0 and subscription.cancels and not drivers.is_draining:
        drivers.later(_cancel_unless_awaited(live, subscription.grace_seconds))


def let_go(subscription: Subscription) -> None:
    """First half of `leave`, for a request whose reply was sent and may yet turn out not to have arrived."""
    subscription.live.subscribers -= 1
    current().detach(subscription.arrival.request_id)


def note_end(subscription: Subscription, *, delivered: bool) -> None:
    """Second half: write whether the reply arrived."""
    request_id = subscription.arrival.request_id
    if delivered:
        writer.gather(audit.delivered, (request_id, timezone.now()))
    else:
        # In its place among the jobs: whether anybody still waits for the turn is asked after it.
        writer.submit(lambda: audit.detach(request_id)).add_done_callback(log_failure)


async def _cancel_unless_awaited(live: LiveTurn, grace_seconds: float) -> None:
    await asyncio.sleep(grace_seconds)
    if live.ended is None and live.subscribers == 0:
        turn_id = live.turn_id
        if await writer.run(lambda: audit.cancel_if_nobody_waits(turn_id)):
            live.request_cancel("disconnect")


async def cancel(turn_id: UUID, *, reason: str) -> None:
    """Have an open turn stopped, whichever process drives it; does nothing to a closed one."""
    await writer.run(lambda: audit.request_cancel([turn_id], reason=reason))
    live = current().live.get(turn_id)
    if live is not None:
        live.request_cancel(reason)


async def cancel_conversation(conversation_id: UUID) -> None:
    """Have every open turn of a conversation stopped."""
    rows = Turn.objects.open().filter(conversation_id=conversation_id)
    for turn_id in await writer.run(lambda: list(rows.values_list("pk", flat=True))):
        await cancel(turn_id, reason="request")
