from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from chatgateway.openai_api.chat_reply import ChatStream, CollectedReply
from chatgateway.openai_api.usage import usage_object
from chatgateway.turn_events import (
    AnswerShown,
    ReasoningShown,
    ShownEvent,
    StepShown,
    TokenCounts,
    TurnAnswered,
    TurnFailed,
)
from tests.chatgateway.openai_api.strategies import batches, examples

GOLDEN = Path(__file__).parent / "golden"
COUNTS = TokenCounts(input=12, output=7, cached=4, reasoning=2)
ANSWERED = TurnAnswered(text="Hello, world.", reasoning="", finish_reason="stop", usage=COUNTS)
FAILED = TurnFailed(status=502, type="server_error", code="agent_error", message="The agent stopped: “stuck”.")


def stream_of(*, include_usage: bool = False, service_tier_sent: bool = False) -> ChatStream:
    return ChatStream(
        reply_id="chatcmpl-1",
        created=1_700_000_000,
        model="openhands_default",
        include_usage=include_usage,
        service_tier_sent=service_tier_sent,
    )


def written(stream: ChatStream, *batches_of_events: list[ShownEvent]) -> bytes:
    return stream.opening() + b"".join(stream.events(batch) for batch in batches_of_events)


def payloads(sent: bytes) -> list[Any]:
    """The JSON of each data line; `[DONE]` as text."""
    lines = [line for line in sent.decode("utf-8").split("\n") if line.startswith("data: ")]
    return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


def chunks(sent: bytes) -> list[Any]:
    return [payload for payload in payloads(sent) if payload != "[DONE]" and "error" not in payload]


def joined(sent: bytes, key: str) -> str:
    deltas = [choice["delta"] for chunk in chunks(sent) for choice in chunk["choices"]]
    return "".join(delta.get(key, "") for delta in deltas)


def shown(*pieces: str) -> list[ShownEvent]:
    return [AnswerShown(text=piece) for piece in pieces]


# --- golden streams ---

STREAMS: dict[str, tuple[dict[str, bool], list[list[ShownEvent]]]] = {
    "plain": ({}, [shown("Hello"), shown(", ", "world"), shown("."), [ANSWERED]]),
    "usage-and-tier": (
        {"include_usage": True, "service_tier_sent": True},
        [shown("Hello, world."), [ANSWERED]],
    ),
    "steps": (
        {},
        [
            [ReasoningShown(text="I look"), ReasoningShown(text=" first.")],
            [StepShown(line="Running: ls"), StepShown(line="exit code 0")],
            [ReasoningShown(text="Now I know.\n"), StepShown(line="Running: “pwd”"), AnswerShown(text="It is\n")],
            [AnswerShown(text="done: 日本 \U0001f600"), ANSWERED],
        ],
    ),
    "unstreamed": ({}, [[ANSWERED]]),
    "cut": ({}, [[*shown("Hello"), TurnAnswered(text="Hello", reasoning="", finish_reason="length", usage=COUNTS)]]),
    "failed-before-the-first-word": ({}, [[FAILED]]),
    "failed-midway": ({"include_usage": True}, [shown("Hello"), [FAILED]]),
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_is_byte_for_byte_the_golden_one(name: str) -> None:
    options, events = STREAMS[name]
    assert written(stream_of(**options), *events) == (GOLDEN / f"{name}.sse").read_bytes()


@pytest.mark.parametrize("name", STREAMS)
def test_each_chunk_of_the_golden_streams_is_what_the_sdk_expects(name: str) -> None:
    sent = chunks((GOLDEN / f"{name}.sse").read_bytes())
    assert [
        ChatCompletionChunk.model_validate(chunk, strict=True).model_dump(exclude_unset=True) for chunk in sent
    ] == sent


def test_there_is_no_golden_stream_without_a_case() -> None:
    assert {path.stem for path in GOLDEN.glob("*.sse")} == set(STREAMS)


# --- the rules, one by one ---


def test_the_opening_is_a_comment_and_the_role() -> None:
    opening = stream_of().opening()
    assert opening.startswith(b": ping\n\ndata: ")
    assert chunks(opening)[0]["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
    ]


def test_usage_comes_once_and_last_and_only_if_it_was_asked_for() -> None:
    asked = chunks(written(stream_of(include_usage=True), shown("a"), [ANSWERED]))
    unasked = chunks(written(stream_of(), shown("a"), [ANSWERED]))
    assert [chunk["usage"] for chunk in asked] == [None, None, None, usage_object(COUNTS)]
    assert asked[-1]["choices"] == []
    assert not [chunk for chunk in unasked if "usage" in chunk]


@pytest.mark.parametrize("asked", [True, False])
def test_the_service_tier_is_answered_when_it_was_sent(asked: bool) -> None:
    tiers = {chunk.get("service_tier") for chunk in chunks(written(stream_of(service_tier_sent=asked), [ANSWERED]))}
    assert tiers == ({"default"} if asked else {None})


def test_pieces_that_arrived_together_are_one_chunk() -> None:
    assert len(chunks(stream_of().events(shown("a", "", "b")))) == 1


@pytest.mark.parametrize("batch", [[], shown(""), [ReasoningShown(text="")]])
def test_nothing_to_show_sends_nothing(batch: list[ShownEvent]) -> None:
    assert stream_of().events(batch) == b""


@pytest.mark.parametrize(
    ("first", "second", "reasoning"),
    [
        (ReasoningShown(text="Hm"), StepShown(line="ls"), "Hm\nls\n"),
        (ReasoningShown(text="Hm\n"), StepShown(line="ls"), "Hm\nls\n"),
        (StepShown(line="ls"), ReasoningShown(text="Hm"), "ls\nHm"),
        (StepShown(line="ls"), StepShown(line="pwd"), "ls\npwd\n"),
        (ReasoningShown(text="Hm"), ReasoningShown(text="m"), "Hmm"),
    ],
)
def test_a_step_stands_on_a_line_of_its_own(first: ShownEvent, second: ShownEvent, reasoning: str) -> None:
    assert joined(written(stream_of(), [first, second]), "reasoning_content") == reasoning
    assert joined(written(stream_of(), [first], [second]), "reasoning_content") == reasoning
    assert joined(written(stream_of(), [first], shown("x"), [second]), "reasoning_content") == reasoning


def test_an_answer_that_was_not_streamed_is_sent_whole_at_the_end() -> None:
    sent = written(stream_of(), [StepShown(line="ls")], shown(""), [ANSWERED])
    assert joined(sent, "content") == "Hello, world."


def test_a_model_id_is_never_taken_for_a_template() -> None:
    stream = ChatStream(
        reply_id="chatcmpl-%s", created=1, model='openhands_%s{}"', include_usage=True, service_tier_sent=False
    )
    sent = chunks(written(stream, shown("a"), [ANSWERED]))
    assert {(chunk["id"], chunk["model"]) for chunk in sent} == {("chatcmpl-%s", 'openhands_%s{}"')}


@pytest.mark.parametrize("ending", [ANSWERED, FAILED])
def test_nothing_comes_after_the_end(ending: ShownEvent) -> None:
    stream = stream_of()
    assert stream.ping() == b": ping\n\n"
    assert stream.events([*shown("a"), ending, *shown("b")]).endswith(b"data: [DONE]\n\n")
    assert stream.has_ended
    assert (stream.events([*shown("c"), ANSWERED]), stream.ping()) == (b"", b"")


def test_a_failure_is_an_error_without_choices_and_then_done() -> None:
    error, done = payloads(stream_of().events([FAILED]))
    assert error == {
        "error": {
            "message": "The agent stopped: “stuck”.",
            "type": "server_error",
            "param": None,
            "code": "agent_error",
        }
    }
    assert done == "[DONE]"


@examples
@given(
    progress=batches(),
    options=st.fixed_dictionaries({"include_usage": st.booleans(), "service_tier_sent": st.booleans()}),
)
def test_any_stream_keeps_the_rules(progress: list[list[ShownEvent]], options: dict[str, bool]) -> None:
    sent = written(stream_of(**options), *progress, [ANSWERED])
    lines = sent.decode("utf-8").split("\n")
    assert {line.split(":")[0] for line in lines} <= {"", "data"}
    assert payloads(sent)[-1] == "[DONE]"
    finished = [choice["finish_reason"] for chunk in chunks(sent) for choice in chunk["choices"]]
    assert finished == [None] * (len(finished) - 1) + ["stop"]
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks(sent)}) == 1
    keys = {key for chunk in chunks(sent) for choice in chunk["choices"] for key in choice["delta"]}
    assert keys <= {"role", "content", "reasoning_content"}


