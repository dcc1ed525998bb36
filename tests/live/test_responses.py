"""Responses of a real agent on a real agent-server, through the stock client at its strictest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import InternalServerError, NotFoundError, OpenAI
from pydantic import BaseModel

from chatgateway.endings import STOPPED_EARLY
from chatgateway.models import Turn
from profiles import access
from profiles.models import Profile
from tests.gateway_process import LiveGateway
from tests.live.scripted_llm import Answer, ScriptedLlm, Usage, terminal
from tests.waiting import eventually

pytestmark = pytest.mark.live

CONVERSATION = "X-OpenHands-ServerConversation-ID"


@pytest.fixture
def strict(real: LiveGateway) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{real.url}/v1", api_key=real.key, max_retries=0, timeout=60, _strict_response_validation=True
    ) as stock:
        yield stock


def ask(text: Any, /, **more: Any) -> dict[str, Any]:
    return {"model": "openhands_chat", "input": text} | more


def ended(client: OpenAI, response_id: str) -> Any:
    def look() -> Any:
        found = client.responses.retrieve(response_id)
        return found if found.status not in ("queued", "in_progress") else None

    return eventually(look, timeout_seconds=60)


def roles(llm: ScriptedLlm) -> list[str]:
    """Whose messages the LLM was sent last."""
    return [message["role"] for message in llm.requests[-1].messages]


# --- collected and streamed -----------------------------------------------------------------------------------------


def test_steps_and_the_models_reasoning_are_shown_beside_the_answer(strict: OpenAI, llm: ScriptedLlm) -> None:
    usage = Usage(prompt=1_000, completion=100, cached=400, reasoning=30)
    llm.script(
        "worked",
        Answer(reasoning=("Where ", "am I?"), text="Let me look.", tool_calls=(terminal("pwd"),), usage=usage),
        Answer(text="I looked.", usage=usage),
    )

    made = strict.responses.create(**ask("where are you? #script:worked", model="openhands_agent"))

    assert (made.status, made.output_text) == ("completed", "I looked.")
    assert [item.type for item in made.output] == ["reasoning", "message"]
    assert [part.text for part in made.output[0].summary] == ["Where am I?Let me look.", "Running: pwd"]
    assert made.usage.model_dump() == {
        "input_tokens": 2_000,
        "input_tokens_details": {"cached_tokens": 800, "cache_write_tokens": 0},
        "output_tokens": 200,
        "output_tokens_details": {"reasoning_tokens": 60},
        "total_tokens": 2_200,
    }
    assert strict.responses.retrieve(made.id) == made


def test_words_arrive_as_the_model_writes_them_and_the_stream_can_be_read_again(
    strict: OpenAI, llm: ScriptedLlm
) -> None:
    llm.script("held", Answer(chunks=("One. ", "Two."), hold_after=1))

    with strict.responses.stream(**ask("#script:held")) as stream:
        seen = []
        for event in stream:
            seen.append(event)
            if event.type == "response.output_text.delta" and event.delta == "One. ":
                llm.wait_for(lambda one: one.script == "held" and one.pieces_sent == 1).release()
        final = stream.get_final_response()

    again = list(strict.responses.retrieve(final.id, stream=True, starting_after=2))
    assert final.output_text == "One. Two."
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert [event.sequence_number for event in again] == list(range(3, len(seen)))
    assert again[-1].response == strict.responses.retrieve(final.id)


class City(BaseModel):
    name: str
    people: int


def test_a_form_is_asked_for_checked_and_parsed(strict: OpenAI, llm: ScriptedLlm) -> None:
    llm.script("form", Answer(text="Paris, I think."))
    llm.enqueue(Answer(text='{"name": "Paris", "people": 2100000}'))

    parsed = strict.responses.parse(model="openhands_chat", input="Which? #script:form", text_format=City)

    assert parsed.output_parsed == City(name="Paris", people=2_100_000)
    assert Turn.objects.count() == 1


def test_what_is_said_of_the_model_reaches_it(strict: OpenAI, llm: ScriptedLlm) -> None:
    Profile.objects.update(allows_overrides=True)
    access.forget_all()

    strict.responses.create(**ask("#script:plain", reasoning={"effort": "low"}, max_output_tokens=77, top_p=0.5))

    sent = llm.requests[-1].body
    assert (sent["reasoning_effort"], sent["max_completion_tokens"]) == ("low", 77)


PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)


def test_an_image_reaches_the_model(strict: OpenAI, llm: ScriptedLlm) -> None:
    Profile.objects.update(accepts_images=True)
    access.forget_all()
    parts = [{"type": "input_text", "text": "#script:plain"}, {"type": "input_image", "image_url": PIXEL}]

    strict.responses.create(**ask([{"role": "user", "content": parts}]))

    assert PIXEL in json.dumps(llm.requests[-1].messages)


# --- chains ---------------------------------------------------------------------------------------------------------


def test_a_chain_goes_on_with_one_agent_and_forks_where_an_older_response_is_named(
    strict: OpenAI, llm: ScriptedLlm
) -> None:
    first = strict.responses.create(**ask("one #script:plain"))
    second = strict.responses.create(**ask("two #script:plain", previous_response_id=first.id))
    after_second = roles(llm)
    strict.responses.create(**ask("three #script:plain", previous_response_id=second.id))
    after_third = roles(llm)

    strict.responses.create(**ask("instead #script:plain", previous_response_id=first.id))

    heard = str(llm.requests[-1].messages)
    assert after_second == ["system", "user", "assistant", "user"]
    assert after_third == [*after_second, "assistant", "user"]
    assert roles(llm) == after_second
    assert [text in heard for text in ("one #", "two #", "instead #")] == [True, False, True]


def test_instructions_are_for_one_response(strict: OpenAI, llm: ScriptedLlm) -> None:
    first = strict.responses.create(**ask("one #script:plain", instructions="Speak like a pirate."))
    with_them = llm.requests[-1]

    strict.responses.create(**ask("two #script:plain", previous_response_id=first.id))

    assert with_them.system_text.count("Speak like a pirate.") == 1
    assert "pirate" not in str(llm.requests[-1].messages)
    assert "one #script" in str(llm.requests[-1].messages)


def test_chats_and_responses_take_turns_with_one_agent(strict: OpenAI, llm: ScriptedLlm) -> None:
    made = strict.conversations.create(items=[{"type": "message", "role": "user", "content": "My name is Bob."}])
    first = strict.responses.with_raw_response.create(**ask("one #script:plain", conversation=made.id))
    named = {CONVERSATION: first.headers[CONVERSATION]}
    strict.chat.completions.create(
        model="openhands_chat", messages=[{"role": "user", "content": "two #script:plain"}], extra_headers=named
    )

    third = strict.responses.create(**ask("three #script:plain", conversation=made.id))

    heard = [str(message["content"]) for message in llm.requests[-1].messages]
    listed = [item.content[0].text for item in strict.conversations.items.list(made.id, order="asc")]
    assert third.conversation.id == made.id
    assert [sum(text in one for one in heard) for text in ("My name is Bob.", "one #", "two #", "three #")] == [1] * 4
    assert listed == [
        "My name is Bob.",
        *("one #script:plain", "This is a plain answer."),
        *("two #script:plain", "This is a plain answer."),
        *("three #script:plain", "This is a plain answer."),
    ]


def test_a_response_that_failed_does_not_reach_the_model_again(strict: OpenAI, llm: ScriptedLlm) -> None:
    first = strict.responses.create(**ask("good one #script:plain"))
    events = list(strict.responses.create(**ask("bad one #script:401", previous_response_id=first.id, stream=True)))
    failed = events[-1].response

    strict.responses.create(**ask("last one #script:plain", previous_response_id=first.id))

    heard = str(llm.requests[-1].messages)
    assert (events[-1].type, failed.error.code) == ("response.failed", "server_error")
    assert ["good one" in heard, "bad one" in heard] == [True, False]


# --- how they end ---------------------------------------------------------------------------------------------------


def test_a_provider_that_fails_is_told_in_each_form(strict: OpenAI) -> None:
    with pytest.raises(InternalServerError) as raised:
        strict.responses.create(**ask("#script:401"))
    failed = ended(strict, strict.responses.create(**ask("again #script:401", background=True)).id)

    assert (raised.value.status_code, raised.value.code) == (502, "upstream_error")
    assert (failed.status, failed.error.code, failed.usage) == ("failed", "server_error", None)
    assert "litellm" not in failed.error.message


def test_an_answer_that_is_cut_is_incomplete(strict: OpenAI, llm: ScriptedLlm) -> None:
    Profile.objects.update(allows_overrides=True)
    access.forget_all()
    llm.script("cut", Answer(text="It begins with", finish_reason="length", usage=Usage(completion=16)))

    made = strict.responses.create(**ask("#script:cut", max_output_tokens=16))

    assert (made.status, made.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (made.output_text, made.output[-1].status) == ("It begins with", "incomplete")


def test_one_tool_call_too_many_is_interrupted_and_the_response_incomplete(strict: OpenAI, llm: ScriptedLlm) -> None:
    steps = [Answer(tool_calls=(terminal(command),)) for command in ("echo 1", "echo 2", "sleep 60")]
    llm.script("busy", *steps, Answer(text="Done."))

    made = strict.responses.create(**ask("#script:busy", model="openhands_agent", max_tool_calls=2))

    shown = [part.text for item in made.output if item.type == "reasoning" for part in item.summary]
    assert (made.status, made.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert shown[:3] == ["Running: echo 1", "Running: echo 2", "Running: sleep 60"]
    assert made.output_text == STOPPED_EARLY
    assert [one.outcome for one in llm.requests if one.script == "busy"] == ["served"] * 3


def test_one_in_the_background_is_cancelled_and_its_model_stops(strict: OpenAI, llm: ScriptedLlm) -> None:
    made = strict.responses.create(**ask("#script:slow", background=True))
    llm.wait_for(lambda one: one.script == "slow" and one.pieces_sent > 0)

    stopped = strict.responses.cancel(made.id)

    llm.wait_for(lambda one: one.script == "slow" and one.outcome == "left", timeout_seconds=10)
    assert (made.status, stopped.status) == ("queued", "cancelled")
    assert strict.responses.cancel(made.id) == stopped == strict.responses.retrieve(made.id)


def test_one_in_the_background_is_finished_without_anybody(strict: OpenAI) -> None:
    made = strict.responses.create(**ask("#script:thought", model="openhands_agent", background=True))

    done = ended(strict, made.id)

    assert (done.status, done.output_text) == ("completed", "I looked.")
    assert [item.content[0].text for item in strict.responses.input_items.list(made.id)] == ["#script:thought"]


def test_what_was_not_to_be_stored_or_was_deleted_is_not_given_out(strict: OpenAI) -> None:
    unstored = strict.responses.create(**ask("#script:plain", store=False))
    deleted = strict.responses.create(**ask("#script:plain"))
    strict.responses.delete(deleted.id)

    for gone in (unstored, deleted):
        with pytest.raises(NotFoundError):
            strict.responses.retrieve(gone.id)
