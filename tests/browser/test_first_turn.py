"""From an empty gateway to the first answered turn, with nothing but the pages of the admin and the key they show."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.contrib.auth.models import User
from openai import OpenAI
from pytest_django import Settings

from chatgateway.models import AgentServer
from profiles.models import ApiKey, Profile, Tenant
from tests.browser.chromium import Visit, browse
from tests.fakes.agent_script import Answer, Gate, Step
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]


def steps_done(visit: Visit) -> list[bool]:
    """Which of the first steps the overview calls done."""
    visit.open("")
    items = visit.page.locator(".gw-first-step")
    return [items.nth(place).locator(".gw-pill-success").count() == 1 for place in range(items.count())]


def add_the_server(visit: Visit, agent_server: FakeAgentServer) -> None:
    page = visit.page
    visit.open("")
    page.get_by_role("link", name="Add an agent-server").click()
    page.fill("input[name=name]", "north")
    page.fill("input[name=url]", agent_server.url)
    page.fill("input[name=session_api_key]", agent_server.session_api_key)
    page.fill("input[name=workspace_root]", "/srv/workspaces")
    page.click("button[name=_save]")
    page.wait_for_url("**/chatgateway/agentserver/")


def add_the_profile(visit: Visit) -> None:
    page = visit.page
    visit.open("")
    page.get_by_role("link", name="Add a profile").click()
    page.fill("input[name=slug]", "helper")
    page.fill("input[name=llm_model]", "openai/gpt-5")
    page.fill("input[name=llm_api_key]", "sk-typed-once")
    page.check("input[name=tools][value=terminal]")
    page.click("button[name=_save]")
    page.wait_for_url("**/profiles/profile/")


def make_the_key(visit: Visit) -> str:
    """Add a tenant, then its key; return the secret."""
    page = visit.page
    visit.open("profiles/tenant/add/")
    page.fill("input[name=name]", "Acme")
    page.click("button[name=_save]")
    page.wait_for_url("**/profiles/tenant/")
    visit.open("")
    page.get_by_role("link", name="Make a key").click()
    page.locator(".select2-selection").first.click()
    page.locator(".select2-results__option", has_text="Acme").click()
    page.fill("input[name=name]", "laptop")
    page.click("button[name=_save]")
    return page.locator("[data-secret]").inner_text()


def test_the_profile_streams_its_test_and_the_printed_key_its_first_turn(
    gateway: LiveGateway, agent_server: FakeAgentServer, settings: Settings, tmp_path: Path
) -> None:
    settings.GATEWAY_PUBLIC_URL = gateway.url
    settings.GATEWAY_LLM_SOCKET = str(tmp_path / "run" / "llm.sock")  # no such process: the form says so and saves
    User.objects.create_superuser("root", password="a long password")
    gate = Gate()
    # An agent with tools has 240 characters held back until it is clear that they are its answer.
    answer = f"It works {'well, ' * 80} to the end."
    agent_server.script(Step(command="ls"), Answer(answer, gate=gate, hold_after=60))
    agent_server.script(Step(command="wc -l *"), Answer("<b>Two</b> files."))

    def watch_the_test(visit: Visit) -> tuple[str, str]:
        page = visit.page
        visit.open("profiles/profile/")
        page.locator("#result_list a", has_text="openhands_helper").click()
        page.locator("a[href$='/test/']:visible").first.click()
        page.fill("textarea[name=prompt]", "Are you there?")
        page.click("text=Run the test")
        page.locator("[data-part=turn] [data-answer]", has_text="It works").wait_for()
        half = page.inner_text("[data-part=turn]")
        gate.open()
        page.wait_for_selector("[data-part=turn] .gw-pill-success")
        return half, page.inner_text("[data-part=turn]")

    def call(secret: str) -> str:
        with OpenAI(base_url=f"{gateway.url}/v1", api_key=secret, max_retries=0) as client:
            asked = client.chat.completions.create(
                model="openhands_helper", messages=[{"role": "user", "content": "What is here?"}]
            )
        return asked.choices[0].message.content or ""

    def read_the_turn(visit: Visit) -> str:
        visit.open("chatgateway/turn/")
        visit.page.locator("#result_list tbody th a").first.click()
        visit.page.wait_for_url("**/change/**")
        visit.page.locator(".gw-step-tool summary").click()
        return visit.page.inner_text("#content")

    def steps(visit: Visit) -> dict[str, object]:
        visit.sign_in()
        seen: dict[str, object] = {"at first": steps_done(visit)}
        add_the_server(visit, agent_server)
        add_the_profile(visit)
        secret = make_the_key(visit)
        visit.page.reload()  # offers to send the form again; either way the secret is not shown again
        seen |= {"secret is shown again": secret in visit.page.inner_text("body"), "before the turn": steps_done(visit)}
        seen["half"], seen["whole"] = watch_the_test(visit)
        seen["answer"] = call(secret)
        seen["turn"] = read_the_turn(visit)
        seen["after it"] = steps_done(visit)
        return seen

    seen, complaints = browse(gateway.url, steps)

    assert complaints == []
    assert (seen["at first"], seen["before the turn"]) == ([False] * 4, [True, True, True, False])
    assert seen["after it"] == []  # the way to the first turn is no longer shown
    assert seen["secret is shown again"] is False
    assert "Running: ls" in str(seen["half"])
    assert "to the end." not in str(seen["half"])
    assert "to the end." in str(seen["whole"])
    assert seen["answer"] == "<b>Two</b> files."
    for text in ("What is here?", "Running: wc -l *", "<b>Two</b> files.", "Acme"):
        assert text in str(seen["turn"])
    assert Profile.objects.get().llm_api_key.reveal() == "sk-typed-once"
    assert AgentServer.objects.get().session_api_key.reveal() == agent_server.session_api_key
    assert ApiKey.objects.filter(tenant=Tenant.objects.get(name="Acme"), name="laptop").count() == 1
