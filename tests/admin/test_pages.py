"""The admin: every page opens, history stays as it was, and nothing secret or live is in the HTML."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from chatgateway import erasures, sql
from chatgateway.models import (
    AgentServer,
    Alert,
    Attempt,
    Conversation,
    Erasure,
    Event,
    Message,
    TaskRun,
    TranscriptReading,
    Turn,
)
from profiles import changes
from profiles.models import ApiKey, ApiKeySecret, ChangeRecord, FailedAuthentication, Profile, Tenant
from tests import factories

pytestmark = pytest.mark.django_db

HOSTILE = "<script>alert('x')</script>{{ 7*7 }}<img src=x onerror=alert(1)>"
LISTS = {
    "profiles_tenant": Tenant,
    "profiles_apikey": ApiKey,
    "profiles_profile": Profile,
    "profiles_failedauthentication": FailedAuthentication,
    "chatgateway_agentserver": AgentServer,
    "chatgateway_conversation": Conversation,
    "chatgateway_turn": Turn,
    "chatgateway_taskrun": TaskRun,
    "chatgateway_alert": Alert,
    "chatgateway_transcriptreading": TranscriptReading,
    "chatgateway_erasure": Erasure,
    "profiles_changerecord": ChangeRecord,
}


@pytest.fixture
def admin() -> Client:
    browser = Client()
    browser.force_login(User.objects.create_superuser("root", password="x"))
    return browser


def history(count: int) -> None:
    """So many rows of everything, with hostile texts in them."""
    for number in range(count):
        key = factories.api_key()
        profile = factories.profile(mcp_config='{"mcpServers": {"a": {"token": "mcp-secret"}}}')
        server = factories.agent_server()
        FailedAuthentication.objects.create(minute=timezone.now(), address=f"10.0.0.{number}", prefix="x", count=1)
        conversation = Conversation.objects.create(
            tenant=key.row.tenant, api_key=key.row, profile=profile, agent_server=server, tenant_name="t",
            profile_slug=profile.slug,
        )  # fmt: skip
        message = Message(
            id=conversation.pk, tenant=key.row.tenant, depth=0, role="user", body={"role": "user", "content": HOSTILE}
        )
        sql.insert([message])
        turn = Turn.objects.create(
            tenant=key.row.tenant, api_key=key.row, profile=profile, conversation=conversation, agent_server=server,
            request_id=f"req_{number}", reply_id=f"chatcmpl-{number}", model_id=HOSTILE, endpoint="chat.completions",
            outcome="failed", phase="closed", closed_at=timezone.now(), run_ended_at=timezone.now(), answer=HOSTILE,
            reasoning=HOSTILE, error_code="agent_error", error_message=HOSTILE, error_detail=HOSTILE, client=HOSTILE,
            last_message=message, parameters={"messages": None, "user": HOSTILE}, end_user=HOSTILE,
        )  # fmt: skip
        Attempt.objects.create(turn=turn, request_id=f"req_{number}")
        TaskRun.objects.create(
            name=f"task {conversation.pk}", outcome="failed", message=HOSTILE, runs=1, started_at=timezone.now()
        )
        Alert.objects.create(
            name=f"alert {conversation.pk}", tenant=key.row.tenant, api_key=key.row, period="day", percent=80,
            began_on=timezone.now().date(), spent_usd=1, ceiling_usd=1, message=HOSTILE,
        )  # fmt: skip
        changes.added(profile, by=changes.program(HOSTILE), note=HOSTILE)
        TranscriptReading.objects.create(username=HOSTILE, what="turn", turn=turn, tenant_name=HOSTILE)
        erasures.ask(tenant=key.row.tenant, end_user=HOSTILE, by=HOSTILE)
        raw = {"kind": "ObservationEvent", "observation": {"content": [{"type": "text", "text": HOSTILE}]}}
        Event.objects.create(
            turn=turn, conversation=conversation, seq=0, kind="ObservationEvent", tool="terminal", summary=HOSTILE,
            raw=raw,
        )  # fmt: skip


@pytest.mark.parametrize("name", LISTS)
def test_a_list_takes_as_many_queries_for_fifty_rows_as_for_one(
    admin: Client, name: str, django_assert_max_num_queries: Callable[..., Any], settings: Any
) -> None:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    url = reverse(f"admin:{name}_changelist")
    history(1)
    admin.get(url)
    with CaptureQueriesContext(connection) as few:
        assert admin.get(url).status_code == 200
    history(49)

    with CaptureQueriesContext(connection) as many:
        assert admin.get(url).status_code == 200

    assert len(many) == len(few)


@pytest.mark.parametrize("name", LISTS)
def test_every_page_of_an_object_opens_without_secrets_and_without_live_markup(admin: Client, name: str) -> None:
    history(1)
    secrets = ["sk-provider-secret", "session-secret", "mcp-secret", ApiKeySecret.objects.get().digest]

    pages = [admin.get(reverse("admin:index")), admin.get(reverse(f"admin:{name}_changelist"))]
    row = LISTS[name]._default_manager.order_by("pk").last()
    pages.append(admin.get(reverse(f"admin:{name}_change", args=[row.pk])))

    for html in (page.content.decode() for page in pages):
        assert [secret for secret in secrets if secret in html] == []
        assert "<script>alert" not in html
        assert "<img src=x" not in html
    assert {page.status_code for page in pages} == {200}


@pytest.mark.parametrize(
    "name", ["chatgateway_turn", "chatgateway_conversation", "chatgateway_taskrun", "profiles_failedauthentication"]
)
def test_history_can_be_read_and_nothing_else(admin: Client, name: str) -> None:
    history(1)
    row = LISTS[name]._default_manager.get()

    page = admin.get(reverse(f"admin:{name}_change", args=[row.pk]))
    changed = admin.post(reverse(f"admin:{name}_change", args=[row.pk]), {"answer": "forged"})
    deleted = admin.post(reverse(f"admin:{name}_delete", args=[row.pk]), {"post": "yes"})

    assert page.status_code == 200
    assert 'name="_save"' not in page.content.decode()
    assert changed.status_code in {200, 403}
    assert deleted.status_code == 403
    assert "forged" not in str(LISTS[name]._default_manager.values())
    assert admin.get(reverse(f"admin:{name}_add")).status_code == 403


def test_a_turns_page_tells_question_answer_and_error_in_reading_order(admin: Client) -> None:
    history(1)

    html = admin.get(reverse("admin:chatgateway_turn_change", args=[Turn.objects.get().pk])).content.decode()

    places = [html.index(f'id="h-{part}"') for part in ("question", "steps", "answer", "error", "raw")]
    assert places == sorted(places)
    assert "&lt;script&gt;alert" in html


@pytest.mark.parametrize("frame", ["raw_request", "raw_events"])
def test_raw_records_come_in_a_frame_without_any_script(admin: Client, frame: str) -> None:
    history(1)

    page = admin.get(reverse(f"admin:chatgateway_turn_{frame}", args=[Turn.objects.get().pk]))

    policy = page.headers["Content-Security-Policy"]
    assert page.status_code == 200
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert page.headers["X-Frame-Options"] == "SAMEORIGIN"
    assert "<script>alert" not in page.content.decode()


def test_the_admins_pages_load_nothing_from_elsewhere(admin: Client) -> None:
    policy = admin.get(reverse("admin:index")).headers["Content-Security-Policy"]

    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "'unsafe-inline'" not in policy.replace("style-src-attr 'unsafe-inline'", "")


def test_a_new_keys_secret_is_shown_once_and_works(admin: Client) -> None:
    from profiles import access

    tenant = factories.tenant()
    form = {"tenant": tenant.pk, "name": "laptop", "can_chat": "on", "allows_all_profiles": "on", "notes": ""}

    shown = admin.post(reverse("admin:profiles_apikey_add"), form, follow=True)
    key = ApiKey.objects.get()
    secret = key.secrets.get()
    html = shown.content.decode()
    text = next(
        word for word in html.replace("<", " ").replace(">", " ").split() if word.startswith(f"gw-{secret.prefix}-")
    )
    again = admin.get(reverse("admin:profiles_apikey_change", args=[key.pk])).content.decode()

    assert access.caller_for(text, now=timezone.now()).api_key_id == key.pk
    assert "no-store" in shown.headers["Cache-Control"]
    assert text not in again


@pytest.mark.parametrize("name", ["profiles_profile", "chatgateway_agentserver"])
def test_the_page_that_tests_something_warns_before_it_costs(admin: Client, name: str) -> None:
    history(1)
    row = LISTS[name]._default_manager.get()

    page = admin.get(reverse(f"admin:{name}_change", args=[row.pk]).replace("/change/", "/test/"))

    assert page.status_code == 200
    assert "cost money" in page.content.decode()


@pytest.mark.parametrize("name", LISTS)
def test_an_empty_list_says_what_would_be_there(admin: Client, name: str) -> None:
    assert admin.get(reverse(f"admin:{name}_changelist")).status_code == 200
