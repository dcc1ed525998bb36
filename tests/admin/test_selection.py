"""What lists are narrowed to, and the totals of all that is kept, in the viewer's own time zone."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from chatgateway.admin import selection
from chatgateway.admin.selection import Totals
from chatgateway.models import Conversation, Event, Turn
from tests import factories
from tests.admin.test_pages import history
from tests.admin.test_turn_pages import turn_with

pytestmark = pytest.mark.django_db

TURNS = "admin:chatgateway_turn_changelist"
# 21 November 2026, 02:30 in London, 21:30 of the day before in New York.
NIGHT = dt.datetime(2026, 11, 21, 2, 30, tzinfo=dt.UTC)


def kept(admin: Client, query: dict[str, Any]) -> set[str]:
    return {turn.request_id for turn in admin.get(reverse(TURNS), query).context["cl"].queryset}


@pytest.fixture
def some(db: None) -> dict[str, Turn]:
    acme, other = factories.tenant(name="Acme"), factories.tenant(name="Other")
    conversation = Conversation.objects.create(tenant_name="Acme", profile_slug="p", tenant=acme)
    common: dict[str, Any] = {"tenant": acme, "tenant_name": "Acme", "conversation": conversation}
    turns = {
        "a": turn_with(**common, request_id="a", cost_usd=Decimal("0.5"), input_tokens=1000, output_tokens=10,
                       end_user="ann", client="OpenAI/Python 2.54"),
        "b": turn_with(**common, request_id="b", outcome="failed", input_tokens=500, cost_usd=None, opened_at=NIGHT),
        "c": turn_with(request_id="c", tenant=other, tenant_name="Other", cost_usd=Decimal(2), input_tokens=7),
    }  # fmt: skip
    Event.objects.create(turn=turns["a"], conversation=conversation, seq=1, kind="ActionEvent", tool="terminal", raw={})
    return turns


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({"end_user": "ann"}, {"a"}),
        ({"end_user": "an"}, set()),
        ({"client": "openai/"}, {"a"}),
        ({"tool": "terminal"}, {"a"}),
        ({"tool": "browser"}, set()),
        ({"from": "2026-11-21", "to": "2026-11-21"}, {"b"}),
        ({"from": "2026-11-20", "to": "2026-11-20"}, set()),
        ({"to": "2026-11-21"}, {"b"}),
        ({"from": "nonsense", "to": "9999-99-99"}, {"a", "b", "c"}),
        ({"end_user": "", "client": " ", "tool": "", "from": "", "to": ""}, {"a", "b", "c"}),
    ],
)
def test_turns_are_narrowed_to_what_is_entered(
    admin: Client, some: dict[str, Turn], query: dict[str, str], wanted: set[str]
) -> None:
    assert kept(admin, query) == wanted


def test_a_day_is_the_viewers_day_and_times_are_told_by_the_viewers_clock(admin: Client, some: dict[str, Turn]) -> None:
    admin.cookies["gateway_time_zone"] = "America/New_York"

    html = admin.get(reverse(TURNS), {"from": "2026-11-20", "to": "2026-11-20"}).content.decode()

    assert "2026-11-20 21:30:00" in html
    assert "Times in America/New_York" in html
    assert kept(admin, {"from": "2026-11-21", "to": "2026-11-21"}) == set()
    assert timezone.get_current_timezone_name() == "UTC"  # of whoever asks next


@pytest.mark.parametrize("name", ["Mars/Olympus", "../../etc/passwd", "", "x" * 5000])
def test_a_zone_that_is_none_counts_as_not_given(admin: Client, name: str) -> None:
    admin.cookies["gateway_time_zone"] = name

    assert "Times in UTC" in admin.get(reverse(TURNS)).content.decode()


def test_the_totals_are_those_of_the_whole_selection(admin: Client, some: dict[str, Turn]) -> None:
    url = reverse("admin:chatgateway_turn_totals")

    everything = admin.get(url)
    of_acme = admin.get(url, {selection.TENANT: some["a"].tenant_id})

    assert everything.context["totals"] == Totals(
        turns=3, conversations=1, failures=1, input_tokens=1507, output_tokens=10, cost_usd=Decimal("2.5"), unpriced=1
    )
    assert of_acme.context["totals"] == Totals(
        turns=2, conversations=1, failures=1, input_tokens=1500, output_tokens=10, cost_usd=Decimal("0.5"), unpriced=1
    )
    assert f"?{selection.TENANT}={some['a'].tenant_id}" in everything.content.decode()
    assert "$2.50" in everything.content.decode()
    assert "By tenant" not in of_acme.content.decode()


def test_the_totals_of_conversations_are_those_of_their_turns(admin: Client, some: dict[str, Turn]) -> None:
    answer = admin.get(reverse("admin:chatgateway_conversation_totals"), {"state__exact": "new"})
    nothing = admin.get(reverse("admin:chatgateway_conversation_totals"), {"end_user": "nobody"})

    assert (answer.context["totals"].turns, answer.context["totals"].cost_usd) == (2, Decimal("0.5"))
    assert nothing.context["totals"] == Totals()


def test_totals_take_as_many_queries_for_fifty_turns_as_for_one(admin: Client) -> None:
    url = reverse("admin:chatgateway_turn_totals")
    history(1)
    admin.get(url)
    with CaptureQueriesContext(connection) as few:
        admin.get(url)
    history(49)

    with CaptureQueriesContext(connection) as many:
        answer = admin.get(url)

    assert len(many) == len(few)
    assert answer.context["totals"].turns == 50
    assert "30 more tenants have fewer turns." in answer.content.decode()


def test_the_last_days_are_one_click_away_and_keep_the_other_filters(admin: Client, some: dict[str, Turn]) -> None:
    today = timezone.localdate()

    html = admin.get(reverse(TURNS), {"tool": "terminal", "p": "1"}).content.decode()

    assert f"?tool=terminal&amp;from={today}&amp;to={today}" in html
    assert "Yesterday" in html
