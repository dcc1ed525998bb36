"""One connection to `/sockets/session/{id}`: authenticate, take what is replayed, then what comes, until it breaks.

No reconnecting here; that is `feed`. The server sends `sync`, the events after the cursor, one `full_state`, and then
lives: deltas may come at any time, even amid the replay (agent-server 1.58, `session_socket.py`).
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import aiohttp
import orjson

from chatgateway.agentserver import frames
from chatgateway.agentserver.exceptions import (
    AgentServerError,
    ConversationMissing,
    Rejected,
    Unauthorized,
    Unreachable,
)
from chatgateway.agentserver.schemas import DurableEvent, Frame, State

logger = logging.getLogger(__name__)

type _WebSocket = aiohttp.ClientWebSocketResponse[Literal[False]]
type _Message = Any  # aiohttp does not export the type of a text message that it leaves undecoded

# The server closes rather than send a frame over 4 MiB (`MAX_FRAME_BYTES`); aiohttp's own limit must lie above that.
MAX_FRAME_BYTES = 8 * 2**20

# Enough to let a backlog through in few steps, little enough to give other tasks of the process their turn.
MAX_BATCH = 500

# Waiting for the server's half of the closing handshake is a courtesy.
CLOSE_SECONDS = 1.0


class ConnectionBroke(Exception):
    """The connection is over, for no reason that speaks against another.

    `replayed` came before the end, if it came amid the replay. `is_frame_too_large`: the next event does not fit into
    a frame, so another connection would end at the same place.
    """

    def __init__(self, detail: str, *, is_frame_too_large: bool = False) -> None:
        super().__init__(detail)
        self.is_frame_too_large = is_frame_too_large
        self.replayed: list[DurableEvent] = []


@dataclass(slots=True, kw_only=True)
class SkippedFrames:
    """How many frames were left out, over the life of a feed: garbage, and types that this module does not know."""

    unreadable: int = 0
    unknown: int = 0


@dataclass(slots=True, kw_only=True)
class SessionSocket:
    """An open connection past its replay.

    `replayed` are the events after the cursor that were in the log; `state` is what the conversation was like then;
    `early` are frames that overtook the replay. `through_seq` is the end of the log when the connection was made.
    """

    through_seq: int
    replayed: list[DurableEvent]
    state: State
    early: list[Frame]
    _ahead: timedelta | None
    _skipped: SkippedFrames
    _ws: _WebSocket = field(repr=False)
    _ended: AgentServerError | ConnectionBroke | None = None

    async def next_batch(self) -> list[Frame]:
        """Everything that has arrived; waits for something if nothing has. Empty if it was nothing of use.

        Raises ConnectionBroke at the end of the connection, and Unauthorized or ConversationMissing if the server
        ended it for such a reason.
        """
        if self._ended is not None:
            raise self._ended
        batch: list[Frame] = []
        message = await self._ws.receive()
        while True:
            if ending := _ending(self._ws, message):
                if not batch:
                    raise ending
                self._ended = ending  # what came before it is handed over first
                return batch
            frame = _read(message, self._skipped)
            if isinstance(frame, DurableEvent):
                frame = _timed(frame, self._ahead)
            if frame is not None and not isinstance(frame, frames.Sync):
                batch.append(frame)
            if len(batch) >= MAX_BATCH or not self._has_more():
                return batch
            message = await self._ws.receive()

    async def send(self, text: str) -> None:
        """Hand a message to the server, which does not answer it. Raises ConnectionBroke if that is no longer possible;
        without an error it may still not arrive."""
        try:
            await self._ws.send_str(text)
        except (aiohttp.ClientError, OSError) as error:
            raise ConnectionBroke(f"the session socket was over: {type(error).__name__}") from error

    async def close(self) -> None:
        """Close the connection; waits at most a second for the server's part."""
        await self._ws.close()

    @property
    def is_quiet(self) -> bool:
        """Open, and nothing has arrived that was not read."""
        reader = getattr(self._ws, "_reader", None)
        has_ended = reader is None or getattr(reader, "_eof", False) or reader.exception() is not None
        return self._ended is None and not self._ws.closed and not has_ended and not self._has_more()

    def _has_more(self) -> bool:
        # aiohttp has no public way to ask; without its buffer, batches would be of one frame each.
        return bool(getattr(getattr(self._ws, "_reader", None), "_buffer", None))


