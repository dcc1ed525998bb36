"""The Responses API by OpenAI's SDK for Python, in both of its major versions, at its strictest."""

from __future__ import annotations

import pytest

from tests.clients.playing import play_python
from tests.clients.test_node_responses import moves
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway
from tests.wire.test_responses import with_tools


@pytest.mark.parametrize("environment", ["clients_env", "clients_env/openai_2"])
def test_the_openai_sdk_does_with_responses_all_that_it_can(
    served: LiveGateway, agent_server: FakeAgentServer, environment: str
) -> None:
    with_tools()
    agent_server.on_message = moves

    said = play_python("responses_openai.py", served, environment=environment)

    numbers = said.pop("numbers")
    assert numbers == list(range(len(numbers)))
    assert said.pop("resumed") == numbers[4:]
    assert said.pop("helped_again").endswith("Two.")
    assert said == {
        "chained": ["Heard: one", "Heard: two"],
        "usage": 110,
        "stored": True,
        "deltas": "Heard: three",
        "helped": ["message", "reasoning", "message"],
        "parsed": {"name": "Ada", "age": 36},
        "began": "queued",
        "background": ["completed", "Heard: four"],
        "cancelled": "cancelled",
        "items": ["two"],
        "deleted": "response_not_found",
        "refused": ["previous_response_not_found", "previous_response_id"],
        "topic": "letters",
        "conversation": ["a", "Heard: a", "b", "Heard: b"],
        "item": "Heard: a",
        "conversation_deleted": True,
        "asynchronous": "Heard: five",
    }
