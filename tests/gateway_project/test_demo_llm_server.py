"""The demo LLM at its socket: with the stock OpenAI client, with bare requests, and as the process that is started."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import openai
import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer

from gateway_project.demo_llm import tokens
from gateway_project.demo_llm.server import application

KEY = "demo-key"
TERMINAL = {
    "type": "function",
    "function": {"name": "terminal", "parameters": {"type": "object", "properties": {"command": {"type": "string"}}}},
}
HELLO = {"model": "demo", "messages": [{"role": "user", "content": "thanks"}]}


@asynccontextmanager
async def serving(*, pace_seconds: float = 0) -> AsyncIterator[str]:
    """The origin of a server that runs meanwhile."""
    async with TestServer(application(key=KEY, pace_seconds=pace_seconds)) as server:
        yield str(server.make_url("/")).rstrip("/")


@asynccontextmanager
async def client() -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        serving() as origin,
        openai.AsyncOpenAI(api_key=KEY, base_url=f"{origin}/v1", max_retries=0) as stock,
    ):
        yield stock


async def ask(
    body: object = None,
    *,
    method: str = "POST",
    path: str = "/v1/chat/completions",
    authorization: str = f"Bearer {KEY}",
    pace_seconds: float = 0,
) -> tuple[int, str]:
    """Status and text of the reply to one bare request; `body` is sent as JSON, or as it is if it is bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with (
        serving(pace_seconds=pace_seconds) as origin,
        ClientSession(headers={"Authorization": authorization} if authorization else None) as http,
        http.request(method, f"{origin}{path}", data=data) as reply,
    ):
        return reply.status, await reply.text()


async def test_the_stock_client_gets_a_collected_answer_with_usage() -> None:
    async with client() as stock:
        reply = await stock.chat.completions.create(model="demo", messages=[{"role": "user", "content": "thanks"}])

    assert reply.choices[0].message.content == "You are welcome!"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (6, 4, 10)


async def test_the_stock_client_gets_the_same_answer_streamed_word_by_word() -> None:
    async with client() as stock:
        stream = await stock.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": "thanks"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]

    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert pieces == ["You", " are", " welcome!"]
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 10
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


async def test_usage_is_streamed_only_to_who_asks_for_it() -> None:
    async with client() as stock:
        stream = await stock.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": "thanks"}], stream=True
        )
        chunks = [chunk async for chunk in stream]

    assert [chunk for chunk in chunks if chunk.usage or not chunk.choices] == []


@pytest.mark.parametrize("is_streamed", [True, False])
async def test_a_tool_call_reaches_the_stock_client_whole(*, is_streamed: bool) -> None:
    request = {"model": "demo", "messages": [{"role": "user", "content": "run `echo hi`"}], "tools": [TERMINAL]}

    _, body = await ask({**request, "stream": is_streamed})

    call = calls_in(body)
    assert (call["name"], json.loads(call["arguments"])) == ("terminal", {"command": "echo hi"})
    assert '"finish_reason": "tool_calls"' in body


def calls_in(body: str) -> dict[str, str]:
    """Name and arguments of the one tool call in a collected or a streamed reply."""
    if not body.startswith("data: "):
        function: dict[str, str] = json.loads(body)["choices"][0]["message"]["tool_calls"][0]["function"]
        return function
    events = [line.removeprefix("data: ") for line in body.splitlines() if line.startswith("data: {")]
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events]
    functions = [delta["tool_calls"][0]["function"] for delta in deltas if "tool_calls" in delta]
    return {
        "name": functions[0]["name"],
        "arguments": "".join(function["arguments"] for function in functions),
    }


async def test_with_tool_choice_none_it_has_no_tools() -> None:
    question = {"role": "user", "content": "run `ls`"}

    _, body = await ask({"model": "demo", "messages": [question], "tools": [TERMINAL], "tool_choice": "none"})

    told = json.loads(body)["choices"][0]["message"]["content"]
    assert told == "I have no tools in this conversation, so I cannot run `ls`."


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_a_limit_cuts_the_answer_and_says_so(name: str) -> None:
    async with client() as stock:
        reply = await stock.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": "thanks"}], extra_body={name: 2}
        )

    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == ("You are ", "length")
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 2


async def test_words_come_at_a_pace_that_can_be_read() -> None:
    started = time.monotonic()

    await ask({**HELLO, "stream": True}, pace_seconds=0.02)

    # One pause before each of three words and the last chunk.
    assert time.monotonic() - started >= 4 * 0.02


