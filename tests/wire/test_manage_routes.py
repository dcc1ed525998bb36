"""The routes under /api, as scripts for the agent-server's own API call them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import httpx
import pytest
from openai import OpenAI

from chatgateway.models import Conversation, Turn
from profiles.models import Profile
from tests import factories
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway
from tests.wire.conftest import question
from tests.wire.test_chat import CHAT, CONVERSATION

LLM = {"model": "openai/some-model", "api_key": "sk-very-secret", "base_url": "http://127.0.0.1:9/v1"}


@pytest.fixture
def neighbour(served: LiveGateway) -> Iterator[httpx.Client]:
    """Another tenant's key of scope manage."""
    headers = {"Authorization": f"Bearer {factories.api_key().text}"}
    with httpx.Client(base_url=served.url, headers=headers, timeout=100) as session:
        yield session


def test_a_profile_is_made_replaced_shown_and_deleted(http: httpx.Client) -> None:
    body = {"llm": LLM, "include_secrets": True}

    made = http.post("/api/profiles/mine", json=body)
    replaced = http.post("/api/profiles/mine", json={"llm": {**LLM, "model": "openai/other"}})
    shown = http.get("/api/profiles/mine")
    listed = http.get("/api/profiles")
    deleted = http.delete("/api/profiles/mine")

    assert made.status_code == replaced.status_code == 201
    assert made.json()["name"] == "mine"
    assert made.json()["message"] == "Profile 'mine' saved"
    assert "openai/other" in shown.text
    assert "mine" in listed.text
    assert "sk-very-secret" not in made.text + shown.text + listed.text
    assert deleted.status_code == 200
    assert "mine" in deleted.json()["message"]
    assert not Profile.objects.filter(slug="mine").exists()


def test_a_profile_made_over_rest_answers_at_once(http: httpx.Client, client: OpenAI) -> None:
    http.post("/api/profiles/mine", json={"llm": LLM})

    reply = client.chat.completions.create(model="openhands_mine", messages=[{"role": "user", "content": "Hi"}])

    assert reply.choices[0].message.content == "Hello from the agent."


def test_a_key_without_the_scope_may_not_manage(served: LiveGateway) -> None:
    key = factories.api_key(can_manage=False)

    response = httpx.get(f"{served.url}/api/profiles", headers={"Authorization": f"Bearer {key.text}"})

    assert response.status_code == 403


def test_another_tenants_profile_does_not_exist(http: httpx.Client, neighbour: httpx.Client) -> None:
    http.post("/api/profiles/mine", json={"llm": LLM})

    assert neighbour.get("/api/profiles/mine").status_code == 404
    assert neighbour.delete("/api/profiles/mine").status_code == 404
    assert "mine" not in neighbour.get("/api/profiles").text
    assert neighbour.post("/api/profiles/mine", json={"llm": LLM}).status_code == 409
    assert Profile.objects.filter(slug="mine").exists()


@pytest.mark.parametrize("name", ["tools", "mcp_config", "workspace", "terminal_secrets", "servers"])
def test_what_gives_an_agent_power_cannot_be_set_over_rest(http: httpx.Client, name: str) -> None:
    response = http.post("/api/profiles/mine", json={"llm": LLM, name: ["terminal"]})

    assert response.status_code == 400
    assert name in response.json()["error"]["message"]


def test_a_conversation_is_looked_up_and_deleted(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    conversation = http.post(CHAT, json=question()).headers[CONVERSATION]

    shown = http.get(f"/api/conversations/{conversation}").json()
    deleted = http.delete(f"/api/conversations/{conversation}")
    again = http.get(f"/api/conversations/{conversation}")
    continued = http.post(CHAT, json=question(), headers={CONVERSATION: conversation})

    assert shown["id"] == conversation
    assert shown["execution_status"] == "finished"
    assert conversation in shown["workspace"]["working_dir"]
    assert shown["stats"]["usage_to_metrics"]["agent"]["accumulated_token_usage"]["prompt_tokens"] == 100
    assert deleted.status_code == 200
    assert again.status_code == continued.status_code == 404
    assert agent_server.conversations == {}
    assert Conversation.objects.get().state == Conversation.State.DELETED
    assert Turn.objects.filter(outcome="answered").count() == 1


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_another_tenants_conversation_does_not_exist(http: httpx.Client, neighbour: httpx.Client, method: str) -> None:
    conversation = http.post(CHAT, json=question()).headers[CONVERSATION]

    foreign = neighbour.request(method, f"/api/conversations/{conversation}")
    unknown = neighbour.request(method, f"/api/conversations/{uuid.uuid4()}")

    assert foreign.status_code == unknown.status_code == 404
    assert foreign.json() == unknown.json()


def test_a_global_key_sees_every_tenants_conversations(http: httpx.Client, served: LiveGateway) -> None:
    conversation = http.post(CHAT, json=question()).headers[CONVERSATION]
    key = factories.api_key(is_global=True)

    response = httpx.get(
        f"{served.url}/api/conversations/{conversation}", headers={"Authorization": f"Bearer {key.text}"}
    )

    assert response.status_code == 200
