"""The doctor, as a command and as a page, against a gateway on a socket: what works, what does not, and why."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from pytest_django import Settings

from chatgateway.models import AgentServer, Turn
from profiles.models import ApiKey, Profile
from tests import factories
from tests.admin.test_trials import browser  # noqa: F401  a fixture
from tests.browser.chromium import Visit, browse
from tests.fakes.agent_script import Answer, Fail, Gate, Step
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway
from tests.waiting import eventually

LINE = re.compile(r"^  (.+?)  +(works|FAILED|skipped) +(.*)$", re.MULTILINE)
SUM = '{"sum": 5}'


@pytest.fixture
def examine(served: LiveGateway, settings: Settings) -> Callable[..., tuple[dict[str, tuple[str, str]], int]]:
    """Run the command; return what it said of each ability, and its exit status."""
    settings.GATEWAY_PUBLIC_URL = served.url

    def run(*arguments: str) -> tuple[dict[str, tuple[str, str]], int]:
        out = io.StringIO()
        status = 0
        try:
            call_command("doctor", *arguments, stdout=out)
        except CommandError as error:
            status = error.returncode
        return {title: (word, note) for title, word, note in LINE.findall(out.getvalue())}, status

    return run


Examine = Callable[..., tuple[dict[str, tuple[str, str]], int]]


def test_a_profile_that_can_everything_passes_everything(examine: Examine, agent_server: FakeAgentServer) -> None:
    profile = factories.profile(slug="all", tools=["terminal"], accepts_images=True)
    agent_server.script(Answer("Fine."))
    agent_server.script(Answer("Red, green and blue."))
    agent_server.script(Answer("Still here."))
    agent_server.script(Answer("And here."))
    agent_server.script(Step(command="echo gateway-doctor"), Answer("It printed gateway-doctor."))
    agent_server.script(Answer("Red."))
    agent_server.script(Answer(SUM))

    found, status = examine("all")

    assert {word for word, _ in found.values()} == {"works"}
    assert list(found) == [
        "Listed as a model", "Answers, collected", "Answers, streamed", "Goes on by conversation id",
        "Goes on by resent history", "Uses a tool", "Sees an image", "Writes JSON by a schema",
    ]  # fmt: skip
    assert found["Uses a tool"][1] == "The agent did: Running: echo gateway-doctor"
    assert SUM in found["Writes JSON by a schema"][1]
    assert status == 0
    key = ApiKey.objects.get(name__startswith="Doctor for")
    assert key.revoked_at is not None
    assert list(key.allowed_profiles.all()) == [profile]
    assert Turn.objects.count() == 7


def test_what_a_profile_is_not_made_for_is_skipped_with_the_reason(
    examine: Examine, agent_server: FakeAgentServer
) -> None:
    Profile.objects.update(continues_by_history=False, source=Profile.Source.DEMO)

    found, status = examine()

    skipped = {title: note for title, (word, note) in found.items() if word == "skipped"}
    assert list(skipped) == [
        "Goes on by resent history", "Uses a tool", "Sees an image", "Writes JSON by a schema",
    ]  # fmt: skip
    assert "is off" in skipped["Goes on by resent history"]
    assert "no tools" in skipped["Uses a tool"]
    assert "LiteLLM's catalogue does not say yes" in skipped["Sees an image"]
    assert "demo LLM" in skipped["Writes JSON by a schema"]
    assert status == 0


def test_what_goes_wrong_is_told_with_its_reason_and_its_turn(examine: Examine, agent_server: FakeAgentServer) -> None:
    factories.profile(slug="agent", tools=["terminal"])
    agent_server.script(Answer("Fine."))
    agent_server.script(Answer("I had rather not."))
    agent_server.script(Answer("It is five."))
    agent_server.script(Answer("Five, as I said."))

    found, status = examine("agent", "--only", "tools", "--only", "json")

    assert status == 1
    assert found["Uses a tool"][0] == "FAILED"
    assert "answered without a step of it" in found["Uses a tool"][1]
    assert found["Writes JSON by a schema"][0] == "FAILED"
    assert "The gateway answered 502 invalid_structured_output: " in found["Writes JSON by a schema"][1]
    request_id = re.findall(r"\[(\S+)\]$", found["Uses a tool"][1])[0]
    assert Turn.objects.filter(attempts__request_id=request_id).exists()
    assert "Answers, streamed" not in found


def test_when_the_llm_refuses_nothing_that_needs_an_answer_is_tried(
    examine: Examine, agent_server: FakeAgentServer
) -> None:
    agent_server.script(Fail.wrong_key())
    agent_server.script(Fail.wrong_key())

    found, status = examine("chat")

    assert status == 1
    assert [word for word, _ in found.values()] == ["works", "FAILED", "FAILED", *["skipped"] * 5]
    assert "The gateway answered" in found["Answers, collected"][1]
    assert "has to work first" in found["Sees an image"][1]
    assert Turn.objects.count() == 2


def test_a_disabled_profile_costs_nothing_and_says_why(examine: Examine) -> None:
    Profile.objects.update(is_enabled=False)

    found, status = examine("chat")

    assert status == 1
    assert found["Listed as a model"] == ("FAILED", "The profile is disabled: callers get “not found”.")
    assert not Turn.objects.exists()


def test_without_an_agent_server_the_reason_is_the_callers(examine: Examine) -> None:
    AgentServer.objects.update(state="disabled")

    found, status = examine("chat", "--only", "chat")

    assert status == 1
    assert "503 service_unavailable: No agent-server is set up" in found["Answers, collected"][1]


def test_a_gateway_that_does_not_run_names_the_setting(examine: Examine, settings: Settings) -> None:
    settings.GATEWAY_PUBLIC_URL = "http://127.0.0.1:9"

    found, status = examine("chat")

    assert status == 1
    assert "GATEWAY_PUBLIC_URL" in found["Listed as a model"][1]


def test_a_profile_that_is_none_is_told_from_one_that_is_ill(examine: Examine) -> None:
    assert examine("nobody") == ({}, 2)


def test_the_page_tells_each_ability_as_it_is_tried_and_links_to_the_turn(
    served: LiveGateway, agent_server: FakeAgentServer, settings: Settings
) -> None:
    settings.GATEWAY_PUBLIC_URL = served.url
    User.objects.create_superuser("root", password="a long password")
    gate = Gate()
    agent_server.script(Answer("<b>Fine.</b>"))
    agent_server.script(Answer("Red.", gate=gate))
    agent_server.default_answer = Answer(SUM)
    profile = Profile.objects.get()

    def steps(visit: Visit) -> tuple[str, str, list[str], str]:
        page = visit.page
        visit.sign_in()
        visit.open(f"profiles/profile/{profile.pk}/change/")
        page.click("a[href$='/doctor/']")
        page.click("text=Examine")
        page.locator("[data-part=stream] [data-state]", has_text="running").wait_for()
        gate.wait_until_reached(30)
        half = page.inner_text("[data-part=chat]")
        unseen = page.inner_text("[data-part=reuse]")
        gate.open()
        page.locator("[data-part=json] .gw-pill-success").wait_for()
        whole = [row.inner_text() for row in page.locator("[data-part]").all()]
        page.click("[data-part=chat] [data-link]")
        page.wait_for_url("**/chatgateway/turn/*/change/")
        return half, unseen, whole, page.inner_text("#content")

    (half, unseen, whole, turn_page), complaints = browse(served.url, steps)

    assert complaints == []
    assert "works" in half
    assert "<b>Fine.</b>" in half
    assert "works" not in unseen
    assert ["works" in row for row in whole] == [True] * 5 + [False, False, True]
    assert ["not run" in row for row in whole] == [False] * 5 + [True, True, False]
    assert "<b>Fine.</b>" in turn_page


def test_a_page_that_is_closed_ends_the_examination_and_its_key(
    browser: object,  # noqa: F811
    agent_server: FakeAgentServer,
) -> None:
    gate = Gate()
    agent_server.script(Answer("never said", gate=gate))
    profile = Profile.objects.get()
    form = {"csrfmiddlewaretoken": browser.cookies["csrftoken"]}  # type: ignore[attr-defined]

    with browser.stream("POST", f"/admin/profiles/profile/{profile.pk}/doctor/", data=form) as response:  # type: ignore[attr-defined]
        lines = response.iter_lines()
        first = json.loads(next(lines))
        gate.wait_until_reached(30)

    assert first == {"part": "listed", "state": "running", "note": ""}
    assert eventually(lambda: ApiKey.objects.filter(name__startswith="Doctor for", revoked_at__isnull=False).exists())
    assert eventually(lambda: Turn.objects.filter(outcome="cancelled").exists())
    assert Turn.objects.count() == 1
