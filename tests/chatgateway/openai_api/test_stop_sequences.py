from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatgateway.openai_api.stop_sequences import StopCut, cut


@pytest.mark.parametrize(
    ("text", "sequences", "left"),
    [
        ("one END two", ["END"], "one "),
        ("one END two", [], "one END two"),
        ("one EN", ["END"], "one EN"),
        ("END", ["END"], ""),
        ("abcd", ["abcd", "c"], "ab"),  # `c` is complete first
        ("xxabc", ["bc", "abc"], "xx"),
    ],
)
def test_a_text_ends_before_the_sequence_that_is_complete_first(text: str, sequences: list[str], left: str) -> None:
    assert cut(text, sequences) == left


def test_what_may_be_the_beginning_of_a_sequence_is_held_back() -> None:
    stop = StopCut(["\n\nHuman:"])

    assert [stop.feed("Hi.\n"), stop.feed("\nHu"), stop.feed("ge")] == ["Hi.", "", "\n\nHuge"]
    assert [stop.feed("\n\nHuman"), stop.rest()] == ["", "\n\nHuman"]


_TEXTS = st.text("ab-", max_size=12)


@given(st.lists(_TEXTS, max_size=6), st.lists(st.text("ab-", min_size=1, max_size=4), max_size=4))
def test_the_pieces_a_text_comes_in_do_not_matter(pieces: list[str], sequences: list[str]) -> None:
    stop = StopCut(sequences)

    shown = "".join([stop.feed(piece) for piece in pieces]) + stop.rest()

    assert shown == cut("".join(pieces), sequences)
