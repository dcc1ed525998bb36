"""The admin in a real browser, its Content-Security-Policy on."""

from __future__ import annotations

from typing import Literal

import pytest
from django.contrib import admin as django_admin
from django.contrib.auth.models import User
from pytest_django import Settings

from chatgateway.models import Erasure, Turn
from profiles.models import ChangeRecord, Profile
from tests.admin.test_pages import HOSTILE, history
from tests.browser.chromium import Visit, browse
from tests.fakes.agent_script import Answer
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

LISTS = ["", *(f"{model._meta.app_label}/{model._meta.model_name}/" for model in django_admin.site._registry)]
FORMS = [
    *(
        f"{model}/add/"
        for model in ("profiles/profile", "profiles/apikey", "profiles/tenant", "chatgateway/agentserver")
    ),
    *(f"{model}/add/" for model in ("chatgateway/erasure", "auth/user", "auth/group")),
    "password_change/",
]


@pytest.fixture
def pages(gateway: LiveGateway) -> list[str]:
    """Every kind of page, on rows full of hostile texts."""
    User.objects.create_superuser("root", password="a long password")
    history(2)
    turn = Turn.objects.latest("opened_at")
    profile, server, key = turn.profile_id, turn.agent_server_id, turn.api_key_id
    change, erasure = ChangeRecord.objects.latest("pk"), Erasure.objects.latest("pk")
    return [
        *LISTS,
        *FORMS,
        "?range=30d",
        "chatgateway/erasure/retention/",
        f"chatgateway/erasure/{erasure.pk}/change/",
        f"profiles/changerecord/{change.pk}/change/",
        f"profiles/tenant/{turn.tenant_id}/change/",
        f"chatgateway/agentserver/{server}/test/",
        f"chatgateway/agentserver/{server}/drain/",
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


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1440, "dark")])
def test_pages_full_of_hostile_text_run_none_of_it_break_no_policy_and_fit_the_window(
    gateway: LiveGateway, pages: list[str], width: int, scheme: Literal["light", "dark"]
) -> None:
    def look(visit: Visit, path: str) -> tuple[int, int]:
        return visit.open(path), visit.is_wider_than_window_by()

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
