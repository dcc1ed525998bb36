"""Structured output, `stop` and "Continue" with a real agent."""

from __future__ import annotations

import pytest
from openai import OpenAI
from pydantic import BaseModel

from chatgateway.models import Turn
from chatgateway.openai_api.transcript import GO_ON
from tests.live.conftest import Ask
from tests.live.scripted_llm import Answer, ScriptedLlm, Usage
from tests.waiting import eventually

pytestmark = pytest.mark.live


class Person(BaseModel):
    name: str


@pytest.mark.parametrize("model", ["openhands_chat", "openhands_agent"])
def test_an_answer_is_asked_for_once_more_in_the_same_conversation(sdk: OpenAI, llm: ScriptedLlm, model: str) -> None:
    right = '{"name": "Ada"}'
    llm.script(
        "wrong-then-right",
        Answer(text="It is Ada.", usage=Usage(prompt=100, completion=5)),
    )
    llm.enqueue(Answer(text=right, usage=Usage(prompt=150, completion=7)))

    parsed = sdk.chat.completions.parse(
        model=model, messages=[{"role": "user", "content": "Who? #script:wrong-then-right"}], response_format=Person
    )

    heard = llm.requests[-1]
    turn = Turn.objects.get()
    assert parsed.choices[0].message.parsed == Person(name="Ada")
    assert [message["role"] for message in heard.messages] == ["system", "user", "assistant", "user"]
    assert "it is not JSON" in heard.last_user_text
    assert (turn.input_tokens, turn.output_tokens) == (250, 12)
    eventually(lambda: turn.events.filter(kind="MessageEvent").count() == 4)


def test_an_answer_ends_before_a_stop_sequence(ask: Ask) -> None:
    assert ask("openhands_chat", "hello #script:plain", stop=["plain"]) == "This is a "


def test_an_answer_is_gone_on_with(sdk: OpenAI, llm: ScriptedLlm) -> None:
    messages = [{"role": "user", "content": "count #script:plain"}]
    first = sdk.chat.completions.with_raw_response.create(model="openhands_chat", messages=messages)
    messages.append({"role": "assistant", "content": "This is a plain answer."})
    llm.enqueue(Answer(text=" And more."))

    more = sdk.chat.completions.with_raw_response.create(model="openhands_chat", messages=messages)

    name = "X-OpenHands-ServerConversation-ID"
    assert more.headers[name] == first.headers[name]
    assert more.headers["X-Gateway-Conversation-Match"] == "history"
    assert more.parse().choices[0].message.content == " And more."
    assert llm.requests[-1].last_user_text == GO_ON
