"""An OpenAI-compatible LLM that says exactly what a test tells it to, and remembers what it was asked.

A reply is chosen by `#script:<name>` in the last user message: that script's replies are played one after the other
while the agent works on that message, the last one again and again. Conversations do not disturb each other, because
each has its own place in the script (told apart by `prompt_cache_key`, which agent-servers send with every call).
Without a marker the next reply of the queue is played.

    with ScriptedLlm() as llm:
        llm.script("look", Answer(tool_calls=(terminal("ls"),)), Answer(text="One file."))
        ... ask the gateway "what is there? #script:look" ...
        assert llm.requests[-1].last_message["role"] == "tool"
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web

from tests.live.llm_replies import (
    STANDARD_SCRIPTS,
    Answer,
    Failure,
    Hang,
    Reply,
    ToolCall,
    Usage,
    file_editor,
    terminal,
)
from tests.live.loopback_server import LoopbackServer

__all__ = [
    "Answer",
    "Failure",
    "Hang",
    "Received",
    "ScriptedLlm",
    "ToolCall",
    "Usage",
    "file_editor",
    "terminal",
    "text_of",
]

MODEL = "scripted"

# openhands-sdk 1.58 sends this as a user message when a reply has neither text nor a tool call.
_NUDGE = "Your last response did not include a function call or a message."


Outcome = Literal["open", "served", "refused", "dropped", "left"]


@dataclass(slots=True, kw_only=True)
class Received:
    """One request and what became of it. `outcome` is `left` once the client closed the connection first."""

    number: int
    path: str
    headers: Mapping[str, str]
    body: Any
    at: float
    """`time.monotonic()` when the whole body was there."""
    script: str | None = None
    reply: Reply | None = None
    outcome: Outcome = "open"
    pieces_sent: int = 0
    _released: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    _loop: asyncio.AbstractEventLoop | None = field(default=None, repr=False)

    @property
    def messages(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = self.body.get("messages", []) if isinstance(self.body, dict) else []
        return messages

    @property
    def last_message(self) -> dict[str, Any]:
        return self.messages[-1]

    @property
    def user_messages(self) -> list[dict[str, Any]]:
        """Without the agent-server's own, which it adds after an empty reply."""
        users = [message for message in self.messages if message.get("role") == "user"]
        return [message for message in users if not text_of(message).startswith(_NUDGE)]

    @property
    def last_user_text(self) -> str:
        return text_of(self.user_messages[-1]) if self.user_messages else ""

    @property
    def system_text(self) -> str:
        return "\n".join(text_of(message) for message in self.messages if message.get("role") == "system")

    @property
    def conversation(self) -> str:
        """The agent's conversation id, "" for a client that names none."""
        key = self.body.get("prompt_cache_key") if isinstance(self.body, dict) else None
        return str(key or self.headers.get("x-litellm-session-id", ""))

    def release(self) -> None:
        """Let a reply go on that waits at its `hold_after`. From any thread."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._released.set)


def text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part.get("type") == "text")


class ScriptedLlm(LoopbackServer):
    """`model: openai/scripted`, `base_url: llm.url`, `api_key: llm.key`. Any other model is answered just the same."""

    def __init__(self, *, default: Reply | None = None) -> None:
        """`default` answers a request without marker while the queue is empty; otherwise it is refused with 400."""
        super().__init__()
        self.key = f"sk-scripted-{secrets.token_hex(12)}"
        self._default = default
        self._scripts = dict(STANDARD_SCRIPTS)
        self._queue: deque[Reply] = deque()
        self._places: Counter[tuple[str, str, int]] = Counter()
        self._received: list[Received] = []
        self._changed = threading.Condition()
        self._numbers = itertools.count()

    @property
    def url(self) -> str:
        return f"{self.origin}/v1"

    def script(self, name: str, *replies: Reply) -> None:
        """Say what `#script:<name>` plays from now on."""
        if not re.fullmatch(r"[\w-]+", name) or not replies:
            raise ValueError("A script has a name of letters, digits, _ and -, and at least one reply.")
        with self._changed:
            self._scripts[name] = replies

    def enqueue(self, *replies: Reply) -> None:
        with self._changed:
            self._queue.extend(replies)

    @property
    def requests(self) -> tuple[Received, ...]:
        """Every chat completion asked for, in order of arrival."""
        with self._changed:
            return tuple(self._received)

    @property
    def served_usage(self) -> tuple[Usage, ...]:
        """The books: the usage of each request that got its whole reply."""
        return tuple(
            one.reply.usage for one in self.requests if one.outcome == "served" and isinstance(one.reply, Answer)
        )

    @property
    def total_usage(self) -> Usage:
        return sum(self.served_usage, start=Usage(prompt=0, completion=0))

    def wait_for(self, is_it: Callable[[Received], bool], *, timeout_seconds: float = 60.0) -> Received:
        """The first request of which `is_it` is true, waiting for it; TimeoutError if there is none in time.

        For example `lambda one: one.outcome == "left"`, or `lambda one: one.pieces_sent == 2`.
        """
        with self._changed:
            found = self._changed.wait_for(
                lambda: next((one for one in self._received if is_it(one)), None), timeout=timeout_seconds
            )
        if found is None:
            outcomes = [(one.script, one.outcome) for one in self.requests]
            raise TimeoutError(f"No such request within {timeout_seconds} s; there were {outcomes}.")
        return found

    # --- the server, in its own thread ---------------------------------------------------------------------------

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/v1/chat/completions", self._complete), web.get("/v1/models", self._models)]

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "tests"}]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        received = Received(
            number=next(self._numbers),
            path=request.path,
            headers={name.lower(): value for name, value in request.headers.items()},
            body=await request.json(),
            at=time.monotonic(),
            _loop=asyncio.get_running_loop(),
        )
        with self._changed:
            self._received.append(received)
            received.script, received.reply = self._choose(received)
            self._changed.notify_all()
        try:
            return await self._play(request, received, received.reply)
        except asyncio.CancelledError:
            self._note(received, outcome="left")
            raise
        except ConnectionResetError:
            self._note(received, outcome="left")
            return web.Response()  # Nobody reads it; an exception would be logged as this server's failure.

    def _choose(self, received: Received) -> tuple[str | None, Reply]:
        if received.headers.get("authorization") != f"Bearer {self.key}":
            return None, Failure(status=401, message="Incorrect API key provided.", code="invalid_api_key")
        if markers := re.findall(r"#script:([\w-]+)", received.last_user_text):
            return markers[-1], self._next_of(markers[-1], received)
        if self._queue:
            return None, self._queue.popleft()
        return None, self._default or Failure(status=400, message="No #script: marker, and the queue is empty.")

    def _next_of(self, name: str, received: Received) -> Reply:
        if name not in self._scripts:
            return Failure(status=400, message=f"There is no script {name!r}; there are {sorted(self._scripts)}.")
        # Agent-servers merge user messages without an answer between them into one of several parts, so parts
        # are counted: a new message starts its script anew, a repeated call for the same one goes on with it.
        contents = [message["content"] for message in received.user_messages]
        parts = sum(len(content) if isinstance(content, list) else 1 for content in contents)
        place = (received.conversation, name, parts)
        replies = self._scripts[name]
        reply = replies[min(self._places[place], len(replies) - 1)]
        self._places[place] += 1
        return reply

    async def _play(self, request: web.Request, received: Received, reply: Reply) -> web.StreamResponse:
        match reply:
            case Failure():
                error = {"message": reply.message, "type": reply.type, "param": None, "code": reply.code}
                self._note(received, outcome="refused")
                return web.json_response({"error": error}, status=reply.status, headers=dict(reply.headers))
            case Hang():
                # Ends by cancellation: when the client leaves, or when this server stops.
                await asyncio.Event().wait()
                raise AssertionError("unreachable")
            case Answer():
                if received.body.get("stream"):
                    return await self._stream(request, received, reply)
                return await self._collect(request, received, reply)

    async def _collect(self, request: web.Request, received: Received, reply: Answer) -> web.Response:
        for _ in _deltas(reply):
            await self._pace(received, reply)
            self._note(received, pieces_sent=received.pieces_sent + 1)
        await self._hold(received, reply)
        if reply.drops:
            self._drop(request, received)
            return web.Response()
        message: dict[str, Any] = {"role": "assistant", "content": reply.full_text or None}
        if reply.reasoning:
            message["reasoning_content"] = "".join(reply.reasoning)
        if reply.tool_calls:
            message["tool_calls"] = _calls(reply)
        choice = {"index": 0, "message": message, "finish_reason": reply.ending, "logprobs": None}
        self._note(received, outcome="served")
        return web.json_response(
            {**_frame("chat.completion"), "choices": [choice], "usage": reply.usage.as_openai()},
            headers={"x-request-id": f"req-{received.number}"},
        )

    async def _stream(self, request: web.Request, received: Received, reply: Answer) -> web.StreamResponse:
        stream = web.StreamResponse(
            headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
        )
        await stream.prepare(request)
        frame = _frame("chat.completion.chunk")

        async def send(delta: dict[str, Any], finish_reason: str | None = None) -> None:
            choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
            await stream.write(_event({**frame, "choices": [choice]}))

        await send({"role": "assistant", "content": ""})
        for delta in _deltas(reply):
            await self._pace(received, reply)
            await send(delta)
            self._note(received, pieces_sent=received.pieces_sent + 1)
        await self._hold(received, reply)
        if reply.drops:
            self._drop(request, received)
            return stream
        await send({}, reply.ending)
        if (received.body.get("stream_options") or {}).get("include_usage"):
            await stream.write(_event({**frame, "choices": [], "usage": reply.usage.as_openai()}))
        # Before the last bytes: whoever has read the end of the reply finds it in the books.
        self._note(received, outcome="served")
        await stream.write(b"data: [DONE]\n\n")
        await stream.write_eof()
        return stream

    async def _pace(self, received: Received, reply: Answer) -> None:
        await self._hold(received, reply)
        if reply.delay_seconds:
            await asyncio.sleep(reply.delay_seconds)

    async def _hold(self, received: Received, reply: Answer) -> None:
        if reply.hold_after is not None and received.pieces_sent >= reply.hold_after:
            await received._released.wait()

    def _drop(self, request: web.Request, received: Received) -> None:
        self._note(received, outcome="dropped")
        if request.transport is not None:
            request.transport.abort()

    def _note(self, received: Received, *, outcome: Outcome | None = None, pieces_sent: int | None = None) -> None:
        with self._changed:
            if outcome is not None and received.outcome == "open":
                received.outcome = outcome
            if pieces_sent is not None:
                received.pieces_sent = pieces_sent
            self._changed.notify_all()


def _deltas(reply: Answer) -> list[dict[str, Any]]:
    """The `delta` objects of a streamed reply between the first, which names the role, and the last."""
    deltas: list[dict[str, Any]] = [{"reasoning_content": piece} for piece in reply.reasoning]
    deltas += [{"content": piece} for piece in reply.pieces]
    for index, call in enumerate(_calls(reply)):
        head, tail = {**call["function"], "arguments": ""}, call["function"]["arguments"]
        deltas.append({"tool_calls": [{"index": index, "id": call["id"], "type": "function", "function": head}]})
        deltas.append({"tool_calls": [{"index": index, "function": {"arguments": tail}}]})
    return deltas


def _calls(reply: Answer) -> list[dict[str, Any]]:
    return [
        {
            "id": f"call_{secrets.token_hex(8)}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments_text},
        }
        for call in reply.tool_calls
    ]


def _frame(kind: str) -> dict[str, Any]:
    name = f"chatcmpl-{secrets.token_hex(12)}"
    return {"id": name, "object": kind, "created": int(time.time()), "model": MODEL}


def _event(body: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"