async def connect(
    http: aiohttp.ClientSession,
    *,
    base_url: str,
    session_api_key: str,
    conversation_id: UUID,
    after_seq: int | None,
    timeout_seconds: float,
    heartbeat_seconds: float,
    skipped: SkippedFrames,
) -> SessionSocket:
    """Open a connection and read it up to the first `full_state`.

    `after_seq` -1 replays the whole log, None nothing. Raises Unreachable, Unauthorized, ConversationMissing (also for
    a log that ends before `after_seq`), Rejected, and ConnectionBroke if the server hung up amid the replay.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            ws = await http.ws_connect(
                f"{base_url}/sockets/session/{conversation_id}",
                params={} if after_seq is None else {"after_seq": str(after_seq)},
                heartbeat=heartbeat_seconds,
                max_msg_size=MAX_FRAME_BYTES,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_SECONDS),
                decode_text=False,
            )
            try:
                # As the first message, not as a header or in the URL: those are deprecated and end up in access logs.
                await ws.send_str(orjson.dumps({"type": "auth", "session_api_key": session_api_key}).decode())
                return await _read_replay(ws, after_seq, skipped)
            except BaseException:
                await ws.close()
                raise
    except TimeoutError as error:
        raise Unreachable(f"the session socket was not ready within {timeout_seconds:g} s") from error
    except aiohttp.WSServerHandshakeError as error:
        raise _refusal(error.status) from None  # its repr holds the request's headers
    except (aiohttp.ClientError, OSError) as error:
        raise Unreachable(f"the session socket could not be opened: {type(error).__name__}: {error}") from error


async def _read_replay(ws: _WebSocket, after_seq: int | None, skipped: SkippedFrames) -> SessionSocket:
    through_seq = -1
    replayed: list[DurableEvent] = []
    early: list[Frame] = []
    while True:
        message = await ws.receive()
        if ending := _ending(ws, message):
            if isinstance(ending, ConnectionBroke):
                ending.replayed = [_timed(event, None) for event in replayed]
            raise ending
        frame = _read(message, skipped)
        match frame:
            case frames.Sync():
                through_seq = frame.through_seq
                if after_seq is not None and through_seq < after_seq:
                    raise ConversationMissing("the conversation's log ends before the cursor: it was begun anew")
            case DurableEvent():
                replayed.append(frame)
            case State():
                ahead = _clock_difference(frame)
                return SessionSocket(
                    through_seq=through_seq,
                    replayed=[_timed(event, ahead) for event in replayed],
                    state=frame,
                    early=early,
                    _ahead=ahead,
                    _skipped=skipped,
                    _ws=ws,
                )
            case None:
                pass
            case _:
                early.append(frame)


def _read(message: _Message, skipped: SkippedFrames) -> Frame | frames.Sync | None:
    try:
        frame = frames.read(message.data)
    except frames.UnreadableFrame as error:
        skipped.unreadable += 1
        logger.warning("a frame of the session socket was skipped: %s", error)
        return None
    skipped.unknown += frame is None
    return frame


def _ending(ws: _WebSocket, message: _Message) -> AgentServerError | ConnectionBroke | None:
    """What a message that ends the connection means; None for any other."""
    match message.type:
        case aiohttp.WSMsgType.TEXT | aiohttp.WSMsgType.BINARY:
            return None
        case aiohttp.WSMsgType.ERROR:
            is_too_large = isinstance(message.data, aiohttp.WebSocketError) and message.data.code == 1009
            return ConnectionBroke(f"the session socket failed: {message.data!r}", is_frame_too_large=is_too_large)
    code, reason = ws.close_code, message.extra or ""
    match code:
        case 4001:
            return Unauthorized("the agent-server refused the session API key")
        case 4004:
            return ConversationMissing("the agent-server does not know the conversation")
    return ConnectionBroke(
        f"the session socket was closed: {code} {reason}".rstrip(), is_frame_too_large=reason == "frame_too_large"
    )


def _refusal(status: int) -> AgentServerError:
    """What a handshake means that was answered with an HTTP status instead of a socket."""
    if status == 401:
        return Unauthorized("the agent-server refused the session API key")
    if status >= 500 or status == 429:
        return Unreachable(f"the session socket was answered with {status}")
    return Rejected(status, "the agent-server has no session socket at this address")


def _clock_difference(state: State) -> timedelta | None:
    """How far the agent-server's naive local clock is ahead of UTC by ours; off by the time the frame travelled."""
    stamp = state.server_time
    return stamp.replace(tzinfo=UTC) - datetime.now(UTC) if stamp is not None and stamp.tzinfo is None else None


def _timed(event: DurableEvent, ahead: timedelta | None) -> DurableEvent:
    time = frames.occurred_at(event.event, ahead=ahead, received_at=datetime.now(UTC))
    return DurableEvent(seq=event.seq, event=event.event, occurred_at=time)
