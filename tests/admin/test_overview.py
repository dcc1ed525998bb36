"""The admin's first page: what it counts, what it warns of, what keeps itself up to date, and for whom."""

from __future__ import annotations

import datetime as dt
import re
from html import unescape
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from chatgateway import hourly, task_log
from chatgateway.models import Alert, Conversation, Erasure, Event, Turn
from profiles.models import FailedAuthentication
from tests import factories

pytestmark = pytest.mark.django_db

SECOND, HOUR, DAY = dt.timedelta(seconds=1), dt.timedelta(hours=1), dt.timedelta(days=1)


def ago(length: dt.timedelta) -> dt.datetime:
    return timezone.now() - length


def turn(**fields: Any) -> Turn:
    at = fields.setdefault("opened_at", ago(10 * SECOND))
    given: dict[str, Any] = {"endpoint": "chat.completions", "outcome": "answered", "phase": "closed"}
    given |= {"closed_at": at + 4 * SECOND, "run_ended_at": at + 4 * SECOND}
    return Turn.objects.create(**given | fields)


def open_turn(**fields: Any) -> Turn:
    return turn(**{"outcome": "open", "phase": "running", "closed_at": None, "run_ended_at": None} | fields)


def text(browser: Client, name: str = "admin:index", **asked: str) -> str:
    """What a page says, without its markup."""
    html = browser.get(reverse(name), asked).content.decode()
    html = html[html.index('class="gw-') :] if "overview_now" not in name else html
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


def in_role(role: str) -> Client:
    browser = Client()
    browser.force_login(factories.person(role))
    return browser


# --- figures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "counted"),
    [
        ({"range": "1h"}, 1),
        ({}, 2),
        ({"range": "24h"}, 2),
        ({"range": "7d"}, 3),
        ({"range": "30d"}, 4),
        ({"range": "nonsense"}, 2),
    ],
)
def test_each_range_counts_its_own_turns(admin: Client, asked: dict[str, str], counted: int) -> None:
    for length in (10 * SECOND, 5 * HOUR, 3 * DAY, 20 * DAY, 50 * DAY):
        turn(opened_at=ago(length))
    hourly.sum_up(timezone.now())

    assert f"Turns {counted} {counted} answered" in text(admin, **asked)


def test_days_of_ones_own_are_those_of_the_pages_time_zone(admin: Client, settings: Settings) -> None:
    settings.TIME_ZONE = "Asia/Tokyo"
    turn(opened_at=dt.datetime(2026, 11, 9, 14, 59, tzinfo=dt.UTC))  # the 9th in Tokyo
    turn(opened_at=dt.datetime(2026, 11, 9, 15, 1, tzinfo=dt.UTC))  # the 10th
    turn(opened_at=dt.datetime(2026, 11, 10, 14, 59, tzinfo=dt.UTC))
    turn(opened_at=dt.datetime(2026, 11, 10, 15, 1, tzinfo=dt.UTC))  # the 11th
    hourly.sum_up(dt.datetime(2026, 11, 20, tzinfo=dt.UTC))

    said = text(admin, since="2026-11-10", until="2026-11-10")

    assert "Turns 2 2 answered" in said
    assert "2026-11-10" in said
    assert "Asia/Tokyo" in said


@pytest.mark.parametrize(
    ("since", "until", "told"),
    [
        ("2026-11-10", "2026-11-09", "The last day is before the first."),
        ("2020-01-01", "2026-11-09", "At most 400 days"),
        ("yesterday", "2026-11-09", "Enter a valid date."),
        ("", "2026-11-09", "This field is required."),
        ("2999-01-01", "2999-01-02", "Nobody called in this time"),
    ],
)
def test_a_time_that_cannot_be_is_refused_in_words(admin: Client, since: str, until: str, told: str) -> None:
    turn(opened_at=ago(DAY * 3))

    assert told in text(admin, since=since, until=until)


