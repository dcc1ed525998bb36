"""`POST /v1/responses` and what is made with it, through the stock client with its strictest reading."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from openai import InternalServerError, NotFoundError, OpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from chatgateway.models import Turn
from profiles import access
from profiles.models import Profile
from tests import factories
from tests.fakes.agent_script import Answer, Fail, Finish, Gate, Step
from tests.fakes.agent_server import FakeAgentServer

RESPONSES = "/v1/responses"
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
# Every key of a response, as the strictest readers require them.
KEYS = {
    "id", "object", "created_at", "completed_at", "status", "background", "error", "incomplete_details", "instructions",
    "max_output_tokens", "max_tool_calls", "model", "output", "parallel_tool_calls", "previous_response_id",
    "prompt_cache_key", "reasoning", "safety_identifier", "service_tier", "store", "temperature", "text",
    "tool_choice", "tools", "top_logprobs", "top_p", "presence_penalty", "frequency_penalty", "truncation", "usage",
    "metadata", "user", "conversation",
}  # fmt: skip


def ask(text: str = "Hi", /, **more: object) -> dict[str, Any]:
    return {"model": "openhands_chat", "input": text} | more


def events(text: str) -> list[dict[str, Any]]:
    """The events of a stream, each read by the SDK's own types; comments left out."""
    found = []
    for block in text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if lines:
            name, data = lines
            event = json.loads(data.removeprefix("data: "))
            assert name == f"event: {event['type']}"
            EVENTS.validate_python(event, strict=True)
            found.append(event)
    return found


def of_type(found: list[dict[str, Any]], *types: str) -> list[dict[str, Any]]:
    return [event for event in found if event["type"].removeprefix("response.") in types]


def with_tools() -> None:
    Profile.objects.update(tools=["terminal"], answer_holdback_chars=20)
    access.forget_all()


@pytest.fixture
def strict(client_with: Callable[..., OpenAI]) -> OpenAI:
    return client_with(_strict_response_validation=True)


# --- collected ----------------------------------------------------------------------------------------------------


