"""Open-loop load in a process of its own: `python -m benchmarks.open_load`, a `Job` as JSON on standard input, a
`Result` as JSON on standard output.

Requests come when they come (a Poisson process), whether or not those before them were answered; a system that falls
behind meets a growing crowd, as in life. Each is one of the ways in which callers really use a gateway, and every
answer is checked word for word.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import itertools
import json
import random
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
import uvloop

from benchmarks.wishes import Wish

CONVERSATION_HEADER = "X-OpenHands-ServerConversation-ID"
REQUEST_SECONDS = 300.0
# A conversation is gone on with so many times, then left alone.
LONGEST_CONVERSATION = 10
MOST_KEPT = 200
MOST_TOKENS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """Requests of one key: `per_second` on average, each of a kind of `Load.kinds` drawn by weight.

    An answer has `tokens` words on average, `delay_ms` apart; `is_exponential`: their number is drawn, else fixed.
    """

    key: str
    per_second: float
    kinds: dict[str, float]
    tokens: int
    delay_ms: int
    is_exponential: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """`urls` are gateway processes; each request goes to one of them by lot."""

    urls: list[str]
    seconds: float
    arrivals: list[dict[str, Any]]
    model: str = "openhands_bench"
    seed: int = 1


@dataclass(slots=True, kw_only=True)
class Result:
    """Counts by kind. `refused`: announced 429. `hung_up`: left by the caller on purpose. Times in milliseconds.

    `late_ms` is how far behind its schedule the load itself was at worst: above some tens, it was not open-loop.
    """

    sent: dict[str, int] = field(default_factory=dict)
    answered: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    hung_up: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    first_text_ms: list[float] = field(default_factory=list)
    late_ms: float = 0.0


class Failed(Exception):
    """The reply is an error, or not what was asked for."""


class Refused(Exception):
    """429, and when to come again."""


@dataclass(slots=True)
class Call:
    """What one request is about."""

    url: str
    key: str
    wish: Wish
    prompt: str
    started: float


class Load:
    def __init__(self, job: Job, http: aiohttp.ClientSession) -> None:
        self.job = job
        self.http = http
        self.result = Result()
        self._counts = {name: collections.Counter[str]() for name in ("sent", "answered", "refused", "errors")}
        self._random = random.Random(job.seed)
        self._numbers = itertools.count()
        # What may be gone on with, by key: conversations, histories, and responses.
        self._conversations: dict[str, collections.deque[tuple[str, int]]] = collections.defaultdict(self._kept)
        self._histories: dict[str, collections.deque[list[dict[str, str]]]] = collections.defaultdict(self._kept)
        self._responses: dict[str, collections.deque[tuple[str, int]]] = collections.defaultdict(self._kept)
        self.kinds: dict[str, Callable[[Call], Awaitable[None]]] = {
            "collected": self.collected,
            "streamed": self.streamed,
            "continued": self.continued,
            "history": self.history,
            "response": self.response,
            "background": self.background,
            "repeated": self.repeated,
            "hang-up": self.hang_up,
        }

    @staticmethod
    def _kept() -> collections.deque[Any]:
        return collections.deque(maxlen=MOST_KEPT)

    async def run(self) -> Result:
        started = time.perf_counter()
        flows = [self._flow(Arrivals(**given), started) for given in self.job.arrivals]
        calls = [call for flow in await asyncio.gather(*flows) for call in flow]
        await asyncio.gather(*calls)
        for name, counted in self._counts.items():
            setattr(self.result, name, dict(counted))
        return self.result

    async def _flow(self, arrivals: Arrivals, started: float) -> list[asyncio.Task[None]]:
        calls: set[asyncio.Task[None]] = set()
        due = started
        while True:
            due += self._random.expovariate(arrivals.per_second)
            if due - started > self.job.seconds:
                return list(calls)
            await asyncio.sleep(due - time.perf_counter())
            self.result.late_ms = max(self.result.late_ms, (time.perf_counter() - due) * 1000)
            [kind] = self._random.choices(list(arrivals.kinds), weights=list(arrivals.kinds.values()))
            call = asyncio.create_task(self._make(kind, arrivals))
            calls.add(call)
            call.add_done_callback(calls.discard)

    async def _make(self, kind: str, arrivals: Arrivals) -> None:
        tokens = arrivals.tokens
        if arrivals.is_exponential:
            tokens = min(MOST_TOKENS, max(1, round(self._random.expovariate(1 / arrivals.tokens))))
        wish = Wish(tokens, arrivals.delay_ms)
        # No two prompts are the same: a history is to be one conversation's alone.
        prompt = f"{wish.prompt()} ({self.job.seed}.{next(self._numbers)})"
        call = Call(self._random.choice(self.job.urls), arrivals.key, wish, prompt, time.perf_counter())
        self._counts["sent"][kind] += 1
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                await self.kinds[kind](call)
        except Refused:
            self._counts["refused"][kind] += 1
        except (Failed, aiohttp.ClientError, OSError, TimeoutError) as error:
            self._counts["errors"][f"{kind}: {type(error).__name__}: {error}"[:250]] += 1
        else:
            self._counts["answered"][kind] += 1

    # --- the ways to call -------------------------------------------------------------------------------------------

    async def collected(self, call: Call) -> None:
        reply, headers = await self._chat(call, [_user(call.prompt)])
        _check(reply["choices"][0]["message"]["content"], call.wish)
        self._conversations[call.key].append((headers[CONVERSATION_HEADER], 1))

    async def streamed(self, call: Call) -> None:
        messages = [_user(call.prompt)]
        text = "".join([piece async for piece in self._chat_stream(call, messages)])
        _check(text, call.wish)
        self._histories[call.key].append([*messages, {"role": "assistant", "content": text}])

    async def continued(self, call: Call) -> None:
        """A turn in a conversation that is named by its header."""
        if not self._conversations[call.key]:
            await self.collected(call)
            return
        conversation, turns = self._conversations[call.key].popleft()
        reply, headers = await self._chat(call, [_user(call.prompt)], **{CONVERSATION_HEADER: conversation})
        _check(reply["choices"][0]["message"]["content"], call.wish)
        if headers[CONVERSATION_HEADER] != conversation:
            raise Failed("another conversation answered")
        if turns < LONGEST_CONVERSATION:
            self._conversations[call.key].append((conversation, turns + 1))

    async def history(self, call: Call) -> None:
        """A turn that sends everything again and no id, as most clients do."""
        if not self._histories[call.key]:
            await self.streamed(call)
            return
        messages = [*self._histories[call.key].popleft(), _user(call.prompt)]
        text = "".join([piece async for piece in self._chat_stream(call, messages)])
        _check(text, call.wish)
        if len(messages) < 2 * LONGEST_CONVERSATION:
            self._histories[call.key].append([*messages, {"role": "assistant", "content": text}])

    async def response(self, call: Call) -> None:
        body: dict[str, Any] = {"model": self.job.model, "input": call.prompt, "stream": True}
        turns = 0
        if self._responses[call.key]:
            body["previous_response_id"], turns = self._responses[call.key].popleft()
        text, made = "", ""
        async with self._post(call, "/v1/responses", body) as reply:
            async for event in _events(reply):
                match event.get("type"):
                    case "response.output_text.delta":
                        self._note_first_text(call, text)
                        text += event["delta"]
                    case "response.completed":
                        made = event["response"]["id"]
                    case "response.failed" | "error":
                        raise Failed(str(event)[:250])
        if not made:
            raise Failed("the stream of a response ended before it was completed")
        _check(text, call.wish)
        if turns < LONGEST_CONVERSATION:
            self._responses[call.key].append((made, turns + 1))

    async def background(self, call: Call) -> None:
        """A response that is asked for, and fetched when it is done, at whichever process."""
        body = {"model": self.job.model, "input": call.prompt, "background": True}
        async with self._post(call, "/v1/responses", body) as reply:
            made = orjson.loads(await reply.read())
        while made["status"] in {"queued", "in_progress"}:
            await asyncio.sleep(0.5)
            url = f"{self._random.choice(self.job.urls)}/v1/responses/{made['id']}"
            async with self.http.get(url, headers=_headers(call)) as reply:
                made = orjson.loads(await reply.read())
                if reply.status != 200:
                    raise Failed(f"{reply.status}: {made}")
        if made["status"] != "completed":
            raise Failed(str(made)[:250])
        _check(made["output"][-1]["content"][0]["text"], call.wish)

    async def repeated(self, call: Call) -> None:
        """The same request twice at once, at two processes: one run, one answer."""
        identity = str(uuid.uuid4())
        twice = [dataclasses.replace(call, url=url) for url in (self.job.urls * 2)[:2]]
        found = await asyncio.gather(
            *(self._chat(one, [_user(call.prompt)], **{"Idempotency-Key": identity}) for one in twice)
        )
        for reply, _ in found:
            _check(reply["choices"][0]["message"]["content"], call.wish)
        if len({reply["id"] for reply, _ in found}) != 1:
            raise Failed("a repeated request was answered twice")

    async def hang_up(self, call: Call) -> None:
        """A stream whose reader goes away after its first word."""
        async with contextlib.aclosing(self._chat_stream(call, [_user(call.prompt)])) as pieces:
            async for _ in pieces:
                self.result.hung_up += 1
                return

    # --- HTTP ---------------------------------------------------------------------------------------------------------

    async def _chat(
        self, call: Call, messages: list[dict[str, str]], **headers: str
    ) -> tuple[dict[str, Any], Mapping[str, str]]:
        body = {"model": self.job.model, "messages": messages}
        async with self._post(call, "/v1/chat/completions", body, **headers) as reply:
            answer = orjson.loads(await reply.read())
            if (error := answer.get("error")) is not None:
                # After a long wait the status has been spent on keeping the line open.
                raise Refused if error.get("type") == "rate_limit_error" else Failed(str(error)[:250])
            return answer, reply.headers

    async def _chat_stream(self, call: Call, messages: list[dict[str, str]]) -> AsyncIterator[str]:
        body = {"model": self.job.model, "messages": messages, "stream": True}
        is_first, is_done = True, False
        async with self._post(call, "/v1/chat/completions", body) as reply:
            async for event in _events(reply):
                if (error := event.get("error")) is not None:
                    raise Refused if error.get("type") == "rate_limit_error" else Failed(str(error)[:250])
                is_done = is_done or "done" in event
                choices = event.get("choices") or [{}]
                if content := (choices[0].get("delta") or {}).get("content"):
                    self._note_first_text(call, "" if is_first else content)
                    is_first = False
                    yield content
        if not is_done:
            raise Failed("the stream ended without [DONE]")

    def _note_first_text(self, call: Call, text_before: str) -> None:
        if not text_before:
            self.result.first_text_ms.append((time.perf_counter() - call.started) * 1000)

    def _post(self, call: Call, path: str, body: dict[str, Any], **headers: str) -> _Posted:
        return _Posted(self.http, call.url + path, body, _headers(call) | headers)


class _Posted:
    """A request as a context: the reply, if it is 200. Raises Refused or Failed."""

    def __init__(self, http: aiohttp.ClientSession, url: str, body: dict[str, Any], headers: dict[str, str]) -> None:
        self._http = http
        self._request = {"url": url, "data": orjson.dumps(body), "headers": headers}
        self._reply: aiohttp.ClientResponse | None = None

    async def __aenter__(self) -> aiohttp.ClientResponse:
        self._reply = reply = await self._http.post(**self._request)
        if reply.status == 200:
            return reply
        text = (await reply.read()).decode(errors="replace")
        if reply.status == 429 and reply.headers.get("Retry-After", "").isdigit() and "rate_limit_error" in text:
            raise Refused
        raise Failed(f"{reply.status}: {text[:200]}")

    async def __aexit__(self, *raised: object) -> None:
        assert self._reply is not None
        if raised[0] is not None:
            self._reply.close()  # hangs up; to release it would be to listen to the end
        else:
            self._reply.release()


async def _events(reply: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    async for line in reply.content:
        if line.startswith(b"data: [DONE]"):
            yield {"done": True}
        elif line.startswith(b"data: "):
            yield orjson.loads(line[6:])


def _headers(call: Call) -> dict[str, str]:
    return {"Authorization": f"Bearer {call.key}", "Content-Type": "application/json"}


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _check(text: str, wish: Wish) -> None:
    if text != wish.text():
        raise Failed(f"{len(text)} characters instead of {len(wish.text())}: {text[:80]!r}")


async def carry_out(job: Job) -> Result:
    # A connection for each call that goes on at the time; what is idle is soon closed, as by callers who come and go.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
    timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
        return await Load(job, http).run()


def main() -> None:
    job = Job(**json.load(sys.stdin))
    json.dump(dataclasses.asdict(uvloop.run(carry_out(job))), sys.stdout)


if __name__ == "__main__":
    main()
