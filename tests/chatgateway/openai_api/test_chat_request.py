from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import event, given

from chatgateway.errors import GatewayError, InvalidRequest
from chatgateway.openai_api.canonical import canonical_json
from chatgateway.openai_api.chat_request import ChatRequest, LlmOverrides, parse, parse_model
from chatgateway.openai_api.error_body import error_body
from tests.chatgateway.openai_api.strategies import bodies, examples, json_values

MINIMAL = {"model": "openhands_default", "messages": [{"role": "user", "content": "Hello"}]}
TOOL = {"type": "function", "function": {"name": "f"}}


def parsed(body: Any, **permissions: Any) -> ChatRequest:
    permitted: dict[str, Any] = {
        "client_tools": "reject",
        "accepts_images": True,
        "accepts_remote_images": True,
        "honours_overrides": True,
    }
    return parse(body, **(permitted | permissions))


def refusal_of(body: Any, **permissions: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refusal:
        parsed(body, **permissions)
    return refusal.value


def test_a_minimal_request_leaves_everything_else_at_its_default() -> None:
    request = parsed(MINIMAL)
    assert request.model == "openhands_default"
    assert request.overrides == LlmOverrides()
    assert (request.stream, request.include_usage, request.service_tier_sent) == (False,) * 3
    assert request.store
    assert (request.end_user, request.metadata, request.ignored, request.client_tools_sent) == (None, {}, (), False)
    assert request.raw == MINIMAL


def test_what_was_sent_arrives() -> None:
    request = parsed(
        MINIMAL
        | {
            "stream": True,
            "stream_options": {"include_usage": True, "include_obfuscation": True},
            "temperature": 0.1,
            "top_p": 1,
            "reasoning_effort": "low",
            "max_completion_tokens": 7,
            "metadata": {"conversation_id": "c"},
            "store": True,
            "service_tier": "auto",
        }
    )
    assert (request.stream, request.include_usage, request.store, request.service_tier_sent) == (True,) * 4
    assert request.overrides == LlmOverrides(max_output_tokens=7, temperature=0.1, top_p=1, reasoning_effort="low")
    assert request.metadata == {"conversation_id": "c"}
    assert request.ignored == ("service_tier", "stream_options.include_obfuscation")


def test_overrides_that_the_profile_forbids_are_ignored_but_still_checked() -> None:
    body = MINIMAL | {"temperature": 1, "top_p": 1, "reasoning_effort": "low", "max_tokens": 9}
    request = parsed(body, honours_overrides=False)
    assert request.overrides == LlmOverrides()
    assert request.ignored == ("max_tokens", "temperature", "top_p", "reasoning_effort")
    assert refusal_of(MINIMAL | {"temperature": 3}, honours_overrides=False).param == "temperature"


def test_the_newer_name_of_the_output_limit_wins() -> None:
    request = parsed(MINIMAL | {"max_tokens": 1, "max_completion_tokens": 2})
    assert (request.overrides.max_output_tokens, request.ignored) == (2, ("max_tokens",))
    assert parsed(MINIMAL | {"max_tokens": 1}).overrides.max_output_tokens == 1


def test_keys_of_other_products_are_ignored_and_named() -> None:
    request = parsed(MINIMAL | {"chat_id": "x", "drop_params": [1], "foo": None, "a b": 1})
    assert request.ignored == ("chat_id", "drop_params")
    assert len(parsed(MINIMAL | {f"p{n}": n for n in range(50)}).ignored) == 20


@pytest.mark.parametrize("body", [None, [], "x", 1, True])
def test_a_body_that_is_no_object_is_refused(body: Any) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse_model(body)
    assert (refusal.value.param, refusal.value.code) == (None, "invalid_type")


@pytest.mark.parametrize(
    ("model", "code"),
    [
        (None, "missing_required_parameter"),
        (1, "invalid_type"),
        ("\ud800", "invalid_value"),
        ("m" * 129, "invalid_value"),
    ],
)
def test_the_model_is_checked_before_anything_else(model: Any, code: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse_model({"model": model, "messages": "wrong as well"})
    assert (refusal.value.param, refusal.value.code) == ("model", code)


def test_both_steps_read_the_same_model() -> None:
    body = MINIMAL | {"model": "openhands_\0default"}
    assert parse_model(body) == parsed(body).model == "openhands_default"


def test_a_second_key_cannot_become_the_model_by_losing_its_nul() -> None:
    assert refusal_of(MINIMAL | {"mod\0el": "openhands_other"}).message == (
        "A key of the request body holds a NUL character."
    )


@pytest.mark.parametrize("stream", [None, False])
def test_stream_options_need_a_stream(stream: bool | None) -> None:
    refusal = refusal_of(MINIMAL | {"stream": stream, "stream_options": {"include_usage": True}})
    assert refusal.param == "stream_options"


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        ({"tools": [TOOL]}, "tools"),
        ({"tools": [TOOL], "tool_choice": "auto"}, "tools"),
        ({"tools": [TOOL], "tool_choice": "required"}, "tools"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"functions": [{"name": "f"}], "function_call": "auto"}, "functions"),
        ({"function_call": {"name": "f"}}, "function_call"),
    ],
)
def test_tools_of_the_client_are_refused_or_ignored_as_the_profile_says(sent: dict[str, Any], name: str) -> None:
    refusal = refusal_of(MINIMAL | sent)
    assert (refusal.param, refusal.code) == (name, "unsupported_parameter")
    request = parsed(MINIMAL | sent, client_tools="ignore")
    assert request.ignored == tuple(key for key, value in sent.items() if value)
    assert request.client_tools_sent == (name in ("tools", "functions"))