def test_r1_a_text_is_answered_with_every_key_there_is(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    agent_server.script(Answer("Hello."))

    said = http.post(RESPONSES, json=ask()).json()

    Response.model_validate(said)
    assert set(said) == KEYS
    assert (said["status"], said["model"], said["object"]) == ("completed", "openhands_chat", "response")
    assert said["id"].startswith("resp_")
    assert said["created_at"] <= said["completed_at"]
    assert said["usage"]["total_tokens"] == said["usage"]["input_tokens"] + said["usage"]["output_tokens"] == 110
    [message] = said["output"]
    assert message["content"] == [{"type": "output_text", "text": "Hello.", "annotations": [], "logprobs": []}]


def test_r5_the_stock_client_reads_it_at_its_strictest(strict: OpenAI, agent_server: FakeAgentServer) -> None:
    agent_server.script(Answer("Hello."))

    made = strict.responses.create(**ask(metadata={"a": "b"}, reasoning={"effort": "low"}, truncation="auto"))

    again = strict.responses.retrieve(made.id)
    assert made.output_text == "Hello."
    assert again == made
    assert made.metadata == {"a": "b"}
    assert made.truncation == "auto"


def test_steps_are_reasoning_and_no_item_is_for_the_client_to_run(
    strict: OpenAI, agent_server: FakeAgentServer
) -> None:
    with_tools()
    agent_server.script(Step(command="ls", thought="Looking."), Step(command="pwd"), Answer("Two files."))

    made = strict.responses.create(**ask())

    reasoning, message = made.output
    assert [item.type for item in made.output] == ["reasoning", "message"]
    assert [part.text for part in reasoning.summary] == ["Looking.", "Running: ls", "Running: pwd"]
    assert made.output_text == "Two files."
    assert message.phase is None


def test_a_thought_that_was_shown_as_text_is_a_comment_before_the_answer(
    strict: OpenAI, agent_server: FakeAgentServer
) -> None:
    with_tools()
    agent_server.script(Step(command="ls", thought="I shall look at all of the files now."), Answer("Two."))

    made = strict.responses.create(**ask())

    assert [(item.type, getattr(item, "phase", None)) for item in made.output] == [
        ("message", "commentary"),
        ("reasoning", None),
        ("message", "final_answer"),
    ]
    assert made.output[-1].content[0].text == "Two."


def test_an_answer_by_the_finish_tool_is_a_message(strict: OpenAI, agent_server: FakeAgentServer) -> None:
    with_tools()
    agent_server.script(Finish(message="Done."))

    assert strict.responses.create(**ask()).output_text == "Done."


def test_items_of_every_kind_are_told_to_the_agent(client: OpenAI, agent_server: FakeAgentServer) -> None:
    agent_server.script(Answer("Yes."))

    client.responses.create(
        model="openhands_chat",
        input=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "input_text", "text": "First."}]},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"type": "function_call", "call_id": "call_1", "name": "look_up", "arguments": '{"x": 1}'},
            {"type": "function_call_output", "call_id": "call_1", "output": "found it"},
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "Second.", "annotations": []}],
                "phase": "final_answer",
            },
            {"role": "user", "content": "Third."},
        ],
    )

    [(_, heard)] = [said for said in agent_server.only_conversation.prompt if said[0] == "user"]
    assert [heard.count(text) for text in ("First.", "look_up", '{"x": 1}', "found it", "Second.", "Third.")] == [1] * 6
    assert "Be brief." in json.dumps(agent_server.only_conversation.agent)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"input": None}, "input", "missing_required_parameter"),
        ({"input": ""}, "input", "invalid_value"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": 3}, "input", "invalid_type"),
        ({"input": [3]}, "input.0", "invalid_type"),
        ({"input": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "input.0.content.0", None),
        ({"input": [{"role": "king", "content": "x"}]}, "input.0.role", "invalid_value"),
        ({"input": [{"type": "compaction"}]}, "input.0.type", "unsupported_value"),
        ({"input": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}, "input", None),
        ({"input": [{"type": "item_reference", "id": "msg_no"}]}, "input.0.id", "invalid_value"),
        ({"model": None}, "model", "missing_required_parameter"),
        ({"tools": [{"type": "web_search"}]}, "tools.0", "unsupported_parameter"),
        ({"tool_choice": "required"}, "tool_choice", "unsupported_parameter"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "unsupported_parameter"),
        ({"top_logprobs": 2}, "top_logprobs", "unsupported_parameter"),
        ({"include": ["everything"]}, "include.0", "invalid_value"),
        ({"max_tool_calls": 0}, "max_tool_calls", "invalid_value"),
        ({"background": True, "store": False}, "background", "unsupported_value"),
        ({"previous_response_id": "resp_1", "conversation": "conv_1"}, "previous_response_id", "unsupported_value"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "previous_response_not_found"),
        ({"conversation": {}}, "conversation.id", "missing_required_parameter"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort", "invalid_value"),
        ({"text": {"format": {"type": "yaml"}}}, "text.format.type", "invalid_value"),
        ({"metadata": {"a": 1}}, "metadata", "invalid_type"),
    ],
)
def test_what_is_wrong_is_named(http: httpx.Client, body: dict[str, Any], param: str, code: str | None) -> None:
    reply = http.post(RESPONSES, json=ask() | body)

    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, param)
    assert error["code"] == (code or error["code"])
    assert Turn.objects.get().outcome == "refused"


HOSTED = ("web_search", "file_search", "code_interpreter", "mcp", "shell", "image_generation", "function", "custom")


@pytest.mark.parametrize("kind", HOSTED)
def test_r15_tools_are_refused_by_their_place_or_ignored(http: httpx.Client, kind: str) -> None:
    tools = [{"type": kind, "name": "look_up", "parameters": {}}]

    refused = http.post(RESPONSES, json=ask(tools=tools))
    Profile.objects.update(client_tools=Profile.ClientTools.IGNORE)
    access.forget_all()
    ignored = http.post(RESPONSES, json=ask(tools=tools))

    error = refused.json()["error"]
    assert (refused.status_code, error["param"], error["code"]) == (400, "tools.0", "unsupported_parameter")
    assert (ignored.status_code, ignored.json()["tools"]) == (200, [])
    assert "tools" in ignored.headers["X-Gateway-Ignored"]


class Person(BaseModel):
    name: str
    age: int


AS_PERSON = {"format": {"type": "json_schema", "name": "person", "schema": Person.model_json_schema()}}


