"""What an administrator can and cannot make of an agent-server."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.checks import run_checks
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from chatgateway.models import AgentServer, Conversation, Leftover
from tests import factories
from tests.admin.forms import errors, save_server, told

pytestmark = pytest.mark.django_db


def test_an_empty_session_key_keeps_the_stored_one(admin: Client) -> None:
    server = factories.agent_server()

    assert errors(save_server(admin, server, capacity=3)) == {}

    saved = AgentServer.objects.get()
    assert (saved.capacity, saved.session_api_key.reveal()) == (3, "session-secret")


def test_the_session_key_does_not_follow_the_url_to_another_host(admin: Client) -> None:
    server = factories.agent_server(health="up", version="1.58.0", health_checked_at=timezone.now())

    response = save_server(admin, server, url="http://10.0.0.9:8000")

    saved = AgentServer.objects.get()
    assert not saved.session_api_key
    assert "session API key was removed" in told(response)
    # What was known of the other server says nothing of this one.
    assert (saved.health, saved.version, saved.health_checked_at) == ("unknown", "", None)


def test_a_session_key_sent_with_the_new_url_is_taken(admin: Client) -> None:
    server = factories.agent_server()

    save_server(admin, server, url="http://10.0.0.9:8000/", session_api_key="of-the-new-host")

    saved = AgentServer.objects.get()
    assert (saved.url, saved.session_api_key.reveal()) == ("http://10.0.0.9:8000", "of-the-new-host")


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"workspace_root": "workspaces"}, "workspace_root"),
        ({"workspace_root": "/srv/../etc"}, "workspace_root"),
        ({"capacity": 0}, "capacity"),
        ({"url": "ftp://10.0.0.9"}, "url"),
        ({"url": "http://user:password@10.0.0.9"}, "url"),
    ],
)
def test_what_could_not_work_is_refused_by_the_fields_name(admin: Client, changed: dict[str, Any], field: str) -> None:
    assert list(errors(save_server(admin, factories.agent_server(), **changed))) == [field]


def test_only_a_disabled_server_can_be_deleted(admin: Client) -> None:
    active, disabled = factories.agent_server(), factories.agent_server(state="disabled")

    deleted = [
        admin.post(reverse("admin:chatgateway_agentserver_delete", args=[row.pk]), {"post": "yes"}).status_code
        for row in (active, disabled)
    ]

    assert deleted == [403, 302]


def test_a_server_that_several_tenants_share_says_that_nothing_isolates_them(admin: Client) -> None:
    shared, own = factories.agent_server(), factories.agent_server()
    mine, theirs = factories.tenant(), factories.tenant()
    for server, tenant, state in (
        (shared, mine, "live"), (shared, theirs, "live"), (own, mine, "live"), (own, theirs, "expired"),
    ):  # fmt: skip
        Conversation.objects.create(tenant=tenant, tenant_name="t", profile_slug="p", agent_server=server, state=state)

    pages = [
        admin.get(reverse("admin:chatgateway_agentserver_change", args=[server.pk])).content.decode()
        for server in (shared, own)
    ]
    warnings = [one for one in run_checks(include_deployment_checks=True) if one.id == "gateway.W001"]

    assert ["the\n        only isolation" in html for html in pages] == [True, False]
    assert "Conversations of 2 tenants" in pages[0]
    assert [shared.name in one.msg for one in warnings] == [True]
    assert "gateway.W001" not in {one.id for one in run_checks()}


def test_a_servers_page_says_what_is_kept_on_it_and_what_cannot_be_removed(admin: Client) -> None:
    server = factories.agent_server(max_conversations=20)
    conversation = Conversation.objects.create(tenant_name="t", profile_slug="p", agent_server=server, state="live")
    Leftover.objects.create(
        kind="directory", agent_server=server, conversation=conversation, path="/x", attempts=2, message="no room"
    )

    html = admin.get(reverse("admin:chatgateway_agentserver_change", args=[server.pk])).content.decode()

    for text in ("1 of at most 20", "Directories, each when its time comes: 1.", "Last failure: no room"):
        assert text in html
