"""`POST /v1/chat/completions`, streamed: what arrives, when, and in which shape."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest
from openai import APIError, OpenAI
from openai.types.chat import ChatCompletionChunk

from chatgateway.models import Turn
from profiles import access
from profiles.models import Profile
from tests.fakes.agent_script import Answer, Fail, Gate, Retried, Step
from tests.fakes.agent_server import FakeAgentServer
from tests.waiting import eventually
from tests.wire.conftest import question

CHAT = "/v1/chat/completions"


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The JSON events of a stream, `[DONE]` checked and left out."""
    lines = [line for line in response.text.split("\n") if line and not line.startswith(":")]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def deltas(chunks: list[dict[str, Any]], name: str) -> str:
    return "".join(choice["delta"].get(name) or "" for chunk in chunks for choice in chunk["choices"])


def test_headers_and_a_comment_arrive_while_the_agent_is_still_starting(
    http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    agent_server.hang()
    started = time.monotonic()

    with http.stream("POST", CHAT, json=question(stream=True)) as response:
        first = next(response.iter_raw())
        waited = time.monotonic() - started
        agent_server.recover()

    assert waited < 1.5
    assert first.startswith(b": ping\n\n")
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache, no-transform"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["X-OpenHands-ServerConversation-ID"]


def test_a_stream_is_what_the_strictest_reader_expects(http: httpx.Client) -> None:
    chunks = events(http.post(CHAT, json=question(stream=True)))

    for_all = [ChatCompletionChunk.model_validate(chunk, strict=True) for chunk in chunks]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in for_all}) == 1
    assert [chunk.choices[0].finish_reason for chunk in for_all].count("stop") == 1
    assert for_all[-1].choices[0].finish_reason == "stop"
    assert not any("usage" in chunk for chunk in chunks)


def test_the_connection_gives_no_more_after_done(http: httpx.Client) -> None:
    with http.stream("POST", CHAT, json=question(stream=True)) as response:
        pieces = [(time.monotonic(), piece) for piece in response.iter_raw()]
        ended = time.monotonic()

    told, last = pieces[-1]
    assert last.endswith(b"data: [DONE]\n\n")
    assert ended - told < 0.1


def test_usage_comes_last_and_only_when_it_is_asked_for(http: httpx.Client) -> None:
    chunks = events(http.post(CHAT, json=question(stream=True, stream_options={"include_usage": True})))

    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 110
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