def named(*names: str) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": name, "parameters": {}}} for name in names]


def test_tools_that_open_webui_sends_of_itself_are_ignored_and_a_choice_of_one_is_not() -> None:
    tools = named("get_current_timestamp", "calculate_timestamp", "search_chats")

    request = parsed(MINIMAL | {"tools": tools})

    assert request.ignored == ("tools",)
    assert request.client_tools_sent
    with pytest.raises(InvalidRequest):
        parsed(MINIMAL | {"tools": tools, "tool_choice": "required"})
    with pytest.raises(InvalidRequest):
        parsed(MINIMAL | {"tools": named("get_current_timestamp", "search_chats")})


@pytest.mark.parametrize(
    "sent",
    [
        {"tools": [TOOL], "tool_choice": "none"},
        {"tools": []},
        {"tools": None, "tool_choice": "auto"},
        {"functions": [{"name": "f"}], "function_call": "none"},
    ],
)
def test_tools_that_must_not_be_called_are_fine(sent: dict[str, Any]) -> None:
    request = parsed(MINIMAL | sent)
    assert (request.ignored, request.client_tools_sent) == ((), False)


@pytest.mark.parametrize(
    ("sent", "end_user"),
    [
        ({}, None),
        ({"user": ""}, None),
        ({"user": "ada"}, "ada"),
        ({"user": "ada", "safety_identifier": "s-1"}, "s-1"),
        ({"user": {"name": "Ada", "id": 7}}, '{"id":7,"name":"Ada"}'),
    ],
)
def test_the_end_user_is_who_the_request_names(sent: dict[str, Any], end_user: str | None) -> None:
    assert parsed(MINIMAL | sent).end_user == end_user


def test_a_large_user_object_is_named_by_its_digest() -> None:
    user = {"name": "Ada", "settings": "x" * 300}
    same_user = dict(reversed(user.items()))
    names = {parsed(MINIMAL | {"user": sent}).end_user for sent in (user, same_user)}
    assert len(names) == 1
    assert str(names.pop()).startswith("sha256:")


@pytest.mark.parametrize(
    ("text", "param"),
    [
        (r'{"messages": [{"role": "user", "content": "\ud800"}]}', "messages.0.content"),
        (r'{"messages": [{"role": "user", "content": "x", "\udc00": 1}]}', "messages.0"),
        (r'{"somebody_elses": [{"text": "a\udfffb"}]}', "somebody_elses.0.text"),
        ('{"somebody_elses": Infinity}', "somebody_elses"),
        ('{"temperature": 1e999}', "temperature"),
        ('{"max_tokens": 99999999999999999999}', "max_tokens"),
    ],
)
def test_what_cannot_be_stored_is_refused_in_any_key(text: str, param: str) -> None:
    assert refusal_of(MINIMAL | json.loads(text)).param == param


def test_nul_characters_vanish_from_what_is_kept() -> None:
    request = parsed(MINIMAL | {"messages": [{"role": "user", "content": "a\0b"}], "user": "\0u"})
    assert request.raw["messages"] == list(request.transcript.messages) == [{"role": "user", "content": "ab"}]
    assert request.end_user == "u"


def outcome_of(body: Any) -> ChatRequest | GatewayError:
    try:
        return parsed(body)
    except GatewayError as refusal:
        return refusal


def can_be_sent(error: GatewayError) -> bool:
    return set(orjson.loads(orjson.dumps(error_body(error)))["error"]) == {"message", "type", "param", "code"}


def can_be_stored(request: ChatRequest) -> bool:
    return bool(request.transcript.user_parts) and b"\\u0000" not in canonical_json(
        orjson.loads(orjson.dumps(request.raw))
    )


@examples
@given(body=json_values | bodies())
def test_any_json_is_a_request_that_can_be_stored_or_an_error_that_can_be_sent(body: Any) -> None:
    outcome = outcome_of(body)
    event(type(outcome).__name__)
    assert can_be_sent(outcome) if isinstance(outcome, GatewayError) else can_be_stored(outcome)