async def test_models_are_listed_and_retrieved() -> None:
    async with client() as stock:
        listed = [model.id async for model in stock.models.list()]
        model = await stock.models.retrieve("demo")
        with pytest.raises(openai.NotFoundError):
            await stock.models.retrieve("gpt-5")

    assert (listed, model.id) == (["demo"], "demo")


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"model": None}, 400, "model"),
        ({"model": "gpt-5"}, 404, "model"),
        ({"messages": None}, 400, "messages"),
        ({"messages": []}, 400, "messages"),
        ({"messages": "hi"}, 400, "messages"),
        ({"messages": ["hi"]}, 400, "messages[0]"),
        ({"messages": [{"role": "god", "content": "hi"}]}, 400, "messages[0].role"),
        ({"messages": [{"role": ["user"], "content": "hi"}]}, 400, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, 400, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["hi"]}]}, 400, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 400, "messages[0].content[0].text"),
        ({"tools": {}}, 400, "tools"),
        ({"tools": [{"type": "function"}]}, 400, "tools[0]"),
        ({"stream": "yes"}, 400, "stream"),
        ({"stream_options": {"include_usage": 1}}, 400, "include_usage"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_completion_tokens": "many"}, 400, "max_completion_tokens"),
        ({"temperature": 0.5, "top_p": 1, "seed": 7, "prompt_cache_key": "x", "stop": None}, 200, None),
    ],
)
async def test_a_wrong_parameter_is_named(change: dict[str, object], status: int, param: str | None) -> None:
    answered, body = await ask({**HELLO, **change})

    assert (answered, json.loads(body).get("error", {}).get("param")) == (status, param)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/chat/completions", b"{", 400),
        ("POST", "/v1/chat/completions", b"[]", 400),
        ("POST", "/v1/chat/completions", b"[" * 100_000, 400),
        ("POST", "/v1/chat/completions", b"\xff\xfe\x00", 400),
        ("GET", "/v1/chat/completions", b"", 405),
        ("POST", "/v1/embeddings", b"{}", 404),
    ],
)
async def test_every_refusal_is_an_openai_error(method: str, path: str, body: bytes, status: int) -> None:
    answered, text = await ask(body, method=method, path=path)

    assert (answered, set(json.loads(text)["error"])) == (status, {"message", "type", "param", "code"})


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}x"])
@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/x")])
async def test_nobody_gets_anything_without_the_key(method: str, path: str, authorization: str) -> None:
    answered, body = await ask(HELLO, method=method, path=path, authorization=authorization)

    assert (answered, json.loads(body)["error"]["code"]) == (401, "invalid_api_key")


async def test_health_needs_no_key() -> None:
    assert await ask(b"", method="GET", path="/health", authorization="") == (200, '{"status": "ok"}')


# --- tokens ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "one", "  two  words \n", "ein\n\nzwei drei", " ", "x " * 500, "木" * 9])
@pytest.mark.parametrize("most", [1, 3, 130])
def test_pieces_joined_are_the_text_again(text: str, most: int) -> None:
    pieces = tokens.pieces(text, most=most)

    assert "".join(pieces) == text
    assert len(pieces) <= most
    assert "" not in pieces


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        ("four words are here", None, ("four words are here", False)),
        ("four", 1, ("four", False)),
        ("fours", 1, ("four", True)),
        ("木木木", 1, ("木", True)),
    ],
)
def test_a_text_is_cut_between_characters(text: str, limit: int | None, expected: tuple[str, bool]) -> None:
    assert tokens.cut(text, limit) == expected


# --- the process -----------------------------------------------------------------------------------------------------

MODULE = [sys.executable, "-m", "gateway_project.demo_llm"]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


@pytest.fixture
def process(port: int, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The demo LLM as it is started, ready to answer."""
    key_file = tmp_path / "key"
    key_file.write_text(f"{KEY}\n")
    with subprocess.Popen(
        [*MODULE, "--port", str(port), "--key-file", str(key_file)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as child:
        wait_until_healthy(port)
        yield child
        child.kill()


def wait_until_healthy(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def test_the_process_serves_its_key_file_and_stops_silently(process: subprocess.Popen[str], port: int) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/models", headers={"Authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(request, timeout=5) as reply:
        assert reply.status == 200

    process.terminate()
    output, _ = process.communicate(timeout=10)

    assert (process.returncode, output) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "sentence"),
    [
        (["--port", "0"], {}, 2, "'0' is not a port between 1 and 65535"),
        (["--port", "4000"], {}, 2, "give a key of printable ASCII characters"),
        (["--port", "4000"], {"GATEWAY_DEMO_LLM_KEY": "a b"}, 2, "give a key of printable ASCII characters"),
        (["--port", "4000", "--key-file", "/does/not/exist"], {}, 2, "--key-file /does/not/exist: No such file"),
        (["--port", "4000", "--key-file", "x"], {"GATEWAY_DEMO_LLM_KEY": "k"}, 2, "give --key-file or GATEWAY_DEMO"),
    ],
)
def test_a_wrong_start_is_explained(
    arguments: list[str], environment: dict[str, str], code: int, sentence: str
) -> None:
    done = subprocess.run(
        [*MODULE, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False
    )

    assert done.returncode == code
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_one_clear_sentence(port: int) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", port))
        holder.listen()
        done = subprocess.run(
            [*MODULE, "--port", str(port)],
            cwd=ROOT,
            env={"GATEWAY_DEMO_LLM_KEY": KEY},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    assert done.returncode == 1
    assert done.stderr == f"The demo LLM cannot listen on 127.0.0.1:{port}: Address already in use.\n"
