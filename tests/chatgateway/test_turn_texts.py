"""The index of questions and answers: what is found in it, by both databases alike, and how it comes to be complete."""

from __future__ import annotations

import datetime as dt
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.utils import timezone
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from chatgateway import removal, sql, tasks, turn_texts
from chatgateway.models import Message, Turn, TurnText, Watermark
from chatgateway.models.texts import SQLITE_INDEX
from chatgateway.words import Query
from tests import factories
from tests.admin.test_turn_pages import turn_with

pytestmark = pytest.mark.django_db

AN_HOUR_AGO = dt.timedelta(hours=1)


def said(question: Any, answer: str = "", **fields: Any) -> Turn:
    """A turn that ended an hour ago, with its texts and without a place in the index."""
    message = Message(
        id=uuid4(), tenant=factories.tenant(), depth=0, role="user", body={"role": "user", "content": question}
    )
    sql.insert([message])
    at = timezone.now() - AN_HOUR_AGO
    return turn_with(**{"last_message": message, "answer": answer, "opened_at": at, "closed_at": at} | fields)


def indexed(question: Any, answer: str = "") -> Turn:
    turn = said(question, answer)
    turn_texts.write([turn])
    return turn


def found(typed: str) -> set[Any]:
    return set(TurnText.objects.filter(words__matches=Query.parse(typed)).values_list("turn", flat=True))


# --- what is found ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "is_found"),
    [
        ("invoice", True),
        ("INVOICE", True),
        ("invoice ready", True),
        ("invoice missing", False),
        ("invoi", False),
        ("invoi*", True),
        ('"march invoice"', True),
        ('"invoice march"', False),
        ('"the march inv"*', True),
        ("cafe", True),
        ("grosse", True),
        ("report_2024.csv", True),
        ("2024", True),
        ("csv report", True),
        ('"csv report"', False),
        ("京で", True),
        ("で京", False),
        ("pixel", False),
    ],
)
def test_words_phrases_and_beginnings_of_question_and_answer_are_found(typed: str, is_found: bool) -> None:
    parts = [
        {"type": "text", "text": "Make the March invoice of the Café, 東京で, Größe XL."},
        {"type": "image_url", "image_url": {"url": "https://pixel.example/cat.png"}},
    ]
    turn = indexed(parts, "Ready: see report_2024.csv.")
    indexed("Something else", "altogether.")

    assert found(typed) == ({turn.pk} if is_found else set())


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=60))
@example("' \" \\ : * ! & | ( ) <-> ^ - + {} NEAR(a b) words: a")
@example("ﷺ ⅷ ٣ \U0001d7d8 ๑ ก็ ʼn İ ᾳ 𒀀 ㍿")
def test_whatever_is_typed_is_searched_for_and_a_text_is_found_by_all_its_words(text: str) -> None:
    turn = indexed(text)

    words = Query.parse(text.replace('"', " "))

    assert (turn.pk in found(text.replace('"', " "))) is bool(words)
    found(text)


def test_a_turn_of_many_long_and_strange_words_is_indexed() -> None:
    turn = indexed("".join(chr(0x4E00 + number % 20_000) for number in range(60_000)), "y" * 5_000 + " z" * 60_000)

    assert found("z") == {turn.pk}


# --- what was recorded before -----------------------------------------------------------------------------------------


def test_turns_without_a_place_in_the_index_get_one_and_only_one() -> None:
    turns = [said(f"number{number} of some") for number in range(3)]
    turn_texts.write(turns[:1])

    first = turn_texts.fill_in()
    second = turn_texts.fill_in()

    assert (first.turns, first.is_complete) == (2, True)
    assert (second.turns, second.is_complete) == (0, True)
    assert found("some") == {turn.pk for turn in turns}
    assert TurnText.objects.count() == 3


def test_it_goes_on_where_its_time_was_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn_texts, "_BATCH", 2)
    at = timezone.now() - AN_HOUR_AGO
    for number in range(5):
        said("some", opened_at=at + number * dt.timedelta(seconds=number // 3))

    runs = [turn_texts.fill_in(seconds=0.0)]
    runs += [turn_texts.fill_in() for _ in range(2)]

    assert [(run.turns, run.is_complete) for run in runs] == [(0, False), (5, True), (0, True)]


def test_removed_texts_do_not_come_back() -> None:
    turn = said("secret")
    turn_texts.write([turn])
    removal.remove_content([turn.pk], why="for a test")

    turn_texts.fill_in()

    assert not TurnText.objects.exists()
    assert found("secret") == set()


def test_a_turn_that_is_still_open_is_waited_for() -> None:
    turn = said("late", outcome="open", phase="running", closed_at=None, run_ended_at=None)
    turn_texts.fill_in()
    assert found("late") == set()
    Turn.objects.filter(pk=turn.pk).update(outcome="answered", phase="closed", closed_at=timezone.now())

    tasks.index_texts()

    assert found("late") == {turn.pk}


def test_a_late_run_does_not_set_the_mark_back() -> None:
    said("one")
    turn_texts.fill_in()
    late = Watermark(name="turn_texts", at=dt.datetime(1970, 1, 1, tzinfo=dt.UTC))
    before = Watermark.objects.get().at

    turn_texts._advance(late, late.at)

    assert Watermark.objects.get().at == before


# --- what is gone -----------------------------------------------------------------------------------------------------


def test_deleted_turns_are_gone_from_the_index() -> None:
    turn = indexed("secret")
    turn.delete()

    assert found("secret") == set()


def what_the_index_holds() -> str:
    """PostgreSQL's words; of SQLite the bytes of its index, which may hold words that no search finds."""
    statement = {
        "postgresql": "SELECT convert_to(word, 'UTF8') FROM ts_stat('SELECT words FROM chatgateway_turntext')",
        "sqlite": f"SELECT block FROM {SQLITE_INDEX}_data",
    }[connection.vendor]
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return " ".join(bytes(block).decode("latin-1") for (block,) in cursor.fetchall())


def test_no_words_of_deleted_turns_are_kept() -> None:
    kept = indexed("ordinary words")
    for number in range(30):
        indexed(f"confidential{number}").delete()

    turn_texts.forget_deleted(seconds=10)

    assert "confidential" not in what_the_index_holds()
    assert "ordinary" in what_the_index_holds()
    assert found("ordinary") == {kept.pk}
