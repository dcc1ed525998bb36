"""The admin in a real browser, its Content-Security-Policy on."""

from __future__ import annotations

from typing import Literal

import pytest
from django.contrib.auth.models import User
from openai import OpenAI
from pytest_django import Settings

from chatgateway.models import Turn
from profiles.models import Profile, Tenant
from tests import factories
from tests.admin.test_pages import HOSTILE, history
from tests.browser.chromium import Visit, browse
from tests.fakes.agent_script import Answer, Step
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

LISTS = [
    "",
    "chatgateway/turn/",
    "chatgateway/conversation/",
    "chatgateway/agentserver/",
    "chatgateway/taskrun/",
    "profiles/tenant/",
    "profiles/apikey/",
    "profiles/failedauthentication/",
    "profiles/profile/",
    "auth/user/",
]
FORMS = ["profiles/profile/add/", "profiles/apikey/add/", "chatgateway/agentserver/add/", "auth/user/add/"]


@pytest.fixture
def pages(gateway: LiveGateway) -> list[str]:
    """Every kind of page, on rows full of hostile texts."""
    User.objects.create_superuser("root", password="a long password")
    history(2)
    turn = Turn.objects.latest("opened_at")
    profile, server, key = turn.profile_id, turn.agent_server_id, turn.api_key_id
    return [
        *LISTS,
        *FORMS,
        f"chatgateway/turn/{turn.pk}/change/",
        f"chatgateway/conversation/{turn.conversation_id}/change/",
        f"profiles/profile/{profile}/change/",
        f"profiles/profile/{profile}/test/",
        f"profiles/profile/{profile}/doctor/",
        f"chatgateway/agentserver/{server}/change/",
        f"profiles/apikey/{key}/change/",
        f"profiles/apikey/{key}/use/",
        f"profiles/apikey/{key}/rotate/",
        f"profiles/apikey/{key}/revoke/",
    ]


@pytest.mark.parametrize(("width", "scheme"), [(420, "light"), (1400, "dark")])
def test_pages_full_of_hostile_text_run_none_of_it_break_no_policy_and_fit_the_window(
    gateway: LiveGateway, pages: list[str], width: int, scheme: Literal["light", "dark"]
) -> None:
    def look(visit: Visit, path: str) -> tuple[int, int]:
        status = visit.open(path)
        wider_by = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        return status, max(0, int(visit.page.evaluate(wider_by)))

    def steps(visit: Visit) -> dict[str, tuple[int, int]]:
        visit.sign_in()
        return {path: look(visit, path) for path in pages}

    seen, complaints = browse(gateway.url, steps, width=width, scheme=scheme)

    assert complaints == []
    assert seen == dict.fromkeys(pages, (200, 0))


@pytest.mark.parametrize(
    ("summary", "url"),
    [("The request as it was sent", "/raw-request/"), ("The agent-server's events", "/raw-events/")],
)
def test_the_raw_record_is_one_click_away_and_dead_text(gateway: LiveGateway, summary: str, url: str) -> None:
    User.objects.create_superuser("root", password="a long password")
    history(1)
    path = f"chatgateway/turn/{Turn.objects.get().pk}/change/"

    def steps(visit: Visit) -> str:
        visit.sign_in()
        visit.open(path)
        visit.page.get_by_text(summary, exact=True).click()
        visit.page.locator(f'iframe[src*="{url}"]').scroll_into_view_if_needed()
        visit.page.wait_for_load_state("networkidle")
        return visit.frame(url).locator("pre").inner_text()

    shown, complaints = browse(gateway.url, steps)

    assert "<script>alert('x')</script>" in shown
    assert HOSTILE.startswith("<script>")
    assert complaints == []


def test_from_the_first_sign_in_to_the_first_answered_turn(
    gateway: LiveGateway, agent_server: FakeAgentServer, settings: Settings
) -> None:
    settings.GATEWAY_PUBLIC_URL = gateway.url
    User.objects.create_superuser("root", password="a long password")
    factories.agent_server(
        url=agent_server.url, session_api_key=agent_server.session_api_key, usable_tools=["terminal"]
    )
    factories.tenant(name="Acme")
    agent_server.script(Step(command="ls"), Answer("<b>Two</b> files."))

    def make_a_profile(visit: Visit) -> None:
        page = visit.page
        visit.open("")
        page.get_by_role("link", name="Add a profile").click()
        page.fill("input[name=slug]", "helper")
        page.fill("input[name=llm_model]", "openai/gpt-5")
        page.fill("input[name=llm_api_key]", "sk-typed-once")
        page.check("input[name=tools][value=terminal]")
        page.click("button[name=_save]")
        page.wait_for_url("**/profiles/profile/")

    def make_a_key(visit: Visit) -> str:
        page = visit.page
        visit.open("")
        page.get_by_role("link", name="Make a key").click()
        page.locator(".select2-selection").first.click()
        page.locator(".select2-results__option", has_text="Acme").click()
        page.fill("input[name=name]", "laptop")
        page.click("button[name=_save]")
        return page.locator("[data-secret]").inner_text()

    def read_the_turn(visit: Visit) -> str:
        visit.open("chatgateway/turn/")
        visit.page.locator("#result_list tbody th a").first.click()
        visit.page.wait_for_url("**/change/**")
        visit.page.locator(".gw-step-tool summary").click()
        return visit.page.inner_text("#content")

    def steps(visit: Visit) -> tuple[str, str, str, str]:
        visit.sign_in()
        make_a_profile(visit)
        secret = make_a_key(visit)
        visit.page.reload()  # offers to send the form again; either way the secret is not shown again
        after_reload = visit.page.inner_text("body")
        with OpenAI(base_url=f"{gateway.url}/v1", api_key=secret, max_retries=0) as client:
            asked = client.chat.completions.create(
                model="openhands_helper", messages=[{"role": "user", "content": "What is here?"}]
            )
        return secret, after_reload, asked.choices[0].message.content or "", read_the_turn(visit)

    (secret, after_reload, answer, page), complaints = browse(gateway.url, steps)

    assert complaints == []
    assert secret not in after_reload
    assert answer == "<b>Two</b> files."
    assert [text in page for text in ("What is here?", "Running: ls", "<b>Two</b> files.", "Acme")] == [True] * 4
    assert Profile.objects.get().llm_api_key.reveal() == "sk-typed-once"
    assert Tenant.objects.get(name="Acme").api_keys.count() == 1


def test_a_trial_is_watched_as_it_goes(served: LiveGateway, agent_server: FakeAgentServer, settings: Settings) -> None:
    settings.GATEWAY_PUBLIC_URL = served.url
    User.objects.create_superuser("root", password="a long password")
    agent_server.script(Answer("<img src=x onerror=alert(1)>"))
    profile = Profile.objects.get()

    def steps(visit: Visit) -> tuple[str, str]:
        page = visit.page
        visit.sign_in()
        visit.open(f"profiles/profile/{profile.pk}/test/")
        page.click("text=Run the test")
        page.wait_for_selector("[data-part=turn] .gw-pill-success")
        told = page.inner_text("[data-part=turn]")
        page.click("[data-part=turn] [data-link]")
        page.wait_for_url("**/chatgateway/turn/*/change/")
        return told, page.inner_text("#content")

    (told, turn_page), complaints = browse(served.url, steps)

    assert complaints == []
    assert "<img src=x onerror=alert(1)>" in told
    assert "Say hello in one short sentence." in turn_page
