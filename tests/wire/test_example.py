"""The shipped example runs as it is, in a process of its own, and does what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from chatgateway.models import Conversation, Turn
from profiles.models import Profile
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "openai_gateway.py"


def test_the_example_drives_the_gateway_from_profile_to_clean_up(
    served: LiveGateway, agent_server: FakeAgentServer
) -> None:
    environment = os.environ | {
        "GATEWAY_URL": served.url,
        "GATEWAY_API_KEY": served.key,
        "LLM_MODEL": "openai/some-model",
        "LLM_API_KEY": "sk-example",
        "LLM_BASE_URL": "http://127.0.0.1:9/v1",
    }

    ran = subprocess.run(
        [sys.executable, str(EXAMPLE)], env=environment, capture_output=True, text=True, timeout=100, check=False
    )

    assert ran.stderr == ""
    assert ran.returncode == 0
    assert "Profile 'example' saved" in ran.stdout
    assert "openhands_example" in ran.stdout
    assert ran.stdout.count("Agent: Hello from the agent.") == 2
    assert "finished, cost $" in ran.stdout
    assert "Conversation deleted" in ran.stdout
    assert not Profile.objects.filter(slug="example").exists()
    assert Conversation.objects.get().state == Conversation.State.DELETED
    assert Turn.objects.filter(outcome="answered").count() == 2
    assert agent_server.conversations == {}
