"""Files of whole selections: what is in them, for whom, in which time zone, and how much memory they take."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any, cast
from urllib.parse import urlencode
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync
from django.db import connection
from django.http import StreamingHttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from chatgateway import removal, sql
from chatgateway.admin import chosen_turns
from chatgateway.admin.chosen_turns import ChosenTurns
from chatgateway.models import Conversation, Event, Message, TranscriptReading, Turn
from tests import factories
from tests.admin.test_pages import history
from tests.admin.test_roles import signed_in
from tests.admin.test_turn_pages import turn_with

# Files are made in threads of their own.
pytestmark = pytest.mark.django_db(transaction=True)

FORMS = ("csv", "jsonl")
# 21 November 2026, 02:30 in London, 21:30 of the day before in New York.
NIGHT = dt.datetime(2026, 11, 21, 2, 30, tzinfo=dt.UTC)


def url_of(form: str, *, rows: str = "turn", **query: Any) -> str:
    return f"{reverse(f'admin:chatgateway_{rows}_export_{form}')}?{urlencode(query)}"


def content(answer: Any) -> str:
    """All of what an answer streams, as a server would read it."""
    assert answer.status_code == 200, answer.content

    async def read() -> bytes:
        return b"".join([piece async for piece in cast(AsyncIterator[bytes], answer.streaming_content)])

    return async_to_sync(read)().decode()


def lines(answer: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content(answer).splitlines()]


def rows(answer: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content(answer).removeprefix("\ufeff"), newline="")))


def asked(text: str) -> Message:
    message = Message(
        id=uuid4(), tenant=factories.tenant(), depth=2, role="user", body={"role": "user", "content": text}
    )
    sql.insert([message])
    return message


def conversation_of(*turns: Turn) -> Conversation:
    row = Conversation.objects.create(tenant_name="Acme", profile_slug="p")
    Turn.objects.filter(pk__in=[turn.pk for turn in turns]).update(conversation=row)
    return row


def called(turn: Turn, *, seq: int = 1, command: str = "ls") -> None:
    """Write down that the agent ran a command."""
    assert turn.conversation_id is not None
    raw = {"action": {"kind": "TerminalAction", "command": command}, "id": str(seq)}
    Event.objects.create(
        turn=turn, conversation_id=turn.conversation_id, seq=seq, kind="ActionEvent", tool="terminal",
        summary=f"Run {command}", raw=raw, received_at=NIGHT,
    )  # fmt: skip


# --- what is in them ------------------------------------------------------------------------------------------------


def test_a_line_has_all_of_a_turn_and_its_times_are_the_viewers(admin: Client) -> None:
    turn = turn_with(
        opened_at=NIGHT, closed_at=NIGHT + dt.timedelta(seconds=2.5), last_message=asked("What is here?"), answer="One.",
        reasoning="Thought.", match="history", tenant_name="Acme", input_tokens=1200, output_tokens=80,
        cost_usd=Decimal("0.0048"), profile_snapshot={"slug": "dev", "llm_model": "openai/x"}, end_user="ann",
    )  # fmt: skip
    row = conversation_of(turn)
    turn.refresh_from_db()
    called(turn)
    admin.cookies["gateway_time_zone"] = "America/New_York"

    (line,) = lines(admin.get(url_of("jsonl")))

    assert line["time_zone"] == "America/New_York"
    assert line["opened_at"] == "2026-11-20T21:30:00.000-05:00"
    assert (line["turn"], line["conversation"]) == (str(turn.pk), str(row.pk))
    assert (line["tenant"], line["profile"], line["llm"], line["end_user"]) == ("Acme", "dev", "openai/x", "ann")
    assert (line["outcome"], line["match"], line["duration_seconds"]) == ("answered", "history", 2.5)
    assert (line["usage"]["input_tokens"], line["usage"]["output_tokens"], line["cost_usd"]) == (1200, 80, 0.0048)
    assert line["question"] == {"role": "user", "text": "What is here?", "others": [], "earlier_messages": 2}
    assert (line["answer"], line["reasoning"], line["texts"]) == ("One.", "Thought.", "included")
    (step,) = line["steps"]
    assert (step["tool"], step["title"], step["at"]) == ("terminal", "Run ls", "2026-11-20T21:30:00.000-05:00")
    assert step["sections"] == [{"label": "Command", "text": "ls"}]


def test_a_row_has_the_figures_the_texts_and_how_often_each_tool_was_called(admin: Client) -> None:
    turn = turn_with(opened_at=NIGHT, last_message=asked("Grüß\nGott"), answer="a, b", cost_usd=Decimal("0.00000400"))
    conversation_of(turn)
    turn.refresh_from_db()
    called(turn)
    called(turn, seq=2)
    admin.cookies["gateway_time_zone"] = "Europe/Berlin"

    answer = admin.get(url_of("csv"))
    (row,) = rows(answer)

    assert (row["question"], row["answer"], row["tools"]) == ("Grüß\nGott", "a, b", "terminal 2")
    assert (row["opened_at"], row["time_zone"]) == ("2026-11-21T03:30:00.000+01:00", "Europe/Berlin")
    assert (row["cost_usd"], row["texts"]) == ("0.00000400", "included")
    assert answer["Content-Disposition"].startswith('attachment; filename="turns-')
    assert "no-store" in answer["Cache-Control"]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\n=HYPERLINK()", "＝1"])
def test_no_text_of_a_caller_is_a_formula(admin: Client, text: str) -> None:
    turn_with(last_message=asked(text), answer=text, client=text, end_user=text, model_id=text, error_message=text)

    (row,) = rows(admin.get(url_of("csv")))

    assert {row[name] for name in ("question", "answer", "client", "end_user", "model", "error")} == {f"'{text}"}


def test_a_text_longer_than_a_cell_is_cut_and_says_so(admin: Client) -> None:
    turn_with(answer="x" * 40_000)

    (row,) = rows(admin.get(url_of("csv")))

    assert len(row["answer"]) < 32_767
    assert row["answer"].endswith("… 8,000 more characters")


@pytest.mark.parametrize("form", FORMS)
def test_removed_texts_say_by_which_policy_and_when(admin: Client, form: str) -> None:
    history(1)
    Turn.objects.update(closed_at=NIGHT)
    removal.remove_content(Turn.objects.values_list("pk", flat=True), why="Texts are kept for 30 days (profile dev).")
    Turn.objects.update(content_removed_at=NIGHT)

    (found,) = (rows if form == "csv" else lines)(admin.get(url_of(form)))

    assert found["texts"] == "removed on 2026-11-21T02:30:00.000+00:00: Texts are kept for 30 days (profile dev)."
    assert not found.get("answer")
    assert not found.get("question")


# --- the whole selection --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_it_is_the_whole_selection_in_the_order_of_the_list(admin: Client, form: str) -> None:
    for number in range(chosen_turns.TURNS_AT_ONCE + 20):  # more than a page, and more than a batch
        turn_with(request_id=f"req_{number}", opened_at=NIGHT + dt.timedelta(minutes=number), tenant_name="Acme")
    turn_with(request_id="other", outcome="failed")

    found = (rows if form == "csv" else lines)(admin.get(url_of(form, outcome__exact="answered")))

    assert [one["request_id"] for one in found] == [f"req_{number}" for number in reversed(range(120))]


@pytest.mark.parametrize("form", FORMS)
def test_of_conversations_it_is_all_their_turns_as_they_were(admin: Client, form: str) -> None:
    first, second, other = (turn_with(request_id=name, arrival=at) for at, name in enumerate("abc"))
    conversation_of(first, second)
    conversation_of(other)
    Turn.objects.filter(pk=second.pk).update(outcome="failed")

    found = (rows if form == "csv" else lines)(admin.get(url_of(form, rows="conversation", last="failed")))

    assert [one["request_id"] for one in found] == ["a", "b"]


def test_the_lists_offer_what_they_show(admin: Client) -> None:
    history(1)

    html = admin.get(reverse("admin:chatgateway_turn_changelist"), {"outcome__exact": "failed", "p": "1"}).content

    assert f'{reverse("admin:chatgateway_turn_export_csv")}?outcome__exact=failed"' in html.decode()


def test_a_filter_that_is_none_leads_back_to_the_list(admin: Client) -> None:
    answer = admin.get(url_of("csv", tenant__id__exact="nobody"), follow=True)

    assert "Nothing was exported" in answer.content.decode()
    assert not TranscriptReading.objects.exists()


# --- who may, and that it is written down ---------------------------------------------------------------------------


@pytest.mark.parametrize("rows_of", ["turn", "conversation"])
@pytest.mark.parametrize("form", FORMS)
def test_an_auditor_has_texts_an_administrator_figures_an_operator_nothing(form: str, rows_of: str) -> None:
    turn = turn_with(answer="confidential", error_message="confidential", reasoning="confidential", tenant_name="Acme",
                     last_message=asked("confidential"))  # fmt: skip
    conversation_of(turn)
    url = url_of(form, rows=rows_of)

    refused = signed_in("operator").get(url)
    figures = content(signed_in("administrator").get(url))
    texts = content(signed_in("auditor").get(url))

    assert refused.status_code == 403
    assert "confidential" not in figures
    assert "Acme" in figures
    assert "takes the permission of the role auditor" in figures
    assert "confidential" in texts
    assert [(one.what, one.turns) for one in TranscriptReading.objects.order_by("at")] == [("export", 0), ("export", 1)]


def test_a_reading_says_what_was_selected_without_a_persons_id_and_without_searched_texts(admin: Client) -> None:
    turn_with(end_user="ann", request_id="req_1")

    lines(admin.get(url_of("jsonl", end_user="ann", outcome__exact="answered", q="req_1")))

    reading = TranscriptReading.objects.get()
    assert reading.selection.startswith("jsonl, with texts: a search, end_user #")
    assert "outcome__exact answered" in reading.selection
    assert "ann" not in reading.selection.replace("answered", "")
    assert "req_1" not in reading.selection
    assert (reading.username, reading.turns) == ("root", 1)


def test_the_buttons_are_for_those_who_may() -> None:
    history(1)
    url = reverse("admin:chatgateway_conversation_changelist")

    seen = {role: "Export the whole selection" in signed_in(role).get(url).content.decode()
            for role in ("administrator", "operator", "auditor")}  # fmt: skip

    assert seen == {"administrator": True, "operator": False, "auditor": True}


# --- memory ---------------------------------------------------------------------------------------------------------


def test_as_many_events_are_in_memory_as_are_set_and_none_is_lost(admin: Client) -> None:
    turns = [turn_with(request_id=name, opened_at=NIGHT + dt.timedelta(hours=at)) for at, name in enumerate("abcd")]
    conversation = conversation_of(*turns)
    counts = {"a": 400, "b": 400, "c": 400, "d": 1_100}
    for place, turn in enumerate(turns):
        events = [
            Event(turn=turn, conversation=conversation, seq=10_000 * place + seq, kind="ActionEvent", raw={})
            for seq in range(counts[turn.request_id])
        ]
        Event.objects.bulk_create(events)

    chosen = ChosenTurns(Turn.objects.order_by("opened_at"))
    batches = list(chosen.batches(with_events=True))
    chosen.close()

    held = [[(turn.request_id, len(events)) for turn, events in batch] for batch in batches]
    assert held == [[("a", 400), ("b", 400)], [("c", 400)], [("d", 501)]]


def test_a_batch_takes_as_many_queries_for_fifty_turns_as_for_one() -> None:
    history(1)
    with CaptureQueriesContext(connection) as few:
        one = ChosenTurns(Turn.objects.order_by("pk"))
        assert len(list(one.batches(with_events=True))) == 1
    history(49)

    with CaptureQueriesContext(connection) as many:
        fifty = ChosenTurns(Turn.objects.order_by("pk"))
        batches = list(fifty.batches(with_events=True))

    assert len(many) == len(few)
    assert (one.count, fifty.count, sum(map(len, batches))) == (1, 50, 50)
    for chosen in (one, fifty):
        chosen.close()


def test_nothing_is_held_of_a_file_that_nobody_takes(admin: Client) -> None:
    turn_with()
    answer = cast(StreamingHttpResponse, admin.get(url_of("jsonl")))

    answer.close()

    with pytest.raises(ValueError, match="closed"):
        content(answer)
