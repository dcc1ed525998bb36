"""A message goes over the event feed, once, whatever happens to it on its way."""

from __future__ import annotations

import httpx
import pytest

from chatgateway import agent_session
from chatgateway.models import Turn
from tests.fakes.agent_server import FakeAgentServer
from tests.wire.conftest import question
from tests.wire.test_chat import CHAT, CONVERSATION
from tests.wire.test_repeats import runs, text_of


def sent(agent_server: FakeAgentServer) -> tuple[int, int]:
    """How many messages came over a feed, and how many were posted."""
    return len(agent_server.calls("SEND", "/events")), len(agent_server.calls("POST", "/events"))


def test_a_message_takes_the_feed(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    assert text_of(http.post(CHAT, json=question())) == "Hello from the agent."

    assert sent(agent_server) == (1, 0)


def test_a_message_that_is_too_large_for_it_is_posted(
    http: httpx.Client, agent_server: FakeAgentServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_session, "FEED_MESSAGE_CHARS", 20)

    assert text_of(http.post(CHAT, json=question())) == "Hello from the agent."

    assert sent(agent_server) == (0, 1)


def test_a_message_that_arrived_before_the_connection_broke_is_not_sent_again(
    http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    agent_server.lose_next_answer("SEND", "/events")

    assert text_of(http.post(CHAT, json=question())) == "Hello from the agent."

    assert runs(agent_server) == 1


def test_a_message_that_was_lost_with_the_connection_is_sent_again(
    http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    agent_server.lose_next_message()

    assert text_of(http.post(CHAT, json=question())) == "Hello from the agent."

    assert sent(agent_server) == (1, 1)
    assert runs(agent_server) == 1


def test_a_run_that_finds_no_room_is_asked_for_again_without_the_message(
    http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    agent_server.refuse_runs(1)
    # The first refusal is of the conversation's creation, which is tried on the next server: there is only one.
    first = http.post(CHAT, json=question())
    conversation = http.post(CHAT, json=question()).headers[CONVERSATION]
    agent_server.refuse_runs(2)

    reply = http.post(CHAT, json=question(), headers={CONVERSATION: conversation})

    assert (first.status_code, text_of(reply)) == (503, "Hello from the agent.")
    assert len(agent_server.calls("POST", "/run")) == 2
    assert runs(agent_server) == 2


def test_what_the_server_objects_to_is_a_clear_error(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    agent_server.fail_next("SEND", "/events", status=0, body="1 validation error for Message")

    reply = http.post(CHAT, json=question())

    assert (reply.status_code, reply.json()["error"]["code"]) == (502, "agent_error")
    assert "validation" not in reply.text
    assert "1 validation error for Message" in Turn.objects.get().error_detail