def test_r16_the_sdk_parses_a_response(client: OpenAI, agent_server: FakeAgentServer) -> None:
    agent_server.script(Answer('```json\n{"name": "Ada", "age": 36}\n```'))

    parsed = client.responses.parse(model="openhands_chat", input="Who?", text_format=Person)

    assert parsed.output_parsed == Person(name="Ada", age=36)
    assert parsed.text.format.type == "json_schema"
    assert client.responses.retrieve(parsed.id).output_text == '{"name": "Ada", "age": 36}'


def test_r16_a_streamed_response_has_its_json_whole_and_keeps_it(
    http: httpx.Client, client: OpenAI, agent_server: FakeAgentServer
) -> None:
    agent_server.script(Answer("Ada, I think."))
    agent_server.script(Answer('{"name": "Ada", "age": 36}'))

    found = events(http.post(RESPONSES, json=ask(stream=True, text=AS_PERSON)).text)

    [text] = [event["text"] for event in of_type(found, "output_text.done")]
    assert json.loads(text) == {"name": "Ada", "age": 36}
    assert [event["delta"] for event in of_type(found, "output_text.delta")] == [text]
    identity = found[-1]["response"]["id"]
    assert events(http.get(f"{RESPONSES}/{identity}?stream=true").text) == found
    assert Turn.objects.count() == 1


def test_a_response_that_is_wrong_twice_fails(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    for _ in range(4):
        agent_server.script(Answer("No JSON."))

    collected = http.post(RESPONSES, json=ask(text={"format": {"type": "json_object"}}))
    streamed = events(http.post(RESPONSES, json=ask("Again", stream=True, text=AS_PERSON)).text)

    assert (collected.status_code, collected.json()["error"]["code"]) == (502, "invalid_structured_output")
    assert streamed[-1]["type"] == "response.failed"
    assert of_type(streamed, "output_text.delta") == []


def test_a_schema_that_cannot_be_used_is_named(http: httpx.Client) -> None:
    wrong = {"format": {"type": "json_schema", "name": "x", "schema": {"type": "nonsense"}}}

    reply = http.post(RESPONSES, json=ask(text=wrong))

    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "text.format.schema")


def test_r14_a_failing_run_is_an_error_that_nobody_repeats(
    client_with: Callable[..., OpenAI], agent_server: FakeAgentServer
) -> None:
    agent_server.script(Fail.bad_request(), Fail.bad_request())
    agent_server.on_message = lambda *_: [Fail.wrong_key()]

    with pytest.raises(InternalServerError) as raised:
        client_with(max_retries=2).responses.create(**ask())

    assert raised.value.status_code == 502
    assert Turn.objects.get().attempts.count() == 1


def test_a_limit_of_tool_calls_ends_the_response_as_incomplete(client: OpenAI, agent_server: FakeAgentServer) -> None:
    with_tools()
    gate = Gate()
    agent_server.script(Step(command="one"), Step(command="two"), Step(command="three", gate=gate), Answer("Done."))

    made = client.responses.create(**ask(max_tool_calls=2))
    gate.open()

    assert made.status == "incomplete"
    assert made.incomplete_details.reason == "max_output_tokens"
    assert made.output[-1].type == "message"


# --- kept ---------------------------------------------------------------------------------------------------------


def test_r5_a_response_is_its_tenants_alone(client: OpenAI, client_with: Callable[..., OpenAI]) -> None:
    made = client.responses.create(**ask())
    stranger = client_with(api_key=factories.api_key().text)

    with pytest.raises(NotFoundError) as raised:
        stranger.responses.retrieve(made.id)
    with pytest.raises(NotFoundError) as unknown:
        client.responses.retrieve("resp_" + "0" * 32)

    assert raised.value.code == "response_not_found"
    assert raised.value.message == unknown.value.message


def test_r6_a_response_that_was_not_to_be_stored_is_not_given_out(client: OpenAI) -> None:
    made = client.responses.create(**ask(store=False))

    with pytest.raises(NotFoundError):
        client.responses.retrieve(made.id)
    assert made.store is False


def test_the_record_has_the_request_as_it_was_sent(http: httpx.Client) -> None:
    from chatgateway import audit

    text = ask(instructions="Be kind.")
    items = ask() | {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}]}
    for body in (text, items):
        http.post(RESPONSES, json=body)

    assert [audit.rebuild_request(turn) for turn in Turn.objects.order_by("arrival")] == [text, items]


# --- streamed -----------------------------------------------------------------------------------------------------


