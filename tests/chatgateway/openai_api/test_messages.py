from __future__ import annotations

from typing import Any

import pytest

from chatgateway.errors import InvalidRequest
from chatgateway.openai_api.messages import MAX_MESSAGES, MAX_TEXT_BYTES, parse_messages
from chatgateway.openai_api.transcript import GO_ON, EarlierMessage, ImagePart, TextPart, ToolCall, Transcript

PNG = "data:image/png;base64,iVBORw0KGgo="
USER = {"role": "user", "content": "Hello"}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}


def parsed(*messages: Any, **permissions: bool) -> Transcript:
    return parse_messages(list(messages), **({"accepts_images": True, "accepts_remote_images": True} | permissions))


def earlier(*messages: Any) -> tuple[EarlierMessage, ...]:
    """The messages as told to a new conversation; they end the history, so an assistant and a user follow."""
    transcript = parsed(*messages, {"role": "assistant", "content": "Done."}, USER)
    return transcript.earlier[:-1]


@pytest.mark.parametrize("role", ["system", "developer"])
@pytest.mark.parametrize("content", ["Be brief.", [{"type": "text", "text": "Be brief."}]])
def test_system_and_developer_messages_become_the_suffix(role: str, content: Any) -> None:
    assert parsed({"role": role, "content": content}, USER).system_suffix == "Be brief."


@pytest.mark.parametrize("spelling", ["text", "input_text", "output_text"])
def test_text_parts_are_joined_in_any_spelling(spelling: str) -> None:
    content: list[Any] = [{"type": spelling, "text": text, "prompt_cache_breakpoint": {}} for text in ("a", "", "b")]
    assert parsed({"role": "user", "content": content}).user_parts == (TextPart(text="a\nb"),)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}},
        {"type": "image_url", "image_url": PNG, "detail": "low"},
        {"type": "input_image", "image_url": PNG, "detail": "low"},
    ],
)
def test_images_stay_between_the_texts(part: dict[str, Any]) -> None:
    content = [{"type": "text", "text": "a"}, part, {"type": "text", "text": "b"}]
    assert parsed({"role": "user", "content": content}).user_parts == (
        TextPart(text="a"),
        ImagePart(url=PNG, detail="low"),
        TextPart(text="b"),
    )


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "Yes"}, "Yes"),
        ({"content": [{"type": "output_text", "text": "Yes"}]}, "Yes"),
        ({"content": None, "refusal": "No"}, "No"),
        ({"refusal": "No"}, "No"),
        ({"content": [{"type": "refusal", "refusal": "No"}]}, "No"),
        ({"content": "Well.", "refusal": "No"}, "Well.\nNo"),
    ],
)
def test_an_assistants_text_or_refusal_is_what_it_said(message: dict[str, Any], text: str) -> None:
    assert earlier({"role": "assistant"} | message) == (
        EarlierMessage(index=0, role="assistant", parts=(TextPart(text=text),)),
    )


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ({"content": None, "tool_calls": [CALL]}, ToolCall(call_id="c1", name="add", arguments='{"a":1}')),
        (
            {"tool_calls": [{"id": "c1", "type": "custom", "custom": {"name": "run", "input": "ls"}}]},
            ToolCall(call_id="c1", name="run", arguments="ls"),
        ),
        (
            {"content": None, "function_call": {"name": "add", "arguments": "{}"}},
            ToolCall(call_id="", name="add", arguments="{}"),
        ),
    ],
)
def test_tool_calls_of_the_history_are_kept(message: dict[str, Any], call: ToolCall) -> None:
    assert earlier({"role": "assistant"} | message)[0].tool_calls == (call,)


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ({"role": "tool", "tool_call_id": "c1", "content": "3"}, ("c1", "", (TextPart(text="3"),))),
        ({"role": "tool", "content": [{"type": "text", "text": "3"}]}, ("", "", (TextPart(text="3"),))),
        ({"role": "function", "name": "add", "content": None}, ("", "add", ())),
    ],
)
def test_tool_and_function_results_are_kept_even_when_empty(message: dict[str, Any], kept: tuple[Any, ...]) -> None:
    (result,) = earlier(message)
    assert (result.role, result.tool_call_id, result.tool_name, result.parts) == ("tool", *kept)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": ""},
        {"role": "user", "content": []},
        {"role": "user", "content": " \n"},
        {"role": "assistant", "content": None},
        {"role": "assistant"},
        {"role": "assistant", "tool_calls": []},
    ],
)
def test_blank_messages_are_left_out_of_the_history(message: dict[str, Any]) -> None:
    assert earlier(message) == ()


