"""One turn's dealings with one agent-server: start or find the conversation, send the message, follow the run.

Holds no row and writes none; the driver does. Rules measured against agent-server 1.58 are in `agentserver`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Self
from uuid import UUID

from chatgateway.agentserver.client import AgentServerClient
from chatgateway.agentserver.exceptions import (
    AlreadyRunning,
    CapacityReached,
    ConversationMissing,
    Rejected,
    SendDoubtful,
    Unreachable,
)
from chatgateway.agentserver.feed import Feed, open_feed
from chatgateway.agentserver.schemas import (
    AgentSpec,
    DurableEvent,
    Frame,
    ImagePart,
    LlmSpec,
    MessagePart,
    Objection,
    Reconnected,
    TextPart,
)
from chatgateway.agentserver.translate import Translator
from chatgateway.head_start import HeadStart
from chatgateway.kept_feeds import FeedKey, KeptFeeds
from chatgateway.models import AgentServer, Conversation
from chatgateway.openai_api import transcript
from chatgateway.turn_events import RunEvent

logger = logging.getLogger(__name__)

SessionFactory = Callable[[AgentServer, Conversation], AbstractAsyncContextManager["AgentSession"]]

# Creating and posting take 30 ms on a quiet server and seconds on one with a hundred runs (measured).
CALL_SECONDS = 30.0
CONNECT_SECONDS = 10.0
# A restarted agent-server is back after 5-12 s (measured); a feed that is gone for longer is lost.
RECONNECT_SECONDS = 60.0
# How long a run that another caller left behind may take to stop before this turn gives up.
SETTLE_SECONDS = 10.0
# The agent-server's own limit on runs is reached although a slot was free: somebody else uses the server.
CAPACITY_RETRY_SECONDS = 0.5
CAPACITY_PATIENCE_SECONDS = 30.0
# What the server's web socket takes is 16 MiB; what is large is posted, where a refusal has a status.
FEED_MESSAGE_CHARS = 1024 * 1024
# How long after a broken connection a message that was under way may still reach the log.
DOUBT_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What arrived together: records for the audit, and what they and the deltas among them mean."""

    durable: list[DurableEvent]
    events: list[RunEvent]


