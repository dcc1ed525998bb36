"""The session socket of a `FakeAgentServer`, and the ways in which it can misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from aiohttp import WSMsgType, web

from tests.fakes.agent_conversation import FakeConversation

if TYPE_CHECKING:
    from tests.fakes.agent_server import FakeAgentServer

Json = dict[str, Any]

# The real server waits so long for the first message, which must be the key.
AUTH_SECONDS = 10.0


class SocketFaults:
    """What is wrong with the sockets of a server at the moment."""

    def __init__(self) -> None:
        self.open: set[_EventSocket] = set()
        self.held_messages = 0
        self.may_take = asyncio.Event()
        self.may_take.set()
        self.mend()

    def mend(self) -> None:
        self.repeats = False
        self.swaps_deltas = False
        self.garbage = False
        self.is_mute = False
        self.lost_order: int | None = None
        self.refusal = 0
        self.overtakes = False
        self.cut_after = 0
        self.cuts_left = 0

    def drop_after(self, frames: int, times: int) -> None:
        self.cut_after, self.cuts_left = frames, times
        for one in self.open:
            one.sent_live = 0

    def close_all(self, code: int, reason: str) -> None:
        for one in self.open:
            one.close_with(code, reason)

    async def close_and_wait(self, code: int) -> None:
        sockets = list(self.open)
        self.close_all(code, "")
        await asyncio.gather(*(one.done.wait() for one in sockets))

    def distort(self, frame: Json, held: list[Json]) -> Iterator[str]:
        """What is sent for a frame. `held` keeps a delta that is to come after the next one."""
        if frame["type"] == "delta" and frame["order"] == self.lost_order:
            return
        if self.garbage:
            yield "{half a frame"
            yield '{"type":"weather","sun":true}'
            yield '{"type":"delta","item_id":7}'
        frames = [frame]
        if self.swaps_deltas and frame["type"] == "delta" and not held:
            held.append(frame)
            return
        if held:
            frames = [frame, held.pop()]
        for one in frames:
            for _ in range(2 if self.repeats else 1):
                yield json.dumps(one)


async def serve_events(server: FakeAgentServer, request: web.Request) -> web.StreamResponse:
    """One connection: key, `sync`, replay, `full_state`, then whatever happens."""
    ws = web.WebSocketResponse(max_msg_size=0, autoping=False)
    await ws.prepare(request)
    if not await _is_authenticated(ws, server.session_api_key):
        await ws.close(code=4001, message=b"Authentication failed")
        return ws
    conversation = server.conversations.get(uuid.UUID(request.match_info["id"]))
    if conversation is None:
        await ws.close(code=4004, message=b"Conversation not found")
        return ws
    after_seq = request.query.get("after_seq")
    socket = _EventSocket(server, conversation, ws, request)
    await socket.serve(int(after_seq) if after_seq is not None else None)
    return ws


async def _is_authenticated(ws: web.WebSocketResponse, key: str) -> bool:
    try:
        first = await ws.receive(AUTH_SECONDS)
    except TimeoutError:
        return False
    if first.type is not WSMsgType.TEXT:
        return False
    with contextlib.suppress(ValueError):
        sent = json.loads(first.data)
        return isinstance(sent, dict) and sent.get("type") == "auth" and sent.get("session_api_key") == key
    return False


class _EventSocket:
    """Sends in one task and reads in another, so that it notices a client that leaves."""

    def __init__(
        self,
        server: FakeAgentServer,
        conversation: FakeConversation,
        ws: web.WebSocketResponse,
        request: web.Request,
    ) -> None:
        self._server = server
        self._conversation = conversation
        self._ws = ws
        self._transport = request.transport
        self._queue: asyncio.Queue[Json] = asyncio.Queue()
        self._held: list[Json] = []
        self.sent_live = 0
        self.done = asyncio.Event()

    async def serve(self, after_seq: int | None) -> None:
        faults, listeners = self._server.socket_faults, self._conversation.listeners
        faults.open.add(self)
        self._server.notify()
        # No `await` between these three: what happens from now on is in the queue, and nothing is there twice.
        listeners.add(self._queue)
        replay = list(enumerate(self._conversation.events))
        state = self._conversation.full_state()
        sending = asyncio.create_task(self._send(replay, state, after_seq))
        reading = asyncio.create_task(self._read())
        try:
            await asyncio.wait({sending, reading}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            listeners.discard(self._queue)
            faults.open.discard(self)
            self._server.notify()
            for task in (sending, reading):
                task.cancel()
            await asyncio.gather(sending, reading, return_exceptions=True)
            self.done.set()

    def close_with(self, code: int, reason: str) -> None:
        self._queue.put_nowait({"type": "close", "code": code, "reason": reason})

    async def _read(self) -> None:
        """Answers pings by the way, unless the server hangs."""
        while True:
            message = await self._ws.receive()
            await self._server.hold_if_hung()
            if message.type is WSMsgType.PING:
                await self._ws.pong(message.data)
            if message.type is WSMsgType.TEXT:
                await self._server.hold_message()
                self._take(json.loads(message.data))
            if message.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR):
                return

    def _take(self, message: Json) -> None:
        if message.get("type") == "auth":
            return
        code, detail, is_cut = self._server.take_over_socket(self._conversation, message)
        if code:
            self._queue.put_nowait({"type": "error", "code": code, "detail": detail})
        if is_cut and self._transport is not None:
            self._transport.abort()

    async def _send(self, replay: list[tuple[int, Json]], state: Json, after_seq: int | None) -> None:
        if self._server.socket_faults.is_mute:
            await asyncio.Event().wait()
        sync: Json = {"type": "sync"}
        if after_seq is not None:
            sync["from_seq"] = after_seq
        if replay:
            sync["through_seq"] = replay[-1][0]
        await self._send_frame(sync)
        if self._server.socket_faults.overtakes:
            delta = {"item_id": "overtaking", "attempt": 1, "order": 3, "kind": "text", "content": "ahead"}
            await self._send_frame({"type": "delta", **delta})
        for seq, event in replay:
            if after_seq is not None and seq > after_seq:
                await self._send_frame({"type": "durable", "seq": seq, "event": event})
        await self._send_frame(state)
        while True:
            frame = await self._queue.get()
            await self._server.hold_if_hung()
            if frame["type"] == "close":
                await self._ws.close(code=frame["code"], message=frame["reason"].encode())
                return
            if self._is_to_be_cut():
                return
            await self._send_frame(frame)
            self.sent_live += 1

    def _is_to_be_cut(self) -> bool:
        faults = self._server.socket_faults
        if not faults.cuts_left or self.sent_live < faults.cut_after:
            return False
        faults.cuts_left -= 1
        if self._transport is not None:
            self._transport.abort()
        return True

    async def _send_frame(self, frame: Json) -> None:
        for text in self._server.socket_faults.distort(frame, self._held):
            if len(text) > self._server.max_frame_bytes:
                await self._ws.close(code=1013, message=b"frame_too_large")
                raise ConnectionResetError
            await self._ws.send_str(text)
