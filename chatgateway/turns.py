"""Opening turns, joining those who wait for them, and taking over those whose process died. The conductor."""

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
    endings,
    finding,
    frame_log,
    housekeeping,
    metrics,
    repeats,
    servers,
    stored_items,
)
from chatgateway.agentserver.exceptions import AgentServerError, ConversationMissing
from chatgateway.answer import Showing, ShowingRules
from chatgateway.audit import Arrival, Asked
from chatgateway.drivers import Drivers, current
from chatgateway.errors import AgentRunFailed, AgentServerUnavailable, GatewayError
from chatgateway.housekeeping import Chore
from chatgateway.live import LiveTurn
from chatgateway.models import Conversation, Turn
from chatgateway.openai_api import chat_request, responses_request
from chatgateway.openai_api.answer_form import form_in
from chatgateway.openai_api.chat_request import ChatRequest, LlmOverrides
from chatgateway.openai_api.housekeeping import Task
from chatgateway.places import StillOpen
from chatgateway.preparation import Assignment
from chatgateway.search import Found, Named
from chatgateway.stored_reply import request_of
from chatgateway.writer import log_failure, writer
from profiles.models import OnDisconnect, Profile

logger = logging.getLogger(__name__)

ADOPT_LIMIT = 20
# The worker takes over only what no gateway process has taken, and follows it for no longer than this.
RECOVER_AFTER_SECONDS = 10
RECOVER_SECONDS = 10.0
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
        )

    try:
        turn, found, limits = await _patiently(join_or_open_row)
    except IntegrityError:
        # The same Idempotency-Key, or the same history, came to another process at the same moment and was first.
        turn, found, limits = await _patiently(join_or_open_row)
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
) -> _Opened:
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


# --- take-over -----------------------------------------------------------------------------------------------------


async def adopt_expired(limit: int = ADOPT_LIMIT, *, patience_seconds: int = 0) -> int:
    """Take over open turns whose lease ran out, and bring them to an end. Return how many were taken.

    The requests that waited for such a turn went with the process that drove it, but may have been repeated since.
    `patience_seconds`: leave those that ran out a moment ago to others.
    """
    drivers = current()
    if drivers.is_draining:
        return 0  # it would take over what it has just given up
    expired = await writer.run(lambda: _claim_expired(drivers.owner, list(drivers.live), limit, patience_seconds))
    if await _given_back(drivers, expired):
        return 0
    for turn in expired:
        metrics.turn_taken_over()
        await _adopt(drivers, turn)
    return len(expired)


async def _given_back(drivers: Drivers, claimed: list[Turn]) -> bool:
    """Give turns back if this process was told to end while it claimed them."""
    if drivers.is_draining:
        await writer.run(lambda: audit.drop_leases(drivers.owner, [turn.pk for turn in claimed]))
    return drivers.is_draining


async def recover(limit: int = ADOPT_LIMIT) -> int:
    """`adopt_expired` for a process that serves no requests: what does not end soon is given back. Return how many."""
    taken = await adopt_expired(limit, patience_seconds=RECOVER_AFTER_SECONDS)
    await current().drain(RECOVER_SECONDS)
    return taken


def _claim_expired(owner: str, mine: list[UUID], limit: int, patience_seconds: int) -> list[Turn]:
    # Whatever kept this process from renewing its leases, it lives, and does not take its turns over from itself.
    audit.renew_leases(owner, mine)
    rows = audit.unclaimed(for_seconds=patience_seconds).select_related(
        "conversation__agent_server",
        "conversation__told_from",
        "conversation__branched_at",
        "parent",
        "agent_server",
        "profile",
        "api_key",
    )
    return [turn for turn in rows.order_by("arrival")[:limit] if audit.take_over(turn, owner=owner)]


async def free_slots(limit: int = ADOPT_LIMIT) -> int:
    """Look after closed turns whose interrupt was never confirmed: they hold a slot until their run has ended.

    Return how many were found to have ended.
    """
    drivers = current()
    held = await writer.run(lambda: audit.holding_after_close(limit))
    freed = 0
    for turn in held:
        if turn.agent_server is not None and turn.conversation_id is not None:
            client = drivers.client(turn.agent_server)
            try:
                info = await client.conversation(turn.conversation_id, timeout_seconds=10)
                if info.execution_status == "running":
                    await client.interrupt(turn.conversation_id, timeout_seconds=10)
                    continue
            except ConversationMissing:
                pass  # what does not exist does not run
            except AgentServerError as error:
                if not servers.is_gone(turn.agent_server):
                    logger.warning("the slot of turn %s cannot be freed yet: %s", turn.pk, error)
                    continue
                # Its conversation may go on elsewhere; what still runs there, if anything, is deleted when it is back.
        turn_id = turn.pk
        await writer.run(lambda turn_id=turn_id: audit.run_seen_to_end(turn_id))  # type: ignore[misc]
        freed += 1
    return freed


