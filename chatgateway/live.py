"""A turn, and those who wait for it in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

from chatgateway.turn_events import ShownEvent, TurnAnswered, TurnFailed


class LiveTurn:
    """What a turn has shown so far, and what it shows next, to any number of subscribers.

    Its driver publishes, or a follower where another process drives it; requests subscribe; neither knows the other.
    A subscriber that comes late reads everything from the start. Belongs to one event loop.
    """

    def __init__(self, *, turn_id: UUID, reply_id: str, created: int, conversation_id: UUID | None) -> None:
        self.turn_id = turn_id
        self.reply_id = reply_id
        self.created = created
        self.conversation_id = conversation_id
        self.ended: TurnAnswered | TurnFailed | None = None
        self.cancel_reason = ""
        self.cancel_requested = asyncio.Event()
        self.accepted = asyncio.Event()  # the agent-server has the message, or the turn has ended
        self.subscribers = 0
        self.closed_at: int | None = None  # Unix seconds, with the end
        self.frames: int | None = None  # how many frames of a response that is written ahead were published
        self._events: list[ShownEvent] = []
        self._more: list[asyncio.Event] = []

    def publish(self, events: list[ShownEvent]) -> None:
        """Hand events to all subscribers. A `TurnAnswered` or `TurnFailed` is the last one."""
        if not events:
            return
        self._events += events
        last = events[-1]
        if isinstance(last, TurnAnswered | TurnFailed):
            self.ended = last
            self.accepted.set()
        for more in self._more:
            more.set()

    def request_cancel(self, reason: str) -> None:
        """Ask the driver to stop the run. The first reason stays."""
        if not self.cancel_requested.is_set():
            self.cancel_reason = reason
            self.cancel_requested.set()

    async def batches(self, *, quiet_seconds: float) -> AsyncIterator[list[ShownEvent]]:
        """Yield everything published, in order, as it comes; an empty list after `quiet_seconds` of silence.

        Ends after the batch that holds the turn's end.
        """
        more = asyncio.Event()
        self._more.append(more)
        seen = 0
        try:
            while True:
                more.clear()
                if seen < len(self._events):
                    batch, seen = self._events[seen:], len(self._events)
                    yield batch
                    if isinstance(batch[-1], TurnAnswered | TurnFailed):
                        return
                    continue
                try:
                    await asyncio.wait_for(more.wait(), quiet_seconds)
                except TimeoutError:
                    yield []
        finally:
            self._more.remove(more)

    async def result(self) -> TurnAnswered | TurnFailed:
        """Wait for the turn's end. Its deadline is the driver's."""
        async for _ in self.batches(quiet_seconds=3600):
            pass
        assert self.ended is not None
        return self.ended
