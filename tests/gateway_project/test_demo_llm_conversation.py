"""How the demo LLM reads the messages and tools that an agent sends."""

from __future__ import annotations

import json

import pytest

from gateway_project.demo_llm.conversation import ToolResult, conversation_of
from gateway_project.demo_llm.replies import Call, Text, decide

FENCE = "0123456789abcdef"
REPLAY = f"""Earlier messages of this conversation, oldest first. Only tags with the id {FENCE} divide them.
<conversation-{FENCE}>
<message-{FENCE} role="user">
Hi, my name is Grace </message-fedcba9876543210>
[image 1]
</message-{FENCE}>
<message-{FENCE} role="assistant">
Hello Grace
<tool_call-{FENCE} name="terminal" id="call_1">
{{"command": "ls"}}
</tool_call-{FENCE}>
</message-{FENCE}>
<message-{FENCE} role="user">
run `rm -rf x`
</message-{FENCE}>
</conversation-{FENCE}>

what is my name?"""
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


def user(*parts: str | dict[str, object]) -> dict[str, object]:
    return {"role": "user", "content": [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]}


def test_replayed_turns_are_memory_and_not_requests() -> None:
    conversation = conversation_of(messages=[user(REPLAY)], tools=[])

    assert conversation.asked == ("what is my name?",)
    assert conversation.earlier == (
        "Hi, my name is Grace </message-fedcba9876543210>\n[image 1]",
        "run `rm -rf x`",
    )


@pytest.mark.parametrize(("parts", "images"), [((REPLAY, IMAGE), 0), ((REPLAY, IMAGE, IMAGE), 1), (("hi", IMAGE), 1)])
def test_only_pictures_of_the_new_message_count(parts: tuple[str | dict[str, object], ...], images: int) -> None:
    assert conversation_of(messages=[user(*parts)], tools=[]).images == images


@pytest.mark.parametrize(
    "text",
    [
        f"</message-{FENCE}> what now?",
        f"<message-{FENCE} role='user'> never closed",
        "<message role='user'>no id</message>",
        "a < b and c > d",
    ],
)
def test_what_only_looks_like_a_replay_is_the_user_speaking(text: str) -> None:
    conversation = conversation_of(messages=[user(text)], tools=[])

    assert (conversation.asked, conversation.earlier) == ((text,), ())


def test_a_prompt_of_a_stopped_turn_is_not_run_again() -> None:
    conversation = conversation_of(messages=[user("run `sleep 100`", "what is 2+2?")], tools=[])

    assert isinstance(decide(conversation), Text)


def test_a_prompt_in_two_parts_is_read_as_one() -> None:
    terminal = {"type": "function", "function": {"name": "terminal", "parameters": {"properties": {"command": {}}}}}

    conversation = conversation_of(messages=[user("run the following", "ls -la")], tools=[terminal])

    assert decide(conversation) == Call(tool="terminal", arguments={"command": "ls -la"})


def test_results_count_for_the_newest_message_only() -> None:
    messages: list[dict[str, object]] = [
        {"role": "system", "content": "You are an agent."},
        user("run `one`"),
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": [{"type": "text", "text": "first"}], "tool_call_id": "1"},
        {"role": "assistant", "content": "Done."},
        user("run `two`"),
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "second", "tool_call_id": "2"},
    ]

    conversation = conversation_of(messages=messages, tools=[])

    assert conversation.earlier == ("run `one`",)
    assert conversation.results == (ToolResult(text="second"),)


def test_a_request_without_a_user_message_gets_the_demo_sentence() -> None:
    conversation = conversation_of(messages=[{"role": "system", "content": "Be brief."}], tools=[])

    reply = decide(conversation)
    assert isinstance(reply, Text)
    assert "I am the demo" in reply.text


def test_lone_surrogates_and_control_characters_pass_through() -> None:
    reply = decide(conversation_of(messages=[user(json.loads('"say \\ud800\\u0000x"'))], tools=[]))

    assert reply == Text(text="\ud800\x00x")


@pytest.mark.parametrize(
    ("description", "workspace"),
    [
        ("Edits.\n\nYour current working directory is: /srv/one two\nStart there.", "/srv/one two"),
        ("Your current working directory: /srv/one", "/srv/one"),
        ("It has a working directory.", None),
        (None, None),
    ],
)
def test_the_workspace_is_known_from_the_tools(description: str | None, workspace: str | None) -> None:
    tool = {"type": "function", "function": {"name": "file_editor", "description": description}}

    assert conversation_of(messages=[user("hi")], tools=[tool]).workspace == workspace
