"""One conversation's events as an endless iterator: catch up, follow, reconnect; no gaps, no repeats.

    async with open_feed(client, conversation_id, after_seq=cursor, …) as feed:
        if feed.first_state == "running": …
        for event in feed.replayed: …
        async for batch in feed: …

The iterator ends by being left, never by itself: the end of a run is for `translate` to see.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self
from uuid import UUID

from chatgateway.agentserver.exceptions import FeedLost, Unreachable
from chatgateway.agentserver.schemas import DurableEvent, Frame, Reconnected
from chatgateway.agentserver.session_socket import ConnectionBroke, SessionSocket, SkippedFrames

if TYPE_CHECKING:  # the client itself reads short stretches of the log through a feed
    from chatgateway.agentserver.client import AgentServerClient

logger = logging.getLogger(__name__)

# The first try is made at once: most connections break for reasons that are over (a slow reader, a proxy's limit).
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 2.0
# A connection that held this long was sound; one that breaks sooner makes the pauses grow.
STEADY_SECONDS = 5.0


class Feed:
    """The events of one conversation. Made by `open_feed`; one task at a time may iterate.

    Known once entered, and not changed by reconnecting:
    `first_state`   the execution status when the feed connected;
    `through_seq`   the last event in the log then, -1 if the log was empty;
    `replayed`      the events after the cursor that were in the log then.

    Iterating yields batches: everything that has arrived, in order, so that a reader can write once per batch. The
    first batch begins with the State of `first_state`, for a reader that attaches to a run which may have ended. After
    a broken connection a batch begins with Reconnected, followed by what was missed and the State of now.

    Raises FeedLost if the connection cannot be re-established within `reconnect_within_seconds`, ConversationMissing
    if the conversation is gone or was begun anew, Unauthorized, Rejected.
    """

    first_state: str
    through_seq: int
    replayed: list[DurableEvent]

    def __init__(
        self,
        client: AgentServerClient,
        conversation_id: UUID,
        *,
        after_seq: int | None,
        connect_timeout_seconds: float,
        reconnect_within_seconds: float,
    ) -> None:
        self._client = client
        self._conversation_id = conversation_id
        self._connect_timeout = connect_timeout_seconds
        self._reconnect_within = reconnect_within_seconds
        self._cursor = after_seq
        self._last_event_id: str | None = None
        self._pending: list[Frame] = []
        self._socket: SessionSocket | None = None
        self._connected_at = 0.0
        self._breaks_in_a_row = 0
        self.skipped = SkippedFrames()
        self.reconnects = 0

    @property
    def last_seq(self) -> int:
        """The last event that was handed over or replayed; where a new feed would go on."""
        return -1 if self._cursor is None else self._cursor

    @property
    def is_quiet(self) -> bool:
        """Connected, with nothing unread: what was true when the last batch was read is true now."""
        return self._socket is not None and not self._pending and self._socket.is_quiet

    async def send(self, text: str) -> None:
        """Hand a message to the agent-server over the connection that is there now. Whether it arrived shows when it
        comes back as an event. Raises Unreachable if it certainly was not sent."""
        if self._socket is None:
            raise Unreachable("the event feed is not connected")
        try:
            await self._socket.send(text)
        except ConnectionBroke as broke:
            raise Unreachable(str(broke)) from broke

    def begin_again(self) -> None:
        """Start another run on a quiet feed: nothing is replayed, and the last run has ended."""
        assert self.is_quiet
        self.replayed = []
        self.first_state = "finished"
        self.through_seq = self.last_seq

    async def close(self) -> None:
        """End the connection; for whoever keeps a feed longer than a `with` block."""
        await self.__aexit__(None, None, None)

    async def __aenter__(self) -> Self:
        """Connect. One attempt, within `connect_timeout_seconds`; raises Unreachable if it fails."""
        deadline = time.monotonic() + self._connect_timeout
        replayed: list[DurableEvent] = []
        socket = None
        while socket is None:
            try:
                socket = await self._connect(deadline)
            except ConnectionBroke as broke:
                # Only a replay that got somewhere is worth going on with.
                events = await self._salvage(broke, deadline)
                if not events:
                    raise Unreachable(str(broke)) from broke
                replayed += events
        self.through_seq = socket.through_seq
        self.first_state = socket.state.status
        if self._cursor is None:
            self._cursor = socket.through_seq
        self.replayed = replayed + self._fresh(socket.replayed)
        self._pending = [socket.state, *socket.early]
        self._use(socket)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            await socket.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Frame]:
        """The next batch, never empty. Waits as long as the connection is alive: deadlines are the reader's."""
        while True:
            if self._pending:
                batch, self._pending = self._pending, []
                return batch
            assert self._socket is not None, "a feed is iterated within its `async with`"
            try:
                self._pending = self._fresh(await self._socket.next_batch())
            except ConnectionBroke as broke:
                await self._reconnect(broke)

    async def _reconnect(self, broke: ConnectionBroke) -> None:
        """Come back with a batch pending that starts with Reconnected."""
        broke_at = time.monotonic()
        if broke_at - self._connected_at > STEADY_SECONDS:
            self._breaks_in_a_row = 0
        missed: list[DurableEvent] = []
        socket = await self._reach_again(broke, deadline=broke_at + self._reconnect_within, missed=missed)
        self._use(socket)
        self.reconnects += 1
        missed += self._fresh(socket.replayed)
        away = Reconnected(away_seconds=time.monotonic() - broke_at)
        logger.info("the feed of conversation %s is back after %.1f s", self._conversation_id, away.away_seconds)
        self._pending = [away, *missed, socket.state, *socket.early]

    async def _reach_again(
        self, broke: ConnectionBroke, *, deadline: float, missed: list[DurableEvent]
    ) -> SessionSocket:
        """Try until it works or the deadline passes; `missed` collects what the tries brought all the same."""
        reason: Exception = broke
        logger.warning("the feed of conversation %s broke: %s", self._conversation_id, reason)
        while True:
            if self._breaks_in_a_row:
                await asyncio.sleep(min(self._pause(), max(0.0, deadline - time.monotonic())))
            self._breaks_in_a_row += 1
            if time.monotonic() >= deadline:
                raise FeedLost(f"the event feed was lost: {reason}") from reason
            try:
                if isinstance(reason, ConnectionBroke):
                    missed += await self._salvage(reason, deadline)
                return await self._connect(deadline)
            except (ConnectionBroke, Unreachable) as error:
                reason = error

    def _use(self, socket: SessionSocket) -> None:
        self._socket, self._connected_at = socket, time.monotonic()

    def _pause(self) -> float:
        pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(self._breaks_in_a_row - 1, 10))
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 - spreads the readers of a restarted server, no secret

    async def _connect(self, deadline: float) -> SessionSocket:
        return await self._client.open_socket(
            self._conversation_id,
            after_seq=self._cursor,
            timeout_seconds=self._seconds_until(deadline),
            skipped=self.skipped,
        )

    async def _salvage(self, broke: ConnectionBroke, deadline: float) -> list[DurableEvent]:
        """What can be had of a connection that broke: events it replayed, else one that was too large for a frame.

        The agent-server sends no frame over 4 MiB and hangs up instead, on every connection anew. A message with a
        large image is such an event; REST has no such limit.
        """
        events = self._fresh(broke.replayed)
        if events or not broke.is_frame_too_large:
            return events
        seq = self.last_seq + 1
        event = await self._client.event_at(
            self._conversation_id,
            seq=seq,
            previous_id=self._last_event_id,
            timeout_seconds=self._seconds_until(deadline),
        )
        return self._fresh([DurableEvent(seq=seq, event=event)]) if event is not None else []

    def _seconds_until(self, deadline: float) -> float:
        return max(0.001, min(self._connect_timeout, deadline - time.monotonic()))

    def _fresh[F: Frame](self, frames: Iterable[F]) -> list[F]:
        """`frames` without events that were seen before; moves the cursor."""
        fresh: list[F] = []
        for frame in frames:
            if isinstance(frame, DurableEvent):
                if frame.seq <= self.last_seq:
                    continue
                self._cursor, self._last_event_id = frame.seq, frame.id or None
            fresh.append(frame)
        return fresh


def open_feed(
    client: AgentServerClient,
    conversation_id: UUID,
    *,
    after_seq: int | None = -1,
    connect_timeout_seconds: float,
    reconnect_within_seconds: float,
) -> Feed:
    """A feed of the events after `after_seq`, to be entered with `async with`.

    -1 replays the whole log; None replays nothing and starts at the end of the log, whose place is then `through_seq`.
    """
    return Feed(
        client,
        conversation_id,
        after_seq=after_seq,
        connect_timeout_seconds=connect_timeout_seconds,
        reconnect_within_seconds=reconnect_within_seconds,
    )
