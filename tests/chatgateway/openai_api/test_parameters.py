"""Every parameter of OpenAI's reference, alone in an otherwise plain request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from openai.types.chat import completion_create_params

from chatgateway.errors import InvalidRequest
from chatgateway.openai_api.chat_request import PARAMETERS, ChatRequest, parse

Parse = Callable[..., ChatRequest]

MESSAGES = [{"role": "user", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}

# name: values that are accepted
ACCEPTED: dict[str, list[Any]] = {
    "model": ["openhands_default"],
    "messages": [MESSAGES],
    "stream": [True, False],
    "stream_options": [{}, {"include_usage": True}, {"include_usage": None}, {"include_obfuscation": False}],
    "n": [1],
    "max_completion_tokens": [1, 2**31 - 1],
    "max_tokens": [1, 2**31 - 1],
    "temperature": [0, 2, 0.5],
    "top_p": [0, 1, 0.5],
    "reasoning_effort": ["none", "minimal", "low", "medium", "high", "xhigh", "max"],
    "frequency_penalty": [-2, 0, 2.0],
    "presence_penalty": [-2, 0, 2.0],
    "stop": ["END", ["a", "b", "c", "d"], []],
    "seed": [0, -(2**63), 2**63 - 1],
    "logit_bias": [{"50256": -100}],
    "prediction": [{"type": "content", "content": "x"}],
    "prompt_cache_key": ["k"],
    "prompt_cache_retention": ["24h"],
    "prompt_cache_options": [{"ttl": "30m"}],
    "service_tier": ["auto", "flex"],
    "moderation": [{"model": "omni-moderation-latest"}],
    "verbosity": ["low", "medium", "high"],
    "logprobs": [False],
    "top_logprobs": [0],
    "response_format": [
        {"type": "text"},
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}, "strict": True}},
        {"type": "json_schema", "json_schema": {"name": "a"}},
    ],
    "tools": [[]],
    "tool_choice": ["none", "auto"],
    "parallel_tool_calls": [True, False],
    "functions": [[]],
    "function_call": ["none", "auto"],
    "user": ["u" * 256, {"id": "7", "name": "Ada"}],
    "safety_identifier": ["s" * 64],
    "metadata": [{}, {f"k{i}": "v" for i in range(16)}, {"k" * 64: "v" * 512}],
    "store": [True, False],
    "modalities": [["text"], []],
    "audio": [{"voice": "alloy", "format": "mp3"}],
    "web_search_options": [{}],
}

TYPE, VALUE, MISSING = "invalid_type", "invalid_value", "missing_required_parameter"
PARAMETER, UNSUPPORTED = "unsupported_parameter", "unsupported_value"

# name: (value, param and code of the error)
REFUSED: dict[str, list[tuple[Any, str, str]]] = {
    "model": [(None, "model", MISSING), (7, "model", TYPE), (["m"], "model", TYPE), ("m" * 129, "model", VALUE)],
    "messages": [
        (None, "messages", MISSING), ("hi", "messages", TYPE), ({}, "messages", TYPE), ([], "messages", VALUE),
    ],
    "stream": [("true", "stream", TYPE), (1, "stream", TYPE)],
    "stream_options": [
        (True, "stream_options", TYPE),
        ({"include_usage": 1}, "stream_options.include_usage", TYPE),
        ({"include_obfuscation": "no"}, "stream_options.include_obfuscation", TYPE),
    ],
    "n": [(2, "n", UNSUPPORTED), (0, "n", VALUE), (True, "n", TYPE), ("1", "n", TYPE), (1.0, "n", TYPE)],
    "max_completion_tokens": [
        (0, "max_completion_tokens", VALUE), (-1, "max_completion_tokens", VALUE),
        (2**31, "max_completion_tokens", VALUE), (True, "max_completion_tokens", TYPE),
        (1.5, "max_completion_tokens", TYPE), ("9", "max_completion_tokens", TYPE),
    ],
    "max_tokens": [(0, "max_tokens", VALUE), ([], "max_tokens", TYPE)],
    "temperature": [(3, "temperature", VALUE), (-0.1, "temperature", VALUE), (True, "temperature", TYPE), ("0", "temperature", TYPE)],
    "top_p": [(1.01, "top_p", VALUE), (-1, "top_p", VALUE), ({}, "top_p", TYPE)],
    "reasoning_effort": [("huge", "reasoning_effort", VALUE), (1, "reasoning_effort", TYPE)],
    "frequency_penalty": [(2.1, "frequency_penalty", VALUE), ("0", "frequency_penalty", TYPE)],
    "presence_penalty": [(-2.1, "presence_penalty", VALUE), (False, "presence_penalty", TYPE)],
    "stop": [(7, "stop", TYPE), (["a"] * 5, "stop", VALUE), (["a", 1], "stop.1", TYPE), ({}, "stop", TYPE), ("", "stop", VALUE), (["a", "b" * 501], "stop.1", VALUE)],
    "seed": [(0.5, "seed", TYPE), (2**63, "seed", VALUE)],
    "logit_bias": [([], "logit_bias", TYPE)],
    "prediction": [("x", "prediction", TYPE)],
    "prompt_cache_key": [(1, "prompt_cache_key", TYPE)],
    "prompt_cache_retention": [(24, "prompt_cache_retention", TYPE)],
    "prompt_cache_options": [("30m", "prompt_cache_options", TYPE)],
    "service_tier": [(1, "service_tier", TYPE)],
    "moderation": [("on", "moderation", TYPE)],
    "verbosity": [("loud", "verbosity", VALUE), (1, "verbosity", TYPE)],
    "logprobs": [(True, "logprobs", PARAMETER), (0, "logprobs", TYPE)],
    "top_logprobs": [(1, "top_logprobs", PARAMETER), (21, "top_logprobs", VALUE), (True, "top_logprobs", TYPE)],
    "response_format": [
        ({"type": "json_schema", "json_schema": {}}, "response_format.json_schema.name", MISSING),
        ({"type": "yaml"}, "response_format.type", VALUE),
        ({}, "response_format.type", MISSING),
        ("text", "response_format", TYPE),
    ],
    "tools": [([TOOL], "tools", PARAMETER), ({}, "tools", TYPE), (["f"], "tools.0", TYPE)],
    "tool_choice": [
        ("required", "tool_choice", PARAMETER),
        ({"type": "function", "function": {"name": "f"}}, "tool_choice", PARAMETER),
        ("maybe", "tool_choice", VALUE),
        (1, "tool_choice", TYPE),
    ],
    "parallel_tool_calls": [("yes", "parallel_tool_calls", TYPE)],
    "functions": [([{"name": "f"}], "functions", PARAMETER), ("f", "functions", TYPE)],
    "function_call": [({"name": "f"}, "function_call", PARAMETER), ("f", "function_call", VALUE), (1, "function_call", TYPE)],
    "user": [("u" * 257, "user", VALUE), (7, "user", TYPE), (["u"], "user", TYPE)],
    "safety_identifier": [("s" * 65, "safety_identifier", VALUE), ({}, "safety_identifier", TYPE)],
    "metadata": [
        ({f"k{i}": "v" for i in range(17)}, "metadata", VALUE), ({"k": "v" * 513}, "metadata", VALUE),
        ({"k" * 65: "v"}, "metadata", VALUE), ({"k": 1}, "metadata", TYPE), ({"k": None}, "metadata", TYPE),
        (["k"], "metadata", TYPE),
    ],
    "store": [("yes", "store", TYPE)],
    "modalities": [
        (["text", "audio"], "modalities", UNSUPPORTED), ("text", "modalities", TYPE), ([1], "modalities.0", TYPE),
    ],
    "audio": [("alloy", "audio", TYPE)],
    "web_search_options": [(True, "web_search_options", TYPE)],
}  # fmt: skip


def request_with(name: str, value: Any, *, honours_overrides: bool = True) -> ChatRequest:
    body: dict[str, Any] = {"model": "openhands_default", "messages": MESSAGES, name: value}
    if name == "stream_options":
        body["stream"] = True
    return parse(
        body,
        client_tools="reject",
        accepts_images=True,
        accepts_remote_images=False,
        honours_overrides=honours_overrides,
    )


NAMES = [parameter.name for parameter in PARAMETERS]
SENT_BY_THE_SDK = set(completion_create_params.CompletionCreateParamsBase.__annotations__) | {"stream"}


def test_the_table_has_a_row_for_each_parameter_of_the_sdk_and_no_other() -> None:
    assert set(NAMES) == SENT_BY_THE_SDK
    assert len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize("cases", [ACCEPTED, REFUSED])
def test_these_tests_have_cases_for_each_row(cases: dict[str, list[Any]]) -> None:
    assert [name for name in NAMES if cases.get(name)] == NAMES


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ACCEPTED.items() for value in values])
def test_a_good_value_is_accepted(name: str, value: Any) -> None:
    assert request_with(name, value).raw[name] == value


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("model", "messages")])
def test_null_is_the_same_as_absent(name: str) -> None:
    request = request_with(name, None)
    assert (request.stream, request.include_usage, request.store) == (name == "stream_options", False, True)
    assert (request.ignored, request.end_user, request.metadata) == ((), None, {})


@pytest.mark.parametrize(
    ("name", "value", "param", "code"),
    [(name, *case) for name, cases in REFUSED.items() for case in cases],
)
def test_a_bad_value_is_refused_by_name(name: str, value: Any, param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        request_with(name, value)
    assert (refusal.value.status, refusal.value.param, refusal.value.code) == (400, param, code)
    assert refusal.value.message.endswith(".")


@pytest.mark.parametrize("parameter", [p for p in PARAMETERS if p.treatment == "ignore"], ids=lambda p: p.name)
def test_a_parameter_without_effect_is_listed_when_it_is_sent(parameter: Any) -> None:
    assert request_with(parameter.name, ACCEPTED[parameter.name][0]).ignored == (parameter.name,)


@pytest.mark.parametrize("parameter", [p for p in PARAMETERS if p.is_override], ids=lambda p: p.name)
def test_an_override_is_honoured_or_listed_as_ignored(parameter: Any) -> None:
    value = ACCEPTED[parameter.name][0]
    honoured = request_with(parameter.name, value)
    ignored = request_with(parameter.name, value, honours_overrides=False)
    assert (honoured.ignored, ignored.ignored) == ((), (parameter.name,))


@pytest.mark.parametrize("parameter", PARAMETERS, ids=lambda p: p.name)
def test_each_row_explains_itself_in_a_sentence(parameter: Any) -> None:
    assert parameter.note.endswith(".")
    assert parameter.treatment in ("honour", "ignore", "refuse")