async def _adopt(drivers: Drivers, turn: Turn) -> None:
    conversation, profile = turn.conversation, turn.profile
    if turn.kind == Turn.Kind.HOUSEKEEPING and profile is not None:
        live = drivers.start_housekeeping(await writer.run(lambda: housekeeping.taken_over(turn, profile)))
        if turn.cancel_requested_at is not None:
            live.request_cancel(turn.cancel_reason)
        return
    if conversation is None or profile is None:
        await _give_up(turn, AgentRunFailed("The gateway was restarted, and the profile or conversation is gone."))
        return
    if turn.agent_server is not None and turn.user_event_seq is None:
        try:
            turn.user_event_seq = await _find_message(drivers, turn, conversation)
        except ConversationMissing:
            pass  # the agent-server has nothing of it, the message least of all
        except AgentServerError as error:
            logger.warning("turn %s waits for its agent-server: %s", turn.pk, error)
            return  # its lease runs out again, and the next sweep tries anew
    if turn.user_event_seq is not None:
        logger.info("turn %s is taken over", turn.pk)
        assignment = Assignment(
            turn=turn,
            conversation=conversation,
            profile=profile,
            overrides=_overrides_again(turn, profile),
            parts=(),
            form=form_in(turn.parameters),
            attached=True,
            instructions=conversation.instructions,
            max_tool_calls=turn.parameters.get("max_tool_calls") if turn.is_response else None,
            frames=await writer.run(lambda: frame_log.frames_of(turn.pk)) if turn.is_response else [],
        )
    else:
        begun = await writer.run(lambda: _begin_again(turn, conversation, profile))
        if begun is None:
            await _give_up(turn, AgentServerUnavailable("The gateway was restarted before the agent was started."))
            return
        logger.info("turn %s is begun by this process: the one that opened it died first", turn.pk)
        assignment = begun
    live = drivers.start(assignment)
    if turn.cancel_requested_at is not None:
        live.request_cancel(turn.cancel_reason)


def _begin_again(turn: Turn, conversation: Conversation, profile: Profile) -> Assignment | None:
    """Return what the driver of a turn needs whose agent never got the message; None if nobody waits for it."""
    policy = (turn.api_key.on_disconnect if turn.api_key else "") or profile.on_disconnect
    if policy == OnDisconnect.CANCEL and not turn.is_background and not audit.is_waited_for(turn):
        return None
    chat = _request_again(turn, profile)
    found = finding.found_before(turn, conversation, chat)
    return Assignment(
        turn=turn,
        conversation=conversation,
        profile=profile,
        overrides=chat.overrides,
        parts=found.parts,
        whole=found.whole,
        form=chat.form,
        instructions=found.instructions,
        max_tool_calls=chat.max_tool_calls,
    )


def _request_again(turn: Turn, profile: Profile) -> ChatRequest:
    """A recorded request as it was read when it came."""
    if not turn.is_response:
        return request_of(turn, profile)
    body = audit.rebuild_request(turn)
    return responses_request.parse(
        body,
        stored=stored_items.named_in(body, tenant_id=turn.tenant_id or 0),
        client_tools="ignore",
        accepts_images=True,
        accepts_remote_images=True,
        honours_overrides=profile.allows_overrides,
    )


def _overrides_again(turn: Turn, profile: Profile) -> LlmOverrides:
    if not profile.allows_overrides:
        return LlmOverrides()
    if turn.is_response:
        return responses_request.overrides_in(turn.parameters)
    return chat_request.overrides_in(turn.parameters, ignored=[])


async def _find_message(drivers: Drivers, turn: Turn, conversation: Conversation) -> int | None:
    """Return where the turn's message stands in the agent-server's log, if it got there."""
    assert turn.agent_server is not None
    client = drivers.client(turn.agent_server)
    logged = await client.durable_events(conversation.pk, after_seq=conversation.cursor, timeout_seconds=10)
    if conversation.is_to_be_forked and conversation.branched_at is not None:
        # It may have been forked already: what it is a copy of ends with the event at which it branched off.
        ids = [event.id for event in logged]
        at = conversation.branched_at.leaf_event_id
        logged = logged[ids.index(at) + 1 :] if at in ids else []
    mine = [event for event in logged if event.kind == "MessageEvent" and event.event.get("source") == "user"]
    return mine[0].seq if mine else None


async def _give_up(turn: Turn, error: GatewayError) -> None:
    """Close a turn that cannot be brought to its end: refused if its agent never began, else abandoned."""
    run = endings.Run(
        showing=Showing(ShowingRules(thoughts="hidden", activity="hidden", holdback_chars=0)), baseline={}
    )
    ending = endings.failed(run, error) if turn.user_event_seq is None else endings.abandoned(run, error)
    try:
        await writer.run(lambda: audit.close_turn(turn, ending))
        metrics.turn_closed(turn)
    except audit.TurnLost:
        logger.info("turn %s was closed by another process", turn.pk)
