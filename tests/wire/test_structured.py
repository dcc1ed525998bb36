"""`response_format` over HTTP: told to the agent, checked, asked for once more, and then an error."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import httpx
import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from chatgateway.models import Attempt, Turn
from tests import factories
from tests.fakes.agent_script import Answer, Fail, Gate, Step, Usage
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway
from tests.waiting import eventually
from tests.wire import conftest
from tests.wire.chatting import ChatClient, assistant, heard, user

question: Callable[..., dict[str, Any]] = conftest.question

CHAT = "/v1/chat/completions"
JSON_OBJECT = {"type": "json_object"}
WRONG, RIGHT = '{"name": 7}', '{"name": "Ada", "age": 36}'


class Person(BaseModel):
    name: str
    age: int


PERSON: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {"name": "person", "strict": True, "schema": Person.model_json_schema()},
}


def said(server: FakeAgentServer) -> list[str]:
    return [part["text"] for content in server.only_conversation.posted for part in content]


def test_the_sdk_parses_an_answer(client: OpenAI, agent_server: FakeAgentServer) -> None:
    agent_server.script(Answer(f"```json\n{RIGHT}\n```"))

    parsed = client.chat.completions.parse(
        model="openhands_chat", messages=[{"role": "user", "content": "Who?"}], response_format=Person
    )

    assert parsed.choices[0].message.parsed == Person(name="Ada", age=36)
    assert parsed.choices[0].message.content == RIGHT
    (asked,) = said(agent_server)
    assert asked.startswith("Who?\n\n")
    assert '"required":["name","age"]' in asked


def test_a_wrong_answer_is_asked_for_once_more_in_the_same_turn(client: OpenAI, agent_server: FakeAgentServer) -> None:
    agent_server.script(Answer(WRONG, usage=Usage(input=100, output=10)))
    agent_server.script(Answer(RIGHT, usage=Usage(input=150, output=20)))

    reply = client.chat.completions.create(**question(response_format=PERSON))

    assert reply.choices[0].message.content == RIGHT
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (250, 30)
    turn = Turn.objects.get()
    assert (turn.outcome, turn.answer, turn.input_tokens, turn.output_tokens) == ("answered", RIGHT, 250, 30)
    assert len(said(agent_server)) == 2
    assert "'age' is a required property" in said(agent_server)[1] or "7 is not of type" in said(agent_server)[1]
    eventually(lambda: turn.events.filter(kind="MessageEvent", source="user").count() == 2)
    assert turn.events.order_by("seq").filter(source="user").first().seq == turn.user_event_seq


def test_an_answer_that_stays_wrong_is_an_error_that_nobody_repeats(
    client_with: Callable[..., OpenAI], agent_server: FakeAgentServer
) -> None:
    agent_server.script(Answer("Ada, I think."))
    agent_server.script(Answer("Still Ada."))

    with pytest.raises(openai.InternalServerError) as failed:
        client_with(max_retries=2).chat.completions.create(**question(response_format=JSON_OBJECT))

    assert (failed.value.status_code, failed.value.code) == (502, "invalid_structured_output")
    assert len(said(agent_server)) == 2
    turn = Turn.objects.get()
    assert (turn.outcome, turn.answer) == ("failed", "Still Ada.")
    assert "it is not JSON" in turn.error_detail


def streamed(http: httpx.Client, **more: Any) -> tuple[str, str, list[dict[str, Any]]]:
    """Content, reasoning and all data of a stream."""
    with http.stream("POST", CHAT, json=question(stream=True, **more)) as response:
        data = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {")]
    deltas = [choice["delta"] for one in data for choice in one.get("choices", ())]
    return (
        "".join(delta.get("content") or "" for delta in deltas),
        "".join(delta.get("reasoning_content") or "" for delta in deltas),
        data,
    )


def test_a_stream_shows_steps_and_never_a_wrong_answer(
    http: httpx.Client, agent_server: FakeAgentServer, served: LiveGateway
) -> None:
    factories.profile(slug="tools", tools=["terminal"], thoughts="content", answer_holdback_chars=5)
    agent_server.script(Step(command="date", thought="Let me look at the clock first."), Answer(WRONG))
    agent_server.script(Answer(RIGHT))

    content, reasoning, data = streamed(http, model="openhands_tools", response_format=PERSON)

    assert content == RIGHT
    assert "Let me look" in reasoning
    assert "Running: date" in reasoning
    assert data[-1]["choices"][0]["finish_reason"] == "stop"


def test_a_stream_ends_in_the_error(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    agent_server.script(Answer("no"))
    agent_server.script(Answer("no"))

    content, _, data = streamed(http, response_format=JSON_OBJECT)

    assert content == ""
    assert data[-1]["error"]["code"] == "invalid_structured_output"


def test_a_format_that_comes_and_goes_keeps_the_conversation(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    agent_server.script(Answer(WRONG))
    agent_server.script(Answer(RIGHT))
    first = ChatClient(http=http, body={"response_format": PERSON}).send([user("Who?")])

    second = ChatClient(http=http).send([user("Who?"), assistant(first.text), user("Thanks.")])

    assert (second.match, second.conversation_id) == ("history", first.conversation_id)
    assert [text for role, text in heard(second, agent_server) if role == "user"][-1] == "Thanks."


def test_a_correction_that_the_provider_fails_is_that_failure(client: OpenAI, agent_server: FakeAgentServer) -> None:
    agent_server.script(Answer(WRONG))
    agent_server.script(Fail.wrong_key())

    with pytest.raises(openai.InternalServerError) as failed:
        client.chat.completions.create(**question(response_format=PERSON))

    assert failed.value.code == "upstream_error"


def test_an_answer_at_its_token_limit_is_delivered_as_it_is(
    client: OpenAI, agent_server: FakeAgentServer, served: LiveGateway
) -> None:
    factories.profile(slug="free", allows_overrides=True)
    agent_server.script(Answer('{"name": "Ad', usage=Usage(input=10, output=5)))

    reply = client.chat.completions.create(
        **question(model="openhands_free", response_format=PERSON, max_completion_tokens=5)
    )

    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == ('{"name": "Ad', "length")
    assert len(said(agent_server)) == 1


def test_a_caller_who_goes_away_during_the_correction_stops_it(
    http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    gate = Gate()
    agent_server.script(Answer(WRONG))
    agent_server.script(Answer(RIGHT, gate=gate))
    with http.stream("POST", CHAT, json=question(stream=True, response_format=PERSON)):
        gate.wait_until_reached()

    eventually(lambda: Turn.objects.get().outcome == "cancelled")
    assert agent_server.only_conversation.interrupts > 0
    gate.open()


@pytest.mark.parametrize("stream", [True, False])
def test_a_bad_schema_is_refused_before_anything_starts(
    http: httpx.Client, agent_server: FakeAgentServer, stream: Literal[True, False]
) -> None:
    bad = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "http://127.0.0.1/"}}}

    reply = http.post(CHAT, json=question(stream=stream, response_format=bad))

    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "response_format.json_schema.schema")
    assert not agent_server.conversations


# --- another process goes on ------------------------------------------------------------------------------------------


@pytest.fixture
def successor(served: LiveGateway, settings: Any) -> Iterator[LiveGateway]:
    """Runs beside the first gateway, which gives up its turns quickly when it is stopped."""
    settings.GATEWAY_SHUTDOWN_GRACE_SECONDS = 0.1
    running = LiveGateway()
    running.start()
    yield running
    running.stop()


@pytest.mark.parametrize("is_held", [(True, False), (False, True)], ids=["first answer", "correction"])
def test_a_process_that_takes_the_turn_over_asks_for_the_answer_once_more_and_no_more(
    http: httpx.Client,
    served: LiveGateway,
    successor: LiveGateway,
    agent_server: FakeAgentServer,
    is_held: tuple[bool, bool],
) -> None:
    gate = Gate()
    for text, held in zip((WRONG, RIGHT), is_held, strict=True):
        agent_server.script(Answer(text, gate=gate if held else None))
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(http.post, CHAT, json=question(response_format=PERSON))
        gate.wait_until_reached()
        eventually(lambda: Turn.objects.get().user_event_seq is not None)
        served.stop()
        gate.open()
        call.result(timeout=60)

    eventually(lambda: Turn.objects.get().outcome != "open")

    turn = Turn.objects.get()
    assert (turn.outcome, turn.answer, turn.lease_generation) == ("answered", RIGHT, 2)
    assert len(said(agent_server)) == 2


def test_who_joins_the_turn_in_another_process_gets_the_cut_answer(
    http: httpx.Client, served: LiveGateway, agent_server: FakeAgentServer
) -> None:
    gate = Gate()
    agent_server.script(Answer(chunks=("one ", "E", "ND two"), gate=gate, hold_after=1))
    asked, key = question(stream=True, stop="END"), {"Idempotency-Key": "k"}
    other = LiveGateway()
    other.start()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(http.post, CHAT, json=asked, headers=key)
        gate.wait_until_reached()
        second = pool.submit(http.post, other.url + CHAT, json=asked, headers=key)
        eventually(lambda: Attempt.objects.count() == 2)
        gate.open()
        texts = [call.result(timeout=60).text for call in (first, second)]
    other.stop()

    assert [content_of(text) for text in texts] == ["one ", "one "]
    assert Turn.objects.count() == 1


def content_of(stream: str) -> str:
    data = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    return "".join(choice["delta"].get("content") or "" for one in data for choice in one["choices"])
