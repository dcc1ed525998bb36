from __future__ import annotations

import json
from typing import Any

import pytest

from chatgateway.errors import InvalidRequest
from chatgateway.openai_api.plain_json import MAX_DEPTH, MAX_VALUES, cleaned, kind_of


def nested(depth: int, innermost: Any = 1) -> dict[str, Any]:
    """An object that is `depth` containers deep, itself included."""
    value: Any = innermost
    for _ in range(depth - 1):
        value = [value]
    return {"a": value}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"a": None, "b": [1, 2.5, True, "x", {"c": []}]},
        {"text": "emoji \U0001f600, umlaut ü, U+2028 \u2028"},
        {"text": r"the six characters \u0000 are not a NUL"},
        {"n": 2**64 - 1, "m": -(2**63)},
        nested(MAX_DEPTH),
        nested(MAX_DEPTH, None),
        {"a": [[1] for _ in range(100)]},
        {"a": [0] * (MAX_VALUES - 1)},
        {"a": ", [{" * MAX_VALUES},
    ],
)
def test_ordinary_json_stays_as_it_is(body: dict[str, Any]) -> None:
    assert cleaned(body) == body


def test_nul_characters_are_taken_out_of_texts_and_the_callers_body_is_left_alone() -> None:
    body = {"a": ["x\0y", {"b": "\0"}], "c": "ü\0", "d": None}
    assert cleaned(body) == {"a": ["xy", {"b": ""}], "c": "ü", "d": None}
    assert body["c"] == "ü\0"


@pytest.mark.parametrize(
    ("text", "param"),
    [
        (r'{"a": {"b": ["x", "\ud800"]}}', "a.b.1"),
        (r'{"a": {"\udfff": 1}}', "a"),
        (r'{"\ud800": 1}', None),
        (r'{"a": {"b\u0000": 1}}', "a"),
        ('{"a": [1e999]}', "a.0"),
        ('{"a": -1e999}', "a"),
        ('{"a": [NaN]}', "a.0"),
        ('{"a": 18446744073709551616}', "a"),
        ('{"a": [-9223372036854775809]}', "a.0"),
    ],
)
def test_what_cannot_be_stored_is_refused_where_it_stands(text: str, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        cleaned(json.loads(text))
    assert (refusal.value.param, refusal.value.code) == (param, "invalid_value")


@pytest.mark.parametrize("innermost", [1, None, []])
@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 255, 100_000])
def test_deep_nesting_is_refused(depth: int, innermost: Any) -> None:
    with pytest.raises(InvalidRequest, match="levels deep") as refusal:
        cleaned(nested(depth, innermost))
    assert refusal.value.param is not None
    assert len(refusal.value.param) <= 200


@pytest.mark.parametrize("item", [0, None, {}, [1]])
def test_a_body_of_too_many_values_is_refused(item: Any) -> None:
    with pytest.raises(InvalidRequest, match="more than 100000 values"):
        cleaned({"a": [item] * MAX_VALUES})


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "null"), (True, "a boolean"), (1, "a number"), (0.5, "a number"),
        ("x", "a string"), ({}, "an object"), ([], "an array"),
    ],
)  # fmt: skip
def test_kinds_are_named_as_json_names_them(value: Any, kind: str) -> None:
    assert kind_of(value) == kind
