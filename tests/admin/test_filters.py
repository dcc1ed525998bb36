"""The filters of the lists keep the rows they say, and no others."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pytest
from django.db import models
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from chatgateway.models import AgentServer, Conversation
from profiles.models import ApiKey, Profile
from tests import factories
from tests.admin.test_turn_pages import turn_with

pytestmark = pytest.mark.django_db

NOW = timezone.now()
MINUTE = dt.timedelta(minutes=1)
DAY = dt.timedelta(days=1)


def kept(admin: Client, name: str, query: str) -> set[str]:
    """What stands in the list, by primary key."""
    page = admin.get(f"{reverse(f'admin:{name}_changelist')}?{query}")
    assert page.status_code == 200
    rows: models.QuerySet[models.Model] = page.context["cl"].result_list
    return {str(row.pk) for row in rows}


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("within=24h", {0, 1}),
        ("longer=10s", {1, 2, 3}),
        ("longer=10m", {2, 3}),
        ("cost=0.1", {1, 2}),
        ("cost=1", {2}),
        ("cost=unknown", {3}),
        ("within=nonsense&longer=nonsense&cost=nonsense", {0, 1, 2, 3}),
    ],
)
def test_turns_by_time_duration_and_cost(admin: Client, query: str, numbers: set[int]) -> None:
    turns = [
        turn_with(opened_at=NOW - MINUTE, closed_at=NOW - MINUTE, cost_usd=Decimal("0.002")),
        turn_with(opened_at=NOW - MINUTE, closed_at=NOW, cost_usd=Decimal("0.5")),
        turn_with(opened_at=NOW - 9 * DAY, closed_at=NOW - 8 * DAY, cost_usd=Decimal(3)),
        turn_with(opened_at=NOW - 9 * DAY, closed_at=None, outcome="open", phase="running", input_tokens=5),
    ]

    assert kept(admin, "chatgateway_turn", query) == {str(turns[number].pk) for number in numbers}


@pytest.mark.parametrize(
    ("span", "numbers"),
    [
        ("2026-11-10T14:00:00Z/2026-11-10T15:00:00Z", {0, 1}),
        ("2026-11-10T15:00:00%2B01:00/2026-11-10T15:30:00%2B01:00", {0}),
        ("2026-11-10T14:00:00/2026-11-10T15:00:00", {0, 1, 2}),
        ("2026-11-10T14:00:00Z", {0, 1, 2}),
        ("0001-01-01T00:00:00Z/9999-12-31T23:59:59Z", {0, 1, 2}),
        ("nonsense", {0, 1, 2}),
    ],
)
def test_turns_of_one_bar_of_a_chart(admin: Client, span: str, numbers: set[int]) -> None:
    first = dt.datetime(2026, 11, 10, 14, tzinfo=dt.UTC)
    turns = [turn_with(opened_at=first + part) for part in (0 * MINUTE, 59 * MINUTE, 60 * MINUTE)]

    assert kept(admin, "chatgateway_turn", f"span={span}") == {str(turns[number].pk) for number in numbers}


def test_the_time_of_a_bar_stands_above_the_list_and_can_be_taken_away(admin: Client) -> None:
    url = reverse("admin:chatgateway_turn_changelist")
    turn_with(outcome="failed", opened_at=dt.datetime(2026, 11, 10, 14, tzinfo=dt.UTC))
    span = "2026-11-10T14:00:00Z/2026-11-11T14:00:00Z"

    html = admin.get(f"{url}?span={span}&outcome__exact=failed&p=1").content.decode()

    assert "Tue 10 Nov 14:00–Wed 11 Nov 14:00" in html
    assert 'href="?outcome__exact=failed" title="Show turns of any time"' in html
    assert f'name="span" value="{span}"' in html
    assert "✕" not in admin.get(f"{url}?span=nonsense").content.decode()


@pytest.mark.parametrize(
    ("query", "numbers"),
    [("last=failed", {0}), ("last=answered", {1}), ("cost=0.1", {1}), ("cost=unknown", {0}), ("within=1h", {0})],
)
def test_conversations_by_start_last_outcome_and_cost(admin: Client, query: str, numbers: set[int]) -> None:
    profile = factories.profile()
    both = [
        Conversation.objects.create(profile=profile, profile_slug="x", tenant_name="t", created_at=NOW - age)
        for age in (MINUTE, DAY)
    ]
    turn_with(conversation=both[0], arrival=1, outcome="answered", input_tokens=1)
    turn_with(conversation=both[0], arrival=2, outcome="failed")
    turn_with(conversation=both[1], arrival=1, outcome="failed", cost_usd=Decimal("0.07"))
    turn_with(conversation=both[1], arrival=2, outcome="answered", cost_usd=Decimal("0.07"))

    assert kept(admin, "chatgateway_conversation", query) == {str(both[number].pk) for number in numbers}


@pytest.mark.parametrize(
    ("query", "slugs"),
    [
        ("failures=some", {"busy"}),
        ("last_turn=24h", {"busy"}),
        ("last_turn=unused", {"new", "old"}),
        ("last_turn=never", {"new"}),
        ("llm_model=openai/other", {"new"}),
        ("is_enabled__exact=0", {"old"}),
    ],
)
def test_profiles_by_model_enabled_last_turn_and_failures(admin: Client, query: str, slugs: set[str]) -> None:
    busy, old = factories.profile(slug="busy"), factories.profile(slug="old", is_enabled=False)
    factories.profile(slug="new", llm_model="openai/other")
    turn_with(profile=busy, outcome="failed")
    turn_with(profile=old, outcome="failed", opened_at=NOW - 40 * DAY)

    assert kept(admin, "profiles_profile", query) == {str(Profile.objects.get(slug=slug).pk) for slug in slugs}


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("used=24h", {"used"}),
        ("used=unused", {"never", "forgotten"}),
        ("used=never", {"never"}),
        ("expires=7d", {"used"}),
        ("expires=never", {"never", "forgotten"}),
    ],
)
def test_keys_by_last_use_and_expiry(admin: Client, query: str, names: set[str]) -> None:
    factories.api_key(name="used", expires_at=NOW + DAY)
    factories.api_key(name="never")
    factories.api_key(name="forgotten")
    ApiKey.objects.filter(name="used").update(last_used_at=NOW - MINUTE)
    ApiKey.objects.filter(name="forgotten").update(last_used_at=NOW - 40 * DAY)

    assert kept(admin, "profiles_apikey", query) == {str(ApiKey.objects.get(name=name).pk) for name in names}


def test_agent_servers_by_version(admin: Client) -> None:
    wanted = factories.agent_server(version="1.58.0")
    factories.agent_server(version="1.45.0")

    assert kept(admin, "chatgateway_agentserver", "version=1.58.0") == {str(wanted.pk)}
    assert AgentServer.objects.count() == 2
