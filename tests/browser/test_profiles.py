"""The form of a profile in a real browser: models are found by typing, and what is typed is checked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from pytest_django import Settings

from profiles.models import ChangeRecord, Profile
from tests.browser.chromium import Visit, browse
from tests.fakes.agent_script import Answer, Gate, Step
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway
from tests.gateway_project.conftest import ScriptedLlmProcess

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

OFFERS = [
    {"name": "openai/gpt-5", "input_price": "1.25", "output_price": "10", "context_window": 272_000},
    {"name": "openai/gpt-5-<b>mini</b>", "input_price": "0.25", "output_price": "2"},
]


@pytest.fixture(autouse=True)
def _root(gateway: LiveGateway, settings: Settings, tmp_path: Path) -> None:
    settings.GATEWAY_LLM_SOCKET = str(tmp_path / "run" / "llm.sock")
    User.objects.create_superuser("root", password="a long password")


@pytest.fixture
def llm_answers(tmp_path: Path) -> Iterator[ScriptedLlmProcess]:
    scripted = ScriptedLlmProcess(tmp_path / "run" / "llm.sock")
    scripted.answers["search_models"] = {"result": OFFERS}
    scripted.answers["describe_model"] = {"result": {"provider": "openai", "is_known": True, "context_window": 272_000}}
    yield scripted
    scripted.close()


def test_a_model_is_found_by_typing_and_chosen_with_the_keyboard(
    gateway: LiveGateway, llm_answers: ScriptedLlmProcess
) -> None:
    def steps(visit: Visit) -> tuple[list[str], str, str]:
        page = visit.page
        visit.sign_in()
        visit.open("profiles/profile/add/")
        page.fill("input[name=slug]", "helper")
        page.click("input[name=llm_model]")
        page.keyboard.type("gpt 5")
        page.locator("[role=option]").nth(1).wait_for()
        offered = page.locator("[role=option]").all_inner_texts()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowUp")
        page.keyboard.press("Enter")
        page.locator("[data-findings=llm_model] .gw-finding-ok").wait_for()
        told = page.inner_text("[data-findings=llm_model]")
        page.keyboard.press("Enter")  # the list is closed: Enter sends the form
        page.wait_for_url("**/profiles/profile/")
        return offered, told, page.inner_text("#content")

    (offered, told, listed), complaints = browse(gateway.url, steps)

    assert complaints == []
    assert "272,000 tokens · $1.25 in, $10.00 out per million tokens" in offered[0]
    assert "openai/gpt-5-<b>mini</b>" in offered[1]
    assert "Provider openai" in told
    assert "price is unknown" in told
    assert Profile.objects.get().llm_model == "openai/gpt-5"
    assert "openhands_helper" in listed


def test_a_doubt_about_the_base_url_comes_and_goes_while_one_types(
    gateway: LiveGateway, llm_answers: ScriptedLlmProcess
) -> None:
    def steps(visit: Visit) -> str:
        page = visit.page
        visit.sign_in()
        visit.open("profiles/profile/add/")
        page.fill("input[name=llm_base_url]", "https://llm.example.com/v1/chat/completions")
        doubt = page.locator("[data-findings=llm_base_url] .gw-finding-warning")
        doubt.wait_for()
        told = doubt.inner_text()
        page.fill("input[name=llm_base_url]", "https://llm.example.com/v1")
        doubt.wait_for(state="detached")
        return told

    told, complaints = browse(gateway.url, steps)

    assert complaints == []
    assert "leave it out" in told


def test_without_the_llm_process_the_model_is_a_plain_field_with_a_warning(gateway: LiveGateway) -> None:
    def steps(visit: Visit) -> str:
        page = visit.page
        visit.sign_in()
        visit.open("profiles/profile/add/")
        page.fill("input[name=slug]", "helper")
        page.click("input[name=llm_model]")
        page.keyboard.type("openai/gpt-5")
        page.locator("[data-findings=llm_model] .gw-finding-warning").wait_for()
        told = page.inner_text("[data-findings=llm_model]")
        page.click("button[name=_save]")
        page.wait_for_url("**/profiles/profile/")
        return told

    told, complaints = browse(gateway.url, steps)

    assert complaints == []
    assert "saved unchecked" in told
    assert Profile.objects.get().llm_model == "openai/gpt-5"


def test_a_trial_shows_a_step_before_the_answer_is_there_and_links_to_the_turn(
    served: LiveGateway, agent_server: FakeAgentServer, settings: Settings
) -> None:
    settings.GATEWAY_PUBLIC_URL = served.url
    gate = Gate()
    agent_server.script(
        Step(command="ls -la", thought="Let me look."), Answer("Two files are here.", gate=gate, hold_after=2)
    )
    profile = Profile.objects.get()
    Profile.objects.update(tools=["terminal"], answer_holdback_chars=0)

    def steps(visit: Visit) -> tuple[str, str, str]:
        page = visit.page
        visit.sign_in()
        visit.open(f"profiles/profile/{profile.pk}/test/")
        page.fill("textarea[name=prompt]", "What is here, please?")
        page.click("text=Run the test")
        page.locator("[data-part=turn] [data-answer]", has_text="Two").wait_for()
        half = page.inner_text("[data-part=turn]")
        gate.open()
        page.wait_for_selector("[data-part=turn] .gw-pill-success")
        whole = page.inner_text("[data-part=turn]")
        page.click("[data-part=turn] [data-link]")
        page.wait_for_url("**/chatgateway/turn/*/change/")
        return half, whole, page.inner_text("#content")

    (half, whole, turn_page), complaints = browse(served.url, steps)

    assert complaints == []
    assert "Running: ls -la" in half
    assert "files are here" not in half
    assert "Two files are here." in whole
    assert "What is here, please?" in turn_page


def test_the_history_of_a_profile_is_one_click_from_its_form_and_masks_secrets(served: LiveGateway) -> None:
    profile = Profile.objects.get()

    def steps(visit: Visit) -> tuple[str, str]:
        page = visit.page
        visit.sign_in()
        visit.open(f"profiles/profile/{profile.pk}/change/")
        page.fill("input[name=description]", "for everybody")
        page.fill("input[name=llm_api_key]", "sk-another-secret")
        page.click("button[name=_continue]")
        page.wait_for_load_state("networkidle")
        page.click("a[href$='/history/']")
        page.wait_for_url("**/changerecord/**")
        listed = page.inner_text("#content").lower()
        page.locator("#result_list tbody th a").first.click()
        page.locator(".gw-before-after").wait_for()
        return listed, page.inner_text("#content")

    (listed, change), complaints = browse(served.url, steps)

    assert complaints == []
    assert [text in listed for text in ("root", "changed", "description", "llm api key")] == [True] * 4
    assert "for everybody" in change
    assert "sk-another-secret" not in change
    assert ChangeRecord.objects.count() == 1
