"""Turns whose process died, and slots that nobody gave back: taken over, brought to their end, freed.

Every gateway process looks for them, and the worker where none does.
"""

from __future__ import annotations

import logging
from uuid import UUID

from chatgateway import (
    audit,
    endings,
    finding,
    frame_log,
    housekeeping,
    metrics,
    servers,
    stored_items,
)
from chatgateway.agentserver.exceptions import AgentServerError, ConversationMissing
from chatgateway.answer import Showing, ShowingRules
from chatgateway.drivers import Drivers, current
from chatgateway.errors import AgentRunFailed, AgentServerUnavailable, GatewayError
from chatgateway.models import Conversation, Turn
from chatgateway.openai_api import chat_request, responses_request
from chatgateway.openai_api.answer_form import form_in
from chatgateway.openai_api.chat_request import ChatRequest, LlmOverrides
from chatgateway.preparation import Assignment
from chatgateway.stored_reply import request_of
from chatgateway.writer import writer
from profiles.models import OnDisconnect, Profile

logger = logging.getLogger(__name__)

ADOPT_LIMIT = 20
# The worker takes over only what no gateway process has taken, and follows it for no longer than this.
RECOVER_AFTER_SECONDS = 10
RECOVER_SECONDS = 10.0


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
