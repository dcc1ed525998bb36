"""An imitation of the agent-server that costs almost nothing: its REST routes and session socket, no agent.

`python -m benchmarks.stub_agent_server PORT SESSION_API_KEY`

Frames, their order and their sizes follow recordings of agent-server 1.58.0 (`tests/recordings`): a bare agent with
the stock system prompt. It answers as many words as the message asks for (`wishes`); words without a delay between
them are sent in one write, as a provider that is faster than the network would have them arrive.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import parse_qs

import orjson

from benchmarks.loopback_http import Exchange, frame, header, serve
from benchmarks.wishes import Wish, read, word

_DEFAULT = Wish(10, 0)
INPUT_TOKENS = 100  # of each call of its LLM
_STAMP = b"2026-01-01T00:00:00.000000"
_SYSTEM_PROMPT = b"You are an agent. " * 846  # as long as the stock prompt, 15 228 characters
# The agent's configuration within `full_state`: some 60 fields of its LLM, 2 kB.
_AGENT = (
    b'{"kind":"Agent","tools":[],"llm":{'
    + b",".join(b'"setting_%02d":"%s"' % (n, b"v" * 18) for n in range(60))
    + b"}}"
)
_INFO = orjson.dumps(
    {
        "title": "stub",
        "version": "1.58.0",
        "sdk_version": "1.58.0",
        "tools_version": "1.58.0",
        "usable_tools": ["terminal", "file_editor", "task_tracker"],
        "capabilities": ["idempotent_conversation_create_v1"],
    }
)
# Of the start of a conversation only this much is remembered, for the answer and for `GET`.
_REMEMBERED = ("workspace", "tags", "max_iterations")


@dataclass(slots=True)
class Conversation:
    id: str
    asked: dict[str, Any]
    log: list[bytes] = field(default_factory=list)
    readers: list[Agent] = field(default_factory=list)
    status: bytes = b"idle"
    turns: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    leaf: bytes = b""
    timer: asyncio.TimerHandle | None = None

    # --- what readers get -------------------------------------------------------------------------------------------

    def send(self, *payloads: bytes) -> None:
        data = b"".join(map(frame, payloads))
        for reader in self.readers:
            reader.transport.write(data)

    def logged(self, event: bytes) -> bytes:
        payload = b'{"type":"durable","seq":%d,"event":{%s}}' % (len(self.log), event)
        self.log.append(payload)
        return payload

    def event_id(self, kind: int) -> bytes:
        return b"%08x-0000-4000-8000-%s" % (self.turns * 16 + kind, self.id[-12:].encode())

    def changed(self, number: int, key: bytes, value: bytes) -> bytes:
        return self.logged(
            b'"id":"%s","timestamp":"%s","source":"environment","parent_id":"%s","key":"%s","value":%s,'
            b'"kind":"ConversationStateUpdateEvent"' % (self.event_id(number), _STAMP, self.event_id(1), key, value)
        )

    # --- a turn -----------------------------------------------------------------------------------------------------

    def begin(self, body: bytes) -> None:
        wish = read(body, default=_DEFAULT)
        self.turns += 1
        self.status = b"running"
        books.runs += 1
        opening = [] if self.log else [self._system_prompt()]
        message = self.event_id(1)
        opening += [
            self.logged(
                b'"id":"%s","timestamp":"%s","source":"user","parent_id":null,"llm_message":{"role":"user","content":'
                b'[{"cache_prompt":false,"type":"text","text":"%s"}],"thinking_blocks":[]},"activated_skills":[],'
                b'"extended_content":[],"kind":"MessageEvent"' % (message, _STAMP, wish.prompt().encode())
            ),
            self.changed(2, b"last_user_message_id", b'"%s"' % message),
            self.changed(3, b"execution_status", b'"running"'),
            b'{"type":"item_started","item_id":"%s","attempt":1,"anchor_seq":%d}'
            % (self.event_id(5), len(self.log) - 1),
        ]
        item = self.event_id(5)
        deltas = [_delta(item, index) for index in range(wish.tokens)]
        if not wish.delay_ms:
            self.send(*opening, *deltas, *self._ending(wish))
            return
        self.send(*opening)
        self._next(deltas, 0, wish)

    def _next(self, deltas: list[bytes], index: int, wish: Wish) -> None:
        if self.status != b"running":
            return
        if index + 1 == len(deltas):
            self.send(deltas[index], *self._ending(wish))
            return
        self.send(deltas[index])
        seconds = wish.delay_ms / 1000
        self.timer = asyncio.get_running_loop().call_later(seconds, self._next, deltas, index + 1, wish)

    def _system_prompt(self) -> bytes:
        return self.logged(
            b'"id":"%s","timestamp":"%s","source":"agent","system_prompt":{"cache_prompt":false,"type":"text","text":'
            b'"%s"},"tools":[],"kind":"SystemPromptEvent"' % (self.event_id(0), _STAMP, _SYSTEM_PROMPT)
        )

    def _ending(self, wish: Wish) -> list[bytes]:
        self.input_tokens += INPUT_TOKENS
        self.output_tokens += wish.tokens
        books.calls += 1
        books.input_tokens += INPUT_TOKENS
        books.output_tokens += wish.tokens
        stats = self.changed(4, b"stats", b'{"usage_to_metrics":{"agent":{%s}}}' % self._usage())
        self.leaf = self.event_id(5)
        answer = self.logged(
            b'"id":"%s","timestamp":"%s","source":"agent","parent_id":"%s","llm_message":{"role":"assistant","content":'
            b'[{"cache_prompt":false,"type":"text","text":"%s"}],"thinking_blocks":[]},"llm_response_id":"chatcmpl-%d",'
            b'"activated_skills":[],"extended_content":[],"kind":"MessageEvent"'
            % (self.leaf, _STAMP, self.event_id(1), wish.text().encode(), self.turns)
        )
        self.status = b"finished"
        return [stats, answer, self.changed(6, b"execution_status", b'"finished"'), self.full_state()]

    def interrupt(self) -> None:
        if self.status != b"running":
            return
        if self.timer is not None:
            self.timer.cancel()
        self.status = b"paused"
        item = self.event_id(5)
        self.send(
            b'{"type":"item_aborted","item_id":"%s","attempt":1,"reason":"cancelled"}' % item,
            self.changed(7, b"execution_status", b'"paused"'),
            self.full_state(),
        )

    # --- its state --------------------------------------------------------------------------------------------------

    def _usage(self) -> bytes:
        return (
            b'"model_name":"openai/scripted","accumulated_cost":0.0,"max_budget_per_task":null,'
            b'"accumulated_token_usage":{"model":"openai/scripted","prompt_tokens":%d,"completion_tokens":%d,'
            b'"cache_read_tokens":0,"cache_write_tokens":0,"reasoning_tokens":0,"context_window":0,"per_turn_token":0,'
            b'"response_id":""}'
        ) % (self.input_tokens, self.output_tokens)

    def full_state(self) -> bytes:
        return (
            b'{"type":"transient","event":{"id":"%s","timestamp":"%s","source":"environment","key":"full_state","value":'
            b'{"id":"%s","agent":%s,"execution_status":"%s","last_user_message_id":"%s","leaf_event_id":"%s","stats":'
            b'{"usage_to_metrics":{"agent":{%s,"costs":[],"response_latencies":[],"token_usages":[{"prompt_tokens":100,'
            b'"completion_tokens":1,"response_id":"chatcmpl-%d"}]}}},"tags":{}},'
            b'"kind":"ConversationStateUpdateEvent"}}'
        ) % (
            self.event_id(8),
            _STAMP,
            self.id.encode(),
            _AGENT,
            self.status,
            self.event_id(1),
            self.leaf,
            self._usage(),
            self.turns,
        )

    def described(self) -> bytes:
        return orjson.dumps(
            {
                **self.asked,
                "id": self.id,
                "execution_status": self.status.decode(),
                "leaf_event_id": self.leaf.decode() or None,
                "stats": {"usage_to_metrics": {}},
            }
        )


@functools.cache
def _delta_end(index: int) -> bytes:
    return b'","attempt":1,"order":%d,"kind":"text","content":"%s","chunk_id":"chatcmpl-1","choice_index":0}' % (
        index,
        word(index).encode(),
    )


def _delta(item: bytes, index: int) -> bytes:
    return b'{"type":"delta","item_id":"' + item + _delta_end(index)


conversations: dict[str, Conversation] = {}


@dataclass(slots=True)
class Books:
    """What a provider would have on its bill: runs that were begun, calls of the LLM that came to their end."""

    runs: int = 0
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    sockets: int = 0

    def as_json(self) -> bytes:
        going = sum(conversation.status == b"running" for conversation in conversations.values())
        return orjson.dumps({**asdict(self), "running": going, "conversations": len(conversations)})


books = Books()


class Agent(Exchange):
    """A connection to the imitation: REST, or one reader of one conversation."""

    key = b""

    def __init__(self) -> None:
        super().__init__()
        self._conversation: Conversation | None = None
        self._after_seq: int | None = None

    def requested(self, method: str, path: str, head: bytes, body: bytes) -> None:
        path, _, query = path.partition("?")
        if path in {"/ready", "/health", "/alive"}:
            self.reply("200 OK", b'{"status":"ready"}')
        elif path == "/server_info":
            self.reply("200 OK", _INFO)
        elif path == "/books":
            self.reply("200 OK", books.as_json())
        elif path.startswith("/sockets/session/"):
            self._conversation = conversations.get(path.rpartition("/")[2])
            after = parse_qs(query).get("after_seq")
            self._after_seq = int(after[0]) if after else None
            self.open_websocket(head)
        elif header(head, b"x-session-api-key") != self.key:
            self.reply("401 Unauthorized", b'{"detail":"Unauthorized"}')
        elif path == "/api/conversations":
            self._start(body) if method == "POST" else self.reply("200 OK", b"[null]")
        else:
            self._about_conversation(method, path, body)

    def _start(self, body: bytes) -> None:
        asked = orjson.loads(body)
        known = conversations.get(asked["conversation_id"])
        if known is not None:
            self.reply("200 OK", known.described())
            return
        made = Conversation(asked["conversation_id"], {name: asked.get(name) for name in _REMEMBERED})
        conversations[made.id] = made
        self.reply("201 Created", made.described())

    def _about_conversation(self, method: str, path: str, body: bytes) -> None:
        _, _, conversation_id, *rest = [*path.strip("/").split("/"), ""]
        conversation = conversations.get(conversation_id)
        if conversation is None:
            self.reply("404 Not Found", b'{"detail":"Not Found"}')
            return
        match method, rest[0] if rest else "":
            case "POST", "events":
                self.reply("200 OK", b'{"success":true}')
                conversation.begin(body)
            case "POST", "interrupt":
                conversation.interrupt()
                self.reply("200 OK", b'{"success":true}')
            case "POST", "navigate":
                conversation.leaf = orjson.loads(body)["event_id"].encode()
                self.reply("200 OK", conversation.described())
            case "POST", "run" | "pause" | "switch_llm":
                self.reply("200 OK", b'{"success":true}')
            case "DELETE", "":
                conversation.interrupt()
                del conversations[conversation_id]
                self.reply("200 OK", b'{"success":true}')
            case "GET", "":
                self.reply("200 OK", conversation.described())
            case _:
                self.reply("404 Not Found", b'{"detail":"Not Found"}')

    # --- the session socket -----------------------------------------------------------------------------------------

    def received(self, text: bytes) -> None:
        message = orjson.loads(text)
        conversation = self._conversation
        if message.get("type") == "auth":
            if message.get("session_api_key", "").encode() != self.key:
                self.close_websocket(4001)
            elif conversation is None:
                self.close_websocket(4004)
            else:
                self._catch_up(conversation)
        elif conversation is not None:
            conversation.begin(text)  # a plain message on the socket starts a run, too

    def _catch_up(self, conversation: Conversation) -> None:
        through = b',"through_seq":%d' % (len(conversation.log) - 1) if conversation.log else b""
        missed = conversation.log[self._after_seq + 1 :] if self._after_seq is not None else []
        frames = [b'{"type":"sync"%s}' % through, *missed, conversation.full_state()]
        self.transport.write(b"".join(map(frame, frames)))
        conversation.readers.append(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        books.sockets += 1

    def lost(self) -> None:
        books.sockets -= 1
        if self._conversation is not None and self in self._conversation.readers:
            self._conversation.readers.remove(self)


if __name__ == "__main__":
    Agent.key = sys.argv[2].encode()
    serve(Agent, port=int(sys.argv[1]))
