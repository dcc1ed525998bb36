"""Drives one turn: waits for a slot, prepares the agent, sends the message, follows the run, closes the record.

A driver is a task of the process, never of the request: the request only subscribes to what the driver publishes,
so a caller who goes away does not take the run along, and a repeated request can join it.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import cast

from django.conf import settings
from django.db.utils import Error as DatabaseError
from django.utils import timezone

from chatgateway import audit, ceilings, conversations, corrections, endings, metrics, servers
from chatgateway.agent_session import AgentSession, SessionFactory
from chatgateway.agentserver.exceptions import (
    AgentServerError,
    CapacityReached,
    ConversationMissing,
    FeedLost,
    TooOld,
    Unauthorized,
    Unreachable,
)
from chatgateway.agentserver.schemas import DurableEvent
from chatgateway.answer import Showing, ShowingRules
from chatgateway.endings import Run
from chatgateway.errors import DatabaseUnavailable, GatewayError, InternalError, TooManyRequests
from chatgateway.file_changes import Comparisons
from chatgateway.frame_log import FrameLog
from chatgateway.live import LiveTurn
from chatgateway.models import AgentServer, Conversation, Turn
from chatgateway.openai_api.error_body import to_failed
from chatgateway.preparation import Assignment, Preparation
from chatgateway.turn_events import (
    AnswerShown,
    MessageAccepted,
    RunEvent,
    ShownEvent,
    StepStarted,
    TurnAnswered,
    TurnFailed,
    UsageReported,
)
from chatgateway.writer import Note, writer
from profiles.pricing import cost_usd

logger = logging.getLogger(__name__)

# An interrupt is confirmed within milliseconds (measured); a server that needs longer is in trouble.
INTERRUPT_SECONDS = 10.0
# It is sent again while it has no effect: the first one may have come before the message it should stop.
INTERRUPT_EVERY_SECONDS = 1.0
# Raw events reach the record at least this often, and in batches of at most this many.
FLUSH_SECONDS = 1.0
FLUSH_EVENTS = 50


class Driver:
    """One turn's way from the queue to its end.

    `wait_for_slot(turn, timeout_seconds)` returns whether the turn was given one in time. `follow(live, shown)` looks
    after those who wait here when another process takes the turn over. `comparisons` finds out which files it changed.
    """

    def __init__(
        self,
        assignment: Assignment,
        live: LiveTurn,
        *,
        sessions: SessionFactory,
        wait_for_slot: Callable[[Turn, float], Awaitable[bool]],
        follow: Callable[[LiveTurn, str], None],
        comparisons: Comparisons,
        frame_log: FrameLog | None = None,
    ) -> None:
        self.turn = assignment.turn
        self.conversation = assignment.conversation
        self.profile = assignment.profile
        self.live = live
        self._frame_log = frame_log  # of a response: what it shows is written down
        self._max_steps = assignment.max_tool_calls
        self._preparation = Preparation(assignment)
        audit.lighten(assignment.turn)
        self._attached = assignment.attached
        self._form = assignment.form
        self._sessions = sessions
        self._wait_for_slot = wait_for_slot
        self._follow_on = follow
        self._comparisons = comparisons
        self._session: AgentSession | None = None
        self._patience: asyncio.Timeout | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._accepted: Note | None = None
        self._unwritten: list[DurableEvent] = []
        self._flush_timer: asyncio.TimerHandle | None = None
        self.run = Run(
            showing=Showing(
                ShowingRules(
                    thoughts=cast("endings.ThoughtsChoice", self.profile.thoughts),
                    activity=cast("endings.ActivityChoice", self.profile.activity),
                    holdback_chars=self.profile.answer_holdback_chars if self.profile.has_tools else 0,
                    form=assignment.form,
                )
            ),
            baseline=endings.counts_from(self.conversation.usage_baseline),
            began=assignment.attached,  # by whoever drove it before: who stops it now must interrupt it
            output_limit=assignment.overrides.max_output_tokens or self.profile.max_output_tokens,
        )

    async def drive(self) -> None:
        """Bring the turn to its end; whatever happens becomes its outcome. Only cancellation is raised: the process
        shuts down, and the turn is left to whoever takes over its lease."""
        try:
            ending = await self._drive_within_deadline()
            await self._close(ending)
            if self.run.showing.has_acted:
                self._comparisons.begin(self.turn, self.conversation, self.profile)
        except audit.TurnLost:
            logger.warning("turn %s is driven by another process now", self.turn.pk)
            self._follow_on(self.live, self.run.showing.shown)
        except Exception as error:
            # The outer edge of a turn: whoever waits for it is answered, whatever is wrong with its record.
            logger.exception("turn %s could not be closed", self.turn.pk)
            await self._close_bare(error)
        finally:
            self._flush()
            if self._frame_log is not None:
                self._frame_log.stop()

    async def _drive_within_deadline(self) -> audit.Ending:
        assert self.turn.deadline_at is not None
        seconds_left = (self.turn.deadline_at - timezone.now()).total_seconds()
        deadline = asyncio.get_running_loop().call_later(max(0.0, seconds_left), self._stop_for, "deadline")
        failure: Exception | None = None
        try:
            async with asyncio.timeout(None) as self._patience:
                self.live.when_cancelled(self._stop_for)
                await self._work()
        except Exception as error:  # noqa: BLE001  whatever it is becomes the turn's outcome
            failure = error
        finally:
            self._patience = None  # it is over; who still stops the run must not lose it again
            deadline.cancel()
            self.live.when_cancelled(None)
            await self._stop_stopping()
        return self._ending(failure)

    def _stop_for(self, reason: str) -> None:
        """Have the run stopped: by interrupting it, or at once if the agent has nothing to do yet."""
        if self.run.stopped_by:
            return
        self.run.stopped_by = reason
        if self.run.began:
            self._stopping = asyncio.get_running_loop().create_task(self._stop(), context=contextvars.Context())
        else:
            self._lose_patience()

    async def _stop(self) -> None:
        """Interrupt the run and let the feed bring its end; give up on a server that does not confirm."""
        give_up_at = time.monotonic() + INTERRUPT_SECONDS
        try:
            while time.monotonic() < give_up_at:
                if self._session is not None:
                    try:
                        await self._session.interrupt()
                    except AgentServerError as error:
                        logger.warning("turn %s could not be interrupted: %s", self.turn.pk, error)
                await asyncio.sleep(INTERRUPT_EVERY_SECONDS)
        finally:
            self._lose_patience()

    async def _stop_stopping(self) -> None:
        """The run is over, or given up."""
        stopping, self._stopping = self._stopping, None
        if stopping is not None:
            stopping.cancel()
            await asyncio.wait({stopping})
            if not stopping.cancelled() and stopping.exception() is not None:
                logger.error("turn %s could not be stopped in order", self.turn.pk, exc_info=stopping.exception())

    def _lose_patience(self) -> None:
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(asyncio.get_running_loop().time())

    def _ending(self, result: Exception | None) -> audit.Ending:
        match result:
            case audit.TurnLost():
                raise result
            case _ if self.run.stopped_by:
                return endings.stopped(self.run)
            case None:
                return endings.of_run(self.run, profile=self.profile)
            case GatewayError():
                return endings.failed(self.run, result)
            case AgentServerError():
                failure = endings.server_failure(result, began=self.run.began)
                is_lost = self.run.began and isinstance(result, FeedLost | Unreachable)
                return (endings.abandoned if is_lost else endings.failed)(self.run, failure)
            case DatabaseError() if not self.run.began:
                logger.error("turn %s could not be begun", self.turn.pk, exc_info=result)
                return endings.failed(self.run, DatabaseUnavailable(detail=repr(result)))
            case _:
                # The outer edge of a turn: a defect of ours must still close the row and answer the caller.
                logger.error("turn %s failed inside the gateway", self.turn.pk, exc_info=result)
                error = InternalError("The gateway failed. Its log has the details.", detail=repr(result))
                return endings.failed(self.run, error)

    # --- the work ------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Queue, prepare, send, follow. Returns when the run has ended."""
        avoid: set[int] = set()
        while True:
            await self._queue(frozenset(avoid))
            server = self.turn.agent_server
            assert server is not None
            try:
                async with self._sessions(server, self.conversation) as session:
                    self._session = session
                    await self._run_on(session)
                    if self.run.ended is not None and self.run.ended.status == "finished":
                        session.keep_feed()
                    return
            except (Unreachable, Unauthorized, TooOld, CapacityReached) as error:
                if self.run.began:
                    raise
                avoid.add(server.pk)
                await self._give_back(error)
            finally:
                self._session = None

    async def _queue(self, failed_on: frozenset[int]) -> None:
        turn, conversation = self.turn, self.conversation
        if turn.phase != Turn.Phase.QUEUED:
            return  # it got its slot when it was opened
        has_slot = False
        if failed_on:
            has_slot = await writer.run(lambda: servers.grant_again(turn, conversation, avoid=failed_on))
        if not has_slot and not await self._wait_for_slot(turn, settings.GATEWAY_QUEUE_TIMEOUT_SECONDS):
            raise TooManyRequests("All agents stayed busy. Try again in a moment.", retry_after_seconds=10)
        await self._read_again()

    async def _read_again(self) -> None:
        """Turns that came first may have gone on with the conversation, made it anew, or deleted it."""
        turn, conversation = self.turn, self.conversation

        def read() -> None:
            conversation.refresh_from_db(from_queryset=Conversation.objects.select_related("branched_at"))
            if turn.incarnation != conversation.incarnation:
                audit.advance(turn, incarnation=conversation.incarnation)

        await writer.run(read)
        if conversation.state == Conversation.State.DELETED:
            raise conversations.not_found()
        self.run.baseline = endings.counts_from(conversation.usage_baseline)

    async def _give_back(self, error: AgentServerError) -> None:
        """Give the slot back before another server is tried; nothing was started on this one."""
        turn, server = self.turn, self.turn.agent_server
        assert server is not None
        conversation, is_unused = self.conversation, self._preparation.made_here
        logger.warning("agent-server %s could not take a turn: %s", server.name, error)

        def give_back() -> None:
            audit.release(turn)
            if isinstance(error, Unreachable):
                conversations.given_back(conversation, server, is_unused=is_unused)
                audit.advance(turn, incarnation=conversation.incarnation)
            if not isinstance(error, CapacityReached):
                servers.note_health(server, is_up=False, message=str(error))

        await writer.run(give_back)
        self._preparation.made_here = False

    async def _run_on(self, session: AgentSession) -> None:
        if self._attached:
            assert self.turn.user_event_seq is not None
            await session.attach(
                after_seq=min(self.conversation.cursor, self.turn.user_event_seq - 1),
                message_seq=self.turn.user_event_seq,
            )
            await self._preparation.complete(session)
        else:
            await self._preparation.prepare(session)
            await self._comparisons.settled(self.conversation)
            try:
                await self._send(session)
            except ConversationMissing:  # a feed that was kept open does not tell; nothing was sent
                await self._preparation.rebuild(session)
                await self._send(session)
            if self._preparation.is_rebuilt:
                self.run.baseline = {}  # its tokens are counted from 0 again
            self._preparation.let_go()
        await self._follow(session)
        await corrections.have_it_as_asked(self.run, self._form.output, session, self._follow)

    def _note_up(self) -> None:
        """A server that answers is not down, whether or not a worker is there to find out."""
        server = self.turn.agent_server
        if server is not None and server.health == AgentServer.Health.DOWN:
            server.health = AgentServer.Health.UP
            writer.post(lambda: servers.note_health(server, is_up=True))

    async def _send(self, session: AgentSession) -> None:
        self.run.began = self.live.is_sent = True  # from here on the agent may act: no other server, no repeat
        try:
            await self._preparation.send(session)
        except Unreachable:
            # No connection was made: the agent certainly was not set to work.
            self.run.began = self.live.is_sent = False
            raise

    async def _follow(self, session: AgentSession) -> None:
        retries = 0
        while True:
            async for batch in session.batches():
                self.run.cursor = session.cursor
                if self._accepted is not None and self._accepted.is_over:
                    self._accepted = None
                self._record(batch.durable)
                self._publish([shown for event in batch.events for shown in self._take(event)])
                if self.run.ended is not None:
                    break
            if self.run.needs_confirmation:
                await session.reject_confirmation()
            if retries >= self.run.retries_allowed(self.profile):
                return
            logger.info("turn %s: the run failed (%s), trying again", self.turn.pk, self.run.failed)
            await asyncio.sleep(2.0**retries)
            if self.run.stopped_by:
                return
            retries += 1
            self.run.ended = self.run.failed = None
            await session.run_again()

    def _take(self, event: RunEvent) -> list[ShownEvent]:
        if isinstance(event, MessageAccepted):
            self._note_accepted(event.seq)
        if isinstance(event, StepStarted) and self._max_steps is not None:
            self._max_steps -= 1
            if self._max_steps < 0:
                self.live.request_cancel(endings.TOO_MANY_STEPS)
        shown = self.run.take(event)
        if isinstance(event, UsageReported) and self.turn.held_usd is not None:
            self._watch_cost(self.turn.held_usd)
        return shown

    def _watch_cost(self, held_usd: Decimal) -> None:
        """Have the run stopped once its key's or tenant's money is used up; asked when it costs more than was held."""
        turn, live, usage = self.turn, self.live, self.run.usage
        cost = cost_usd(
            turn.prices,
            input_tokens=usage.input,
            output_tokens=usage.output,
            cached_tokens=usage.cached,
            cache_write_tokens=usage.cache_write,
        )
        if cost is None or cost < held_usd:
            return
        loop = asyncio.get_running_loop()

        def look() -> None:
            servers.lock()
            if not ceilings.may_go_on(turn, cost):
                loop.call_soon_threadsafe(live.request_cancel, Turn.CEILING)

        # Not awaited: the agent works on meanwhile, and at worst makes one more call.
        writer.post(look)

    def _publish(self, shown: list[ShownEvent]) -> None:
        if self.run.first_text_at is None and any(isinstance(event, AnswerShown) for event in shown):
            self.run.first_text_at = timezone.now()
        (self._frame_log or self.live).publish(shown)

    def _note_accepted(self, seq: int) -> None:
        if self.live.accepted.is_set():
            return  # what the agent is asked once more is not the caller's message
        self.live.accepted.set()
        turn, now = self.turn, timezone.now()
        changes = {"phase": Turn.Phase.RUNNING, "user_event_seq": seq, "accepted_at": now}
        # Not awaited: tokens must not wait for it. A short turn has ended before it is written; its end says the same.
        self._accepted = writer.post(lambda: audit.advance(turn, **changes))
        turn.user_event_seq, turn.accepted_at = seq, now
        self._note_up()

    def _record(self, durable: list[DurableEvent]) -> None:
        self.run.note_durable(durable)
        self._unwritten += durable
        if len(self._unwritten) >= FLUSH_EVENTS:
            self._flush()
        elif self._unwritten and self._flush_timer is None:
            # By the clock: an agent may work for minutes between two events, and auditors look on.
            self._flush_timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._flush)

    def _flush(self) -> None:
        turn, events = self.turn, self._unwritten
        self._unwritten = []
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        if events:
            writer.gather(audit.append_events, (turn, events))

    # --- the end ---------------------------------------------------------------------------------------------------

    async def _close(self, ending: audit.Ending) -> None:
        """Commit the end, then tell it: a caller's next request, anywhere, finds the turn closed."""
        turn, conversation, profile = self.turn, self.conversation, self.profile
        settled = self.run.settled(ending)
        good_leaf = settled.get("good_leaf_event_id", conversation.good_leaf_event_id)
        leaf = self.run.leaf_after(ending, good_leaf=good_leaf)
        turn.cancel_reason = self.live.cancel_reason
        if turn.cancel_reason == Turn.CEILING and not self.run.stopped_by:
            turn.cancel_reason = ""  # it had ended by itself
        frame_log = self._frame_log
        if frame_log is not None:
            await frame_log.settle()

        def close() -> None:
            audit.close_turn(turn, ending, leaf_event_id=leaf)
            conversations.settle(conversation, turn=turn, profile=profile, **settled)
            if frame_log is not None:
                frame_log.write_rest()

        self._withdraw_accepted()
        await writer.run_patiently(close)
        self._flush()
        metrics.turn_closed(turn)
        if frame_log is not None:
            frame_log.publish_rest()
        assert ending.answered is not None or ending.error is not None
        self._publish_end(ending.answered or to_failed(cast("GatewayError", ending.error), usage=ending.usage))

    def _withdraw_accepted(self) -> None:
        if self._accepted is not None:
            self._accepted.withdraw()

    async def _close_bare(self, error: Exception) -> None:
        """Close a row whose proper end cannot be written: what can be wrong is left out."""
        turn = self.turn
        self._withdraw_accepted()
        turn.prices = {}
        failure = InternalError("The gateway failed. Its log has the details.", detail=repr(error))
        ending = endings.failed(Run(showing=self.run.showing, baseline={}, began=self.run.began), failure)
        try:
            await writer.run(lambda: audit.close_turn(turn, ending))
            metrics.turn_closed(turn)
        except (DatabaseError, audit.TurnLost):
            logger.exception("turn %s stays open; it will be taken over", turn.pk)
        self._publish_end(to_failed(failure))

    def _publish_end(self, end: TurnAnswered | TurnFailed) -> None:
        closed_at = self.turn.closed_at
        self.live.closed_at = None if closed_at is None else int(closed_at.timestamp())
        self.live.publish([end])
