"""A real agent-server with a scripted LLM behind it and the gateway in front."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from openai import OpenAI

from chatgateway.models import AgentServer
from tests import factories
from tests.gateway_process import LiveGateway
from tests.live.frozen_provider import FrozenProvider
from tests.live.scripted_llm import ScriptedLlm
from tests.requirements import need

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentServerProcess:
    url: str
    session_api_key: str
    directory: Path
    pid: int


def agent_python() -> Path | None:
    """The interpreter of the agent-server's own environment, if it was built."""
    named = os.environ.get("GATEWAY_AGENT_PYTHON")
    candidates = [Path(named)] if named else [ROOT / "data/agent-env/bin/python", ROOT / "agent_env/.venv/bin/python"]
    return next((path for path in candidates if path.exists()), None)


@pytest.fixture(scope="session")
def real_agent_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentServerProcess]:
    python = agent_python()
    need(python is not None, "agent-server", "run `uv sync --project agent_env` or set GATEWAY_AGENT_PYTHON")
    assert python is not None
    directory = tmp_path_factory.mktemp("agent-server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    key = secrets.token_hex(16)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory / "home"),
        "OH_CONVERSATIONS_PATH": str(directory / "conversations"),
        "OH_WORKSPACE_PATH": str(directory / "workspaces"),
        "OH_BASH_EVENTS_DIR": str(directory / "bash"),
        "OH_SECRET_KEY": secrets.token_hex(16),
        "OH_SESSION_API_KEYS_0": key,
        "OH_ENABLE_VSCODE": "0",
        "OH_PRELOAD_TOOLS": "0",
        "OH_WEBHOOKS": "[]",
        "OH_MAX_CONCURRENT_RUNS": "10",
        "LOG_JSON": "1",
        "LOG_LEVEL": "WARNING",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    (directory / "home").mkdir()
    log = (directory / "log").open("wb")
    process = subprocess.Popen(
        [str(python), "-m", "openhands.agent_server", "--host", "127.0.0.1", "--port", str(port)],
        env=environment,
        cwd=directory,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    running = AgentServerProcess(
        url=f"http://127.0.0.1:{port}", session_api_key=key, directory=directory, pid=process.pid
    )
    try:
        _wait_until_ready(running, process)
        yield running
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
        log.close()
        shutil.rmtree(directory, ignore_errors=True)


def _wait_until_ready(running: AgentServerProcess, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{running.url}/ready", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError((running.directory / "log").read_text()[-3000:])


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
