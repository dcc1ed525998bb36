"""What the compliance tests of Open Responses ask of a server, asked in our own words: the plain ones, over HTTP.

Its schema is stricter than OpenAI's types: every key is there, and only some may be null.
"""

from __future__ import annotations

from typing import Any, Literal

import httpx
import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from profiles import access
from profiles.models import Profile
from tests.fakes.agent_script import Answer, Step
from tests.fakes.agent_server import FakeAgentServer
from tests.wire.chatting import assistant, user
from tests.wire.test_response_chains import PIXEL
from tests.wire.test_responses import RESPONSES, ask, events, with_tools

# No reader of that suite knows any other.
EVENT_TYPES = {
    "error",
    *(
        f"response.{name}"
        for name in (
            *("created", "queued", "in_progress", "completed", "failed", "incomplete"),
            *("output_item.added", "output_item.done", "content_part.added", "content_part.done"),
            *("output_text.delta", "output_text.done", "output_text.annotation.added", "refusal.delta", "refusal.done"),
            *("reasoning.delta", "reasoning.done", "reasoning_summary_part.added", "reasoning_summary_part.done"),
            *("reasoning_summary_text.delta", "reasoning_summary_text.done"),
            *("function_call_arguments.delta", "function_call_arguments.done"),
        )
    ),
}


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class Text(Strict):
    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[Any]


class SummaryText(Strict):
    type: Literal["summary_text"]
    text: str


class Message(Strict):
    type: Literal["message"]
    id: str
    status: Literal["in_progress", "completed", "incomplete"]
    role: Literal["assistant"]
    content: list[Text]
    phase: Literal["commentary", "final_answer"] | None = None


class Reasoning(Strict):
    type: Literal["reasoning"]
    id: str
    summary: list[SummaryText]


class InputDetails(Strict):
    cached_tokens: int
    cache_write_tokens: int


class OutputDetails(Strict):
    reasoning_tokens: int


class Usage(Strict):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class Effort(Strict):
    effort: str | None
    summary: str | None


class Resource(Strict):
    """Of fields without a default the key must be there, null or not."""

    id: str = Field(pattern="^resp_")
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    incomplete_details: dict[str, str] | None
    model: str
    previous_response_id: str | None
    instructions: str | None
    output: list[Message | Reasoning]
    error: dict[str, str] | None
    tools: list[Any]
    tool_choice: str
    truncation: Literal["auto", "disabled"]
    parallel_tool_calls: bool
    text: dict[str, Any]
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    top_logprobs: int
    temperature: float
    reasoning: Effort | None
    usage: Usage | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    store: bool
    background: bool
    service_tier: str
    metadata: dict[str, str]
    safety_identifier: str | None
    prompt_cache_key: str | None


ITEMS: TypeAdapter[Any] = TypeAdapter(Message | Reasoning)


def completed(reply: httpx.Response) -> Resource:
    assert reply.status_code == 200, reply.text
    resource = Resource.model_validate(reply.json())
    assert resource.status == "completed"
    assert resource.output
    return resource


def phased(text: str, phase: str) -> dict[str, Any]:
    return {"type": "message", "phase": phase} | assistant(text)


TALK = [user("My name is Ada."), assistant("Hello, Ada."), user("Who am I?")]
PHASES = [user("Look."), phased("I shall look.", "commentary"), phased("Two.", "final_answer"), user("Which?")]
SYSTEM = [{"type": "message", "role": "system", "content": "Be brief."}, {"type": "message"} | user("Hi")]


@pytest.mark.parametrize(
    "given", [[{"type": "message"} | user("Hi")], SYSTEM, TALK, PHASES], ids=["basic", "system", "multi-turn", "phases"]
)
def test_r20_a_response_is_the_whole_resource(http: httpx.Client, agent_server: FakeAgentServer, given: Any) -> None:
    agent_server.script(Answer("Ada."))

    [message] = completed(http.post(RESPONSES, json=ask() | {"input": given})).output

    assert message.content[0].text == "Ada."


def test_r20_the_phases_of_what_is_sent_are_taken_and_those_of_a_reply_are_right(
    http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    with_tools()
    agent_server.script(Step(command="ls", thought="I shall look at all of the files now."), Answer("Two."))

    made = completed(http.post(RESPONSES, json=ask() | {"input": PHASES}))
    kept = http.get(f"{RESPONSES}/{made.id}/input_items", params={"order": "asc"}).json()["data"]

    assert [getattr(item, "phase", None) for item in made.output] == ["commentary", None, "final_answer"]
    assert [item.get("phase") for item in kept] == [None, "commentary", "final_answer", None]


def test_r20_an_image_is_read(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    Profile.objects.update(accepts_images=True)
    access.forget_all()
    agent_server.script(Answer("A pixel."))
    parts = [{"type": "input_text", "text": "What is it?"}, {"type": "input_image", "image_url": PIXEL}]

    completed(http.post(RESPONSES, json=ask() | {"input": [{"type": "message"} | user(parts)]}))


def test_r20_a_stream_holds_known_events_and_ends_with_the_whole_resource(
    http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    with_tools()
    agent_server.script(Step(command="ls", thought="I shall look at all of the files now."), Answer("Two."))

    found = events(http.post(RESPONSES, json=ask(stream=True)).text)

    assert {event["type"] for event in found} <= EVENT_TYPES
    resources = [Resource.model_validate(event["response"]) for event in found if "response" in event]
    assert [resource.status for resource in resources] == ["in_progress", "in_progress", "completed"]
    assert [ITEMS.validate_python(event["item"]).type for event in found if event["type"].endswith("item.done")] == [
        "message",
        "reasoning",
        "message",
    ]


@pytest.mark.parametrize("what", ["compact", "input_tokens"])
def test_r20_a_missing_model_is_a_wrong_request(http: httpx.Client, what: str) -> None:
    assert http.post(f"{RESPONSES}/{what}", json={"input": "Hi"}).status_code == 400