TYPE, VALUE, MISSING = "invalid_type", "invalid_value", "missing_required_parameter"
CONTENT = "unsupported_content"


@pytest.mark.parametrize(
    ("message", "param", "code"),
    [
        ("hi", "messages.0", TYPE),
        ({"content": "x"}, "messages.0.role", MISSING),
        ({"role": 1, "content": "x"}, "messages.0.role", TYPE),
        ({"role": "critic", "content": "x"}, "messages.0.role", VALUE),
        ({"role": "user", "content": "x", "name": 1}, "messages.0.name", TYPE),
        ({"role": "user"}, "messages.0.content", MISSING),
        ({"role": "system", "content": None}, "messages.0.content", MISSING),
        ({"role": "tool", "content": None}, "messages.0.content", MISSING),
        ({"role": "user", "content": 1}, "messages.0.content", TYPE),
        ({"role": "user", "content": {"type": "text"}}, "messages.0.content", TYPE),
        ({"role": "user", "content": ["x"]}, "messages.0.content.0", TYPE),
        ({"role": "user", "content": [{}]}, "messages.0.content.0.type", MISSING),
        ({"role": "user", "content": [{"type": 1}]}, "messages.0.content.0.type", TYPE),
        ({"role": "user", "content": [{"type": "video"}]}, "messages.0.content.0.type", VALUE),
        ({"role": "user", "content": [{"type": "refusal", "refusal": "x"}]}, "messages.0.content.0.type", VALUE),
        ({"role": "user", "content": [{"type": "text"}]}, "messages.0.content.0.text", MISSING),
        ({"role": "user", "content": [{"type": "text", "text": 1}]}, "messages.0.content.0.text", TYPE),
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, "messages.0.content.0", CONTENT),
        ({"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}, "messages.0.content.0", CONTENT),
        ({"role": "user", "content": [{"type": "input_file"}]}, "messages.0.content.0", CONTENT),
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages.0.content.0.image_url", MISSING),
        ({"role": "user", "content": [{"type": "image_url", "image_url": 1}]}, "messages.0.content.0.image_url", TYPE),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
            "messages.0.content.0.image_url.url",
            MISSING,
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PNG, "detail": "vast"}}]},
            "messages.0.content.0.image_url.detail",
            VALUE,
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PNG, "detail": []}}]},
            "messages.0.content.0.image_url.detail",
            VALUE,
        ),
        ({"role": "system", "content": [{"type": "image_url", "image_url": PNG}]}, "messages.0.content.0", CONTENT),
        ({"role": "tool", "content": [{"type": "image_url", "image_url": PNG}]}, "messages.0.content.0", CONTENT),
        ({"role": "assistant", "audio": {"id": "a"}}, "messages.0.audio", CONTENT),
        ({"role": "assistant", "refusal": 1}, "messages.0.refusal", TYPE),
        ({"role": "assistant", "tool_calls": {}}, "messages.0.tool_calls", TYPE),
        ({"role": "assistant", "tool_calls": ["f"]}, "messages.0.tool_calls.0", TYPE),
        ({"role": "assistant", "tool_calls": [{}]}, "messages.0.tool_calls.0.function", MISSING),
        ({"role": "assistant", "tool_calls": [{"function": 1}]}, "messages.0.tool_calls.0.function", TYPE),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, "messages.0.tool_calls.0.function.name", MISSING),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
            "messages.0.tool_calls.0.function.arguments",
            TYPE,
        ),
        ({"role": "assistant", "tool_calls": [{"id": 1, "custom": {}}]}, "messages.0.tool_calls.0.id", TYPE),
        ({"role": "assistant", "function_call": "f"}, "messages.0.function_call", TYPE),
        ({"role": "tool", "content": "x", "tool_call_id": 1}, "messages.0.tool_call_id", TYPE),
        ({"role": "tool", "content": "x", "tool_call_id": "i" * 513}, "messages.0.tool_call_id", VALUE),
    ],
)
def test_a_wrong_message_is_refused_by_its_path(message: Any, param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parsed(message, USER)
    assert (refusal.value.param, refusal.value.code) == (param, code)
    assert refusal.value.message.endswith(".")


def test_an_image_for_a_model_without_vision_is_refused_where_it_stands() -> None:
    content = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": PNG}}]
    assert len(parsed({"role": "user", "content": content}).user_parts) == 2
    with pytest.raises(InvalidRequest) as refusal:
        parsed({"role": "user", "content": content}, accepts_images=False)
    assert (refusal.value.param, refusal.value.code) == ("messages.0.content.1", "unsupported_content")


CALL = {"id": "c", "function": {"name": "f", "arguments": "{}"}}


def test_an_answer_at_the_end_is_to_be_gone_on_with() -> None:
    transcript = parsed(USER, {"role": "assistant", "content": "So"}, {"role": "system", "content": "x"})

    assert transcript.continues
    assert (transcript.continued_text, transcript.new, transcript.user_parts) == ("So", (), (TextPart(text=GO_ON),))
    assert [message.role for message in transcript.earlier] == ["user", "assistant"]
    assert not parsed(USER, {"role": "assistant", "content": " "}).continues


@pytest.mark.parametrize(
    ("messages", "param", "code"),
    [
        ([{"role": "assistant", "content": "So"}, {"role": "system", "content": "x"}], "messages", "invalid_value"),
        ([USER, {"role": "assistant", "tool_calls": [CALL]}], "messages", "unsupported_value"),
        ([{"role": "system", "content": "x"}], "messages", "invalid_value"),
        ([USER, {"role": "user", "content": ""}], "messages.1.content", "invalid_value"),
        ([USER, {"role": "user", "content": [{"type": "text", "text": " "}]}], "messages.1.content", "invalid_value"),
    ],
)
def test_a_request_must_end_in_something_to_answer(messages: list[Any], param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parsed(*messages)
    assert (refusal.value.param, refusal.value.code) == (param, code)


def test_two_thousand_messages_are_accepted_and_one_more_is_not() -> None:
    assert len(parsed(*[USER] * MAX_MESSAGES).messages) == MAX_MESSAGES
    with pytest.raises(InvalidRequest, match="2001 messages") as refusal:
        parsed(*[USER] * (MAX_MESSAGES + 1))
    assert refusal.value.param == "messages"


@pytest.mark.parametrize("letter", ["a", "ü"])
def test_text_is_limited_in_bytes_over_all_messages(letter: str) -> None:
    half = letter * (MAX_TEXT_BYTES // 2 // len(letter.encode()))
    assert parsed({"role": "user", "content": half}, {"role": "user", "content": half}).user_parts
    with pytest.raises(InvalidRequest, match="MiB of text") as refusal:
        parsed({"role": "system", "content": half}, {"role": "user", "content": half}, USER)
    assert refusal.value.param == "messages"


def test_arguments_of_tool_calls_count_as_text() -> None:
    call = {"function": {"name": "f", "arguments": "x" * (MAX_TEXT_BYTES + 1)}}
    with pytest.raises(InvalidRequest, match="MiB of text"):
        parsed({"role": "assistant", "tool_calls": [call]}, USER)
