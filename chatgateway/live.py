"""A turn, and those who wait for it in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
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
        self.is_sent = False  # the agent-server may have the message, whether or not it has said so
        self.accepted = _Flag()  # the agent-server has the message, or the turn has ended
        self.subscribers = 0
        self.closed_at: int | None = None  # Unix seconds, with the end
        self.frames: int | None = None  # how many frames of a response that is written ahead were published
        self._events: list[ShownEvent] = []
        self._wait_for_more: list[asyncio.Future[None]] = []
        self._wait_for_end: list[asyncio.Future[None]] = []
        self._is_cancelled = False
        self._on_cancel: Callable[[str], None] | None = None

    @property
    def is_in_doubt(self) -> bool:
        """The message is under way: nobody can tell yet whether the agent-server has it."""
        return self.is_sent and not self.accepted.is_set()

    def publish(self, events: list[ShownEvent]) -> None:
        """Hand events to all subscribers. A `TurnAnswered` or `TurnFailed` is the last one."""
        if not events:
            return
        self._events += events
        last = events[-1]
        if isinstance(last, TurnAnswered | TurnFailed):
            self.ended = last
            self.accepted.set()
            _wake_all(self._wait_for_end)
        _wake_all(self._wait_for_more)

    def request_cancel(self, reason: str) -> None:
        """Ask the driver to stop the run. The first reason stays."""
        if not self._is_cancelled:
            self._is_cancelled, self.cancel_reason = True, reason
            if self._on_cancel is not None:
                self._on_cancel(reason)

    def when_cancelled(self, stop: Callable[[str], None] | None) -> None:
        """Have `stop` called with the reason when somebody asks for it, at once if that has happened; None: no more."""
        self._on_cancel = stop
        if stop is not None and self._is_cancelled:
            stop(self.cancel_reason)

    async def batches(self, *, quiet_seconds: float) -> AsyncIterator[list[ShownEvent]]:
        """Yield everything published, in order, as it comes; an empty list after `quiet_seconds` of silence.

        Ends after the batch that holds the turn's end.
        """
        seen = 0
        while True:
            if seen < len(self._events):
                batch, seen = self._events[seen:], len(self._events)
                yield batch
                if isinstance(batch[-1], TurnAnswered | TurnFailed):
                    return
            else:
                await _wait(self._wait_for_more, quiet_seconds)
                if seen == len(self._events):
                    yield []

    async def result(self) -> TurnAnswered | TurnFailed:
        """Wait for the turn's end. Its deadline is the driver's."""
        while self.ended is None:
            await _wait(self._wait_for_end, None)
        return self.ended


class _Flag:
    """An `asyncio.Event` in a tenth of its memory."""

    __slots__ = ("_is_set", "_waiting")

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: list[asyncio.Future[None]] = []

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        _wake_all(self._waiting)

    async def wait(self) -> None:
        while not self._is_set:
            await _wait(self._waiting, None)


async def _wait(waiting: list[asyncio.Future[None]], seconds: float | None) -> None:
    """Wait among others to be woken, or for so long. A stream does so for each word: hence no `wait_for`."""
    loop = asyncio.get_running_loop()
    woken = loop.create_future()
    waiting.append(woken)
    timer = None if seconds is None else loop.call_later(seconds, _wake, woken)
    try:
        await woken
    finally:
        if timer is not None:
            timer.cancel()
        if woken in waiting:
            waiting.remove(woken)


def _wake_all(waiting: list[asyncio.Future[None]]) -> None:
    for future in waiting:
        _wake(future)
    waiting.clear()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