def test_what_was_spent_is_told_by_profile_tenant_and_key_and_leads_to_the_turns(admin: Client) -> None:
    key = factories.api_key(tenant=factories.tenant(name="Acme"), name="laptop").row
    coder, local = factories.profile(slug="coder"), factories.profile(slug="local")
    turn(tenant=key.tenant, api_key=key, profile=coder, cost_usd="1.5", input_tokens=1000, output_tokens=200)
    turn(tenant=key.tenant, api_key=key, profile=local, input_tokens=9, outcome="timed_out")

    html = admin.get(reverse("admin:index")).content.decode()
    said = text(admin)

    assert "coder 1 0 1,200 $1.50" in said
    assert "local 1 1 9 unknown" in said
    assert "Acme 2 1 1,209 $1.50 +" in said
    assert "Acme: laptop 2 1 1,209 $1.50 +" in said
    assert f"within=24h&amp;profile__id__exact={coder.pk}" in html


def test_times_are_told_as_half_and_ninety_five_percent(admin: Client) -> None:
    for number in range(20):
        at = ago(60 * SECOND)
        turn(opened_at=at, first_text_at=at + (2 if number < 18 else 20) * SECOND)

    assert re.search(r"First text after (1\.9|2\.0)\d s half of the turns; 95 % after (19|20)\.\d s", text(admin))


def test_a_chart_is_also_a_table(admin: Client) -> None:
    turn(opened_at=ago(30 * SECOND))

    said = text(admin, range="1h")

    assert "Turns per 2 minutes answered failed refused cancelled or open" in said
    assert said.count("As a table") == 6 - said.count("Nothing to draw in this time.")
    assert re.search(r"\d\d:\d\d–\d\d:\d\d 1 0 0 0", said)


@pytest.mark.parametrize("range_", ["1h", "24h", "7d", "30d"])
def test_a_bar_leads_to_the_turns_it_counts_and_no_others(admin: Client, range_: str) -> None:
    for age in (HOUR / 4, HOUR / 4, HOUR / 2):
        turn(opened_at=ago(age))
    hourly.sum_up(timezone.now())

    html = admin.get(reverse("admin:index"), {"range": range_}).content.decode()
    chart = html[html.index('id="chart-turns"') : html.index('id="chart-cost"')]
    bars = re.findall(r'<a href="([^"]+)" tabindex="-1"><rect[^>]*><title>[^<]*answered (\d+)', chart)
    listed = [len(admin.get(unescape(url)).context["cl"].result_list) for url, _ in bars]

    assert listed == [int(counted) for _, counted in bars]
    assert sum(listed) == 3
    assert [url for url, _ in bars] == re.findall(r'<td><a class="gw-link" href="([^"]+)">', chart)


def test_figures_of_days_of_ones_own_lead_to_their_turns(admin: Client) -> None:
    for age in (2 * DAY, 2 * DAY, 9 * DAY):
        turn(opened_at=ago(age), outcome="failed")
    hourly.sum_up(timezone.now())
    day = timezone.localtime(ago(2 * DAY)).date().isoformat()

    html = admin.get(reverse("admin:index"), {"since": day, "until": day}).content.decode()
    links = [unescape(url) for url in re.findall(r'<a class="gw-card gw-figure" href="([^"]+)"', html)]

    assert len(links) == 3
    assert len(admin.get(links[1]).context["cl"].result_list) == 2


def test_the_page_takes_as_many_queries_for_many_turns_as_for_few(admin: Client) -> None:
    def fill(count: int) -> None:
        for _ in range(count):
            key = factories.api_key().row
            turn(tenant=key.tenant, api_key=key, profile=factories.profile(), opened_at=ago(3 * HOUR))
            open_turn(tenant=key.tenant, api_key=key, agent_server=factories.agent_server())

    fill(2)
    admin.get(reverse("admin:index"))
    with CaptureQueriesContext(connection) as few:
        admin.get(reverse("admin:index"))
    fill(20)
    with CaptureQueriesContext(connection) as many:
        admin.get(reverse("admin:index"))

    assert len(many) <= len(few) + 1  # more open turns than are shown are counted
    assert len(many) < 45


