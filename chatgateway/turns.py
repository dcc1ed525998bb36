"""Opening turns, joining those who wait for them, and taking over those whose process died. The conductor."""

from __future__ import annotations

import datetime as dt
import logging
from uuid import UUID

from django.db.models.functions import Now
from django.utils import timezone

from chatgateway import audit, conversations, endings, servers
from chatgateway.agentserver.exceptions import AgentServerError, ConversationMissing
from chatgateway.answer import Showing, ShowingRules
from chatgateway.audit import Arrival, Asked
from chatgateway.conversations import Found
from chatgateway.driver import Assignment
from chatgateway.drivers import Drivers, current
from chatgateway.errors import AgentRunFailed
from chatgateway.live import LiveTurn
from chatgateway.models import Conversation, Turn
from chatgateway.openai_api.chat_request import ChatRequest, LlmOverrides
from chatgateway.writer import writer
from profiles.models import Profile

logger = logging.getLogger(__name__)

# A lease that ends further in the future than any is given was written by a clock that was set back since.
LEASE_SANITY = dt.timedelta(seconds=audit.LEASE_SECONDS)
ADOPT_LIMIT = 20


async def open_turn(
    *, arrival: Arrival, asked: Asked, chat: ChatRequest, profile: Profile, requested: UUID | None
) -> tuple[LiveTurn, str]:
    """Open a turn for a checked request and start to drive it.

    Return what there is to subscribe to, and how the conversation was found. Raises NotFound, TooManyRequests or
    AgentServerUnavailable before anything was started; then no row is left, and the caller records the refusal.
    """
    drivers = current()
    drivers.refuse_if_draining()

    def open_row() -> tuple[Turn, Found]:
        servers.lock()  # from here on no sweep ends the conversation's time
        at = audit.new_arrival()
        found = conversations.find_for(
            caller=arrival.caller,
            profile=profile,
            requested=requested,
            transcript=chat.transcript,
            end_user=asked.end_user,
        )
        server = servers.pick(
            conversation=found.conversation, profile_id=profile.pk, is_new=found.how != "header", arrival=at
        )
        turn = audit.open_turn(
            arrival=arrival,
            asked=asked,
            profile=profile,
            conversation=found.conversation,
            match=found.how,
            server=server,
            lease_owner=drivers.owner,
            deadline_at=timezone.now() + dt.timedelta(seconds=profile.time_limit_seconds),
            at=at,
        )
        return turn, found

    turn, found = await writer.run(open_row)
    live = drivers.start(
        Assignment(
            turn=turn,
            conversation=found.conversation,
            profile=profile,
            overrides=chat.overrides,
            parts=found.parts,
        )
    )
    live.subscribers += 1
    return live, found.how


def leave(live: LiveTurn, request_id: str, *, delivered: bool) -> None:
    """A request stops waiting for its turn. When it was the last one, the profile says what becomes of the run."""
    live.subscribers -= 1
    writer.post(lambda: audit.detach(request_id, delivered=delivered))
    if live.ended is None and live.subscribers == 0 and live.cancels_on_disconnect:
        live.request_cancel("disconnect")


# --- take-over -----------------------------------------------------------------------------------------------------


async def adopt_expired(limit: int = ADOPT_LIMIT) -> int:
    """Take over open turns whose lease ran out, and bring their records to an end. Return how many were taken.

    The callers of such turns went with the process that drove them; what the agent did is finished and kept.
    """
    drivers = current()
    expired = await writer.run(lambda: _claim_expired(drivers.owner, limit))
    for turn in expired:
        await _adopt(drivers, turn)
    return len(expired)


def _claim_expired(owner: str, limit: int) -> list[Turn]:
    now = Now()
    rows = Turn.objects.open().select_related("conversation__agent_server", "agent_server", "profile")
    # The database's clock with itself: two machines need not agree on the time.
    ended = rows.filter(lease_expires_at__lt=now)
    too_far = rows.filter(lease_expires_at__gt=now + LEASE_SANITY)
    candidates = (ended | too_far).order_by("arrival")[:limit]
    return [turn for turn in candidates if audit.take_over(turn, owner=owner)]


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
                logger.warning("the slot of turn %s cannot be freed yet: %s", turn.pk, error)
                continue
        turn_id = turn.pk
        await writer.run(lambda turn_id=turn_id: audit.run_seen_to_end(turn_id))  # type: ignore[misc]
        freed += 1
    return freed


async def _adopt(drivers: Drivers, turn: Turn) -> None:
    conversation, profile = turn.conversation, turn.profile
    if conversation is None or profile is None or turn.agent_server is None:
        await _give_up(turn, "The gateway was restarted before the agent was started.")
        return
    try:
        if turn.user_event_seq is None:
            turn.user_event_seq = await _find_message(drivers, turn, conversation)
    except ConversationMissing:
        turn.user_event_seq = None
    except AgentServerError as error:
        logger.warning("turn %s waits for its agent-server: %s", turn.pk, error)
        return  # its lease runs out again, and the next sweep tries anew
    if turn.user_event_seq is None:
        await _give_up(turn, "The gateway was restarted before the agent had the message.")
        return
    logger.info("turn %s is taken over", turn.pk)
    drivers.start(
        Assignment(
            turn=turn,
            conversation=conversation,
            profile=profile,
            overrides=LlmOverrides(),
            parts=(),
            attached=True,
        )
    )


async def _find_message(drivers: Drivers, turn: Turn, conversation: Conversation) -> int | None:
    """Return where the turn's message stands in the agent-server's log, if it got there."""
    assert turn.agent_server is not None
    client = drivers.client(turn.agent_server)
    logged = await client.durable_events(conversation.pk, after_seq=conversation.cursor, timeout_seconds=10)
    mine = [event for event in logged if event.kind == "MessageEvent" and event.event.get("source") == "user"]
    return mine[0].seq if mine else None


async def _give_up(turn: Turn, message: str) -> None:
    run = endings.Run(
        showing=Showing(ShowingRules(thoughts="hidden", activity="hidden", holdback_chars=0)), baseline={}
    )
    ending = endings.abandoned(run, AgentRunFailed(message))
    try:
        await writer.run(lambda: audit.close_turn(turn, ending))
    except audit.TurnLost:
        logger.info("turn %s was closed by another process", turn.pk)
