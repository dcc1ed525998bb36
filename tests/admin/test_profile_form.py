"""What an administrator can and cannot make of a profile."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from profiles import access
from profiles.fields import load_json
from profiles.models import ChangeRecord, Profile
from tests import factories
from tests.admin.forms import errors, save_profile, told
from tests.gateway_project.conftest import ScriptedLlmProcess

pytestmark = pytest.mark.django_db

MCP = '{"mcpServers": {"docs": {"url": "https://docs.example", "headers": {"x": "mcp-token"}}}}'


def stored(profile: Profile) -> Profile:
    return Profile.objects.get(pk=profile.pk)


# --- secrets --------------------------------------------------------------------------------------------------------


def test_empty_secret_inputs_keep_what_is_stored(admin: Client) -> None:
    profile = factories.profile(mcp_config=MCP, terminal_secrets='{"TOKEN": "t"}')

    assert errors(save_profile(admin, profile, description="changed")) == {}

    saved = stored(profile)
    assert saved.description == "changed"
    assert saved.llm_api_key.reveal() == "sk-provider-secret"
    assert saved.mcp_config.reveal() == MCP
    assert load_json(saved.terminal_secrets) == {"TOKEN": "t"}


def test_a_typed_secret_replaces_the_stored_one_and_is_written_nowhere_else(admin: Client) -> None:
    profile = factories.profile()

    response = save_profile(admin, profile, llm_api_key="sk-brand-new", mcp_config=MCP)

    assert stored(profile).llm_api_key.reveal() == "sk-brand-new"
    assert "sk-brand-new" not in told(response)
    recorded = str(list(ChangeRecord.objects.values()))
    assert "llm_api_key" in recorded
    assert "sk-brand-new" not in recorded
    assert "mcp-token" not in recorded


def test_a_stored_secret_can_be_removed(admin: Client) -> None:
    profile = factories.profile()

    save_profile(admin, profile, **{"llm_api_key-clear": "on"})

    assert not stored(profile).llm_api_key


def test_a_new_secret_together_with_its_removal_is_refused(admin: Client) -> None:
    profile = factories.profile()

    response = save_profile(admin, profile, llm_api_key="sk-brand-new", **{"llm_api_key-clear": "on"})

    assert list(errors(response)) == ["llm_api_key"]
    assert "sk-brand-new" not in response.content.decode()
    assert stored(profile).llm_api_key.reveal() == "sk-provider-secret"


@pytest.mark.parametrize(
    "changed",
    [{"llm_base_url": "https://elsewhere.example/v1"}, {"llm_base_url": "", "llm_model": "anthropic/claude"}],
)
def test_the_stored_key_does_not_follow_the_model_to_another_place(admin: Client, changed: dict[str, str]) -> None:
    profile = factories.profile()

    response = save_profile(admin, profile, **changed)

    assert not stored(profile).llm_api_key
    assert "LLM API key was removed" in told(response)


def test_the_stored_key_stays_when_only_the_path_of_the_base_url_changes(admin: Client) -> None:
    profile = factories.profile()

    response = save_profile(admin, profile, llm_base_url="http://127.0.0.1:9/v2")

    assert stored(profile).llm_api_key.reveal() == "sk-provider-secret"
    assert "removed" not in told(response)


def test_a_key_sent_with_the_new_place_is_taken(admin: Client) -> None:
    profile = factories.profile()

    save_profile(admin, profile, llm_base_url="https://elsewhere.example/v1", llm_api_key="sk-of-elsewhere")

    assert stored(profile).llm_api_key.reveal() == "sk-of-elsewhere"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("mcp_config", '{"mcpServers": {"docs": {"token": "planted"', "not valid JSON (line 1"),
        ("mcp_config", '["planted"]', "a JSON object"),
        ("mcp_config", '{"planted": {}}', "mcpServers"),
        ("mcp_config", '{"mcpServers": {"docs": {"token": "planted"}}}', "needs a “url” or a “command”"),
        ("mcp_config", "[" * 100_000, "nested too deeply"),
        ("terminal_secrets", '{"A-B": "planted"}', "not a name"),
        ("terminal_secrets", '{"TOKEN": 5}', "must be a text"),
        ("terminal_secrets", '{"TOKEN": ""}', "not empty"),
    ],
)
def test_json_that_cannot_work_is_refused_without_being_quoted(admin: Client, name: str, text: str, said: str) -> None:
    response = save_profile(admin, **{name: text})

    assert said in " ".join(errors(response)[name])
    assert "planted" not in response.content.decode()
    assert not Profile.objects.exists()


# --- the model ------------------------------------------------------------------------------------------------------


def test_what_litellm_knows_of_the_model_is_kept_with_the_profile(
    admin: Client, llm_answers: ScriptedLlmProcess
) -> None:
    facts = {"provider": "openai", "is_known": True, "input_price": "1.25", "output_price": "10"}
    llm_answers.answers["describe_model"] = {"result": facts}

    assert errors(save_profile(admin)) == {}

    profile = Profile.objects.get()
    assert profile.catalogue == facts
    assert profile.prices() == {"input": "1.25", "output": "10", "cached": "1.25"}


def test_a_model_whose_provider_nobody_knows_is_refused(admin: Client, llm_answers: ScriptedLlmProcess) -> None:
    llm_answers.answers["describe_model"] = {"error": {"kind": "unknown_provider", "message": ""}}

    response = save_profile(admin, llm_model="nosuch/model")

    assert "cannot tell the provider of 'nosuch/model'" in errors(response)["llm_model"][0]
    assert not Profile.objects.exists()


def test_a_model_that_litellm_does_not_know_is_saved_with_a_warning(
    admin: Client, llm_answers: ScriptedLlmProcess
) -> None:
    response = save_profile(admin, llm_model="openai/house", llm_base_url="http://127.0.0.1:9/v1")

    assert "its price is unknown" in told(response)
    assert Profile.objects.get().prices() == {}


def test_without_the_llm_process_the_profile_is_saved_unchecked_and_says_so(admin: Client) -> None:
    response = save_profile(admin)

    assert "could not be checked" in told(response)
    assert Profile.objects.get().catalogue == {}


def test_an_unchanged_model_is_not_looked_up_again(admin: Client, llm_answers: ScriptedLlmProcess) -> None:
    profile = factories.profile(catalogue={"provider": "openai", "is_known": False})

    save_profile(admin, profile, description="changed")

    assert llm_answers.asked == []


# --- the agent ------------------------------------------------------------------------------------------------------


def test_tools_that_agent_servers_have_are_offered_and_kept(admin: Client) -> None:
    factories.agent_server(usable_tools=["terminal", "glob"])

    assert errors(save_profile(admin, tools=["terminal", "glob"])) == {}

    assert Profile.objects.get().tools == ["terminal", "glob"]


def test_a_tool_that_no_agent_server_has_is_warned_about(admin: Client) -> None:
    factories.agent_server(usable_tools=["terminal"])

    response = save_profile(admin, tools=["browser_tool_set"])

    assert "browser_tool_set" in told(response)
    assert Profile.objects.get().tools == ["browser_tool_set"]


def test_a_tool_that_was_not_offered_is_refused(admin: Client) -> None:
    assert "tools" in errors(save_profile(admin, tools=["rm_rf"]))


def test_a_profile_with_tools_says_that_its_agent_acts_without_asking(admin: Client) -> None:
    with_tools, without = factories.profile(tools=["terminal"]), factories.profile()

    pages = [admin.get(f"/admin/profiles/profile/{row.pk}/change/").content.decode() for row in (with_tools, without)]

    assert ["Its agent acts without asking." in page for page in pages] == [True, False]


def test_a_profile_can_be_bound_to_agent_servers_and_set_free_again(admin: Client) -> None:
    profile, server = factories.profile(), factories.agent_server()

    save_profile(admin, profile, allowed_servers=[server.pk])
    bound = list(profile.allowed_servers.all())
    save_profile(admin, profile)

    assert bound == [server]
    assert list(profile.allowed_servers.all()) == []


@pytest.mark.parametrize("path", ["", "relative", "/etc", "/srv/shared/../../etc", "/srv/sharedish"])
def test_a_fixed_directory_outside_the_opened_ones_is_refused(admin: Client, settings: Settings, path: str) -> None:
    settings.GATEWAY_WORKSPACE_ROOTS = ["/srv/shared/"]

    response = save_profile(admin, workspace="fixed", workspace_path=path)

    assert list(errors(response)) == ["workspace_path"]


def test_a_fixed_directory_is_kept_in_its_plain_spelling(admin: Client, settings: Settings) -> None:
    settings.GATEWAY_WORKSPACE_ROOTS = ["/srv/shared"]

    assert errors(save_profile(admin, workspace="fixed", workspace_path="/srv/shared//site/")) == {}

    assert Profile.objects.get().workspace_path == "/srv/shared/site"


def test_without_an_opened_directory_the_setting_is_named(admin: Client, settings: Settings) -> None:
    settings.GATEWAY_WORKSPACE_ROOTS = []

    response = save_profile(admin, workspace_template="/srv/template")

    assert "GATEWAY_WORKSPACE_ROOTS" in errors(response)["workspace_template"][0]


# --- effect ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changed", [{"is_enabled": None}, {"slug": "renamed"}])
def test_a_change_is_seen_at_once_by_this_process(
    admin: Client, changed: dict[str, Any], django_capture_on_commit_callbacks: Any
) -> None:
    profile = factories.profile(slug="chat")
    caller = access.caller_for(factories.api_key().text, now=timezone.now())
    assert access.profile_for(caller, "chat").pk == profile.pk

    with django_capture_on_commit_callbacks(execute=True):
        save_profile(admin, profile, **changed)

    assert access.cached_profile_for(caller, "chat") is None


def test_a_name_that_differs_in_case_alone_is_taken(admin: Client) -> None:
    factories.profile(slug="Fast")

    assert "exists" in str(errors(save_profile(admin, slug="fast")))


# --- the model for housekeeping calls -------------------------------------------------------------------------------


def test_a_model_for_housekeeping_is_one_that_the_profiles_key_belongs_to(admin: Client) -> None:
    profile = factories.profile(llm_base_url="", llm_model="anthropic/claude-large")

    refused = save_profile(admin, profile, utility_llm_model="openai/small")
    taken = save_profile(admin, profile, utility_llm_model="anthropic/claude-small", context_window="8000")

    assert list(errors(refused)) == ["utility_llm_model"]
    assert errors(taken) == {}
    saved = stored(profile)
    assert (saved.utility_llm_model, saved.window_tokens) == ("anthropic/claude-small", 8000)


def test_a_model_taken_off_takes_its_prices_along(admin: Client) -> None:
    profile = factories.profile(utility_llm_model="openai/small", utility_catalogue={"input_price": "1"})

    save_profile(admin, profile, utility_llm_model="")

    assert stored(profile).utility_catalogue == {}
    assert stored(profile).housekeeping_prices() == stored(profile).prices()