def test_the_stream_says_what_the_collected_reply_says(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    Profile.objects.update(tools=["terminal"])
    access.forget_all()
    for _ in range(2):
        agent_server.script(Step(command="ls", thought="Looking."), Answer("There are two files here."))

    chunks = events(http.post(CHAT, json=question(stream=True)))
    message = http.post(CHAT, json=question()).json()["choices"][0]["message"]

    assert deltas(chunks, "content") == message["content"] == "There are two files here."
    assert deltas(chunks, "reasoning_content") == message["reasoning_content"]


def test_tokens_arrive_while_the_model_is_still_writing(client: OpenAI, agent_server: FakeAgentServer) -> None:
    gate = Gate()
    agent_server.script(Answer(chunks=("One. ", "Two."), gate=gate, hold_after=1))

    stream = client.chat.completions.create(**question(stream=True))  # type: ignore[call-overload]
    contents = (chunk.choices[0].delta.content for chunk in stream if chunk.choices[0].delta.content)
    first = next(contents)
    gate.open()

    assert first == "One. "
    assert list(contents) == ["Two."]


def test_silence_is_filled_with_comments(http: httpx.Client, agent_server: FakeAgentServer, settings) -> None:
    settings.GATEWAY_PING_SECONDS = 0.1
    gate = Gate()
    agent_server.script(Answer(chunks=("One. ", "Two."), gate=gate, hold_after=1))
    seen = b""

    with http.stream("POST", CHAT, json=question(stream=True)) as response:
        for piece in response.iter_raw():
            seen += piece
            _open_after_pings(gate, seen, 4)

    after_text = seen.split(b"One. ")[1].split(b"Two.")[0]
    assert after_text.count(b": ping\n\n") >= 2
    assert not any(line.startswith((b"id:", b"retry:", b"event:")) for line in seen.split(b"\n"))
    assert seen.endswith(b"data: [DONE]\n\n")


def _open_after_pings(gate: Gate, seen: bytes, pings: int) -> None:
    if seen.count(b": ping") >= pings:
        gate.open()


def test_a_failure_in_mid_stream_is_an_error_object_and_then_done(
    client: OpenAI, agent_server: FakeAgentServer
) -> None:
    agent_server.script(Fail.unavailable(streamed="Half an"))

    with pytest.raises(APIError) as raised:
        list(client.chat.completions.create(**question(stream=True)))  # type: ignore[call-overload]

    turn = Turn.objects.get()
    assert raised.value.code == "upstream_error"
    assert (turn.outcome, turn.answer, turn.is_usage_estimated) == ("failed", "Half an", True)
    assert turn.output_tokens > 0


def test_a_mid_stream_error_has_no_choices(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    agent_server.script(Fail.unavailable(streamed="Half an"))

    last = events(http.post(CHAT, json=question(stream=True)))[-1]

    assert set(last) == {"error"}
    assert set(last["error"]) == {"message", "type", "param", "code"}


def test_what_is_wrong_with_the_request_is_a_real_status_and_no_stream(http: httpx.Client) -> None:
    response = http.post(CHAT, json=question(stream=True, n=2))

    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"


def test_no_agent_server_is_a_real_status_and_no_stream(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    agent_server.stop()

    response = http.post(CHAT, json=question(stream=True))

    assert response.status_code == 503
    assert response.headers["retry-after"]


def test_steps_and_thoughts_stay_out_of_the_content(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    Profile.objects.update(tools=["terminal"])
    access.forget_all()
    agent_server.script(Step(command="make", thought="Building first."), Answer("Built."))

    chunks = events(http.post(CHAT, json=question(stream=True)))

    assert deltas(chunks, "content") == "Built."
    assert deltas(chunks, "reasoning_content") == "Building first.\nRunning: make\n"
    assert "tool_calls" not in json.dumps(chunks)


def test_an_llm_call_that_is_repeated_before_anything_was_sent_is_not_seen(
    http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    Profile.objects.update(tools=["terminal"])
    access.forget_all()
    agent_server.script(Retried(streamed="Bad st"), Answer("Good start."))

    assert deltas(events(http.post(CHAT, json=question(stream=True))), "content") == "Good start."


def test_an_event_feed_that_breaks_loses_nothing_and_repeats_nothing(
    http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    agent_server.drop_socket_after(6)
    agent_server.script(Answer("One two three four five six seven eight nine ten.", delay_seconds=0.02))

    chunks = events(http.post(CHAT, json=question(stream=True)))

    assert deltas(chunks, "content") == "One two three four five six seven eight nine ten."
    assert Turn.objects.get().outcome == "answered"


@pytest.mark.parametrize("fault", ["repeat_frames", "send_garbage"])
def test_a_feed_that_stutters_changes_nothing(http: httpx.Client, agent_server: FakeAgentServer, fault: str) -> None:
    getattr(agent_server, fault)()
    agent_server.script(Answer("One two three."))

    assert deltas(events(http.post(CHAT, json=question(stream=True))), "content") == "One two three."


def test_a_client_that_goes_away_stops_the_agent(client: OpenAI, agent_server: FakeAgentServer) -> None:
    gate = Gate()
    agent_server.script(Answer(chunks=("One. ", "Two."), gate=gate, hold_after=1))
    stream = client.chat.completions.create(**question(stream=True))  # type: ignore[call-overload]
    next(chunk for chunk in stream if chunk.choices[0].delta.content)

    stream.close()
    agent_server.wait_until(lambda: agent_server.only_conversation.interrupts > 0, timeout_seconds=2)

    turn = eventually(lambda: Turn.objects.exclude(outcome="open").first())
    assert (turn.outcome, turn.answer) == ("cancelled", "One. ")


def test_a_client_that_goes_away_is_noticed_while_nothing_is_sent(
    http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    gate = Gate()
    agent_server.script(Answer(chunks=("One.",), gate=gate))

    with pytest.raises(httpx.ReadTimeout):
        http.post(CHAT, json=question(), timeout=0.7)
    agent_server.wait_until(lambda: agent_server.only_conversation.interrupts > 0, timeout_seconds=2)

    assert eventually(lambda: Turn.objects.exclude(outcome="open").first()).outcome == "cancelled"
