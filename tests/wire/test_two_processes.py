"""Two gateway processes, one history, many ways to go on with it at once: one continues, the others fork."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from chatgateway.models import Turn
from tests import factories
from tests.fakes.agent_script import Answer
from tests.fakes.agent_server import FakeAgentServer
from tests.faults.processes import GatewayProcess
from tests.wire.chatting import ChatClient, heard, user

ROUNDS = 5
AT_ONCE = 6


@pytest.fixture
def clients(transactional_db: None, agent_server: FakeAgentServer, tmp_path: Path) -> Iterator[list[ChatClient]]:
    """One client at each of two gateways, with one key."""
    factories.agent_server(url=agent_server.url, session_api_key=agent_server.session_api_key, capacity=100)
    factories.profile(slug="chat")
    headers = {"Authorization": f"Bearer {factories.api_key().text}"}
    started = [GatewayProcess(data_dir=tmp_path) for _ in range(2)]
    opened = [
        httpx.Client(base_url=process.wait_until_ready().url, headers=headers, timeout=100) for process in started
    ]
    yield [ChatClient(http=http) for http in opened]
    for http, process in zip(opened, started, strict=True):
        http.close()
        process.kill()


def test_one_goes_on_and_all_others_fork(clients: list[ChatClient], agent_server: FakeAgentServer) -> None:
    agent_server.on_message = lambda _, text: [Answer(f"You said {text}.", delay_seconds=0.01)]
    chat = clients[0]
    for turn in range(ROUNDS):
        chat.say(f"turn {turn}")
    asked = [message for message in chat.messages if message["role"] == "user"]

    with ThreadPoolExecutor(AT_ONCE * ROUNDS) as pool:
        calls = {
            (turn, number): pool.submit(
                clients[number % 2].send, [*chat.messages[: 2 * turn], user(f"branch {turn}-{number}")]
            )
            for turn in range(1, ROUNDS + 1)
            for number in range(AT_ONCE)
        }
        replies = {place: call.result() for place, call in calls.items()}

    continued = [place for place, reply in replies.items() if reply.match == "history"]
    assert [turn for turn, _ in continued] == [ROUNDS]  # whoever goes on after the last turn, first
    assert {reply.match for reply in replies.values()} == {"history", "fork"}
    assert len({reply.conversation_id for reply in replies.values()}) == AT_ONCE * ROUNDS
    for (turn, number), reply in replies.items():
        said = [text for role, text in heard(reply, agent_server) if role == "user"]
        assert said == [*(message["content"] for message in asked[:turn]), f"branch {turn}-{number}"]
        assert reply.text == f"You said branch {turn}-{number}."
    assert Turn.objects.exclude(match="fork").exclude(parent=None).count() == ROUNDS
