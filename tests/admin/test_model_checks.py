"""What the profile form says while somebody types, before anything is saved."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from profiles.models import Profile
from tests import factories
from tests.gateway_project.conftest import ScriptedLlmProcess

pytestmark = pytest.mark.django_db

KNOWN = {
    "provider": "anthropic", "is_known": True, "input_price": "3", "output_price": "15", "context_window": 200_000,
    "supports_vision": True,
}  # fmt: skip
SECRET = "sk-provider-secret"


def check(admin: Client, **typed: object) -> list[tuple[str, str, str]]:
    """(field, state, text) of everything said about what was typed."""
    response = admin.get(reverse("admin:profiles_profile_live_check"), {"has_key": "on"} | typed)
    assert response.status_code == 200
    assert SECRET not in response.content.decode()
    return [(found["field"], found["state"], found["text"]) for found in response.json()["findings"]]


def test_a_known_model_is_told_with_window_images_and_price(admin: Client, llm_answers: ScriptedLlmProcess) -> None:
    llm_answers.answers["describe_model"] = {"result": KNOWN}

    said = check(admin, llm_model="anthropic/claude-sonnet-4-5")

    told = "Provider anthropic. 200,000 tokens · sees images · $3.00 in, $15.00 out per million tokens"
    assert said == [("llm_model", "ok", told)]
    assert not Profile.objects.exists()


def test_a_model_of_no_provider_is_an_error_with_a_way_out(admin: Client, llm_answers: ScriptedLlmProcess) -> None:
    llm_answers.answers["describe_model"] = {"error": {"kind": "unknown_provider", "message": ""}}

    ((field, state, text),) = check(admin, llm_model="gpt")

    assert (field, state) == ("llm_model", "error")
    assert "Write provider/model" in text


def test_what_is_not_known_of_a_model_is_warned_about_until_it_is_typed(
    admin: Client, llm_answers: ScriptedLlmProcess
) -> None:
    unknown = check(admin, llm_model="openai/house", llm_base_url="https://llm.example.com/v1")
    typed = check(
        admin, llm_model="openai/house", llm_base_url="https://llm.example.com/v1", has_prices="on", has_window="on"
    )

    assert [state for _, state, _ in unknown] == ["ok", "warning", "warning"]
    assert "price is unknown" in unknown[1][2]
    assert "context window is unknown" in unknown[2][2]
    assert [state for _, state, _ in typed] == ["ok"]
    assert "normal behind a base URL of your own" in typed[0][2]


@pytest.mark.parametrize(
    ("url", "state", "said"),
    [
        ("llm.example.com/v1", "error", "Write the whole URL"),
        ("https://user:pw@llm.example.com/v1", "error", "Leave user and password out"),
        ("https://llm.example.com/v1/chat/completions", "warning", "leave it out"),
        ("https://llm.example.com", "warning", "under a path such as /v1"),
        ("http://llm.example.com/v1", "warning", "use https"),
        ("http://8.8.8.8/v1", "warning", "use https"),
        ("http://localhost:8080/v1", "warning", "on the same machine"),
        ("http://127.0.0.1:8080/v1", "warning", "on the same machine"),
    ],
)
def test_a_base_url_that_is_likely_wrong_is_doubted(
    admin: Client, llm_answers: ScriptedLlmProcess, url: str, state: str, said: str
) -> None:
    of_url = [found[1:] for found in check(admin, llm_model="openai/house", llm_base_url=url) if "url" in found[0]]

    assert [found[0] for found in of_url] == [state]
    assert said in of_url[0][1]


@pytest.mark.parametrize("url", ["https://llm.example.com/v1", "http://10.0.0.7:8080/v1", "http://vllm:8000/v1"])
def test_a_base_url_that_looks_right_is_not_commented(admin: Client, llm_answers: ScriptedLlmProcess, url: str) -> None:
    said = check(admin, llm_model="openai/house", llm_base_url=url)

    assert [found for found in said if found[0] == "llm_base_url"] == []


def test_a_key_that_saving_would_remove_is_told_before(admin: Client, llm_answers: ScriptedLlmProcess) -> None:
    profile = factories.profile(llm_base_url="https://one.example.com/v1", catalogue={"provider": "openai"})
    typed = {"profile": profile.pk, "llm_model": profile.llm_model, "has_prices": "on", "has_window": "on"}

    same = check(admin, **typed, llm_base_url="https://one.example.com/v2", has_key="")
    moved = check(admin, **typed, llm_base_url="https://two.example.com/v1", has_key="")
    with_new_key = check(admin, **typed, llm_base_url="https://two.example.com/v1")

    assert [found[0] for found in same] == ["llm_model"]
    assert [found[0] for found in moved] == ["llm_model", "llm_api_key"]
    assert "Saving removes the stored key" in moved[1][2]
    assert [found[0] for found in with_new_key] == ["llm_model"]


def test_a_profile_without_a_key_is_warned_about(admin: Client, llm_answers: ScriptedLlmProcess) -> None:
    llm_answers.answers["describe_model"] = {"result": KNOWN}

    said = check(admin, llm_model="anthropic/claude-sonnet-4-5", has_key="")

    assert ("llm_api_key", "warning") in [found[:2] for found in said]


def test_a_model_for_housekeeping_of_another_provider_is_an_error(
    admin: Client, llm_answers: ScriptedLlmProcess
) -> None:
    llm_answers.answers["describe_model"] = {"result": {**KNOWN, "provider": ""}}

    foreign = check(admin, llm_model="anthropic/claude-sonnet-4-5", utility_llm_model="openai/gpt-5-mini")
    own = check(admin, llm_model="anthropic/claude-sonnet-4-5", utility_llm_model="anthropic/claude-haiku-4-5")

    assert ("utility_llm_model", "error") in [found[:2] for found in foreign]
    assert ("utility_llm_model", "ok") in [found[:2] for found in own]


def test_without_the_llm_process_the_form_says_that_nothing_is_checked(admin: Client) -> None:
    said = check(admin, llm_model="anthropic/claude-sonnet-4-5")
    offered = admin.get(reverse("admin:profiles_profile_model_offers"), {"search": "claude"}).json()

    assert [found[:2] for found in said] == [("llm_model", "warning")]
    assert "saved unchecked" in said[0][2]
    assert offered["models"] == []
    assert "saved unchecked" in offered["note"]


def test_models_are_offered_with_what_they_cost(admin: Client, llm_answers: ScriptedLlmProcess) -> None:
    offer = {"name": "openai/gpt-5", "input_price": "1.25", "output_price": "10", "context_window": 272_000}
    llm_answers.answers["search_models"] = {"result": [offer]}

    offered = admin.get(reverse("admin:profiles_profile_model_offers"), {"search": "gpt 5"}).json()

    about = "272,000 tokens · $1.25 in, $10.00 out per million tokens"
    assert offered == {"models": [{"name": "openai/gpt-5", "about": about}], "note": ""}
    assert llm_answers.asked[0]["params"] == {"search": "gpt 5", "limit": 20}


def test_what_is_too_long_to_be_a_model_is_refused_without_asking(
    admin: Client, llm_answers: ScriptedLlmProcess
) -> None:
    said = check(admin, llm_model="x" * 201)

    assert [found[:2] for found in said] == [("llm_model", "error")]
    assert llm_answers.asked == []