# --- what has to be done --------------------------------------------------------------------------------------------


def ready() -> None:
    """A gateway that lacks nothing."""
    factories.profile(slug="coder")
    factories.agent_server(name="north", health="up")
    factories.api_key()
    task_log.begin("chatgateway.tasks.probe_servers", every_seconds=10)
    task_log.end("chatgateway.tasks.probe_servers", message="1 of 1", is_failure=False)
    turn()


def todos(browser: Client) -> str:
    html = browser.get(reverse("admin:overview_now")).content.decode()
    found = re.findall(r'<li class="gw-note.*?</li>', html, re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", " ".join(found)))


def test_a_gateway_that_lacks_nothing_has_nothing_to_do(admin: Client) -> None:
    ready()

    assert todos(admin) == ""


def key_that_expires() -> None:
    factories.api_key(tenant=factories.tenant(name="Acme"), name="laptop", expires_at=timezone.now() + 3 * DAY)


def server_that_is_down() -> None:
    factories.agent_server(name="south", health="down", health_message="refused", down_since=timezone.now())


def profile_without_server() -> None:
    profile = factories.profile(slug="pinned")
    factories.agent_server(state="disabled").profiles.set([profile])


def turn_that_waits() -> None:
    open_turn(phase="queued", opened_at=ago(90 * SECOND))


def task_that_failed() -> None:
    task_log.begin("chatgateway.tasks.apply_retention", every_seconds=3600)
    task_log.end("chatgateway.tasks.apply_retention", message="ValueError: no", is_failure=True)


def price_that_is_unknown() -> None:
    profile = factories.profile(slug="local", llm_model="openai/qwen", input_price=None, output_price=None)
    turn(profile=profile, input_tokens=5, opened_at=ago(30 * HOUR))
    hourly.sum_up(timezone.now())


def ceiling_nearly_used_up() -> None:
    Alert.objects.create(
        name="a", tenant=factories.tenant(), period="day", began_on=timezone.now().date(), percent=80, spent_usd=8,
        ceiling_usd=10,
    )  # fmt: skip


def somebody_who_guesses() -> None:
    FailedAuthentication.objects.create(minute=timezone.now(), address="192.0.2.1", prefix="x", count=60)


def deletion_that_waits() -> None:
    Erasure.objects.create(tenant=factories.tenant(), end_user="x", asked_at=ago(HOUR), asked_by="root")


@pytest.mark.parametrize(
    ("happens", "told", "leads_to"),
    [
        (key_that_expires, "The key “laptop” of Acme expires", "profiles_apikey_change"),
        (server_that_is_down, "The agent-server “south” does not answer", "chatgateway_agentserver_change"),
        (profile_without_server, "the profile “pinned” is bound to is active", "chatgateway_agentserver_changelist"),
        (turn_that_waits, "1 turn waits for a free place", "chatgateway_agentserver_changelist"),
        (task_that_failed, "failed", "chatgateway_taskrun_changelist"),
        (price_that_is_unknown, "The price of openai/qwen is unknown: 1 turns", "profiles_profile_change"),
        (ceiling_nearly_used_up, "used most of a ceiling in USD", "chatgateway_alert_changelist"),
        (
            somebody_who_guesses,
            "60 requests of the last hour had no valid key",
            "profiles_failedauthentication_changelist",
        ),
        (deletion_that_waits, "is not done yet", "chatgateway_erasure_changelist"),
    ],
)
def test_what_needs_somebody_is_told_with_a_link(admin: Client, happens: Any, told: str, leads_to: str) -> None:
    ready()
    happens()
    page = admin.get(reverse("admin:overview_now"))
    html = page.content.decode()
    link = re.search(r'id="todo-1" href="([^"]+)"', html)

    assert told in todos(admin)
    assert link is not None
    assert admin.get(link[1]).resolver_match.url_name == leads_to


def test_before_the_first_turn_the_way_to_it_is_shown_with_what_is_done(admin: Client) -> None:
    factories.agent_server()

    html = admin.get(reverse("admin:index")).content.decode()
    turn()
    later = text(admin)

    assert re.findall(r'id="step-\d" href="([^"]+)"', html) == [
        reverse("admin:profiles_profile_add"), reverse("admin:profiles_apikey_add"),
        reverse("admin:profiles_profile_changelist"),
    ]  # fmt: skip
    assert "An agent-server done" in re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))
    assert "To the first turn" not in later