@examples
@given(pieces=st.lists(st.text(max_size=8)), cut=st.integers(0, 10))
def test_the_streamed_content_is_the_text_however_it_was_cut(pieces: list[str], cut: int) -> None:
    text = "".join(pieces)
    ending = TurnAnswered(text=text or "Done.", reasoning="", finish_reason="stop", usage=COUNTS)
    sent = written(stream_of(), shown(*pieces[:cut]), [*shown(*pieces[cut:]), ending])
    assert joined(sent, "content") == (text or "Done.")


# --- collected ---


def reply_of(*, service_tier_sent: bool = False) -> CollectedReply:
    return CollectedReply(
        reply_id="chatcmpl-1",
        created=1_700_000_000,
        model="openhands_default",
        service_tier_sent=service_tier_sent,
    )


def collected(*, reasoning: str = "", service_tier_sent: bool = False) -> dict[str, Any]:
    answered = TurnAnswered(text="Hello.", reasoning=reasoning, finish_reason="stop", usage=COUNTS)
    return reply_of(service_tier_sent=service_tier_sent).answered(answered)


@pytest.mark.parametrize("service_tier_sent", [True, False])
@pytest.mark.parametrize("reasoning", ["", "Running: ls\n"])
def test_a_completion_is_what_the_sdk_expects(reasoning: str, service_tier_sent: bool) -> None:
    reply = collected(reasoning=reasoning, service_tier_sent=service_tier_sent)
    read = ChatCompletion.model_validate(reply, strict=True)
    assert read.model_dump(exclude_unset=True) == reply
    assert read.choices[0].message.content == "Hello."


def test_what_was_not_shown_or_sent_has_no_key() -> None:
    reply = collected()
    assert "service_tier" not in reply
    assert set(reply["choices"][0]["message"]) == {"role", "content", "refusal", "annotations"}
    assert collected(reasoning="ls\n")["choices"][0]["message"]["reasoning_content"] == "ls\n"
    assert collected(service_tier_sent=True)["service_tier"] == "default"


def test_a_failure_after_the_status_is_spent_has_no_choices_and_the_error_beside_them() -> None:
    reply = reply_of().failed(FAILED)
    assert reply["choices"] == []
    assert set(reply["error"]) == {"message", "type", "param", "code"}
    assert (reply["object"], reply["id"], reply["error"]["code"]) == ("chat.completion", "chatcmpl-1", "agent_error")
