"""A turn that another process drives, for those who wait for it here.

What the agent writes comes from the agent-server's own feed, which anybody may read; how the turn ended comes from
its row alone, because only its driver knows.
"""

from __future__ import annotations

import asyncio
import logging
from typing import cast
from uuid import UUID

from django.db.utils import Error as DatabaseError

from chatgateway import frame_log
from chatgateway.agent_session import Batch, SessionFactory
from chatgateway.agentserver.exceptions import AgentServerError
from chatgateway.answer import Showing, ShowingRules
from chatgateway.endings import ActivityChoice, ThoughtsChoice
from chatgateway.live import LiveTurn
from chatgateway.models import Turn
from chatgateway.openai_api.answer_form import form_in
from chatgateway.stored_reply import ending_of
from chatgateway.turn_events import (
    AnswerShown,
    ReasoningShown,
    RunEnded,
    RunFailed,
    ShownEvent,
    StepShown,
    TurnAnswered,
)
from chatgateway.writer import writer

logger = logging.getLogger(__name__)

# How soon a change of the row is seen: when the agent has the message, and when the turn has ended.
LOOK_SECONDS = 0.25
# The row is closed before the last bytes of the feed may be here; what is still under way then is read from the row.
LAST_WORDS_SECONDS = 0.5


class Follower:
    """Publishes a turn's events to `live` until the turn's row is closed. `run` ends by itself; cancel it to stop.

    `relays` False: only the end is published, after what `shown` says was shown already.
    """

    def __init__(self, live: LiveTurn, *, sessions: SessionFactory, relays: bool = True, shown: str = "") -> None:
        self._live = live
        self._sessions = sessions
        self._relays = relays
        self._shown = shown
        self._has_reasoned = bool(shown)

    async def run(self) -> None:
        relay: asyncio.Task[None] | None = None
        try:
            while True:
                turn = await self._look()
                if turn is not None and turn.outcome != Turn.Outcome.OPEN:
                    break
                if relay is None and self._relays and turn is not None and _has_begun(turn):
                    self._live.accepted.set()
                    relay = asyncio.create_task(self._relay(turn))
                await asyncio.sleep(LOOK_SECONDS)
            if relay is not None:
                await asyncio.wait({relay}, timeout=LAST_WORDS_SECONDS)
        finally:
            if relay is not None:
                relay.cancel()
                await asyncio.gather(relay, return_exceptions=True)
        self._end(turn)

    async def _look(self) -> Turn | None:
        """Return the row as it is now; None when the database cannot be read at the moment."""
        try:
            return await writer.run(lambda: _row(self._live.turn_id))
        except DatabaseError:
            logger.exception("turn %s cannot be followed at the moment", self._live.turn_id)
            return None

    async def _relay(self, turn: Turn) -> None:
        """Show what the agent writes, from the caller's message on. A feed that breaks costs liveness, no text."""
        assert turn.agent_server is not None
        assert turn.conversation is not None
        assert turn.user_event_seq is not None
        showing = Showing(_rules(turn))
        try:
            async with self._sessions(turn.agent_server, turn.conversation) as session:
                await session.attach(after_seq=turn.user_event_seq - 1, message_seq=turn.user_event_seq)
                own_message_seq = turn.user_event_seq
                while True:
                    has_failed = has_ended = False
                    async for batch in session.batches():
                        if _holds_another_message(batch, own_message_seq):
                            return  # the conversation goes on with another turn: this one's row is closed
                        self._publish([shown for event in batch.events for shown in showing.show(event)])
                        has_failed = has_failed or any(isinstance(event, RunFailed) for event in batch.events)
                        has_ended = any(isinstance(event, RunEnded) for event in batch.events)
                        if has_ended:
                            break
                    if not (has_ended and has_failed):
                        return
                    session.expect_another_run()  # its driver may try a failed run again
        except AgentServerError as error:
            logger.warning("turn %s cannot be shown as it happens: %s", turn.pk, error)

    def _publish(self, shown: list[ShownEvent]) -> None:
        for event in shown:
            if isinstance(event, AnswerShown):
                self._shown += event.text
            elif isinstance(event, ReasoningShown | StepShown):
                self._has_reasoned = True
        self._live.publish(shown)

    def _end(self, turn: Turn) -> None:
        """Publish what of the answer was not shown yet, and the end."""
        self._live.publish(_rest_of(turn, shown=self._shown, has_reasoned=self._has_reasoned))


class FrameFollower:
    """Publishes a response from what was written down of it, frame by frame, until its turn's row is closed.

    Goes on after the frames that `live` has published already.
    """

    def __init__(self, live: LiveTurn) -> None:
        self._live = live

    async def run(self) -> None:
        while True:
            try:
                turn, frames = await writer.run(self._look)
            except DatabaseError:
                logger.exception("turn %s cannot be followed at the moment", self._live.turn_id)
            else:
                if self._publish(turn, frames):
                    return
            await asyncio.sleep(LOOK_SECONDS)

    def _look(self) -> tuple[Turn, list[list[frame_log.Piece]]]:
        """The row first: what was written before it was closed is then there too."""
        turn = _row(self._live.turn_id)
        return turn, frame_log.frames_of(turn.pk, after=self._live.frames or 0)

    def _publish(self, turn: Turn, frames: list[list[frame_log.Piece]]) -> bool:
        """Publish what came since the last look; return whether that was the end."""
        if _has_begun(turn) or frames:
            self._live.accepted.set()
        self._live.frames = (self._live.frames or 0) + len(frames)
        self._live.publish([event for pieces in frames for event in frame_log.shown_by(pieces)])
        if turn.closed_at is None:
            return False
        self._live.closed_at = int(turn.closed_at.timestamp())
        self._live.publish([ending_of(turn)])
        return True


def replay(live: LiveTurn, turn: Turn) -> None:
    """Publish a closed turn, whole."""
    live.publish(_rest_of(turn, shown="", has_reasoned=False))


def _rest_of(turn: Turn, *, shown: str, has_reasoned: bool) -> list[ShownEvent]:
    ending = ending_of(turn)
    if not isinstance(ending, TurnAnswered):
        return [ending]
    if not shown:  # the writer of the reply puts the whole text before the end
        return [*([] if has_reasoned or not ending.reasoning else [ReasoningShown(text=ending.reasoning)]), ending]
    rest = ending.text.removeprefix(shown) if ending.text.startswith(shown) else ""
    return [*([AnswerShown(text=rest)] if rest else []), ending]


def _holds_another_message(batch: Batch, own_seq: int) -> bool:
    return any(
        event.kind == "MessageEvent" and event.event.get("source") == "user" and event.seq > own_seq
        for event in batch.durable
    )


def _row(turn_id: UUID) -> Turn:
    return Turn.objects.select_related("agent_server", "conversation", "profile").get(pk=turn_id)


def _has_begun(turn: Turn) -> bool:
    return turn.agent_server is not None and turn.conversation is not None and turn.user_event_seq is not None


def _rules(turn: Turn) -> ShowingRules:
    """As the profile was when the turn was opened, so that all subscribers see the same."""
    snapshot = turn.profile_snapshot
    holdback = turn.profile.answer_holdback_chars if turn.profile is not None and snapshot.get("tools") else 0
    return ShowingRules(
        thoughts=cast("ThoughtsChoice", snapshot.get("thoughts", "reasoning")),
        activity=cast("ActivityChoice", snapshot.get("activity", "reasoning")),
        holdback_chars=holdback,
        form=form_in(turn.parameters),
    )
