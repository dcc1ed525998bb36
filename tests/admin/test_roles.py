"""Each role on each page and button of the admin: what it may open, and what it is refused."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib import admin as django_admin
from django.contrib.auth.models import Group
from django.test import Client
from django.urls import resolve, reverse

from chatgateway.models import AgentServer, Conversation, Erasure, TranscriptReading, Turn
from profiles.models import ApiKey, Profile, Tenant
from tests import factories
from tests.admin.test_every_url import site_urls
from tests.admin.test_pages import HOSTILE, history

pytestmark = pytest.mark.django_db

ROLES = ("administrator", "operator", "auditor")
SEEN = ("changelist", "change", "history")
EVERYTHING = (*SEEN, "add", "delete")
# What a role may open, by page. What is missing here is refused; a new page has to be given its place.
EDITED = ("profiles_tenant", "profiles_apikey", "profiles_profile", "chatgateway_agentserver")
OPEN_TO_ALL = {
    "index", "login", "jsi18n", "password_change", "password_change_done", "search", "toggle_sidebar", "overview_now",
    "chatgateway_turn_changelist", "chatgateway_turn_change", "chatgateway_turn_by_request",
    "chatgateway_turn_live", "chatgateway_turn_totals", "chatgateway_conversation_totals",
    "chatgateway_conversation_changelist", "chatgateway_conversation_change",
    "profiles_failedauthentication_changelist", "profiles_failedauthentication_change",
    "profiles_failedauthentication_history", "chatgateway_erasure_retention",
    "chatgateway_alert_changelist", "chatgateway_alert_change", "chatgateway_alert_history",
    "profiles_apikey_turns_of", "profiles_apikey_how_to_use", "profiles_profile_turns_of", "profiles_profile_retention",
    "chatgateway_agentserver_turns_of",
    *(f"{model}_{page}" for model in EDITED for page in ("changelist", "change")),
}  # fmt: skip
ACCOUNTS = {
    "profiles_changerecord_changelist", "profiles_changerecord_change",
    *(f"{model}_{page}" for model in ("chatgateway_transcriptreading", "chatgateway_erasure") for page in SEEN),
    *(f"{model}_history" for model in (*EDITED, "auth_user", "auth_group")),
}  # fmt: skip
RUNNING = {
    "profiles_profile_try_out", "profiles_profile_doctor", "chatgateway_agentserver_try_out", "chatgateway_agentserver_drain",
    "chatgateway_agentserver_activate", "chatgateway_agentserver_disable",
    *(f"chatgateway_taskrun_{page}" for page in SEEN),
}  # fmt: skip
EXPORTS = {"chatgateway_conversation_report", "profiles_tenant_report"} | {
    f"chatgateway_{rows}_export_{form}" for rows in ("turn", "conversation") for form in ("csv", "jsonl")
}
OWN = {
    "administrator": RUNNING
    | ACCOUNTS
    | {
        "chatgateway_erasure_add", "profiles_apikey_rotate", "profiles_apikey_revoke",
        "profiles_profile_model_offers", "profiles_profile_live_check", *EXPORTS,
        *(f"{model}_{page}" for model in EDITED for page in EVERYTHING),
    },
    "operator": RUNNING,
    "auditor": ACCOUNTS
    | EXPORTS
    | {f"chatgateway_turn_{page}" for page in ("steps", "raw_request", "raw_response", "raw_events")},
}  # fmt: skip
# A live key is revoked before it is deleted, a tenant in use stays, an active server is disabled first; nobody may.
NEVER = {"profiles_apikey_delete", "profiles_tenant_delete", "chatgateway_agentserver_delete"}


def signed_in(role: str) -> Client:
    browser = Client()
    browser.force_login(factories.person(role))
    return browser


def name_of(url: str) -> str:
    return str(resolve(url).url_name)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_opens_its_pages_and_no_other(role: str) -> None:
    history(1)
    Group.objects.get_or_create(name="readers")
    browser = signed_in(role)
    urls = {name_of(url): url for url in site_urls() if name_of(url) != "chatgateway_turn_stop"}

    opened = {name for name, url in urls.items() if browser.get(url).status_code in {200, 302}}

    assert opened == ((OPEN_TO_ALL | OWN[role]) - NEVER) & set(urls)


def test_without_a_role_there_is_nothing_to_see() -> None:
    history(1)
    Group.objects.get_or_create(name="readers")
    browser = signed_in("")
    own = {"index", "login", "jsi18n", "password_change", "password_change_done", "search", "toggle_sidebar"}

    opened = {name_of(url) for url in site_urls() if browser.get(url).status_code in {200, 302}}

    assert opened - own == set()


def test_no_page_is_missing_from_the_table() -> None:
    models = {f"{model._meta.app_label}_{model._meta.model_name}" for model in django_admin.site._registry}
    placed = {name.rpartition("_")[0] for name in OPEN_TO_ALL.union(*OWN.values())}

    assert models - placed == set()


ACTIONS: list[tuple[str, Any, dict[str, Any], set[str]]] = [
    ("chatgateway_turn_stop", Turn, {}, {"administrator", "operator"}),
    ("profiles_apikey_rotate", ApiKey, {"hours": "1"}, {"administrator"}),
    ("profiles_apikey_revoke", ApiKey, {"reason": "over"}, {"administrator"}),
    ("profiles_apikey_change", ApiKey, {"name": "renamed"}, {"administrator"}),
    ("profiles_profile_change", Profile, {"slug": "renamed"}, {"administrator"}),
    ("profiles_profile_delete", Profile, {"post": "yes"}, {"administrator"}),
    ("profiles_profile_try_out", Profile, {"prompt": ""}, {"administrator", "operator"}),
    ("profiles_profile_doctor", Profile, {}, {"administrator", "operator"}),
    ("profiles_tenant_change", Tenant, {"name": "renamed"}, {"administrator"}),
    ("chatgateway_agentserver_change", AgentServer, {"name": "renamed"}, {"administrator"}),
    ("chatgateway_agentserver_try_out", AgentServer, {"prompt": ""}, {"administrator", "operator"}),
    ("chatgateway_agentserver_drain", AgentServer, {}, {"administrator", "operator"}),
    ("chatgateway_agentserver_disable", AgentServer, {}, {"administrator", "operator"}),
    ("chatgateway_agentserver_activate", AgentServer, {}, {"administrator", "operator"}),
    ("chatgateway_erasure_add", None, {"tenant": "", "end_user": ""}, {"administrator"}),
    ("profiles_tenant_add", None, {"name": "new"}, {"administrator"}),
    ("chatgateway_turn_change", Turn, {"answer": "forged"}, set()),
    ("chatgateway_conversation_change", Conversation, {"state": "deleted"}, set()),
    ("chatgateway_turn_delete", Turn, {"post": "yes"}, set()),
    ("chatgateway_transcriptreading_delete", TranscriptReading, {"post": "yes"}, set()),
    ("chatgateway_erasure_delete", Erasure, {"post": "yes"}, set()),
    ("auth_user_add", None, {"username": "me"}, set()),
]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("name", "model", "sent", "allowed"), ACTIONS, ids=lambda value: str(value)[:40])
def test_a_role_does_what_it_may_and_nothing_else(
    role: str, name: str, model: Any, sent: dict[str, Any], allowed: set[str]
) -> None:
    history(1)
    row = model.objects.order_by("pk").last() if model is not None else None
    url = reverse(f"admin:{name}", args=[row.pk] if row is not None else [])

    status = signed_in(role).post(url, sent).status_code

    may = status in {200, 302, 400}
    if name.endswith(("turn_change", "conversation_change")):
        assert not Turn.objects.filter(answer="forged").exists()
        assert not Conversation.objects.filter(state="deleted").exists()
    else:
        assert (status == 403) == (role not in allowed)
        assert may == (role in allowed)


def test_texts_are_for_the_auditor_figures_for_all() -> None:
    history(1)
    turn = Turn.objects.get()
    pages = [
        reverse("admin:chatgateway_turn_change", args=[turn.pk]),
        reverse("admin:chatgateway_conversation_change", args=[turn.conversation_id]),
    ]
    Turn.objects.update(model_id="openhands_x", client="curl", end_user="somebody")

    seen = {role: [signed_in(role).get(page).content.decode() for page in pages] for role in ROLES}

    hostile = HOSTILE.replace("<", "&lt;").replace(">", "&gt;").replace("'", "&#x27;")
    assert {role: [hostile in html for html in pages] for role, pages in seen.items()} == {
        "administrator": [False, False], "operator": [False, False], "auditor": [True, True],
    }  # fmt: skip
    assert all("failed" in html for pages in seen.values() for html in pages)


def test_the_navigation_offers_what_a_role_may_open() -> None:
    html = signed_in("operator").get(reverse("admin:index")).content.decode()

    assert reverse("admin:chatgateway_turn_changelist") in html
    assert reverse("admin:profiles_changerecord_changelist") not in html
    assert reverse("admin:auth_user_changelist") not in html


# --- readings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "what"),
    [
        ("chatgateway_turn_change", "turn"),
        ("chatgateway_turn_raw_request", "request"),
        ("chatgateway_turn_raw_response", "response"),
        ("chatgateway_turn_raw_events", "events"),
        ("chatgateway_turn_steps", "turn"),
        ("chatgateway_conversation_change", "conversation"),
    ],
)
def test_every_reading_of_a_transcript_is_recorded(page: str, what: str) -> None:
    history(1)
    TranscriptReading.objects.all().delete()
    turn = Turn.objects.get()
    row = turn.conversation_id if what == "conversation" else turn.pk
    auditor, operator = factories.person("auditor", username="ada"), signed_in("operator")
    browser = Client()
    browser.force_login(auditor)

    browser.get(reverse(f"admin:{page}", args=[row]), REMOTE_ADDR="192.0.2.7")
    operator.get(reverse(f"admin:{page}", args=[row]))

    (reading,) = TranscriptReading.objects.all()
    assert (reading.user, reading.username, reading.address) == (auditor, "ada", "192.0.2.7")
    assert (reading.what, reading.conversation_id) == (what, turn.conversation_id)
    assert reading.turn_id == (None if what == "conversation" else turn.pk)


def test_a_reading_outlives_who_read_and_what_was_read() -> None:
    history(1)
    TranscriptReading.objects.all().delete()
    auditor = factories.person("auditor", username="ada")
    browser = Client()
    browser.force_login(auditor)
    browser.get(reverse("admin:chatgateway_turn_change", args=[Turn.objects.get().pk]))

    auditor.delete()
    Turn.objects.all().delete()

    reading = TranscriptReading.objects.get()
    assert (reading.username, reading.user, reading.turn) == ("ada", None, None)
