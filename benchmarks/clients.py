"""The callers of a measurement: an OpenAI client over raw sockets, and a client of the agent-server's own API.

Each `turn` asks for a `Wish` and checks that every word of it came back, so that a fast wrong answer is an error.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

import aiohttp
import orjson

from benchmarks.wishes import Wish

CONVERSATION_HEADER = "x-openhands-serverconversation-id"


class WrongAnswer(Exception):
    """The reply is an error, or not what was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds from sending the request. `first_text` is None for a collected reply."""

    first_text: float | None
    total: float


class Caller(Protocol):
    """One user: one turn at a time. With `keeps_conversation`, the turns continue one conversation."""

    async def turn(self, wish: Wish, *, stream: bool) -> Timing: ...

    async def close(self) -> None: ...


class Connection:
    """One kept-alive HTTP/1.1 connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, base_url: str) -> Self:
        url = urlsplit(base_url)
        return cls(*await asyncio.open_connection(url.hostname, url.port, limit=2**20))

    async def read_head(self) -> tuple[int, dict[str, str]]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {}
        for line in head[1:]:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return int(head[0].split(" ", 2)[1]), headers

    async def body(self, headers: dict[str, str]) -> AsyncIterator[bytes]:
        """The body in pieces, as the server cut it."""
        if headers.get("transfer-encoding", "").lower() != "chunked":
            yield await self.reader.readexactly(int(headers.get("content-length", 0)))
            return
        while size := int((await self.reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            yield (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readuntil(b"\r\n")

    def close(self) -> None:
        self.writer.close()


@dataclass(slots=True, kw_only=True)
class OpenAICaller:
    """`POST /v1/chat/completions` on one kept connection, as an OpenAI SDK would."""

    base_url: str
    key: str
    model: str
    keeps_conversation: bool
    _connection: Connection | None = None
    _conversation: str = ""

    async def turn(self, wish: Wish, *, stream: bool) -> Timing:
        if self._connection is None:
            self._connection = await Connection.open(self.base_url)
        started = time.perf_counter()
        try:
            status, headers = await self._ask(self._request(wish, stream=stream))
            if status != 200:
                body = b"".join([piece async for piece in self._connection.body(headers)])
                raise WrongAnswer(f"{status}: {body[:300].decode(errors='replace')}")
            read = self._read_stream if stream else self._read_whole
            timing = await read(headers, wish, started)
        except (OSError, asyncio.IncompleteReadError, WrongAnswer):
            await self.close()
            raise
        if self.keeps_conversation:
            self._conversation = headers.get(CONVERSATION_HEADER, "")
        return timing

    async def refusal(self, wish: Wish) -> Timing:
        """A call that is to be answered with 429, and with the time after which to come again."""
        if self._connection is None:
            self._connection = await Connection.open(self.base_url)
        started = time.perf_counter()
        status, headers = await self._ask(self._request(wish, stream=False))
        body = b"".join([piece async for piece in self._connection.body(headers)])
        total = time.perf_counter() - started
        if status != 429 or not headers.get("retry-after", "").isdigit():
            await self.close()
            raise WrongAnswer(f"{status} instead of 429 with Retry-After: {body[:300].decode(errors='replace')}")
        if orjson.loads(body)["error"]["type"] != "rate_limit_error":
            raise WrongAnswer(f"429: {body[:300].decode(errors='replace')}")
        return Timing(first_text=None, total=total)

    async def _ask(self, request: bytes) -> tuple[int, dict[str, str]]:
        """Send it and read the head of the answer; on a new connection if the server had closed the idle one."""
        assert self._connection is not None
        try:
            self._connection.writer.write(request)
            return await self._connection.read_head()
        except (ConnectionError, asyncio.IncompleteReadError):
            self._connection.close()
            self._connection = await Connection.open(self.base_url)
            self._connection.writer.write(request)
            return await self._connection.read_head()

    def _request(self, wish: Wish, *, stream: bool) -> bytes:
        body = orjson.dumps(
            {
                "model": self.model,
                "messages": [{"role": "user", "content": wish.prompt()}],
                **({"stream": True, "stream_options": {"include_usage": True}} if stream else {}),
            }
        )
        url = urlsplit(self.base_url)
        lines = [
            f"POST {url.path}/chat/completions HTTP/1.1",
            f"host: {url.netloc}",
            f"authorization: Bearer {self.key}",
            "content-type: application/json",
            "user-agent: OpenAI/Python 2.54.0",
            f"content-length: {len(body)}",
        ]
        if self._conversation:
            lines.append(f"{CONVERSATION_HEADER}: {self._conversation}")
        return "\r\n".join([*lines, "", ""]).encode() + body

    async def _read_whole(self, headers: dict[str, str], wish: Wish, started: float) -> Timing:
        assert self._connection is not None
        body = b"".join([piece async for piece in self._connection.body(headers)])
        total = time.perf_counter() - started
        _check(orjson.loads(body)["choices"][0]["message"]["content"], wish)
        return Timing(first_text=None, total=total)

    async def _read_stream(self, headers: dict[str, str], wish: Wish, started: float) -> Timing:
        assert self._connection is not None
        first: float | None = None
        text: list[str] = []
        rest, is_done = b"", False
        async for piece in self._connection.body(headers):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if not line.startswith(b"data: "):
                    continue
                if line == b"data: [DONE]":
                    is_done = True
                elif content := _content_of(orjson.loads(line[6:])):
                    first = first or time.perf_counter() - started
                    text.append(content)
        total = time.perf_counter() - started
        if not is_done:
            raise WrongAnswer("the stream ended without [DONE]")
        _check("".join(text), wish)
        return Timing(first_text=first, total=total)

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _content_of(chunk: dict[str, Any]) -> str:
    if "error" in chunk:
        raise WrongAnswer(str(chunk["error"])[:300])
    choices = chunk.get("choices") or [{}]
    return (choices[0].get("delta") or {}).get("content") or ""


@dataclass(slots=True, kw_only=True)
class NativeCaller:
    """The agent-server's own API, used as well as it can be: nothing can be faster than this in front of it.

    The conversation is created without a message, its session socket is kept open between turns, and the message is
    sent as a frame of that socket. `agent` is the `agent` object of `POST /api/conversations`.
    """

    base_url: str
    key: str
    agent: dict[str, Any]
    workspace: str
    keeps_conversation: bool
    posts_message: bool = False
    _http: aiohttp.ClientSession | None = None
    _socket: aiohttp.ClientWebSocketResponse | None = None
    _conversation: str = ""

    async def turn(self, wish: Wish, *, stream: bool) -> Timing:
        if self._http is None:
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4), headers={"X-Session-API-Key": self.key}
            )
        started = time.perf_counter()
        try:
            if self._socket is None:
                await self._begin()
            message = {"role": "user", "content": [{"type": "text", "text": wish.prompt()}], "run": True}
            await self._send(message)
            timing = await self._follow(wish, started)
        except (aiohttp.ClientError, OSError, WrongAnswer):
            await self._end()
            raise
        if not self.keeps_conversation:
            await self._end()
        return timing

    async def _begin(self) -> None:
        assert self._http is not None
        self._conversation = str(uuid.uuid4())
        await self._post(
            "/api/conversations",
            {
                "conversation_id": self._conversation,
                "agent": self.agent,
                "workspace": {"working_dir": f"{self.workspace}/{self._conversation}"},
                "autotitle": False,
                "confirmation_policy": {"kind": "NeverConfirm"},
            },
        )
        self._socket = await self._http.ws_connect(
            f"{self.base_url}/sockets/session/{self._conversation}?after_seq=-1", max_msg_size=2**23
        )
        await self._socket.send_str(orjson.dumps({"type": "auth", "session_api_key": self.key}).decode())
        while b'"full_state"' not in _frame(await self._socket.receive()):
            pass

    async def _send(self, message: dict[str, Any]) -> None:
        assert self._socket is not None
        if self.posts_message:
            await self._post(f"/api/conversations/{self._conversation}/events", message)
        else:
            await self._socket.send_str(orjson.dumps(message).decode())

    async def _post(self, path: str, body: dict[str, Any]) -> None:
        assert self._http is not None
        async with self._http.post(
            self.base_url + path, data=orjson.dumps(body), headers={"Content-Type": "application/json"}
        ) as response:
            answer = await response.read()
            if response.status >= 300:
                raise WrongAnswer(f"{path}: {response.status}: {answer[:300].decode(errors='replace')}")

    async def _follow(self, wish: Wish, started: float) -> Timing:
        assert self._socket is not None
        first: float | None = None
        text: list[str] = []
        has_begun = False
        while True:
            data = _frame(await self._socket.receive())
            if data.startswith(b'{"type":"delta"'):
                content = orjson.loads(data)["content"]
                if content:
                    first = first or time.perf_counter() - started
                    text.append(content)
            elif b'"full_state"' in data:
                status = orjson.loads(data)["event"]["value"]["execution_status"]
                if has_begun and status != "running":
                    break
            elif b'"execution_status"' in data and b'"running"' in data:
                has_begun = True
        total = time.perf_counter() - started
        if status != "finished":
            raise WrongAnswer(f"the run ended as {status}")
        _check("".join(text), wish)
        return Timing(first_text=first, total=total)

    async def _end(self) -> None:
        if self._socket is not None:
            await self._socket.close()
            self._socket = None

    async def close(self) -> None:
        await self._end()
        if self._http is not None:
            await self._http.close()
            self._http = None


def _frame(message: aiohttp.WSMessage) -> bytes:
    if message.type is not aiohttp.WSMsgType.TEXT:
        raise WrongAnswer(f"the session socket ended: {message.type.name} {message.data!r} {message.extra!r}"[:300])
    return message.data.encode()  # type: ignore[no-any-return]


def _check(text: str, wish: Wish) -> None:
    if text != wish.text():
        raise WrongAnswer(f"{len(text)} characters instead of {len(wish.text())}: {text[:80]!r}")
