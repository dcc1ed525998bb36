"""A real agent-server with a scripted LLM behind it and the gateway in front."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from openai import OpenAI

from chatgateway.models import AgentServer
from tests import factories
from tests.gateway_process import LiveGateway
from tests.live.agent_process import AgentServerProcess, agent_server_process
from tests.live.frozen_provider import FrozenProvider
from tests.live.scripted_llm import ScriptedLlm


@pytest.fixture(scope="session")
def real_agent_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentServerProcess]:
    with agent_server_process(tmp_path_factory.mktemp("agent-server")) as running:
        yield running


@pytest.fixture(scope="session")
def llm() -> Iterator[ScriptedLlm]:
    with ScriptedLlm() as scripted:
        yield scripted


@pytest.fixture(scope="session")
def provider() -> Iterator[FrozenProvider]:
    with FrozenProvider() as frozen:
        yield frozen


@pytest.fixture
def real(gateway: LiveGateway, real_agent_server: AgentServerProcess, llm: ScriptedLlm) -> LiveGateway:
    """The gateway with the real agent-server and two profiles: `chat` without tools, `agent` with them."""
    register(real_agent_server)
    common = {"llm_api_key": llm.key, "llm_base_url": llm.url, "llm_model": "openai/scripted"}
    factories.profile(slug="chat", **common)
    factories.profile(slug="agent", tools=["terminal", "file_editor", "task_tracker"], **common)
    gateway.key = factories.api_key().text
    return gateway


def register(process: AgentServerProcess) -> AgentServer:
    return factories.agent_server(
        url=process.url,
        session_api_key=process.session_api_key,
        workspace_root=str(process.directory / "workspaces"),
    )


@pytest.fixture
def sdk(real: LiveGateway) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{real.url}/v1", api_key=real.key, max_retries=0, timeout=60) as stock:
        yield stock


Ask = Callable[..., str]


@pytest.fixture
def ask(sdk: OpenAI) -> Ask:
    """Ask `model` one question, collected, and return the answer."""

    def ask_one(model: str, question: str, **options: object) -> str:
        reply = sdk.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": question}],
            **options,  # type: ignore[call-overload]
        )
        content = reply.choices[0].message.content
        assert isinstance(content, str)
        return content

    return ask_one
