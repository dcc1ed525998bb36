import json
from decimal import Decimal
from pathlib import Path

import pytest

from profiles import native_llm
from profiles.exceptions import InvalidProfile
from profiles.models import Profile

# `LLM(model="openai/gpt-5", api_key="x").model_dump(mode="json")` of openhands-sdk 1.58.0.
SDK_DUMP = json.loads((Path(__file__).parent / "sdk_1_58_0_llm.json").read_text())


def parse(**fields):
    return native_llm.parse({"model": "openai/gpt-5"} | fields)


def refused(body):
    with pytest.raises(InvalidProfile) as error:
        native_llm.parse(body)
    return error.value.param


def test_what_the_sdk_dumps_is_accepted_whole():
    asked = native_llm.parse(SDK_DUMP)
    assert asked.warnings == ()
    assert asked.api_key is None
    assert asked.columns["llm_timeout_seconds"] == 300
    assert asked.columns["reasoning_effort"] == "high"


def test_every_field_of_the_sdk_is_known():
    null = dict.fromkeys(SDK_DUMP) | {"model": "openai/gpt-5"}
    assert native_llm.parse(null).columns == parse().columns


def test_a_model_alone_leaves_the_defaults():
    assert parse().columns == {
        "llm_model": "openai/gpt-5",
        "llm_base_url": "",
        "temperature": None,
        "top_p": None,
        "max_output_tokens": None,
        "reasoning_effort": "",
        "llm_timeout_seconds": 600,
        "llm_idle_timeout_seconds": 120,
        "llm_retries": 2,
        "accepts_images": None,
        "input_price": None,
        "output_price": None,
    }


@pytest.mark.parametrize(
    ("field", "value", "column", "stored"),
    [
        ("model", " openai/gpt-5 ", "llm_model", "openai/gpt-5"),
        ("base_url", "http://litellm:4000", "llm_base_url", "http://litellm:4000"),
        ("base_url", "", "llm_base_url", ""),
        ("temperature", 0, "temperature", 0.0),
        ("temperature", 1.5, "temperature", 1.5),
        ("top_p", 1, "top_p", 1.0),
        ("max_output_tokens", 4096, "max_output_tokens", 4096),
        ("max_output_tokens", 4096.0, "max_output_tokens", 4096),
        ("reasoning_effort", "xhigh", "reasoning_effort", "xhigh"),
        ("timeout", 30, "llm_timeout_seconds", 30),
        ("stream_idle_timeout", 300.0, "llm_idle_timeout_seconds", 300),
        ("num_retries", 0, "llm_retries", 0),
        ("disable_vision", True, "accepts_images", False),
        ("disable_vision", False, "accepts_images", True),
        ("input_cost_per_token", 3e-06, "input_price", Decimal("3.000000")),
        ("output_cost_per_token", 0.000015, "output_price", Decimal("15.000000")),
        ("input_cost_per_token", 0, "input_price", Decimal("0.000000")),
    ],
)
def test_fields_become_columns(field, value, column, stored):
    assert parse(**{field: value}).columns[column] == stored


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", 5),
        ("model", ["a"]),
        ("model", "x" * 201),
        ("model", "a\x00b"),
        ("model", "a\ud800b"),
        ("model", "a\nb"),
        ("base_url", "ftp://example.com"),
        ("base_url", "http://user:pass@example.com"),
        ("base_url", 7),
        ("temperature", 2.01),
        ("temperature", -1),
        ("temperature", "hot"),
        ("temperature", True),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_p", 1.1),
        ("max_output_tokens", 0),
        ("max_output_tokens", 2**31),
        ("max_output_tokens", 10**400),
        ("max_output_tokens", 1.5),
        ("max_output_tokens", True),
        ("reasoning_effort", "enormous"),
        ("reasoning_effort", ["high"]),
        ("timeout", 0),
        ("timeout", 86_401),
        ("num_retries", 11),
        ("num_retries", -1),
        ("disable_vision", "no"),
        ("input_cost_per_token", -1),
        ("input_cost_per_token", 1),
        ("api_key", 5),
        ("api_key", "a\nb"),
        ("api_key", "\ud800"),
        ("api_key", "x" * 10_001),
        ("seed", 7),
        ("top_k", 5),
        ("extra_headers", {"a": "b"}),
        ("litellm_extra_body", {"a": 1}),
        ("drop_params", False),
        ("drop_params", 1),
        ("caching_prompt", False),
        ("api_version", "2024-01-01"),
        ("aws_access_key_id", "AKIA"),
        ("fallback_strategy", {}),
        ("provider_connection_id", "abc"),
        ("auth_type", "subscription"),
        ("tools", []),
        ("mcp_config", {}),
        ("nonsense", None),
    ],
)
def test_what_cannot_be_stored_is_refused_by_name(field, value):
    assert refused({"model": "openai/gpt-5", field: value}) == f"llm.{field}"


@pytest.mark.parametrize("body", [None, [], "gpt", 5, True])
def test_an_llm_is_an_object(body):
    assert refused(body) == "llm"


@pytest.mark.parametrize("body", [{}, {"model": None}, {"model": ""}, {"api_key": "sk"}])
def test_an_llm_needs_a_model(body):
    assert refused(body) == "llm.model"


def test_an_unknown_name_is_quoted_short_and_printable():
    assert refused({"model": "m", "\x00\ud800" + "x" * 500: 1}) == "llm." + "x" * 58


@pytest.mark.parametrize(
    ("field", "value"),
    [("usage_id", "agent"), ("log_completions", True), ("retry_max_wait", 10), ("openrouter_app_name", "mine")],
)
def test_what_has_no_effect_is_accepted_with_a_warning(field, value):
    assert parse(**{field: value}).warnings == (f"'llm.{field}' has no effect here.",)


@pytest.mark.parametrize(("sent", "read"), [(None, None), (native_llm.SDK_MASK, None), ("", ""), (" sk-1 ", "sk-1")])
def test_a_key_is_sent_kept_or_taken_away(sent, read):
    assert parse(api_key=sent).api_key == read


def test_no_key_shows_in_a_repr_or_an_error():
    assert "sk-secret" not in repr(parse(api_key="sk-secret"))
    with pytest.raises(InvalidProfile) as error:
        parse(api_key="sk-secret\n")
    assert "sk-secret" not in str(error.value)


def test_a_profile_that_is_read_and_sent_again_stays_as_it_is():
    asked = parse(
        base_url="http://litellm:4000/v1",
        temperature=0.3,
        top_p=0.9,
        max_output_tokens=1000,
        reasoning_effort="low",
        timeout=100,
        stream_idle_timeout=20,
        num_retries=4,
        disable_vision=True,
        input_cost_per_token=0.000003,
        output_cost_per_token=0.0000154,
    )
    assert native_llm.parse(native_llm.to_json(Profile(**asked.columns))) == asked