# --- now ------------------------------------------------------------------------------------------------------------


def test_an_open_turn_is_told_with_its_last_step_and_no_word_of_it(admin: Client) -> None:
    key = factories.api_key(tenant=factories.tenant(name="Acme"), name="laptop").row
    server = factories.agent_server(name="north", capacity=3)
    conversation = Conversation.objects.create(tenant_name="Acme", profile_slug="p", agent_server=server, state="live")
    row = open_turn(
        tenant=key.tenant, tenant_name="Acme", key_name="laptop", agent_server=server, conversation=conversation,
        model_id="openhands_coder", opened_at=ago(125 * SECOND),
    )  # fmt: skip
    for seq, kind, tool in ((0, "MessageEvent", ""), (1, "ActionEvent", "terminal")):
        Event.objects.create(
            turn=row, conversation=conversation, seq=seq, kind=kind, tool=tool, summary="Running: cat secret.txt",
            raw={"a": "secret.txt"},
        )  # fmt: skip

    said = text(admin, "admin:overview_now")

    assert "Running now: 1" in said
    assert re.search(r"2 min 0\d s Acme: laptop openhands_coder the agent works uses terminal, \S+ s ago north", said)
    assert "1 of 3 1" in said
    assert "secret" not in said


def test_a_turn_is_stopped_from_the_overview_and_leads_back_to_it(admin: Client) -> None:
    row = open_turn()

    stopped = admin.post(reverse("admin:chatgateway_turn_stop", args=[row.pk]), {"from_overview": "yes"})

    row.refresh_from_db()
    assert stopped.headers["Location"] == reverse("admin:index")
    assert (row.cancel_reason, row.cancel_requested_at is not None) == ("admin", True)
    assert "being stopped" in text(admin, "admin:overview_now")


def test_more_open_turns_than_are_shown_are_counted(admin: Client) -> None:
    for _ in range(18):
        open_turn()

    said = text(admin, "admin:overview_now")

    assert "Running now: 18" in said
    assert "and 3 more" in said


# --- for whom -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "stops", "sees_tasks"),
    [("administrator", True, True), ("operator", True, True), ("auditor", False, False)],
)
def test_a_role_sees_and_does_what_it_may(role: str, stops: bool, sees_tasks: bool) -> None:
    ready()
    open_turn()
    server_that_is_down()

    html = in_role(role).get(reverse("admin:index")).content.decode()

    assert ('<button type="submit" class="gw-button gw-button-small"' in html) == stops
    assert ('id="tasks-now"' in html) == sees_tasks
    assert 'id="servers-now"' in html
    assert "By profile" in html


def test_who_may_see_no_turns_sees_none_of_it() -> None:
    ready()
    browser = in_role("")

    page, part = browser.get(reverse("admin:index")), browser.get(reverse("admin:overview_now"))

    assert "The pages you may see are in the navigation." in page.content.decode()
    assert part.status_code == 403


def test_who_may_not_open_a_page_is_told_what_is_wrong_without_a_button() -> None:
    ready()
    deletion_that_waits()

    html = in_role("operator").get(reverse("admin:overview_now")).content.decode()

    assert "is not done yet" in html
    assert 'id="todo-1"' not in html


def test_signed_out_the_part_that_refreshes_leads_to_the_sign_in_page() -> None:
    answer = Client().get(reverse("admin:overview_now"))

    assert answer.status_code == 302
    assert answer.headers["Location"].startswith(reverse("admin:login"))
