from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatgateway.openai_api.sse import data, json_bytes, json_text
from tests.chatgateway.openai_api.strategies import examples, json_values


def test_an_event_is_one_data_line_and_a_blank_one() -> None:
    assert data(b"{}") == b"data: {}\n\n"


@examples
@given(text=st.text())
def test_text_is_one_line_of_utf8_json(text: str) -> None:
    written = json_text(text)
    assert json.loads(written.decode("utf-8")) == text
    assert b"\n" not in written
    assert b"\r" not in written


@pytest.mark.parametrize(
    ("text", "read"),
    [("a\ud800b", "a\ufffdb"), ("\udc00", "\ufffd"), ("\ud83d\ude00!", "\U0001f600!"), ("ü\ud800", "ü\ufffd")],
)
def test_half_characters_are_replaced_and_halves_that_meet_are_joined(text: str, read: str) -> None:
    assert json.loads(json_text(text).decode("utf-8")) == read


@examples
@given(value=json_values)
def test_any_value_is_one_line_of_ascii(value: object) -> None:
    written = json_bytes(value)
    assert written.isascii()
    assert b"\n" not in written
