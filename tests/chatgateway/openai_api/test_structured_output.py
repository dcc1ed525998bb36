from __future__ import annotations

import json
import time
from typing import Any

import pytest

from chatgateway.errors import InvalidRequest
from chatgateway.openai_api import json_schemas
from chatgateway.openai_api.answer_form import form_in
from chatgateway.openai_api.structured_output import (
    NotAsAsked,
    OutputFormat,
    instruction,
    json_in,
    response_format,
    text_format,
)

PERSON = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
SCHEMA = "response_format.json_schema.schema"


def schema_format(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "person", "schema": schema} | more}


def output_of(schema: dict[str, Any]) -> OutputFormat:
    output = response_format(schema_format(schema))
    assert output is not None
    return output


@pytest.mark.parametrize(
    ("value", "param", "code"),
    [
        ("json", "response_format", "invalid_type"),
        ({}, "response_format.type", "missing_required_parameter"),
        ({"type": "xml"}, "response_format.type", "invalid_value"),
        ({"type": "json_schema"}, "response_format.json_schema", "missing_required_parameter"),
        ({"type": "json_schema", "json_schema": []}, "response_format.json_schema", "invalid_type"),
        ({"type": "json_schema", "json_schema": {}}, "response_format.json_schema.name", "missing_required_parameter"),
        (schema_format(PERSON, name="a b"), "response_format.json_schema.name", "invalid_value"),
        (schema_format(PERSON, strict="yes"), "response_format.json_schema.strict", "invalid_type"),
        (schema_format(PERSON, description="d" * 1025), "response_format.json_schema.description", "invalid_value"),
        (schema_format(True), SCHEMA, "invalid_type"),
        (schema_format({"type": "objekt"}), SCHEMA, "invalid_value"),
        (schema_format({"$ref": "https://example.com/schema.json"}), SCHEMA, "invalid_value"),
        (schema_format({"$ref": "#/$defs/nobody"}), SCHEMA, "invalid_value"),
        (schema_format({"$ref": "#"}), SCHEMA, "invalid_value"),
        (schema_format({"patternProperties": {"a": {}}}), SCHEMA, "invalid_value"),
        (schema_format({"properties": {"a": {"$id": "https://example.com/"}}}), SCHEMA, "invalid_value"),
        (schema_format({"pattern": "("}), SCHEMA, "invalid_value"),
        (schema_format({"pattern": "a" * 1001}), SCHEMA, "invalid_value"),
        (schema_format({"enum": ["x" * 1024] * 129}), SCHEMA, "invalid_value"),
    ],
)
def test_a_format_that_cannot_be_used_is_refused_by_its_path(value: Any, param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        response_format(value)

    assert (refused.value.param, refused.value.code) == (param, code)


def test_both_endpoints_say_the_same_format() -> None:
    chat = form_in({"response_format": schema_format(PERSON, strict=True)})
    responses = form_in({"text": {"format": {"type": "json_schema", "name": "person", "schema": PERSON}}})

    assert chat == responses
    assert chat.output == OutputFormat(schema=PERSON, name="person")
    with pytest.raises(InvalidRequest) as refused:
        text_format({"type": "json_schema", "name": "p", "schema": {"$ref": "x"}})
    assert refused.value.param == "text.format.schema"


def test_the_agent_is_told_the_schema() -> None:
    told = instruction(OutputFormat(schema=PERSON, name="person", description="Who it is."))

    assert json.dumps(PERSON, separators=(",", ":")) in told
    assert "Who it is." in told


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "Ada"}',
        ' \n{"name": "Ada"}\n',
        '```json\n{"name": "Ada"}\n```',
        'Here it is:\n```\n{"name": "Ada"}```\nAnything else?',
    ],
)
def test_a_fence_and_the_words_around_it_are_taken_off(text: str) -> None:
    assert json_in(text, output_of(PERSON)) == '{"name": "Ada"}'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Ada", "it is not JSON"),
        ("", "it is not JSON"),
        ('{"name": NaN}', "it is not JSON"),
        ('```\n{"name": "Ada"}\n```\n```\n{"name": "Bob"}\n```', "it is not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"name": 7}', "at $.name: 7 is not of type 'string'"),
        ("[]", "at $: [] is not of type 'object'"),
    ],
)
def test_the_problem_with_an_answer_is_named(text: str, problem: str) -> None:
    with pytest.raises(NotAsAsked, match=f".*{problem.replace('$', '[$]').replace('[]', r'\[\]')}"):
        json_in(text, output_of(PERSON))


def test_without_a_schema_it_is_any_object() -> None:
    assert json_in('{"a": 1}', OutputFormat()) == '{"a": 1}'
    with pytest.raises(NotAsAsked, match="an array, not an object"):
        json_in("[1]", OutputFormat())


def test_recursion_within_the_schema_is_followed() -> None:
    tree = {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}}

    assert json_in('{"children": [{"children": []}]}', output_of(tree))
    with pytest.raises(NotAsAsked, match="children"):
        json_in('{"children": [{"children": [7]}]}', output_of(tree))


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        pytest.param({"pattern": "^(a|a)*$"}, "a" * 60 + "!", id="a pattern that backtracks"),
        pytest.param(
            {
                "$ref": "#/$defs/d0",
                "$defs": {f"d{n}": {"items": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2}} for n in range(30)}
                | {"d30": {"type": "string"}},
            },
            json.loads("[" * 30 + '"x"' + "]" * 30),
            id="references that double at each level",
        ),
    ],
)
def test_a_check_ends_whatever_the_schema_says(
    schema: dict[str, Any], value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_schemas, "CHECK_SECONDS", 0.2)
    began = time.monotonic()

    problem = json_schemas.problem_with(value, schema)

    assert problem is not None
    assert "TookTooLong" in problem
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("items", "is_right"), [([1, True, "1"], True), ([1, 1.0], False), ([{"a": 1}, {"a": 1}], False)]
)
def test_equal_elements_are_found(items: list[Any], is_right: bool) -> None:
    assert (json_schemas.problem_with(items, {"uniqueItems": True}) is None) == is_right
