"""LLM providers that give the same bytes every time: replies in their documented shapes, read from files.

`provider_replies/<provider>/<model>/` holds one scenario. `<n>.sse` and `<n>.json` are the n-th reply of the agent's
work on one user message, streamed and collected; `<n>.<status>.json` is an error, the same for both. Files are sent
verbatim. They follow the providers' published API references (OpenAI: Chat Completions; Anthropic: Messages,
version 2023-06-01); the texts are made up.

In an agent-server's `llm`, with LiteLLM 1.105:

- OpenAI: `model: openai/<scenario>`, `base_url: provider.openai_url` (ends in `/v1`); sends `Authorization: Bearer`.
- Anthropic: `model: anthropic/<scenario>`, `base_url: provider.url` (LiteLLM adds `/v1/messages`); sends `x-api-key`.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.live.loopback_server import LoopbackServer

REPLIES = Path(__file__).parent / "provider_replies"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request: of which provider, its headers (names in lower case) and its body."""

    provider: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]


class FrozenProvider(LoopbackServer):
    """Both providers on one port. The model's name picks the scenario, the conversation so far the reply."""

    def __init__(self, *, replies: Path = REPLIES) -> None:
        super().__init__()
        self.key = f"sk-frozen-{secrets.token_hex(12)}"
        self._replies = replies
        self._asked: list[Asked] = []

    @property
    def url(self) -> str:
        return self.origin

    @property
    def openai_url(self) -> str:
        return f"{self.origin}/v1"

    @property
    def asked(self) -> tuple[Asked, ...]:
        return tuple(self._asked)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/chat/completions", self._openai),
            web.post("/v1/messages", self._anthropic),
        ]

    async def _openai(self, request: web.Request) -> web.StreamResponse:
        is_known = request.headers.get("Authorization") == f"Bearer {self.key}"
        return await self._answer(request, "openai", is_known=is_known, is_question=_is_openai_question)

    async def _anthropic(self, request: web.Request) -> web.StreamResponse:
        is_known = request.headers.get("x-api-key") == self.key and "anthropic-version" in request.headers
        return await self._answer(request, "anthropic", is_known=is_known, is_question=_is_anthropic_question)

    async def _answer(
        self,
        request: web.Request,
        provider: str,
        *,
        is_known: bool,
        is_question: Callable[[Mapping[str, Any]], bool],
    ) -> web.StreamResponse:
        body = json.loads(await request.read())
        headers = {name.lower(): value for name, value in request.headers.items()}
        self._asked.append(Asked(provider=provider, headers=headers, body=body))
        if not is_known:
            return _refusal(401, f"The headers of a call to {provider} lack the key {self.key}.")
        number = 1
        for message in body["messages"]:
            # Each answer of the model since the last question was a tool call, so its reply was one step.
            if message["role"] == "assistant":
                number += 1
            elif is_question(message):
                number = 1
        scenario = self._replies / provider / Path(str(body["model"])).name
        if error := next(iter(scenario.glob(f"{number}.[45]??.json")), None):
            return _file(error, status=int(error.suffixes[0][1:]))
        reply = scenario / f"{number}.{'sse' if body.get('stream') else 'json'}"
        if not reply.is_file():
            return _refusal(404, f"There is no {reply.relative_to(self._replies)}.")
        return await _stream(request, reply.read_bytes()) if body.get("stream") else _file(reply)


def _is_openai_question(message: Mapping[str, Any]) -> bool:
    return bool(message["role"] == "user")


def _is_anthropic_question(message: Mapping[str, Any]) -> bool:
    """The results of tools come in the user's name, as blocks of their own type."""
    if message["role"] != "user":
        return False
    content = message["content"]
    return isinstance(content, str) or any(block["type"] != "tool_result" for block in content)


def _file(path: Path, *, status: int = 200) -> web.Response:
    return web.Response(body=path.read_bytes(), status=status, content_type="application/json")


async def _stream(request: web.Request, reply: bytes) -> web.StreamResponse:
    """One write per event, as it would come from a provider."""
    stream = web.StreamResponse(
        headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
    )
    await stream.prepare(request)
    for event in re.findall(rb".*?\n\n", reply, flags=re.DOTALL):
        await stream.write(event)
    await stream.write_eof()
    return stream


def _refusal(status: int, message: str) -> web.Response:
    """Not a provider's reply: the test asked for something that is not there. Both providers' clients read this shape."""
    error = {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": message, "param": None, "code": None},
    }
    return web.json_response(error, status=status)
