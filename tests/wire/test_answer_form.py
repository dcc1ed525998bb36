"""`stop`, overrides, what is ignored, and answers that are gone on with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from chatgateway.models import Turn
from chatgateway.openai_api.transcript import GO_ON
from tests import factories
from tests.fakes.agent_script import Answer, Gate, Usage
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway
from tests.waiting import eventually
from tests.wire import conftest
from tests.wire.chatting import CHAT, ChatClient, assistant, heard, user

question: Callable[..., dict[str, Any]] = conftest.question


@pytest.fixture
def chat(http: httpx.Client) -> ChatClient:
    return ChatClient(http=http)


@pytest.fixture
def gate() -> Iterator[Gate]:
    held = Gate()
    yield held
    held.open()


# --- stop -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", ["END", ["nowhere", "END"]])
@pytest.mark.parametrize("chunks", [("one E", "N", "D two"), ("one END two",), ("one ", "E", "N", "D", " END")])
def test_an_answer_is_cut_at_the_same_place_streamed_or_not(
    client: OpenAI, agent_server: FakeAgentServer, stop: str | list[str], chunks: tuple[str, ...]
) -> None:
    agent_server.default_answer = Answer(chunks=chunks)

    whole = client.chat.completions.create(**question(stop=stop))
    streamed = list(client.chat.completions.create(**question(stop=stop, stream=True)))

    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == ("one ", "stop")
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == "one "
    assert [chunk.choices[0].finish_reason for chunk in streamed if chunk.choices[0].finish_reason] == ["stop"]
    assert set(Turn.objects.values_list("answer", "outcome")) == {("one ", "answered")}


def test_what_only_looked_like_a_stop_sequence_is_sent_at_the_end(
    client: OpenAI, agent_server: FakeAgentServer
) -> None:
    agent_server.script(Answer(chunks=("one ", "E", "N")))

    streamed = client.chat.completions.create(**question(stop="END", stream=True))

    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == "one EN"


def test_an_answer_may_be_cut_to_nothing(client: OpenAI, agent_server: FakeAgentServer) -> None:
    agent_server.script(Answer("END of it"))

    assert client.chat.completions.create(**question(stop="END")).choices[0].message.content == ""


def test_a_history_with_a_cut_answer_goes_on(chat: ChatClient, agent_server: FakeAgentServer) -> None:
    chat.body = {"stop": ["END"]}
    agent_server.script(Answer("one END two"))
    first = chat.say("a")

    second = chat.say("b")

    assert (second.match, second.conversation_id) == ("history", first.conversation_id)


# --- overrides --------------------------------------------------------------------------------------------------------


def test_sampling_parameters_reach_the_llm_of_a_live_conversation(
    chat: ChatClient, agent_server: FakeAgentServer, served: LiveGateway
) -> None:
    factories.profile(slug="free", allows_overrides=True)
    chat.body = {"model": "openhands_free", "temperature": 0.5}
    chat.say("a")
    before = agent_server.only_conversation.llm["temperature"]
    chat.body |= {"temperature": 1.5, "reasoning_effort": "high", "max_tokens": 5}
    agent_server.script(Answer("cut", usage=Usage(input=1, output=5)))

    chat.say("b")

    llm = agent_server.only_conversation.llm
    assert (before, llm["temperature"], llm["reasoning_effort"], llm["max_output_tokens"]) == (0.5, 1.5, "high", 5)
    assert list(Turn.objects.order_by("arrival").values_list("finish_reason", flat=True)) == ["stop", "length"]
    assert len(agent_server.conversations) == 1


# --- what has no effect -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"temperature": 1}, "temperature"),  # the profile keeps its own
        ({"temprature": 1}, "temprature"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
    ],
)
def test_what_has_no_effect_is_named_or_refused_as_the_key_says(
    http: httpx.Client, served: LiveGateway, agent_server: FakeAgentServer, body: dict[str, Any], named: str
) -> None:
    strict = {"Authorization": f"Bearer {factories.api_key(name='strict', refuses_ignored=True).text}"}

    answered = http.post(CHAT, json=question(**body))
    refused = http.post(CHAT, json=question(**body), headers=strict)
    plain = http.post(CHAT, json=question(metadata={"a": "b"}), headers=strict)

    assert (answered.status_code, answered.headers["X-Gateway-Ignored"]) == (200, named)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, named)
    assert refused.json()["error"]["code"] == "unsupported_parameter"
    assert plain.status_code == 200
    assert len(agent_server.conversations) == 2


def test_names_that_are_no_text_for_a_header_are_left_out(http: httpx.Client) -> None:
    reply = http.post(CHAT, json=question(**{"chat_id": 1, "a\r\nSet-Cookie: b": 2, "ä": 3}))

    assert reply.headers["X-Gateway-Ignored"] == "chat_id"


# --- continue ---------------------------------------------------------------------------------------------------------


def stop_midway(chat: ChatClient, server: FakeAgentServer, gate: Gate) -> str:
    server.script(Answer(chunks=("One. ", "Two. ", "Three."), gate=gate, hold_after=2))
    return chat.say_and_stop("count", after="One. Two. ")


def test_continue_goes_on_with_a_stopped_answer(chat: ChatClient, agent_server: FakeAgentServer, gate: Gate) -> None:
    first = chat.say("a")
    stop_midway(chat, agent_server, gate)
    agent_server.script(Answer("Three."))

    rest = chat.send(chat.messages)
    joined = [*chat.messages[:-1], assistant("One. Two. Three.")]
    further = chat.send([*joined, user("And?")])

    assert (rest.match, rest.conversation_id, rest.text) == ("history", first.conversation_id, "Three.")
    told = [text for role, text in heard(rest, agent_server) if role == "user"]
    assert told[:2] == ["a", "count"]
    assert "One. Two." in told[2]
    assert told[2].endswith(GO_ON)
    assert (further.match, further.conversation_id) == ("history", first.conversation_id)
    assert told[3:] == ["And?"]


def test_continue_can_be_stopped_and_gone_on_with_again(
    chat: ChatClient, agent_server: FakeAgentServer, gate: Gate
) -> None:
    named = stop_midway(chat, agent_server, gate)
    again = Gate()
    agent_server.script(Answer(chunks=("Three. ", "Four. ", "Five."), gate=again, hold_after=2))
    with chat.http.stream("POST", CHAT, json=question(messages=chat.messages, stream=True)) as response:
        lines = response.iter_lines()
        while "Four" not in next(lines):
            pass
    eventually(lambda: Turn.objects.filter(outcome="cancelled").count() == 2)
    again.open()

    reply = chat.send([*chat.messages[:-1], assistant("One. Two. Three. Four. "), user("Stop.")])

    assert (reply.match, reply.conversation_id) == ("history", named)


def test_continue_of_an_answer_that_ended_asks_for_more(chat: ChatClient, agent_server: FakeAgentServer) -> None:
    first = chat.say("a")

    more = chat.send(chat.messages)

    assert (more.match, more.conversation_id) == ("history", first.conversation_id)
    assert heard(more, agent_server)[2] == ("user", GO_ON)


def test_continue_of_somebody_elses_answer_is_told_to_a_new_agent(
    chat: ChatClient, agent_server: FakeAgentServer
) -> None:
    reply = chat.send([user("count"), assistant("One. Tw")])

    assert reply.match == "replay"
    ((_, told), *_) = heard(reply, agent_server)
    assert "One. Tw" in told
    assert told.endswith(GO_ON)


def test_an_agent_that_was_lost_is_told_the_answer_it_went_on_with(
    chat: ChatClient, agent_server: FakeAgentServer, gate: Gate
) -> None:
    chat.say("a")
    stop_midway(chat, agent_server, gate)
    agent_server.script(Answer("Three."))
    rest = chat.send(chat.messages)
    agent_server.forget_conversations()

    named = chat.send([user("And?")], X_OpenHands_ServerConversation_ID=rest.conversation_id)

    told = heard(named, agent_server)[0][1]
    assert told.index("count") < told.index("One. Two.") < told.index("Three.") < told.index("And?")


def test_an_empty_place_for_the_answer_does_not_count(chat: ChatClient, agent_server: FakeAgentServer) -> None:
    reply = chat.send([user("a"), assistant("")])

    assert (reply.match, heard(reply, agent_server)[0]) == ("new", ("user", "a"))


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ([assistant("One.")], "invalid_value"),
        (
            [
                user("a"),
                assistant(None) | {"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]},
            ],
            "unsupported_value",
        ),
    ],
)
def test_what_cannot_be_gone_on_with_is_refused(client: OpenAI, messages: Any, code: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="openhands_chat", messages=messages)

    assert (refused.value.param, refused.value.code) == ("messages", code)
