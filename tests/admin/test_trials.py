"""*Test* on a profile and on an agent-server, over the socket: what is told line by line, and what is left behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from pytest_django import Settings

from chatgateway.models import AgentServer, Turn
from profiles.models import ApiKey, Profile
from tests import factories
from tests.fakes.agent_script import Answer, Gate, Step
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway
from tests.gateway_project.conftest import ScriptedLlmProcess
from tests.waiting import eventually

Line = dict[str, Any]
LLM_ANSWER = {"text": "Hello.", "finish_reason": "stop", "input_tokens": 3, "output_tokens": 2, "seconds": 0.1}


@pytest.fixture
def browser(served: LiveGateway, settings: Settings) -> Iterator[httpx.Client]:
    """A superuser's session with a gateway that reaches itself."""
    settings.GATEWAY_PUBLIC_URL = served.url
    signed_in = Client()
    signed_in.force_login(User.objects.create_superuser("root", password="x"))
    cookies = {"sessionid": signed_in.cookies["sessionid"].value}
    with httpx.Client(base_url=served.url, cookies=cookies, timeout=100) as session:
        session.get("/admin/password_change/")  # for the token that forms carry
        yield session


def path(row: Profile | AgentServer) -> str:
    return f"/admin/{row._meta.label_lower.replace('.', '/')}/{row.pk}/test/"


def run(browser: httpx.Client, row: Profile | AgentServer, **sent: Any) -> list[Line]:
    """Open the page, press the button, and return the lines it got."""
    page = browser.get(path(row))
    assert page.status_code == 200
    form = {"prompt": "Hi", "csrfmiddlewaretoken": browser.cookies["csrftoken"]} | sent
    response = browser.post(path(row), data=form)
    assert response.headers["content-type"] == "application/x-ndjson", response.text[:500]
    assert "no-store" in response.headers["cache-control"]
    return [json.loads(line) for line in response.text.splitlines()]


def last_state(lines: list[Line], part: str) -> Line:
    return [line for line in lines if line["part"] == part and "state" in line][-1]


def said(lines: list[Line], part: str, what: str) -> str:
    return "".join(line[what] for line in lines if line["part"] == part and what in line)


def test_a_profile_is_tried_with_one_llm_call_and_a_whole_turn(
    browser: httpx.Client, agent_server: FakeAgentServer, llm_answers: ScriptedLlmProcess
) -> None:
    llm_answers.answers["complete"] = {"result": LLM_ANSWER}
    agent_server.script(Step(command="ls"), Answer("Two files."))
    profile = factories.profile(tools=["terminal"])

    lines = run(browser, profile, prompt="What is here?")

    turn = Turn.objects.get()
    assert last_state(lines, "llm")["state"] == "ok"
    assert said(lines, "llm", "answer") == "Hello."
    assert last_state(lines, "turn")["state"] == "ok"
    assert said(lines, "turn", "answer") == "Two files."
    assert "Running: ls" in said(lines, "turn", "step")
    followed = browser.get(said(lines, "turn", "link"), follow_redirects=True)
    assert followed.url.path == f"/admin/chatgateway/turn/{turn.pk}/change/"
    assert "What is here?" in followed.text


def test_the_key_of_a_trial_ends_with_it(browser: httpx.Client) -> None:
    profile = factories.profile()

    run(browser, profile)

    key = ApiKey.objects.get(name__startswith="Test by root")
    assert key.revoked_at is not None
    assert key.expires_at is not None
    assert list(key.allowed_profiles.all()) == [profile]
    assert (key.tenant.name, key.can_manage) == ("Administrators", False)


def test_a_trial_whose_page_is_closed_leaves_no_key_and_no_run(
    browser: httpx.Client, agent_server: FakeAgentServer
) -> None:
    gate = Gate()
    agent_server.script(Answer("never said", gate=gate))
    profile = factories.profile()
    form = {"prompt": "Hi", "csrfmiddlewaretoken": browser.cookies["csrftoken"]}

    with browser.stream("POST", path(profile), data=form) as response:
        lines = response.iter_lines()  # kept: httpx hangs up when nobody holds the iterator
        next(lines)
        gate.wait_until_reached(20)

    assert eventually(lambda: ApiKey.objects.filter(name__startswith="Test by", revoked_at__isnull=False).exists())
    assert eventually(lambda: Turn.objects.filter(outcome="cancelled").exists())


