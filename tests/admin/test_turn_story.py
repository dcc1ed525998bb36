"""A turn's steps as its page tells them, from what real agent-servers sent and from what they never would."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatgateway.admin import turn_story
from chatgateway.admin.turn_story import Step
from chatgateway.agentserver.schemas import DurableEvent
from chatgateway.models import Event, Message
from tests.fakes.recordings import NAMES, frames_of

# What JSON columns can hold.
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
KINDS = ["ActionEvent", "ObservationEvent", "AgentErrorEvent", "UserRejectObservation", "MessageEvent",
         "ConversationErrorEvent", "SystemPromptEvent", "Condensation", "SomethingNew"]  # fmt: skip
FIELDS = ["action", "observation", "tool_call", "thought", "reasoning_content", "llm_message", "error", "id", "source",
          "action_id", "tool_call_id", "timestamp", "system_prompt", "detail", "rejection_reason"]  # fmt: skip


def row(seq: int, raw: dict[str, Any], **fields: Any) -> Event:
    event = DurableEvent(seq=seq, event=raw)
    written = {
        "kind": event.kind, "tool": event.tool, "summary": event.summary, "is_error": event.is_error,
        "source": str(raw.get("source", "")),
    }  # fmt: skip
    return Event(seq=seq, raw=raw, **(written | fields))


def recorded(name: str) -> list[Step]:
    durable = [frame for frame in frames_of(name) if frame["type"] == "durable"]
    return turn_story.steps(row(frame["seq"], frame["event"]) for frame in durable)


def texts(step: Step) -> dict[str, str]:
    return {section.label: section.text for section in step.sections}


def test_a_command_and_its_output_are_one_step() -> None:
    step = next(step for step in recorded("terminal-then-message") if step.kind == "tool")

    assert step.title == "Running: pwd; ls → exit code 0"
    assert texts(step)["Thought"] == "Running."
    assert texts(step)["Command"] == "pwd; ls"
    assert texts(step)["Output"].startswith("/srv/workspaces/")
    assert step.seconds == pytest.approx(0.388, abs=0.001)
    assert not step.is_error


def test_a_step_is_not_told_twice() -> None:
    call = {"kind": "ActionEvent", "id": "1", "tool_name": "file_editor", "action": {"command": "view", "path": "a.py"}}
    answer = {
        "kind": "ObservationEvent", "id": "2", "action_id": "1", "tool_name": "file_editor",
        "observation": {"command": "view", "path": "a.py", "content": [{"type": "text", "text": "x"}]},
    }  # fmt: skip

    (step,) = turn_story.steps([row(0, call), row(1, answer)])

    assert step.title == "Read a.py"


def test_a_terminals_control_sequences_are_not_shown() -> None:
    output = "\x1b[31mred\x1b[0m\tand \x1b]0;title\x07plain\r\nsecond line\x07"
    answer = {"kind": "ObservationEvent", "id": "2", "observation": {"content": [{"type": "text", "text": output}]}}

    (step,) = turn_story.steps([row(0, answer)])

    assert texts(step)["Output"] == "red\tand plain\nsecond line"


def test_the_answer_is_no_step() -> None:
    told = [text for step in recorded("terminal-then-message") for text in texts(step).values()]

    assert "The directory is empty." not in told


def test_calls_that_could_not_be_made_are_errors_with_their_reason() -> None:
    first, second = [step for step in recorded("bad-tool-calls") if step.kind == "tool"]

    assert (first.is_error, second.is_error) == (True, True)
    assert "Tool 'nosuch' not found" in texts(first)["Error"]
    assert "Expecting value" in texts(second)["Error"]


def test_a_failed_run_ends_with_what_failed() -> None:
    step = recorded("error-401")[-1]

    assert step.kind == "error"
    assert texts(step) == {
        "Code": "LLMAuthenticationError",
        "Detail": "Your LLM API key appears to be invalid or has expired.",
    }


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("ws-legacy")])
def test_every_recording_can_be_told(name: str) -> None:
    assert all(step.title for step in recorded(name))


@given(
    st.lists(st.tuples(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6)), max_size=6)
)
def test_events_of_any_shape_can_be_told(events: list[tuple[str, dict[str, Any]]]) -> None:
    rows = [Event(seq=number, kind=kind, raw={"kind": kind} | raw) for number, (kind, raw) in enumerate(events)]

    for step in turn_story.steps(rows):
        assert isinstance(step.title, str)
        assert all(isinstance(section.text, str) for section in step.sections)


def test_long_output_is_cut_and_says_where_the_rest_is() -> None:
    observation = {"content": [{"type": "text", "text": "x" * 50_000}]}

    (step,) = turn_story.steps([row(0, {"kind": "ObservationEvent", "observation": observation})])

    assert len(texts(step)["Output"]) < 21_000
    assert "30,000 more characters, in the raw events" in texts(step)["Output"]


@pytest.mark.parametrize(
    ("body", "text", "images"),
    [
        ({"content": "Hi"}, "Hi", []),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "a\nb", []),
        ({"content": [{"type": "image_url", "image_url": {"url": {"$image": "ab"}}}]}, "", ["image"]),
        (
            {"content": [{"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}]},
            "",
            ["image at https://x.example/a.png"],
        ),
        ({"content": None}, "", []),
        ({"content": [{"type": "text", "text": 5}, "loose", None]}, "", ["text"]),
        ([], "", []),
    ],
)
def test_a_question_is_told_whatever_its_parts(body: Any, text: str, images: list[str]) -> None:
    asked = turn_story.question(Message(role="user", depth=2, body=body))

    assert asked is not None
    assert (asked.text, asked.images, asked.earlier) == (text, images, 2)


@pytest.mark.parametrize(
    ("text", "short"),
    [("Hi", "Hi"), ("x" * 30, "xxxxxxxxxx…"), ("a\nb\nc\nd", "a\nb\nc…"), ("  Hi \n", "Hi"), ("", "")],
)
def test_an_excerpt_keeps_lines_and_says_that_it_is_one(text: str, short: str) -> None:
    assert turn_story.cut_short(text, 10, lines=3) == short
