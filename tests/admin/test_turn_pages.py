"""Finding a turn, reading it, and what its bill adds up to."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from chatgateway.admin.turn_told import cost_told, usage_lines
from chatgateway.models import Attempt, Conversation, Event, Turn
from profiles.pricing import cost_usd
from tests import factories
from tests.admin.test_pages import history

pytestmark = pytest.mark.django_db

PRICES = {"input": "3", "output": "15", "cached": "0.3", "cache_write": "3.75"}


def page(turn: Turn) -> str:
    return reverse("admin:chatgateway_turn_change", args=[turn.pk])


def turn_with(**fields: Any) -> Turn:
    given: dict[str, Any] = {
        "request_id": "req_1", "endpoint": "chat.completions", "outcome": "answered", "phase": "closed",
        "closed_at": timezone.now(), "run_ended_at": timezone.now(), "parameters": {}, "prices": PRICES,
    }  # fmt: skip
    return Turn.objects.create(**given | fields)


# --- finding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_id", ["req_first", "req_joined"])
def test_a_turn_is_found_by_each_request_that_waited_for_it(admin: Client, request_id: str) -> None:
    turn = turn_with(request_id="req_first")
    Attempt.objects.create(turn=turn, request_id="req_first")
    Attempt.objects.create(turn=turn, request_id="req_joined")

    response = admin.get(reverse("admin:chatgateway_turn_by_request", args=[request_id]))

    assert response.headers["Location"] == page(turn)


def test_an_unknown_request_id_leads_to_the_list_and_says_so(admin: Client) -> None:
    response = admin.get(reverse("admin:chatgateway_turn_by_request", args=["req_nobody"]), follow=True)

    assert response.redirect_chain[-1][0] == reverse("admin:chatgateway_turn_changelist")
    assert "No turn was recorded under that request id." in response.content.decode()


@pytest.mark.parametrize("pk", ["nonsense", "00000000-0000-0000-0000-000000000000"])
def test_a_turn_that_is_not_there_leads_to_the_list(admin: Client, pk: str) -> None:
    response = admin.get(f"/admin/chatgateway/turn/{pk}/change/")

    assert response.headers["Location"] == reverse("admin:chatgateway_turn_changelist")


@pytest.mark.parametrize("query", ["within=1h", "outcome__exact=failed", "outcome__in=failed,timed_out", "q=req_0"])
def test_the_list_can_be_narrowed(admin: Client, query: str) -> None:
    history(1)
    Turn.objects.update(request_id="req_0")
    url = reverse("admin:chatgateway_turn_changelist")
    (wanted,) = Turn.objects.all()
    turn_with(request_id="req_other", outcome="answered", opened_at=timezone.now() - dt.timedelta(days=1))

    html = admin.get(f"{url}?{query}").content.decode()

    assert html.count("/change/?") + html.count('/change/"') == 1
    assert str(wanted.pk) in html


@pytest.mark.parametrize("name", ["turn", "conversation"])
def test_what_belongs_to_a_conversation_is_found_by_its_id(admin: Client, name: str) -> None:
    history(2)
    turn = Turn.objects.latest("opened_at")
    wanted = {"turn": turn.pk, "conversation": turn.conversation_id}[name]
    url = reverse(f"admin:chatgateway_{name}_changelist")

    found, nothing = (admin.get(url, {"q": term}).content.decode() for term in (turn.conversation_id, uuid4()))

    assert found.count(f"/{name}/") - nothing.count(f"/{name}/") == 1
    assert str(wanted) in found
    assert "Nothing matches" in nothing


def test_no_list_holds_a_word_of_what_was_asked_or_answered(admin: Client) -> None:
    history(1)
    Turn.objects.update(model_id="openhands_chat", end_user="", answer="the-answer", error_message="the-error")
    Event.objects.update(summary="the-summary")

    pages = [
        admin.get(reverse(f"admin:chatgateway_{name}_changelist")).content.decode() for name in ("turn", "conversation")
    ]

    assert [word for word in ("the-answer", "the-error", "the-summary", "alert(") for p in pages if word in p] == []


@pytest.mark.parametrize("path", ["", "raw-request/", "raw-events/"])
def test_somebody_without_the_permission_sees_no_turn(path: str) -> None:
    turn = turn_with()
    reader = User.objects.create_user("reader", password="x", is_staff=True)
    reader.user_permissions.set(Permission.objects.filter(codename="view_profile"))
    browser = Client()
    browser.force_login(reader)

    url = page(turn) if not path else page(turn).replace("change/", path)

    assert browser.get(url).status_code == 403
    assert "chatgateway/turn" not in browser.get(reverse("admin:index")).content.decode()


# --- reading --------------------------------------------------------------------------------------------------------


def test_an_open_turn_says_where_it_stands(admin: Client) -> None:
    turn = turn_with(outcome="open", phase="running", closed_at=None, run_ended_at=None)

    assert "the agent works" in admin.get(page(turn)).content.decode()


def test_a_refused_turn_shows_the_request_as_it_was_sent(admin: Client) -> None:
    turn = turn_with(outcome="refused", parameters={"": [1, 2]}, error_code="invalid_type", http_status=400)

    assert "held no message" in admin.get(page(turn)).content.decode()


def test_the_whole_request_can_be_downloaded(admin: Client) -> None:
    turn = turn_with(parameters={"model": "openhands_chat", "temperature": 0.5})

    response = admin.get(reverse("admin:chatgateway_turn_raw_request", args=[turn.pk]), {"download": ""})

    assert response.headers["Content-Disposition"].startswith("attachment")
    assert json.loads(response.content) == {"model": "openhands_chat", "temperature": 0.5}


def test_many_raw_events_come_in_pages(admin: Client) -> None:
    history(1)
    (turn,), conversation = Turn.objects.all(), Conversation.objects.get()
    Event.objects.bulk_create(
        Event(turn=turn, conversation=conversation, seq=seq, kind="X", raw={"n": seq}) for seq in range(1, 250)
    )
    url = reverse("admin:chatgateway_turn_raw_events", args=[turn.pk])

    first, last = (admin.get(url, {"page": number}).content.decode() for number in (1, 3))

    assert "Events 1 to 100 of 250." in first
    assert "?page=2" in first
    assert "#249 X" in last
    assert "?page=4" not in last


def test_a_long_conversation_comes_in_pages(admin: Client) -> None:
    history(1)
    conversation = Conversation.objects.get()
    for number in range(30):
        turn_with(conversation=conversation, arrival=number + 1, answer=f"answer-{number}-")
    url = reverse("admin:chatgateway_conversation_change", args=[conversation.pk])

    first, second = (admin.get(url, {"page": number}).content.decode() for number in (1, 2))

    assert "answer-3-" in first
    assert "answer-29-" not in first
    assert "answer-29-" in second


# --- the bill -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tokens",
    [
        {"input_tokens": 1_000_000, "output_tokens": 500_000},
        {"input_tokens": 900_000, "output_tokens": 1_000, "cached_tokens": 800_000},
        {"input_tokens": 10_000, "output_tokens": 0, "cached_tokens": 3_000, "cache_write_tokens": 5_000},
    ],
)
def test_the_lines_of_a_bill_add_up_to_the_cost(tokens: dict[str, int]) -> None:
    turn = Turn(prices=PRICES, cost_usd=cost_usd(PRICES, **tokens), **tokens)

    lines = list(usage_lines(turn))

    assert sum(int(line.tokens.replace(",", "")) for line in lines) == tokens["input_tokens"] + tokens["output_tokens"]
    total = sum(Decimal(line.amount.strip("$").replace(",", "")) for line in lines)
    assert total == pytest.approx(turn.cost_usd, rel=Decimal("0.01"))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"cost_usd": Decimal("0.0123"), "input_tokens": 5}, "$0.0123"),
        ({"cost_usd": Decimal(0), "input_tokens": 5}, "$0"),
        ({"cost_usd": Decimal("0.000004"), "input_tokens": 5}, "$0.000004"),
        ({"cost_usd": Decimal("0.0123"), "input_tokens": 5, "is_usage_estimated": True}, "≈ $0.0123"),
        ({"cost_usd": None, "input_tokens": 5}, "unknown"),
        ({"cost_usd": None}, "–"),
    ],
)
def test_an_unknown_cost_is_never_told_as_nothing(fields: dict[str, Any], told: str) -> None:
    assert cost_told(Turn(**fields)) == told


def test_the_overview_counts_the_last_day_and_says_what_is_missing(admin: Client) -> None:
    empty = admin.get(reverse("admin:index")).content.decode()
    factories.profile()
    factories.agent_server(health="up")
    factories.api_key()
    turn_with(cost_usd=Decimal("1.50"), input_tokens=1_000, output_tokens=200)
    turn_with(outcome="timed_out", cost_usd=None, input_tokens=10)
    turn_with(cost_usd=Decimal(70), opened_at=timezone.now() - dt.timedelta(days=2))

    html = admin.get(reverse("admin:index")).content.decode()

    assert [text in empty for text in ("Add an agent-server", "Add a profile", "Make a key")] == [True] * 3
    assert "Make a key" not in html
    assert "$1.50" in html
    assert "1 turn of unknown price" in html
    assert "1,210" in html


# --- stopping -------------------------------------------------------------------------------------------------------


def open_turn() -> Turn:
    return turn_with(outcome="open", phase="running", closed_at=None, run_ended_at=None)


def test_an_open_turn_can_be_stopped_from_its_page(admin: Client) -> None:
    turn, ended = open_turn(), turn_with(request_id="req_2")
    assert "Stop the agent" in admin.get(page(turn)).content.decode()
    assert "Stop the agent" not in admin.get(page(ended)).content.decode()

    response = admin.post(reverse("admin:chatgateway_turn_stop", args=[turn.pk]), follow=True)

    turn.refresh_from_db()
    assert turn.cancel_requested_at is not None
    assert turn.cancel_reason == "admin"
    assert "1 turn will have stopped within 2 seconds." in response.content.decode()
    assert "being stopped" in response.content.decode()


def test_chosen_turns_are_stopped_and_counted(admin: Client) -> None:
    chosen = [open_turn(), open_turn(), turn_with()]
    left = open_turn()

    response = admin.post(
        reverse("admin:chatgateway_turn_changelist"),
        {"action": "stop_chosen", "_selected_action": [str(turn.pk) for turn in chosen]},
        follow=True,
    )

    assert Turn.objects.filter(cancel_reason="admin").count() == 2
    left.refresh_from_db()
    assert left.cancel_requested_at is None
    assert "2 turns will have stopped within 2 seconds." in response.content.decode()
    assert "1 had ended" in response.content.decode()


def test_whoever_may_only_read_stops_nothing(admin: Client) -> None:
    turn = open_turn()
    reader = User.objects.create_user("reader", is_staff=True)
    reader.user_permissions.add(Permission.objects.get(codename="view_turn"))
    browser = Client()
    browser.force_login(reader)

    refused = browser.post(reverse("admin:chatgateway_turn_stop", args=[turn.pk]))

    assert refused.status_code == 403
    assert "Stop the agent" not in browser.get(page(turn)).content.decode()
    turn.refresh_from_db()
    assert turn.cancel_requested_at is None


# --- branches -------------------------------------------------------------------------------------------------------


def test_a_conversation_shows_where_it_branched_off_and_its_branches(admin: Client) -> None:
    history(1)
    source, at = Conversation.objects.get(), Turn.objects.get()
    Conversation.objects.update(working_dir="/srv/one")
    branch = Conversation.objects.create(branched_at=at, root=source, working_dir="/srv/one")
    turn_with(conversation=branch, match="fork", parent=at)

    of_branch, of_source = (
        admin.get(reverse("admin:chatgateway_conversation_change", args=[row.pk])).content.decode()
        for row in (branch, source)
    )

    assert "Forked from" in of_branch
    assert reverse("admin:chatgateway_conversation_change", args=[source.pk]) in of_branch
    assert reverse("admin:chatgateway_turn_change", args=[at.pk]) in of_branch
    assert "forked: the history" in of_branch
    assert reverse("admin:chatgateway_conversation_change", args=[branch.pk]) in of_source
    assert "same directory" in of_branch
    assert "same directory" in of_source
    assert "Forked from" not in of_source


# --- housekeeping calls -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("by", "told", "llm"),
    [
        ("llm", "Written by the profile&#x27;s LLM; no agent was started.", "<dd>openai/large</dd>"),
        ("utility_llm", "Written by the profile&#x27;s LLM for housekeeping; no agent", "<dd>openai/small</dd>"),
        ("template", "Written by the gateway; no agent was started. The LLM was not used, or in vain:", ""),
    ],
)
def test_the_page_of_a_housekeeping_call_says_who_answered_it(admin: Client, by: str, told: str, llm: str) -> None:
    snapshot = {"slug": "chat", "llm_model": "openai/large", "utility_llm_model": "openai/small"}
    detail = "no answer within 20 s" if by == "template" else ""
    turn = turn_with(
        kind="housekeeping", housekeeping_task="title", answered_by=by, answer="Bread", error_detail=detail,
        profile_snapshot=snapshot,
    )  # fmt: skip

    text = admin.get(page(turn)).content.decode()

    assert "housekeeping: title" in text
    assert told in text
    assert detail in text
    assert ("<dt>LLM</dt>" + llm in text) == bool(llm)


def test_the_first_page_counts_the_runs_that_were_saved_and_the_list_shows_them(admin: Client) -> None:
    turn_with()
    turn_with(kind="housekeeping", housekeeping_task="tags", request_id="req_2", cost_usd=Decimal("0.0012"))

    first_page = admin.get(reverse("admin:index")).content.decode()
    listed = admin.get(reverse("admin:chatgateway_turn_changelist"), {"kind__exact": "housekeeping"})

    assert "Agent runs saved" in first_page
    assert "housekeeping calls, $0.0012" in first_page
    assert listed.context["cl"].result_count == 1


def test_the_page_says_that_the_history_was_shortened(admin: Client) -> None:
    text = admin.get(page(turn_with(match="replay", elided_messages=3))).content.decode()

    assert "3 messages of the told history" in text
