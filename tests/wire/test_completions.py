"""`POST /v1/completions`, as LlamaIndex' OpenAILike and LangChain's OpenAI call it by default."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from chatgateway.models import Turn
from tests.fakes.agent_script import Answer, Fail, Step
from tests.fakes.agent_server import FakeAgentServer

URL = "/v1/completions"


def prompt(value: Any = "Hi", **more: Any) -> dict[str, Any]:
    return {"model": "openhands_chat", "prompt": value} | more


@pytest.mark.parametrize("value", ["Hi", ["Hi"]])
def test_a_prompt_is_answered(client: OpenAI, agent_server: FakeAgentServer, value: Any) -> None:
    agent_server.script(Step(command="ls"), Answer("Hello."))

    reply = client.completions.create(**prompt(value, temperature=0.1, max_tokens=256, n=1, best_of=1, echo=False))

    assert (reply.object, reply.model, reply.id[:5]) == ("text_completion", "openhands_chat", "cmpl-")
    assert (reply.choices[0].text, reply.choices[0].finish_reason, reply.choices[0].index) == ("Hello.", "stop", 0)
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens > 0
    assert agent_server.only_conversation.posted == [[{"type": "text", "text": "Hi"}]]
    turn = Turn.objects.get()
    assert (turn.endpoint, turn.outcome, turn.reply_id) == ("completions", "answered", reply.id)


def test_a_stream_has_texts_and_one_end(client: OpenAI, agent_server: FakeAgentServer) -> None:
    agent_server.script(Answer(chunks=("One ", "two ", "END")))

    stream = client.completions.create(**prompt(stream=True, stop="END", stream_options={"include_usage": True}))
    *chunks, last = list(stream)

    assert "".join(chunk.choices[0].text for chunk in chunks) == "One two "
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]
    assert last.choices == []
    assert last.usage.prompt_tokens > 0


def test_a_stream_ends_with_done(http: httpx.Client) -> None:
    text = http.post(URL, json=prompt(stream=True)).text

    assert text.startswith(": ping\n\n")
    assert text.endswith("data: [DONE]\n\n")
    assert '"usage"' not in text


@pytest.mark.parametrize("stream", [True, False])
def test_a_failure_is_the_same_as_in_chats(client: OpenAI, agent_server: FakeAgentServer, stream: Any) -> None:
    agent_server.script(Fail.wrong_key())

    with pytest.raises(openai.APIError) as failed:
        list(client.completions.create(**prompt(stream=stream)))

    assert failed.value.code == "upstream_error"


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"prompt": None}, "prompt", "missing_required_parameter"),
        ({"prompt": 7}, "prompt", "invalid_type"),
        ({"prompt": " "}, "prompt", "invalid_value"),
        ({"prompt": []}, "prompt", "unsupported_value"),
        ({"prompt": ["a", "b"]}, "prompt", "unsupported_value"),
        ({"prompt": [1, 2]}, "prompt", "unsupported_value"),
        ({"prompt": [[1, 2]]}, "prompt", "unsupported_value"),
        ({"prompt": "x" * (10 * 2**20 + 1)}, "prompt", "invalid_value"),
        ({"n": 2}, "n", "unsupported_value"),
        ({"best_of": 2}, "best_of", "unsupported_parameter"),
        ({"echo": True}, "echo", "unsupported_parameter"),
        ({"suffix": "}"}, "suffix", "unsupported_parameter"),
        ({"logprobs": 0}, "logprobs", "unsupported_parameter"),
        ({"messages": []}, "messages", "unsupported_parameter"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"model": None}, "model", "missing_required_parameter"),
    ],
)
def test_what_is_not_served_is_refused_by_name(
    http: httpx.Client, agent_server: FakeAgentServer, body: dict[str, Any], param: str, code: str
) -> None:
    reply = http.post(URL, json=prompt() | body)

    assert reply.status_code == 400, reply.text
    assert (reply.json()["error"]["param"], reply.json()["error"]["code"]) == (param, code)
    assert not agent_server.conversations
    assert Turn.objects.get().outcome == "refused"


def test_a_named_conversation_goes_on(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    first = http.post(URL, json=prompt("a"))
    named = {"X-OpenHands-ServerConversation-ID": first.headers["X-OpenHands-ServerConversation-ID"]}

    second = http.post(URL, json=prompt("b"), headers=named)

    assert second.headers["X-Gateway-Conversation-Match"] == "header"
    assert len(agent_server.only_conversation.posted) == 2
