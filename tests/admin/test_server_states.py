"""Draining, disabling and activating an agent-server in the admin: what is told before, and what it does."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from openai import OpenAI

from chatgateway.models import AgentServer, Conversation, Turn
from profiles.models import ChangeRecord
from tests import factories
from tests.fakes.agent_script import Answer
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway

pytestmark = pytest.mark.django_db


def url(server: AgentServer, verb: str) -> str:
    return reverse(f"admin:chatgateway_agentserver_{verb}", args=[server.pk])


def running_on(server: AgentServer, **fields: Any) -> Turn:
    given: dict[str, Any] = {"outcome": "open", "phase": "running", "started_at": timezone.now()}
    return Turn.objects.create(endpoint="chat.completions", agent_server=server, **given | fields)


def conversation_on(server: AgentServer, state: str = "live") -> Conversation:
    return Conversation.objects.create(tenant_name="t", profile_slug="p", agent_server=server, state=state)


@pytest.mark.parametrize(
    ("was", "verb", "becomes"),
    [
        ("active", "drain", "draining"),
        ("active", "disable", "disabled"),
        ("draining", "disable", "disabled"),
        ("draining", "activate", "active"),
        ("disabled", "activate", "active"),
    ],
)
def test_a_server_is_brought_into_another_state_after_asking(admin: Client, was: str, verb: str, becomes: str) -> None:
    server = factories.agent_server(state=was)

    asked = admin.get(url(server, verb))
    unchanged = AgentServer.objects.get().state
    admin.post(url(server, verb))

    assert asked.status_code == 200
    assert (unchanged, AgentServer.objects.get().state) == (was, becomes)
    record = ChangeRecord.objects.get()
    assert (record.actor, record.fields) == ("root", {"state": [was, becomes]})


def test_before_it_is_done_the_page_says_what_is_there_and_what_becomes_of_it(admin: Client) -> None:
    server = factories.agent_server(name="north", capacity=4, max_conversations=20)
    factories.agent_server(name="south", health="up")
    running_on(server)
    running_on(server, outcome="answered", phase="closed", closed_at=timezone.now())  # its run has not been seen to end
    for state in ("live", "live", "expired"):
        conversation_on(server, state)

    html = admin.get(url(server, "disable")).content.decode()

    assert "2 of at most 4" in html
    assert "2 of at most 20" in html
    assert "south (up)" in html
    assert "told from the record, without their files" in html


def test_the_last_server_is_not_taken_away_without_a_warning(admin: Client) -> None:
    only = factories.agent_server()
    factories.profile(slug="coder")

    alone = admin.get(url(only, "drain")).content.decode()
    factories.agent_server()
    with_another = admin.get(url(only, "drain")).content.decode()

    assert "new conversations are refused, with every profile (coder)" in alone
    assert "refused" not in with_another


def test_a_profile_bound_to_this_server_alone_is_named(admin: Client) -> None:
    server, other = factories.agent_server(), factories.agent_server()
    server.profiles.set([factories.profile(slug="pinned"), (both := factories.profile(slug="both"))])
    other.profiles.set([both])

    html = admin.get(url(server, "disable")).content.decode()

    assert "No other active agent-server may run pinned: new" in html


def test_agents_at_work_finish_unless_the_box_is_ticked(admin: Client) -> None:
    finishing, stopping = factories.agent_server(), factories.agent_server()
    left, stopped = running_on(finishing), running_on(stopping)

    admin.post(url(finishing, "disable"))
    said = admin.post(url(stopping, "disable"), {"stop": "on"}, follow=True).content.decode()

    left.refresh_from_db()
    stopped.refresh_from_db()
    assert left.cancel_requested_at is None
    assert (stopped.cancel_reason, stopped.cancel_requested_at is not None) == ("admin", True)
    assert "1 turn will have stopped within 2 seconds." in said


def test_who_may_not_stop_turns_is_not_offered_it_and_cannot_force_it(admin: Client) -> None:
    server = factories.agent_server()
    turn = running_on(server)
    person = factories.person()
    person.user_permissions.set(Permission.objects.filter(codename__in=["operate_agentserver", "view_agentserver"]))
    browser = Client()
    browser.force_login(person)

    html = browser.get(url(server, "disable")).content.decode()
    browser.post(url(server, "disable"), {"stop": "on"})

    turn.refresh_from_db()
    assert "Also stop" not in html
    assert "Also stop" in admin.get(url(server, "drain")).content.decode()
    assert AgentServer.objects.get().state == "disabled"
    assert turn.cancel_requested_at is None


def test_the_same_click_twice_says_that_it_was_done(admin: Client) -> None:
    server = factories.agent_server()

    admin.post(url(server, "drain"))
    again = admin.post(url(server, "drain"), follow=True)

    assert "is draining: no new conversations already." in again.content.decode()
    assert ChangeRecord.objects.count() == 1


@pytest.mark.parametrize(
    ("state", "offered"),
    [("active", {"drain", "disable"}), ("draining", {"activate", "disable"}), ("disabled", {"activate", "drain"})],
)
def test_a_servers_page_offers_the_states_it_is_not_in(admin: Client, state: str, offered: set[str]) -> None:
    server = factories.agent_server(state=state)

    html = admin.get(reverse("admin:chatgateway_agentserver_change", args=[server.pk])).content.decode()

    assert {verb for verb in ("drain", "activate", "disable") if f'href="{url(server, verb)}"' in html} == offered


def test_from_the_next_request_on_turns_go_elsewhere_without_a_restart(
    served: LiveGateway, agent_server: FakeAgentServer, client: OpenAI
) -> None:
    first = AgentServer.objects.get()
    browser = Client()
    browser.force_login(factories.person("operator"))

    def ask() -> str:
        answer = client.chat.completions.create(model="openhands_chat", messages=[{"role": "user", "content": "Hi"}])
        return answer.choices[0].message.content or ""

    with FakeAgentServer() as other:
        agent_server.script(Answer("from the first"))
        other.script(Answer("from the second"))
        before = ask()
        factories.agent_server(url=other.url, session_api_key=other.session_api_key, name="second")
        browser.post(url(first, "drain"))
        after = ask()

    assert (before, after) == ("from the first", "from the second")
