"""What a word is, and what is meant by what somebody types."""

from __future__ import annotations

import pytest

from chatgateway.words import MAXIMUM_WORDS, Query, Term, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Über die Größe", ["uber", "die", "grosse"]),
        ("ΆΛΦΑ Ёлка ﬁn ½", ["αλφα", "елка", "fin", "1", "2"]),
        ("app/read_file.py:12", ["app", "read", "file", "py", "12"]),
        ("<b>it's</b> a-b", ["b", "it", "s", "b", "a", "b"]),
        ("東京で test", ["東", "京", "で", "test"]),
        ("が 한국어", ["が", "한국어"]),
        ("… ∑ 🙂", ["∑"][:0]),
        ("x" * 500, ["x" * 60]),
    ],
)
def test_a_text_is_divided_into_words_without_case_and_accents(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_of_a_long_text_the_beginning_counts() -> None:
    assert len(words_of("word " * 50_000)) == MAXIMUM_WORDS


@pytest.mark.parametrize(
    ("typed", "terms"),
    [
        ("two words", (Term(("two",)), Term(("words",)))),
        ('"two words"', (Term(("two", "words")),)),
        ("begin*", (Term(("begin",), is_open=True),)),
        ('"the begin"*', (Term(("the", "begin"), is_open=True),)),
        ('"never closed', (Term(("never", "closed")),)),
        ("read_file.py", (Term(("read", "file", "py")),)),
        ("a OR NOT (b", (Term(("a",)), Term(("or",)), Term(("not",)), Term(("b",)))),
        ("in*side", (Term(("in", "side")),)),
        ('* "" \' & | ! <-> :*', ()),
        ("", ()),
    ],
)
def test_what_is_typed_means_something_or_nothing_and_is_never_wrong(typed: str, terms: tuple[Term, ...]) -> None:
    assert Query.parse(typed).terms == terms


def test_endless_queries_are_cut() -> None:
    assert sum(len(term.words) for term in Query.parse("a b " * 100_000).terms) == 32


@pytest.mark.parametrize(
    ("typed", "text", "places"),
    [
        ("grosse", "Die Größe, GROSSE", ["Größe", "GROSSE"]),
        ("file", "profile file_1 FILE", ["file", "FILE"]),
        ("fil*", "profile files", ["fil"]),
        ('"read file"', "a read_file and read, file", ["read_file", "read, file"]),
        ("京で", "東京では", ["京で"]),
        ("none", "of it", []),
        ("", "of it", []),
    ],
)
def test_places_are_found_in_the_text_as_it_was_written(typed: str, text: str, places: list[str]) -> None:
    assert [text[begin:end] for begin, end in Query.parse(typed).found_in(text)] == places
