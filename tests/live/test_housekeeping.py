"""A chat UI's own calls with a real llm process between the gateway and the provider."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal

import pytest
from openai import OpenAI
from pytest_django import Settings

from chatgateway.models import Conversation, Turn
from tests import factories
from tests.chatgateway.openai_api.test_housekeeping import OPEN_WEBUI_TITLE
from tests.gateway_process import LiveGateway
from tests.live.scripted_llm import Answer, Failure, ScriptedLlm, Usage
from tests.profiles.llm_process import LlmProcess

pytestmark = pytest.mark.live

ASKED = [{"role": "user", "content": OPEN_WEBUI_TITLE}]


@pytest.fixture(scope="module")
def llm_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlmProcess]:
    process = LlmProcess(tmp_path_factory.mktemp("llm")).start()
    yield process.wait_until_ready()
    process.stop()


@pytest.fixture
def client(gateway: LiveGateway, llm: ScriptedLlm, llm_process: LlmProcess, settings: Settings) -> Iterator[OpenAI]:
    """Of a gateway without any agent-server."""
    settings.GATEWAY_LLM_SOCKET = str(llm_process.socket)
    factories.profile(slug="chat", llm_api_key=llm.key, llm_base_url=llm.url)
    with OpenAI(base_url=f"{gateway.url}/v1", api_key=factories.api_key().text, max_retries=0, timeout=100) as stock:
        yield stock


def test_a_title_goes_from_the_provider_through_the_llm_process_to_the_client(client: OpenAI, llm: ScriptedLlm) -> None:
    llm.enqueue(Answer(text='{"title": "Baking bread"}', usage=Usage(prompt=400, completion=9)))

    raw = client.chat.completions.with_raw_response.create(model="openhands_chat", messages=ASKED, max_tokens=1000)

    reply, turn = raw.parse(), Turn.objects.get()
    assert reply.choices[0].message.content == '{"title": "Baking bread"}'
    assert raw.headers["X-Gateway-Housekeeping"] == "title"
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (400, 9)
    heard = llm.requests[-1]
    assert heard.messages == ASKED
    assert heard.headers["authorization"] == f"Bearer {llm.key}"
    assert (turn.answered_by, turn.cost_usd, turn.is_usage_estimated) == ("llm", Decimal("0.000418"), False)
    assert not Conversation.objects.exists()


def test_a_provider_that_fails_leaves_the_title_to_the_template(client: OpenAI, llm: ScriptedLlm) -> None:
    llm.enqueue(Failure(status=401, message="Incorrect API key provided.", code="invalid_api_key"))

    reply = client.chat.completions.create(model="openhands_chat", messages=ASKED)

    assert json.loads(reply.choices[0].message.content) == {"title": "How do I bake bread"}
    turn = Turn.objects.get()
    assert (turn.answered_by, turn.outcome) == ("template", "answered")
    assert turn.error_detail.startswith("AuthenticationError")
