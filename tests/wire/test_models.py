"""`GET /v1/models`: exactly what the key may use."""

from __future__ import annotations

import httpx
import pytest
from openai import NotFoundError, OpenAI

from tests import factories
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway


def test_the_list_holds_exactly_the_profiles_of_the_key(served: LiveGateway) -> None:
    mine = factories.profile(slug="mine", description="For me.")
    factories.profile(slug="not-mine")
    factories.profile(slug="off", is_enabled=False)
    factories.profile(slug="elsewhere", owner=factories.tenant())
    key = factories.api_key(profiles=[mine])

    with OpenAI(base_url=f"{served.url}/v1", api_key=key.text) as sdk:
        models = sdk.models.list().data

    assert [model.id for model in models] == ["openhands_mine"]
    assert models[0].owned_by == "openhands"
    assert models[0].object == "model"
    assert models[0].created == int(mine.created_at.timestamp())


def test_a_model_is_retrieved_as_it_is_listed(client: OpenAI) -> None:
    assert client.models.retrieve("openhands_chat") == client.models.list().data[0]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("gpt-4o", "Unknown OpenHands model 'gpt-4o'. Use GET /v1/models."),
        ("openhands_nope", "Profile 'nope' not found. Use GET /v1/models."),
        ("openhands_off", "Profile 'off' not found. Use GET /v1/models."),
        ("openhands_elsewhere", "Profile 'elsewhere' not found. Use GET /v1/models."),
        ("a/b:c d", "Unknown OpenHands model 'a/b:c d'. Use GET /v1/models."),
    ],
)
def test_unknown_disabled_and_foreign_profiles_are_the_same(client: OpenAI, model: str, message: str) -> None:
    factories.profile(slug="off", is_enabled=False)
    factories.profile(slug="elsewhere", owner=factories.tenant())

    with pytest.raises(NotFoundError) as raised:
        client.models.retrieve(model)

    assert raised.value.code == "model_not_found"
    assert raised.value.param == "model"
    assert raised.value.body["message"] == message


def test_the_list_does_not_ask_agent_servers(client: OpenAI, agent_server: FakeAgentServer) -> None:
    agent_server.stop()

    assert [model.id for model in client.models.list()] == ["openhands_chat"]


def test_a_key_without_profiles_gets_an_empty_list(http: httpx.Client) -> None:
    from profiles.models import Profile

    Profile.objects.update(is_enabled=False)

    assert http.get("/v1/models").json() == {"object": "list", "data": []}


def test_a_new_profile_is_there_at_once(client: OpenAI) -> None:
    client.models.list()

    factories.profile(slug="newborn")

    assert client.models.retrieve("openhands_newborn").id == "openhands_newborn"
