from __future__ import annotations

import functools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatgateway.openai_api.canonical import canonical_json, digest, message_digest
from tests.chatgateway.openai_api.strategies import examples, json_values


@pytest.mark.parametrize(
    ("value", "canonical"),
    [
        (None, b"null"),
        (True, b"true"),
        (1, b"1"),
        (1.0, b"1"),
        (-0.0, b"0"),
        (0.1, b"0.1"),
        (1e300, b"1e+300"),
        (float("-inf"), b"-Infinity"),
        (float("nan"), b"NaN"),
        (2**70, b"1180591620717411303424"),
        ("ü\u2028", rb'"\u00fc\u2028"'),
        ("\ud800", rb'"\ud800"'),
        ([], b"[]"),
        ({}, b"{}"),
        ([[], {}, [1, [2]]], b"[[],{},[1,[2]]]"),
        ({"b": [1, {"d": None, "c": ","}], "a": {}}, b'{"a":{},"b":[1,{"c":",","d":null}]}'),
    ],
)
def test_a_value_has_one_spelling(value: Any, canonical: bytes) -> None:
    assert canonical_json(value) == canonical


def reordered(value: Any) -> Any:
    """The same value with the keys of every object the other way round."""
    if isinstance(value, dict):
        return {key: reordered(item) for key, item in reversed(value.items())}
    return [reordered(item) for item in value] if isinstance(value, list) else value


@examples
@given(value=json_values)
def test_the_order_of_keys_does_not_matter(value: Any) -> None:
    assert canonical_json(reordered(value)) == canonical_json(value)
    assert digest(canonical_json(reordered(value))) == digest(canonical_json(value))


@examples
@given(value=json_values)
def test_it_is_json_and_reading_it_back_changes_nothing(value: Any) -> None:
    canonical = canonical_json(value)
    assert canonical_json(json.loads(canonical)) == canonical


def test_one_and_true_are_not_the_same() -> None:
    assert len({canonical_json(value) for value in ([1], [True], ["1"], [[1]], [None])}) == 5


def test_nesting_has_no_limit() -> None:
    innermost: Any = 1
    value = functools.reduce(lambda inner, _: [inner], range(100_000), innermost)
    assert canonical_json(value) == b"[" * 100_000 + b"1" + b"]" * 100_000


@pytest.mark.parametrize("value", [b"bytes", {1: "x"}, [{1, 2}], object()])
def test_what_is_no_json_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        canonical_json(value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ab", "c"), ("a", "bc")),
        (("a",), ("a", "")),
        (("a", None), ("a", "")),
        ((None,), ()),
        (("1:a",), ("1", "a")),
    ],
)
def test_no_two_lists_of_parts_share_a_digest(one: tuple[str | None, ...], other: tuple[str | None, ...]) -> None:
    assert digest(*one) != digest(*other)


def test_text_and_its_utf8_are_the_same_part() -> None:
    assert digest("ü", None) == digest("ü".encode(), None)
    assert len(digest("\ud800")) == 32


HELLO = {"role": "user", "content": "Hello"}


def test_a_history_is_a_chain() -> None:
    first = message_digest(b"", HELLO)
    assert message_digest(first, HELLO) != first
    assert message_digest(first, HELLO) == message_digest(message_digest(b"", dict(reversed(HELLO.items()))), HELLO)


@examples
@given(changed=st.text().filter(lambda text: text != HELLO["content"]))
def test_a_changed_message_changes_everything_after_it(changed: str) -> None:
    other = message_digest(b"", HELLO | {"content": changed})
    assert message_digest(other, HELLO) != message_digest(message_digest(b"", HELLO), HELLO)
