"""Callers: the stock OpenAI SDKs with their default retries, asking questions that can be told apart.

Every question carries a token and every answer repeats the token of the question the agent read. So each call shows
whether it was answered, and with whose answer.
"""

from __future__ import annotations

import json
import re
import secrets
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from openai import APIConnectionError, APIError, APIStatusError, AsyncOpenAI, OpenAI

MODEL = "openhands_chat"
NODE_SCRIPT = Path(__file__).parents[1] / "node" / "ask.mjs"

_TOKEN = re.compile(r"\bq[0-9a-f]{12}\b")


def new_token() -> str:
    return f"q{secrets.token_hex(6)}"


def tokens_in(text: str) -> list[str]:
    return _TOKEN.findall(text)


def answer_to(token: str) -> str:
    return f"The answer to {token} is {token}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An error as the SDK raised it. `status` is 0 for one that came inside a stream or from no gateway at all."""

    kind: str
    status: int = 0
    code: str = ""
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def is_clear(self) -> bool:
        """An OpenAI error that says what happened, not merely a line that went dead."""
        return bool(self.code and self.message)

    @classmethod
    def from_sdk(cls, error: Exception) -> Told:
        kind = type(error).__name__
        if isinstance(error, APIStatusError):
            body = error.body if isinstance(error.body, dict) else {}
            headers = {name.lower(): value for name, value in error.response.headers.items()}
            message = str(body.get("message", ""))
            return cls(
                kind=kind, status=error.status_code, code=str(error.code or ""), message=message, headers=headers
            )
        if isinstance(error, APIError) and not isinstance(error, APIConnectionError):
            return cls(kind=kind, code=str(error.code or ""), message=error.message)
        return cls(kind=kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of an SDK, its retries included, and what came of it: `text`, or `told`."""

    token: str
    text: str = ""
    told: Told | None = None
    conversation_id: str = ""
    headers: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def is_answered(self) -> bool:
        return self.told is None


# Of plain httpx, in mid-stream with openai 2: it lets them through.
_LINE_ERRORS = (APIError, httpx.HTTPError)


def ask(client: OpenAI, token: str, *, stream: bool = False, **options: Any) -> Call:
    """Ask one question. `options` are the SDK's own, such as `extra_headers`."""
    asked: dict[str, Any] = {"model": MODEL, "messages": question(token), "stream": stream} | options
    try:
        raw = client.chat.completions.with_raw_response.create(**asked)
        reply = raw.parse()
        text = _joined(reply) if stream else _content(reply)
    except _Told as said:
        return Call(token=token, told=said.told)
    except _LINE_ERRORS as error:
        return Call(token=token, told=Told.from_sdk(error))
    return _answered(token, text, raw.headers)


async def ask_async(client: AsyncOpenAI, token: str, *, stream: bool = False, **options: Any) -> Call:
    """`ask`, with the asynchronous SDK."""
    asked: dict[str, Any] = {"model": MODEL, "messages": question(token), "stream": stream} | options
    try:
        raw = await client.chat.completions.with_raw_response.create(**asked)
        reply = raw.parse()
        text = _joined([chunk async for chunk in reply]) if stream else _content(reply)
    except _Told as said:
        return Call(token=token, told=said.told)
    except _LINE_ERRORS as error:
        return Call(token=token, told=Told.from_sdk(error))
    return _answered(token, text, raw.headers)


def ask_with_node(*, url: str, key: str, token: str, stream: bool = False, **options: Any) -> Call:
    """`ask`, with the SDK for Node; of `options`, `timeout` is in its milliseconds."""
    body = {"model": MODEL, "messages": question(token), "stream": stream}
    asked = {"baseURL": f"{url}/v1", "apiKey": key} | body | options
    done = subprocess.run(
        ["node", str(NODE_SCRIPT), json.dumps(asked)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    said = json.loads(done.stdout)
    if "error" in said:
        return Call(token=token, told=Told(**said["error"]))
    return Call(token=token, text=said["text"])


def question(token: str) -> Any:
    return [{"role": "user", "content": f"What is {token}?"}]


class _Told(Exception):
    """The error of a reply whose status was spent on keeping the line open: it has no choices."""

    def __init__(self, told: Told) -> None:
        super().__init__(told.message)
        self.told = told


def _content(reply: Any) -> str:
    if not reply.choices:
        error = reply.model_extra["error"]
        raise _Told(Told(kind="reply without choices", code=error["code"], message=error["message"]))
    content = reply.choices[0].message.content
    assert isinstance(content, str)
    return content


def _joined(chunks: Iterable[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def _answered(token: str, text: str, headers: httpx.Headers) -> Call:
    return Call(
        token=token,
        text=text,
        conversation_id=headers.get("X-OpenHands-ServerConversation-ID", ""),
        headers={name.lower(): value for name, value in headers.items()},
    )