class AgentSession:
    """Open as a context manager; leaving it closes the feed. One turn, one task."""

    call_seconds = CALL_SECONDS

    def __init__(
        self, *, client: AgentServerClient, conversation_id: UUID, incarnation: int, kept_feeds: KeptFeeds
    ) -> None:
        self.client = client
        self.conversation_id = conversation_id
        self.incarnation = incarnation
        self.cursor = -1
        self._feed: Feed | None = None
        self._translator: Translator | None = None
        self._kept_feeds = kept_feeds
        self._may_keep_feed = False
        self._ahead: list[list[Frame]] = []  # read while the message was sent

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        feed, self._feed = self._feed, None
        if feed is None:
            return
        if error is None and self._may_keep_feed and feed.is_quiet:
            self._kept_feeds.put(self._key, feed)
        else:
            await feed.close()

    @property
    def _key(self) -> FeedKey:
        return self.conversation_id, self.incarnation

    def keep_feed(self) -> None:
        """Say that the run ended well: the feed may serve the conversation's next turn."""
        self._may_keep_feed = True

    async def start(self, spec: AgentSpec, *, template: str, head_start: HeadStart | None = None) -> None:
        """Create the conversation, unless that is under way, or find the one an interrupted attempt of ours created."""
        if head_start is not None:
            created = await head_start.created()
        else:
            created = await self.client.create_conversation(self.conversation_id, spec, timeout_seconds=CALL_SECONDS)
        if not created.is_new and created.info.tags.get("incarnation") != str(self.incarnation):
            # A copy that an earlier incarnation left behind: its history is not this one's.
            await self.client.delete(self.conversation_id, timeout_seconds=CALL_SECONDS)
            await self.client.create_conversation(self.conversation_id, spec, timeout_seconds=CALL_SECONDS)
        if template and created.is_new:
            await self.client.copy_directory(template, spec.working_dir, timeout_seconds=CALL_SECONDS)

    async def connect(self, *, after_seq: int) -> None:
        """Open the feed. Raises ConversationMissing when the agent-server does not know the conversation."""
        if self._feed is not None:
            await self._feed.close()
            self._feed = None
            self._ahead.clear()
        kept = await self._kept_feeds.take(self._key, after_seq=after_seq)
        if kept is not None:
            self._feed = kept
        else:
            feed = open_feed(
                self.client,
                self.conversation_id,
                after_seq=after_seq,
                connect_timeout_seconds=CONNECT_SECONDS,
                reconnect_within_seconds=RECONNECT_SECONDS,
            )
            self._feed = await feed.__aenter__()  # left in our own __aexit__, or kept
        self.cursor = max(after_seq, self._feed.through_seq)

    async def settle(self) -> None:
        """Have a run that is still going on stopped before a message is sent: it would absorb the message.

        Raises Unreachable when it does not stop.
        """
        assert self._feed is not None
        if self._feed.first_state != "running":
            return
        logger.warning("conversation %s was still running; interrupting", self.conversation_id)
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                while True:
                    await self.client.interrupt(self.conversation_id, timeout_seconds=CALL_SECONDS)
                    info = await self.client.conversation(self.conversation_id, timeout_seconds=CALL_SECONDS)
                    if info.execution_status != "running":
                        break
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise Unreachable("an earlier run of the conversation does not stop") from None
        await self.connect(after_seq=self.cursor)

    async def fork(self, source_id: UUID, *, from_event_id: str, tags: dict[str, str]) -> None:
        """Make the conversation as a copy of another one up to an event, or find the one an earlier attempt made.

        Raises ConversationMissing, and Rejected for an unknown event.
        """
        try:
            await self.client.fork(
                source_id,
                new_id=self.conversation_id,
                from_event_id=from_event_id,
                tags=tags,
                timeout_seconds=CALL_SECONDS,
            )
        except Rejected as error:
            if error.status != HTTPStatus.CONFLICT:
                raise

    async def send_first(self, parts: list[MessagePart], *, llm: LlmSpec) -> None:
        """`send` for the first message of a fork, which has lost its LLM's key (`AgentServerClient.fork`)."""
        self._translator = Translator(after_seq=self.cursor)
        await self._post(parts, run=False)
        await self._begin_fork(llm)

    async def begin_unless_begun(self, llm: LlmSpec) -> None:
        """Have a fork answer its first message, which another process may have left unanswered."""
        info = await self.client.conversation(self.conversation_id, timeout_seconds=CALL_SECONDS)
        if info.execution_status == "idle":
            await self._begin_fork(llm)

    async def _begin_fork(self, llm: LlmSpec) -> None:
        await self.client.switch_llm(self.conversation_id, llm, timeout_seconds=CALL_SECONDS)
        try:
            await self.client.run(self.conversation_id, timeout_seconds=CALL_SECONDS)
        except CapacityReached:
            await self._run_when_there_is_room()
        except Unreachable as error:
            raise SendDoubtful(error.detail) from error  # it may run all the same

    async def send(self, parts: list[MessagePart]) -> None:
        """Send the message, once. What a doubtful failure left behind is looked up in the event log.

        Over the feed where it fits: that spares the agent-server a request, and the caller a fifth of the wait for the
        first word of a live conversation (measured).
        """
        self._translator = Translator(after_seq=self.cursor)
        text = json.dumps({"role": "user", "content": [part.to_json() for part in parts]})
        if self._feed is None or len(text) > FEED_MESSAGE_CHARS:
            await self._post(parts)
            return
        try:
            await self._feed.send(text)
        except Unreachable:
            await self._post(parts)  # the connection had ended before
            return
        if not await self._has_come_back():
            await self._resolve(parts, SendDoubtful("a message over the feed did not come back"))

    async def _has_come_back(self) -> bool:
        """Read the feed until the message is in it. False when the connection broke first.

        However long it takes, up to the turn's own deadline: over a connection that holds nothing is lost, and a busy
        agent-server would do twice what it was sent twice.
        """
        assert self._feed is not None
        async for frames in self._feed:
            self._ahead.append(frames)
            if any(self._is_own_message(frame) for frame in frames):
                return True
            for frame in frames:
                _refuse_fatal(frame)
            if any(isinstance(frame, Reconnected) for frame in frames):
                return False
        raise AssertionError("a feed ends by being left")

    def _is_own_message(self, frame: Frame) -> bool:
        if not isinstance(frame, DurableEvent) or frame.seq <= self.cursor:
            return False
        return frame.kind == "MessageEvent" and frame.event.get("source") == "user"

    async def _post(self, parts: list[MessagePart], *, run: bool = True) -> None:
        try:
            await self.client.send_message(self.conversation_id, parts, run=run, timeout_seconds=CALL_SECONDS)
        except CapacityReached as error:
            if not error.message_saved:
                raise
            await self._run_when_there_is_room()
        except SendDoubtful as doubt:
            await self._resolve(parts, doubt, run=run)

    async def _resolve(self, parts: list[MessagePart], doubt: SendDoubtful, *, run: bool = True) -> None:
        """Send the message again if it certainly did not arrive."""
        try:
            has_arrived = await self._message_arrived()
            if not has_arrived:
                await asyncio.sleep(DOUBT_SECONDS)  # the server may have been at it when the connection broke
                has_arrived = await self._message_arrived()
        except Unreachable:
            raise doubt from None  # not "nothing was sent": nobody can tell
        if has_arrived:
            return
        try:
            await self.client.send_message(self.conversation_id, parts, run=run, timeout_seconds=CALL_SECONDS)
        except Unreachable:
            raise doubt from None  # the first one may have arrived since

    async def _message_arrived(self) -> bool:
        logged = await self.client.durable_events(
            self.conversation_id, after_seq=self.cursor, timeout_seconds=CALL_SECONDS
        )
        return any(event.kind == "MessageEvent" and event.event.get("source") == "user" for event in logged)

    async def _run_when_there_is_room(self) -> None:
        """The message is saved, only the run was refused: sending it again would put it there twice.

        Raises SendDoubtful when the server is lost: what it has saved, it may run, so no other one may have it.
        """
        async with asyncio.timeout(CAPACITY_PATIENCE_SECONDS):
            while True:
                await asyncio.sleep(CAPACITY_RETRY_SECONDS)
                try:
                    await self.client.run(self.conversation_id, timeout_seconds=CALL_SECONDS)
                except CapacityReached:
                    continue
                except AlreadyRunning:
                    return
                except Unreachable as error:
                    raise SendDoubtful(error.detail) from error
                return

    async def run_again(self) -> None:
        """Start a run for the message that stands unanswered in the log."""
        self.expect_another_run()
        await self.client.run(self.conversation_id, timeout_seconds=CALL_SECONDS)

    def expect_another_run(self) -> None:
        """Read what follows as another run for the message that the last one left unanswered."""
        self._translator = Translator(after_seq=self.cursor, message_is_mine=True)

    async def attach(self, *, after_seq: int, message_seq: int) -> None:
        """Follow a run that another process started with the message logged at `message_seq`.

        Events after `after_seq` are delivered again: the other process may not have recorded them.
        """
        await self.connect(after_seq=after_seq)
        self.cursor = after_seq
        self._translator = Translator(after_seq=message_seq - 1)

    async def batches(self) -> AsyncIterator[Batch]:
        """Yield what the feed brings until the caller has seen enough."""
        assert self._feed is not None
        assert self._translator is not None
        if self._feed.replayed:
            yield self._batch([*self._feed.replayed])
        while self._ahead:
            yield await self._batch_and_run(self._ahead.pop(0))
        async for frames in self._feed:
            yield await self._batch_and_run(frames)

    async def _batch_and_run(self, frames: list[Frame]) -> Batch:
        """Read what came; a run that the server had no room for is asked for again."""
        for frame in frames:
            _refuse_fatal(frame)
            if isinstance(frame, Objection):
                await self._run_when_there_is_room()
        return self._batch(frames)

    def _batch(self, frames: list[Frame]) -> Batch:
        assert self._translator is not None
        durable: list[DurableEvent] = []
        events: list[RunEvent] = []
        for frame in frames:
            if isinstance(frame, DurableEvent):
                if frame.seq <= self.cursor:
                    continue
                durable.append(frame)
                self.cursor = frame.seq
            events += self._translator.feed(frame)
        return Batch(durable=durable, events=events)

    async def interrupt(self) -> None:
        await self.client.interrupt(self.conversation_id, timeout_seconds=CALL_SECONDS)

    async def reject_confirmation(self) -> None:
        """Say no to the action the agent waits with: a message would be taken as a yes."""
        await self.client.reject_action(
            self.conversation_id, reason="Nobody can confirm actions here.", timeout_seconds=CALL_SECONDS
        )


def _refuse_fatal(frame: Frame) -> None:
    """Raise what an objection means that leaves nothing to be done about the message."""
    if not isinstance(frame, Objection) or frame.means_message_saved:
        return
    if frame.means_conversation_missing:
        raise ConversationMissing("the conversation was deleted while its feed was open")
    raise Rejected(422, f"{frame.code}: {frame.detail}")


def message_parts(parts: tuple[transcript.UserPart, ...]) -> list[MessagePart]:
    """Say a caller's message in the agent-server's words."""
    return [
        ImagePart(url=part.url) if isinstance(part, transcript.ImagePart) else TextPart(text=part.text)
        for part in parts
    ]