@pytest.fixture
def streamed(http: httpx.Client, agent_server: FakeAgentServer) -> list[dict[str, Any]]:
    """The events of a response with a thought, a step and an answer."""
    with_tools()
    agent_server.script(Step(command="ls", thought="Looking."), Answer("There are two files."))
    return events(http.post(RESPONSES, json=ask(stream=True)).text)


def test_r2_a_stream_is_in_order_numbered_without_gaps_and_ends_once(streamed: list[dict[str, Any]]) -> None:
    assert [event["sequence_number"] for event in streamed] == list(range(len(streamed)))
    assert [event["type"] for event in streamed[:2]] == ["response.created", "response.in_progress"]
    assert [event["type"] for event in streamed if event["type"] in TERMINAL] == ["response.completed"]
    assert streamed[-1]["response"]["usage"]["total_tokens"] > 0


def test_r3_every_item_begins_empty_and_ends(streamed: list[dict[str, Any]]) -> None:
    added, done = of_type(streamed, "output_item.added"), of_type(streamed, "output_item.done")

    assert [(one["output_index"], one["item"]["id"]) for one in added] == [
        (one["output_index"], one["item"]["id"]) for one in done
    ]
    assert all(not one["item"].get("content") and not one["item"].get("summary") for one in added)
    assert [one["item"] for one in done] == streamed[-1]["response"]["output"]


def test_r4_the_pieces_of_a_text_are_the_text(streamed: list[dict[str, Any]]) -> None:
    [text] = [event["text"] for event in of_type(streamed, "output_text.done")]

    assert "".join(one["delta"] for one in of_type(streamed, "output_text.delta")) == text == "There are two files."
    assert [one["text"] for one in of_type(streamed, "reasoning_summary_text.done")] == ["Looking.", "Running: ls"]


TERMINAL = {"response.completed", "response.incomplete", "response.failed"}


def test_the_stream_helper_gives_the_response_that_is_stored(strict: OpenAI, agent_server: FakeAgentServer) -> None:
    agent_server.script(Answer("Hello there."))

    with strict.responses.stream(**ask()) as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()

    stored = strict.responses.retrieve(final.id)
    assert final.output_text == stored.output_text == "Hello there."
    assert final.usage == stored.usage
    assert final.completed_at == stored.completed_at


def test_words_arrive_while_the_model_is_still_writing(client: OpenAI, agent_server: FakeAgentServer) -> None:
    gate = Gate()
    agent_server.script(Answer(chunks=("One. ", "Two."), gate=gate, hold_after=1))

    stream = client.responses.create(**ask(stream=True))
    deltas = (event.delta for event in stream if event.type == "response.output_text.delta")
    first = next(deltas)
    gate.open()

    assert first == "One. "
    assert list(deltas) == ["Two."]


def test_r14_a_run_that_fails_in_mid_stream_ends_it_as_failed(
    http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    agent_server.script(Fail.unavailable(streamed="One two"))

    found = events(http.post(RESPONSES, json=ask(stream=True)).text)

    assert [event["type"] for event in found if event["type"] in TERMINAL] == ["response.failed"]
    failed = found[-1]["response"]
    assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
    assert failed["output"][0]["status"] == "incomplete"
    assert http.get(f"{RESPONSES}/{failed['id']}").json() == failed


def test_a_wrong_request_for_a_stream_is_plain_json(http: httpx.Client) -> None:
    reply = http.post(RESPONSES, json=ask(stream=True, top_logprobs=5))

    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "top_logprobs")


@pytest.mark.parametrize("stream", [True, False])
def test_r10_a_stream_is_given_again_from_any_number_on(
    http: httpx.Client, agent_server: FakeAgentServer, stream
) -> None:
    with_tools()
    agent_server.script(Step(command="ls", thought="I shall look at all of the files now."), Answer("Two files here."))
    first = http.post(RESPONSES, json=ask(stream=stream))
    made = events(first.text)[-1]["response"] if stream else first.json()

    whole = events(http.get(f"{RESPONSES}/{made['id']}", params={"stream": "true"}).text)
    rest = events(http.get(f"{RESPONSES}/{made['id']}", params={"stream": "true", "starting_after": 6}).text)

    assert whole[-1]["response"] == made
    assert whole == (events(first.text) if stream else whole)
    assert rest == whole[7:]
    assert rest[0]["sequence_number"] == 7
