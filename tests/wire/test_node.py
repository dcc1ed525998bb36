"""The stock SDKs for Node, in processes of their own."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from chatgateway.models import Turn
from tests.fakes.agent_script import Answer, Fail, Step
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway
from tests.requirements import need
from tests.wire.test_repeats import runs

SCRIPTS = Path(__file__).parents[1] / "node"
MODEL = "openhands_chat"


@pytest.fixture(autouse=True)
def _node() -> None:
    is_there = shutil.which("node") is not None and (SCRIPTS / "node_modules" / "ai").is_dir()
    need(is_there, "node", "install Node.js 18 or newer and run `npm ci` in tests/node")


def play(script: str, served: LiveGateway, **asked: Any) -> dict[str, Any]:
    given = {"baseURL": f"{served.url}/v1", "apiKey": served.key, "model": MODEL, "prompt": "Hi"} | asked
    done = subprocess.run(
        ["node", str(SCRIPTS / script), json.dumps(given)], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_the_openai_sdk_reads_everything_it_knows(served: LiveGateway, agent_server: FakeAgentServer) -> None:
    agent_server.default_answer = Answer("Hello from the agent.")

    said = play("sdk.mjs", served)

    assert said["models"] == [MODEL]
    assert {said[name] for name in ("collected", "stored", "streamed", "helped")} == {"Hello from the agent."}
    assert said["usage"]["total_tokens"] == 110
    assert said["refused"] == {"kind": "NotFoundError", "code": "model_not_found", "param": "model"}


@pytest.mark.parametrize("stream", [False, True])
def test_the_ai_sdk_reads_answer_and_steps(served: LiveGateway, agent_server: FakeAgentServer, stream: bool) -> None:
    agent_server.script(Step(command="ls"), Answer("Two files."))

    assert play("ai_sdk.mjs", served, stream=stream) == {"text": "Two files.", "reasoning": "Running: ls\n"}


def test_the_ai_sdk_retries_a_failed_run_and_gets_the_same_error_without_another(
    served: LiveGateway, agent_server: FakeAgentServer
) -> None:
    agent_server.script(Fail.wrong_key())

    errors = play("ai_sdk.mjs", served)["errors"]

    assert [error["status"] for error in errors] == [502, 502, 502]
    assert len({error["message"] for error in errors}) == 1
    assert runs(agent_server) == 1
    assert Turn.objects.get().attempts.count() == 3
