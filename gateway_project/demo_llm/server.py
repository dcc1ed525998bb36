"""The demo LLM over HTTP: OpenAI's chat completions and models, streamed at the pace of a real model."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from gateway_project.demo_llm import chat_request, replies, tokens
from gateway_project.demo_llm.chat_request import MODEL, BadRequest, ChatRequest
from gateway_project.demo_llm.conversation import conversation_of

logger = logging.getLogger(__name__)

# A word every 30 ms reads like a brisk hosted model. A long reply takes more words at a time, so that it is through
# in about four seconds.
PACE_SECONDS = 0.03
_MOST_PIECES = 130

# An agent resends its whole conversation, pictures included.
_LARGEST_BODY = 64 * 2**20


def application(*, key: str, pace_seconds: float = PACE_SECONDS) -> web.Application:
    """The server; it answers only callers that know `key`, except at `/health`."""
    if not key:
        raise ValueError("The demo LLM needs a key.")
    app = web.Application(middlewares=[_errors, _authentication(key)], client_max_size=_LARGEST_BODY)
    completions = _Completions(pace_seconds=pace_seconds)
    app.add_routes(
        [
            web.get("/health", _health),
            web.get("/v1/models", _list_models),
            web.get("/v1/models/{model}", _retrieve_model),
            web.post("/v1/chat/completions", completions.post),
        ]
    )
    return app


# --- who and what may fail -------------------------------------------------------------------------------------------


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every failure as the error object that OpenAI's clients read."""
    try:
        return await handler(request)
    except BadRequest as error:
        return _error(error.status, error.message, param=error.param, code=error.code)
    except web.HTTPException as error:
        # 404, 405 and 413 come from aiohttp itself; 405 says in `Allow` what would be right.
        allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return _error(error.status, f"{error.reason}: {request.method} {request.path}", headers=allow)
    except ConnectionResetError:
        return web.Response()  # The caller has left; nobody reads this.
    except Exception:
        # The outermost edge: the caller gets an error it can read, the operator the traceback on stderr.
        logger.exception("The demo LLM failed to answer %s %s.", request.method, request.path)
        return _error(500, "The demo LLM failed.")


def _authentication(key: str) -> Middleware:
    expected = f"Bearer {key}".encode()

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        if request.path != "/health" and not hmac.compare_digest(given, expected):
            raise BadRequest("Incorrect API key provided.", status=401, code="invalid_api_key")
        return await handler(request)

    return check


def _error(
    status: int,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": message, "type": kind, "param": param, "code": code}
    return web.json_response({"error": error}, status=status, headers=headers)


# --- models ----------------------------------------------------------------------------------------------------------


async def _health(_request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def _list_models(_request: web.Request) -> web.Response:
    return web.json_response({"object": "list", "data": [_MODEL_OBJECT]})


async def _retrieve_model(request: web.Request) -> web.Response:
    name = request.match_info["model"]
    if name != MODEL:
        raise BadRequest(f"The model {name[:100]!r} does not exist.", param="model", status=404, code="model_not_found")
    return web.json_response(_MODEL_OBJECT)


# `created` is a date, not a measurement: that of the first release that had the demo.
_MODEL_OBJECT = {"id": MODEL, "object": "model", "created": 1_795_392_000, "owned_by": "openhands-gateway"}


# --- chat completions ------------------------------------------------------------------------------------------------

_Finish = Literal["stop", "length", "tool_calls"]


class _Completions:
    """`pace_seconds` lies between two pieces of a streamed reply."""

    def __init__(self, *, pace_seconds: float) -> None:
        self._pace_seconds = pace_seconds

    async def post(self, request: web.Request) -> web.StreamResponse:
        asked = chat_request.parse(await request.read())
        # A prompt of megabytes keeps the matching busy for a moment; other callers need not wait for it.
        reply = await asyncio.to_thread(_decide, asked)
        answer = _Answer(asked, reply)
        if not asked.is_streamed:
            return web.json_response(answer.collected())
        return await self._stream(request, answer, includes_usage=asked.includes_usage)

    async def _stream(self, request: web.Request, answer: _Answer, *, includes_usage: bool) -> web.StreamResponse:
        stream = web.StreamResponse(
            headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
        )
        await stream.prepare(request)
        for number, chunk in enumerate(answer.chunks(includes_usage=includes_usage)):
            if number:
                await asyncio.sleep(self._pace_seconds)
            await stream.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        await stream.write(b"data: [DONE]\n\n")
        await stream.write_eof()
        return stream


def _decide(asked: ChatRequest) -> replies.Reply:
    return replies.decide(conversation_of(messages=asked.messages, tools=asked.tools))


class _Answer:
    """One reply in OpenAI's two forms."""

    def __init__(self, asked: ChatRequest, reply: replies.Reply) -> None:
        self._frame = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": MODEL}
        self._text, self._calls = "", list[dict[str, Any]]()
        self._finish: _Finish = "stop"
        if isinstance(reply, replies.Call):
            arguments = json.dumps(reply.arguments)
            function = {"name": reply.tool, "arguments": arguments}
            self._calls = [{"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}]
            self._finish, spent = "tool_calls", tokens.count(reply.tool + arguments)
        else:
            self._text, is_cut = tokens.cut(reply.text, asked.most_tokens)
            self._finish, spent = ("length" if is_cut else "stop"), tokens.count(self._text)
        prompt = tokens.count_prompt(asked.messages, asked.tools)
        self._usage = {
            "prompt_tokens": prompt,
            "completion_tokens": spent,
            "total_tokens": prompt + spent,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }

    def collected(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": None if self._calls else self._text}
        if self._calls:
            message["tool_calls"] = self._calls
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._finish}
        return {**self._frame, "object": "chat.completion", "choices": [choice], "usage": self._usage}

    def chunks(self, *, includes_usage: bool) -> Iterator[dict[str, Any]]:
        yield self._chunk({"role": "assistant", "content": ""})
        for piece in tokens.pieces(self._text, most=_MOST_PIECES):
            yield self._chunk({"content": piece})
        for index, call in enumerate(self._calls):
            arguments = call["function"]["arguments"]
            yield self._chunk(
                {"tool_calls": [{**call, "index": index, "function": {**call["function"], "arguments": ""}}]}
            )
            for piece in tokens.pieces(arguments, most=_MOST_PIECES):
                yield self._chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        yield self._chunk({}, finish=self._finish)
        if includes_usage:
            yield {**self._frame, "object": "chat.completion.chunk", "choices": [], "usage": self._usage}

    def _chunk(self, delta: dict[str, Any], *, finish: _Finish | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**self._frame, "object": "chat.completion.chunk", "choices": [choice]}
