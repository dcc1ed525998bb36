"""Searching what was asked and answered, from the lists of turns and conversations."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from chatgateway import removal, turn_texts
from chatgateway.models import Attempt, Conversation, Event, TranscriptReading, Turn
from tests import factories
from tests.admin.test_pages import HOSTILE, history
from tests.admin.test_turn_pages import turn_with
from tests.chatgateway.test_turn_texts import said

pytestmark = pytest.mark.django_db

TURNS = "admin:chatgateway_turn_changelist"
CONVERSATIONS = "admin:chatgateway_conversation_changelist"


def in_role(role: str) -> Client:
    browser = Client()
    browser.force_login(factories.person(role))
    return browser


def indexed(question: str, answer: str = "", **fields: Any) -> Turn:
    turn = said(question, answer, **fields)
    turn_texts.write([turn])
    return turn


def kept(browser: Client, page: str, **query: Any) -> set[Any]:
    return {row.pk for row in browser.get(reverse(page), query).context["cl"].result_list}


@pytest.fixture
def two(db: None) -> list[Turn]:
    turns = []
    for number, (question, answer) in enumerate((("Pay the invoice", "It is paid."), ("Sing a song", "La la."))):
        conversation = Conversation.objects.create(tenant_name="t", profile_slug=f"p{number}", end_user=f"user{number}")
        turns.append(indexed(question, answer, conversation=conversation, end_user=f"user{number}",
                             request_id=f"req_{number}", client=f"Client/{number}"))  # fmt: skip
    Attempt.objects.create(turn=turns[1], request_id="req_joined")
    return turns


@pytest.mark.parametrize(
    ("typed", "which"),
    [
        ("invoice", [0]),
        ("invoice paid", [0]),
        ('"the invoice"', [0]),
        ("so* la", [1]),
        ("invoice song", []),
        ("!!!", []),
        ("user1", [1]),
        ("req_0", [0]),
        ("req_joined", [1]),
        ("req_nobody", []),
        ("", [0, 1]),
    ],
)
def test_turns_are_found_by_what_was_said_by_ids_and_by_end_users(
    admin: Client, two: list[Turn], typed: str, which: list[int]
) -> None:
    assert kept(admin, TURNS, q=typed) == {two[number].pk for number in which}


def test_a_turn_is_found_by_its_own_id_its_reply_id_and_its_conversations(admin: Client, two: list[Turn]) -> None:
    turn = two[0]

    for typed in (str(turn.pk), f"chatcmpl-{turn.pk.hex}", f"resp_{turn.pk.hex}", str(turn.conversation_id)):
        assert kept(admin, TURNS, q=typed) == {turn.pk}


@pytest.mark.parametrize(
    ("typed", "which"), [("paid", [0]), ("song", [1]), ("user0", [0]), ("p1", [1]), ("req_1", [1]), ("nothing", [])]
)
def test_conversations_are_found_by_what_was_said_in_them(
    admin: Client, two: list[Turn], typed: str, which: list[int]
) -> None:
    assert kept(admin, CONVERSATIONS, q=typed) == {two[number].conversation_id for number in which}
    assert kept(admin, CONVERSATIONS, q=str(two[0].conversation_id)) == {two[0].conversation_id}


@pytest.mark.parametrize("query", [{"tool": "terminal"}, {"client": "client/0"}])
def test_conversations_are_narrowed_by_what_their_turns_did(
    admin: Client, two: list[Turn], query: dict[str, str]
) -> None:
    conversation = Conversation.objects.get(end_user="user0")
    Event.objects.create(turn=two[0], conversation=conversation, seq=1, kind="ActionEvent", tool="terminal", raw={})

    assert kept(admin, CONVERSATIONS, **query) == {two[0].conversation_id}
    assert kept(admin, CONVERSATIONS, **dict.fromkeys(query, "other")) == set()


def test_the_totals_are_those_of_the_turns_found(admin: Client, two: list[Turn]) -> None:
    answer = admin.get(reverse("admin:chatgateway_turn_totals"), {"q": "invoice"})

    assert answer.context["totals"].turns == 1


def test_the_list_shows_where_the_words_stand_and_none_of_it_is_live(admin: Client) -> None:
    indexed(f"{'before ' * 40}the Größe of {HOSTILE} and so on {'after ' * 60}", "Nothing.")

    html = admin.get(reverse(TURNS), {"q": "grosse alert"}).content.decode()

    assert "<b>Asked</b> …" in html
    assert "the <mark>Größe</mark> of &lt;script&gt;<mark>alert</mark>(&#x27;x&#x27;)" in html
    assert "<script>alert" not in html
    assert "<b>Answered</b>" not in html
    assert "Words asked or answered; id; end user" in html
    assert "stand together" in html


def test_texts_that_were_removed_are_neither_found_nor_shown(admin: Client) -> None:
    turn = indexed("Pay the invoice", end_user="invoice")
    removal.remove_content([turn.pk], why="for a test")

    html = admin.get(reverse(TURNS), {"q": "invoice"}).content.decode()
    by_words = kept(admin, TURNS, q="pay")

    assert str(turn.pk) in html  # by its end user
    assert "gw-found" not in html
    assert by_words == set()


# --- who may, and who did -------------------------------------------------------------------------------------------


def test_who_may_not_read_texts_does_not_learn_by_searching_what_they_say(two: list[Turn]) -> None:
    operator = in_role("operator")

    html = operator.get(reverse(TURNS), {"q": "invoice"}).content.decode()

    assert kept(operator, TURNS, q="invoice") == set()
    assert kept(operator, CONVERSATIONS, q="invoice") == set()
    assert kept(operator, TURNS, q="user0") == {two[0].pk}
    assert operator.get(reverse("admin:chatgateway_turn_totals"), {"q": "invoice"}).context["totals"].turns == 0
    assert "<mark>" not in html
    assert "Words asked" not in html
    assert not TranscriptReading.objects.exists()


def test_a_search_in_texts_is_recorded_without_what_was_searched(two: list[Turn]) -> None:
    auditor = in_role("auditor")

    auditor.get(reverse(TURNS), {"q": "invoice", "outcome__exact": "answered", "end_user": "user0"})

    row = TranscriptReading.objects.get()
    assert (row.what, row.turns, row.username) == ("search", 1, auditor.get("/admin/").wsgi_request.user.get_username())
    assert "outcome__exact answered" in row.selection
    assert "user0" not in row.selection
    assert "invoice" not in row.selection


def test_a_search_for_an_id_or_no_search_is_no_reading(two: list[Turn]) -> None:
    auditor = in_role("auditor")

    for query in ({}, {"q": "req_0"}, {"q": str(two[0].pk)}, {"q": "???"}):
        auditor.get(reverse(TURNS), query)

    assert not TranscriptReading.objects.exists()


@pytest.mark.parametrize("page", [TURNS, CONVERSATIONS])
def test_a_search_takes_as_many_queries_for_fifty_rows_as_for_one(admin: Client, page: str) -> None:
    history(1)
    turn_texts.write(Turn.objects.all())
    admin.get(reverse(page), {"q": "alert"})
    with CaptureQueriesContext(connection) as few:
        assert len(kept(admin, page, q="alert")) == 1
    history(49)
    turn_texts.write(Turn.objects.filter(text__isnull=True))

    with CaptureQueriesContext(connection) as many:
        assert len(kept(admin, page, q="alert")) == 50

    assert len(many) == len(few)


def test_a_turn_without_texts_is_no_obstacle(admin: Client) -> None:
    turn = turn_with(end_user="ann")
    turn_texts.write([turn])

    assert kept(admin, TURNS, q="ann") == {turn.pk}
