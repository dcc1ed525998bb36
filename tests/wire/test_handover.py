"""A gateway process ends with turns under way: another one on the same database goes on with them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from django.db.models.functions import Now
from django.utils import timezone

from chatgateway import takeover, tasks
from chatgateway.models import AgentServer, Attempt, Turn
from profiles.models import OnDisconnect
from tests.fakes.agent_conversation import FakeConversation
from tests.fakes.agent_script import Answer, Gate, Move, Step
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway
from tests.waiting import eventually
from tests.wire.chatting import ChatClient, agent_of, heard, user
from tests.wire.conftest import question
from tests.wire.test_chat import CHAT, set_profile
from tests.wire.test_repeats import KEY, held_answer, runs, text_of


@pytest.fixture
def successor(served: LiveGateway, settings: Any) -> Iterator[LiveGateway]:
    """Runs beside the first gateway, which gives up its turns quickly when it is stopped."""
    settings.GATEWAY_SHUTDOWN_GRACE_SECONDS = 0.1
    running = LiveGateway()
    running.start()
    yield running
    running.stop()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def test_whoever_would_be_recognised_is_welcome_to_repeat_and_gets_the_answer(
    http: httpx.Client, served: LiveGateway, successor: LiveGateway, agent_server: FakeAgentServer, pool: Any
) -> None:
    gate = held_answer(agent_server)
    call = pool.submit(http.post, CHAT, json=question(), headers=KEY)
    gate.wait_until_reached()
    eventually(lambda: Turn.objects.get().user_event_seq is not None)

    served.stop()
    handed_over = call.result(timeout=60)
    again = pool.submit(http.post, successor.url + CHAT, json=question(), headers=KEY)
    eventually(lambda: Attempt.objects.count() == 2)
    gate.open()

    assert handed_over.status_code == 503
    assert (handed_over.headers["Retry-After"], "x-should-retry" in handed_over.headers) == ("1", False)
    assert text_of(again.result(timeout=60)) == "One. Two."
    assert runs(agent_server) == 1
    assert Turn.objects.get().lease_generation == 2


def test_whoever_would_run_the_agent_again_is_told_not_to(
    http: httpx.Client, served: LiveGateway, successor: LiveGateway, agent_server: FakeAgentServer, pool: Any
) -> None:
    gate = held_answer(agent_server)
    call = pool.submit(http.post, CHAT, json=question())
    gate.wait_until_reached()

    served.stop()
    gate.open()

    reply = call.result(timeout=60)
    assert (reply.status_code, reply.headers["x-should-retry"]) == (503, "false")
    assert eventually(lambda: Turn.objects.get().outcome == "answered")


@pytest.mark.parametrize("is_awaited", [True, False])
def test_a_turn_that_still_waited_for_a_place_is_begun_only_for_somebody(
    http: httpx.Client,
    served: LiveGateway,
    successor: LiveGateway,
    agent_server: FakeAgentServer,
    pool: Any,
    is_awaited: bool,
) -> None:
    AgentServer.objects.update(capacity=1)
    gate = held_answer(agent_server)
    agent_server.script(Answer("Of the second turn."))
    pool.submit(http.post, CHAT, json=question())
    gate.wait_until_reached()
    pool.submit(http.post, CHAT, json=question(user="anna"), headers=KEY)
    queued = eventually(lambda: Turn.objects.filter(end_user="anna").first())
    joined = (
        pool.submit(http.post, successor.url + CHAT, json=question(user="anna"), headers=KEY) if is_awaited else None
    )
    eventually(lambda: queued.attempts.count() == 1 + is_awaited)

    served.stop()
    eventually(lambda: Turn.objects.filter(lease_generation=2).count() == 2)
    gate.open()

    assert eventually(lambda: Turn.objects.exclude(outcome="open").count() == 2)
    queued.refresh_from_db()
    if joined is not None:
        assert text_of(joined.result(timeout=60)) == "Of the second turn."
        assert queued.outcome == "answered"
    else:
        assert (queued.outcome, queued.error_code, queued.idempotency_key) == ("refused", "service_unavailable", "")
    assert runs(agent_server) == 1 + is_awaited


def test_a_turn_that_was_to_be_stopped_is_stopped_by_the_successor(
    http: httpx.Client, served: LiveGateway, successor: LiveGateway, agent_server: FakeAgentServer, pool: Any
) -> None:
    set_profile(on_disconnect=OnDisconnect.DETACH)
    gate = held_answer(agent_server)
    pool.submit(http.post, CHAT, json=question())
    gate.wait_until_reached()
    eventually(lambda: Turn.objects.get().user_event_seq is not None)
    served.stop()
    Turn.objects.update(cancel_requested_at=Turn.objects.get().opened_at, cancel_reason="admin")

    turn = eventually(lambda: Turn.objects.exclude(outcome="open").first())

    assert (turn.outcome, turn.cancel_reason) == ("cancelled", "admin")
    assert agent_server.only_conversation.interrupts > 0


# --- forks ------------------------------------------------------------------------------------------------------------


def test_a_fork_that_still_waited_for_a_place_is_made_by_the_successor(
    http: httpx.Client, served: LiveGateway, successor: LiveGateway, agent_server: FakeAgentServer, pool: Any
) -> None:
    set_profile(on_disconnect=OnDisconnect.DETACH)
    AgentServer.objects.update(capacity=1)
    chat = ChatClient(http=http)
    chat.say("a")
    gate = held_answer(agent_server)
    pool.submit(chat.send, [*chat.messages, user("b")])
    gate.wait_until_reached()
    pool.submit(chat.send, [*chat.messages, user("c")])
    queued = eventually(lambda: Turn.objects.filter(match="fork").first())

    served.stop()
    eventually(lambda: Turn.objects.filter(lease_generation=2).count() == 2)
    gate.open()

    eventually(lambda: not Turn.objects.open().exists())
    queued.refresh_from_db()
    assert (queued.outcome, queued.match) == ("answered", "fork")
    assert [text for role, text in heard(str(queued.conversation_id), agent_server) if role == "user"] == ["a", "c"]


def test_a_fork_whose_message_stands_unanswered_is_answered(
    http: httpx.Client, served: LiveGateway, successor: LiveGateway, agent_server: FakeAgentServer, pool: Any
) -> None:
    """The process died between the message and the run: a fork gets its LLM in between."""
    set_profile(on_disconnect=OnDisconnect.DETACH)
    chat = ChatClient(http=http)
    chat.say("a")
    chat.say("b")

    def hang(_: FakeConversation, text: str) -> list[Move]:
        agent_server.hang()
        return [Answer(f"You said {text}.")]

    agent_server.on_message = hang
    pool.submit(chat.send, [*chat.messages[:2], user("c")])
    eventually(lambda: any(one.forked_from and one.posted for one in agent_server.conversations.values()))
    served.stop()
    agent_server.recover()

    turn = eventually(lambda: Turn.objects.filter(match="fork").exclude(outcome="open").first())
    assert (turn.outcome, turn.answer, turn.input_tokens) == ("answered", "You said c.", 100)
    assert len(agent_of(str(turn.conversation_id), agent_server).posted) == 1


# --- no gateway process is left ---------------------------------------------------------------------------------------


def left_behind(http: httpx.Client, served: LiveGateway, agent_server: FakeAgentServer, pool: Any) -> Gate:
    """A turn in mid-run whose process is gone, and nobody else there but the worker."""
    gate = held_answer(agent_server)
    pool.submit(http.post, CHAT, json=question())
    gate.wait_until_reached()
    eventually(lambda: Turn.objects.get().user_event_seq is not None)
    served.stop()
    Turn.objects.update(lease_expires_at=Now() - dt.timedelta(seconds=11))
    return gate


def test_the_worker_finishes_the_record_where_no_gateway_is_left(
    http: httpx.Client, served: LiveGateway, agent_server: FakeAgentServer, pool: Any, settings: Any
) -> None:
    settings.GATEWAY_SHUTDOWN_GRACE_SECONDS = 0.1
    left_behind(http, served, agent_server, pool).open()

    assert tasks.recover_turns() == "1 turns taken over"

    turn = Turn.objects.get()
    assert (turn.outcome, turn.answer, turn.run_ended_at is not None) == ("answered", "One. Two.", True)
    assert eventually(lambda: turn.events.filter(kind="MessageEvent").count() == 2)


def test_the_worker_follows_no_run_for_long(
    http: httpx.Client,
    served: LiveGateway,
    agent_server: FakeAgentServer,
    pool: Any,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings.GATEWAY_SHUTDOWN_GRACE_SECONDS = 0.1
    monkeypatch.setattr(takeover, "RECOVER_SECONDS", 0.5)
    gate = left_behind(http, served, agent_server, pool)

    tasks.recover_turns()
    turn = Turn.objects.get()

    assert turn.outcome == "open"
    assert turn.lease_expires_at < timezone.now()  # whoever comes first goes on with it
    gate.open()


# --- an agent-server that was restarted -----------------------------------------------------------------------------


@pytest.mark.parametrize("resumes", [True, False])
def test_an_agent_that_had_acted_goes_on_after_a_restart_only_where_the_profile_says_so(
    http: httpx.Client, agent_server: FakeAgentServer, pool: Any, resumes: bool
) -> None:
    set_profile(resume_after_server_restart=resumes, tools=["terminal"])
    gate = Gate()
    agent_server.script(Step(command="make", gate=gate), Answer("Made."))
    call = pool.submit(http.post, CHAT, json=question())
    gate.wait_until_reached()

    agent_server.crash()
    gate.open()
    agent_server.script(Answer("Made."))
    agent_server.come_back()
    reply = call.result(timeout=60)

    told = reply.json()
    said = told["choices"][0]["message"]["content"] if resumes else told["error"]["code"]
    assert (reply.status_code, said) == ((200, "Made.") if resumes else (502, "agent_error"))
    assert runs(agent_server) == 1
