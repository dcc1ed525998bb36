"""What is sent to an agent-server, and what is read of it."""

from __future__ import annotations

import uuid

import pytest

from chatgateway.agentserver.schemas import ConversationInfo, ImagePart, ServerInfo, TextPart, token_counts
from chatgateway.turn_events import TokenCounts
from tests.chatgateway.agentserver.talking import PROVIDER_KEY, TERMINAL_SECRET, an_agent, an_llm

CONVERSATION = uuid.UUID("213d5c25-2c54-453e-9491-33df9f98efcc")


def test_an_llm_is_sent_with_every_default_that_would_surprise():
    assert an_llm().to_json() == {
        "model": "openai/gpt",
        "api_key": PROVIDER_KEY,
        "base_url": "http://llm.example/v1",
        "usage_id": "agent",
        "stream": True,
        "num_retries": 1,
        "retry_min_wait": 1,
        "retry_max_wait": 8,
        "timeout": 600,
        "stream_idle_timeout": 60,
        "reasoning_effort": None,
        "capability_overrides": {"supports_vision": False},
    }


@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {"top_p": 0.5}, {"temperature": 1.0, "top_p": 1.0}])
def test_sampling_parameters_are_sent_with_what_keeps_the_server_from_dropping_them(sampling):
    sent = an_llm(**sampling).to_json()

    assert {name: sent[name] for name in sampling} == sampling
    assert sent["capability_overrides"]["supports_sampling_params"] is True


def test_what_an_administrator_set_is_sent():
    sent = an_llm(
        max_output_tokens=7,
        supports_vision=True,
        reasoning_effort="low",
        input_cost_per_token=1e-6,
        output_cost_per_token=2e-6,
        extra_body={"stop": ["x"]},
    ).to_json()

    assert sent["capability_overrides"] == {"supports_vision": True}
    assert (sent["max_output_tokens"], sent["reasoning_effort"]) == (7, "low")
    assert (sent["input_cost_per_token"], sent["output_cost_per_token"]) == (1e-6, 2e-6)
    assert sent["litellm_extra_body"] == {"stop": ["x"]}


def test_an_agent_is_sent_whole():
    agent = an_agent(system_prompt="Be kind.", system_suffix="Speak German.", user_id="u", tags={"tenant": "1"})

    assert agent.to_json(CONVERSATION) == {
        "conversation_id": "213d5c25-2c54-453e-9491-33df9f98efcc",
        "agent": {
            "kind": "Agent",
            "llm": agent.llm.to_json(),
            "tools": [{"name": "terminal"}],
            "include_default_tools": [],
            "condenser": None,
            "agent_context": {"system_message_suffix": "Speak German.", "current_datetime": None},
            "system_prompt": "Be kind.",
        },
        "workspace": {"working_dir": "/srv/workspaces/one"},
        "max_iterations": 50,
        "stuck_detection": True,
        "autotitle": False,
        "confirmation_policy": {"kind": "NeverConfirm"},
        "tags": {"tenant": "1"},
        "user_id": "u",
        "secrets": {"TOKEN": {"kind": "StaticSecret", "value": TERMINAL_SECRET}},
    }


def test_an_agent_without_a_prompt_of_its_own_keeps_the_servers():
    assert "system_prompt" not in an_agent(system_prompt=None).to_json(CONVERSATION)["agent"]


@pytest.mark.parametrize("config", [{"docs": {"url": "http://x"}}, {"mcpServers": {"docs": {"url": "http://x"}}}])
def test_mcp_servers_are_sent_as_the_agent_server_reads_them(config):
    assert an_agent(mcp_config=config).to_json(CONVERSATION)["agent"]["mcp_config"] == {"docs": {"url": "http://x"}}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"working_dir": "work"}, "working_dir must be an absolute path"),
        ({"tags": {"a_b": "1"}}, "tags: 'a_b' may hold only lower-case letters and digits"),
        ({"tags": {"a": "x" * 257}}, "tags: the value of 'a' is longer than 256 characters"),
    ],
)
def test_an_agent_that_the_server_would_misread_is_refused_by_name(changes, problem):
    with pytest.raises(ValueError, match=problem):
        an_agent(**changes)


def test_parts_of_a_message_are_the_servers_own_and_not_openais():
    assert TextPart("hi").to_json() == {"type": "text", "text": "hi"}
    assert ImagePart("data:image/png;base64,AA").to_json() == {
        "type": "image",
        "image_urls": ["data:image/png;base64,AA"],
    }


def test_no_secret_shows_when_a_spec_is_printed():
    agent = an_agent(mcp_config={"docs": {"headers": {"Authorization": "Bearer mcp-token"}}})
    printed = f"{agent!r} {an_llm(extra_body={'key': 'extra-secret'})!r} {ImagePart('data:private')!r}"

    secrets = [PROVIDER_KEY, TERMINAL_SECRET, "mcp-token", "extra-secret", "data:private"]
    assert [secret for secret in secrets if secret in printed] == []


def test_token_counts_are_read_by_usage_id_and_without_trust():
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "cache_read_tokens": 40, "reasoning_tokens": 6}
    stats = {
        "usage_to_metrics": {
            "agent": {"accumulated_token_usage": usage},
            "empty": {"accumulated_token_usage": None},
            "odd": {"accumulated_token_usage": {"prompt_tokens": -1, "completion_tokens": "many"}},
        }
    }

    assert token_counts(stats) == {
        "agent": TokenCounts(input=100, output=20, cached=40, reasoning=6),
        "odd": TokenCounts(),
    }


@pytest.mark.parametrize("stats", [None, {}, {"usage_to_metrics": None}, [], "x"])
def test_no_token_counts_are_none(stats):
    assert token_counts(stats) == {}


def test_a_conversation_is_read_by_the_fields_that_matter():
    info = ConversationInfo.from_json({"id": str(CONVERSATION), "execution_status": "idle", "new_field": 1})

    assert (info.id, info.execution_status, info.leaf_event_id) == (CONVERSATION, "idle", None)
    assert (info.working_dir, info.tags, info.by_usage_id) == ("", {}, {})


def test_a_server_is_read_by_the_fields_that_matter():
    info = ServerInfo.from_json({"version": "1.60.1", "usable_tools": ["terminal", 3], "uptime": 2})

    assert (info.version, info.sdk_version, info.uptime_seconds) == ("1.60.1", "unknown", 2.0)
    assert (info.usable_tools, info.capabilities) == (frozenset({"terminal"}), frozenset())