def test_a_tenants_own_profile_is_tried_for_that_tenant(browser: httpx.Client) -> None:
    profile = factories.profile(owner=factories.tenant(name="Acme"))

    assert last_state(run(browser, profile), "turn")["state"] == "ok"

    assert Turn.objects.get().tenant_name == "Acme"


def test_when_the_llm_does_not_answer_no_turn_is_run(browser: httpx.Client, llm_answers: ScriptedLlmProcess) -> None:
    failure = {"kind": "call_failed", "message": "Incorrect API key provided.", "name": "AuthenticationError"}
    llm_answers.answers["complete"] = {"error": failure}

    lines = run(browser, factories.profile())

    assert last_state(lines, "llm")["note"] == "AuthenticationError: Incorrect API key provided."
    assert last_state(lines, "turn")["state"] == "skipped"
    assert not Turn.objects.exists()


def test_without_the_llm_process_the_turn_is_run_all_the_same(browser: httpx.Client) -> None:
    lines = run(browser, factories.profile())

    assert [last_state(lines, part)["state"] for part in ("llm", "turn")] == ["skipped", "ok"]


def test_a_disabled_profile_says_why_no_turn_is_run(browser: httpx.Client) -> None:
    lines = run(browser, factories.profile(is_enabled=False))

    assert "disabled" in last_state(lines, "turn")["note"]
    assert not Turn.objects.exists()


def test_a_turn_that_fails_says_what_the_caller_would_be_told(
    browser: httpx.Client, agent_server: FakeAgentServer
) -> None:
    AgentServer.objects.update(state="disabled")

    lines = run(browser, factories.profile())

    assert last_state(lines, "turn")["state"] == "failed"
    assert "503" in last_state(lines, "turn")["note"]
    assert "/admin/chatgateway/turn/by-request/" in said(lines, "turn", "link")


def test_a_gateway_that_does_not_reach_itself_names_the_setting(browser: httpx.Client, settings: Settings) -> None:
    settings.GATEWAY_PUBLIC_URL = "http://127.0.0.1:9"

    lines = run(browser, factories.profile())

    assert "GATEWAY_PUBLIC_URL" in last_state(lines, "turn")["note"]


def test_a_servers_turn_runs_on_that_server(browser: httpx.Client, agent_server: FakeAgentServer) -> None:
    with FakeAgentServer() as other:
        tried = factories.agent_server(url=other.url, session_api_key=other.session_api_key, state="draining")

        lines = run(browser, tried, profile=Profile.objects.get().pk)

        assert [last_state(lines, part)["state"] for part in ("info", "turn")] == ["ok", "ok"]
        assert Turn.objects.get().agent_server == tried
        assert len(other.conversations) == 1
    tried.refresh_from_db()
    assert (tried.health, tried.version) == ("up", "1.58.0")
    assert agent_server.conversations == {}


def test_a_server_that_refuses_our_key_says_so_and_no_turn_is_run(
    browser: httpx.Client, agent_server: FakeAgentServer
) -> None:
    server = AgentServer.objects.get()
    AgentServer.objects.update(session_api_key="wrong")

    lines = run(browser, server, profile=Profile.objects.get().pk)

    server.refresh_from_db()
    assert "refuses our session API key" in last_state(lines, "info")["note"]
    assert last_state(lines, "turn")["state"] == "skipped"
    assert server.health == "down"


def test_without_a_profile_only_the_server_is_asked(browser: httpx.Client) -> None:
    lines = run(browser, AgentServer.objects.get(), profile="")

    assert [last_state(lines, part)["state"] for part in ("info", "turn")] == ["ok", "skipped"]
    assert not Turn.objects.exists()


def test_an_empty_prompt_is_refused_in_words_the_page_shows(browser: httpx.Client) -> None:
    profile = Profile.objects.get()

    response = browser.post(path(profile), data={"prompt": "", "csrfmiddlewaretoken": browser.cookies["csrftoken"]})

    assert response.status_code == 400
    assert response.json()["state"] == "failed"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_somebody_who_may_only_look_cannot_run_anything(served: LiveGateway, method: str) -> None:
    reader = User.objects.create_user("reader", password="x", is_staff=True)
    reader.user_permissions.set(Permission.objects.filter(codename__in=["view_profile", "view_agentserver"]))
    signed_in = Client()
    signed_in.force_login(reader)

    tried = [path(row) for row in (Profile.objects.get(), AgentServer.objects.get())]

    assert [signed_in.generic(method, url).status_code for url in tried] == [403, 403]
