"""Stop, then go on: the agent's conversation and its workspace stay, and it is told what the user saw."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import httpx
import pytest
from django.utils import timezone

from chatgateway.models import Attempt, Turn
from tests.fakes.agent_script import Answer, Gate, Step
from tests.fakes.agent_server import FakeAgentServer
from tests.waiting import eventually
from tests.wire.chatting import ChatClient, assistant, heard, user

NOTHING_SEEN = "Your last answer was stopped before the user saw any of it."


@pytest.fixture
def chat(http: httpx.Client) -> ChatClient:
    return ChatClient(http=http)


@pytest.fixture
def gate(agent_server: FakeAgentServer) -> Iterator[Gate]:
    held = Gate()
    yield held
    held.open()


def say_and_stop(chat: ChatClient, server: FakeAgentServer, gate: Gate, text: str) -> str:
    server.script(Answer(chunks=("One. ", "Two. ", "Three."), gate=gate, hold_after=2))
    return chat.say_and_stop(text, after="One. Two. ")


@pytest.mark.parametrize("resent", ["One. Two. ", "One. Two.", "One.", "", None])
def test_a_stopped_answer_is_gone_on_with_at_once(
    chat: ChatClient, agent_server: FakeAgentServer, gate: Gate, resent: str | None
) -> None:
    first = chat.say("a")
    say_and_stop(chat, agent_server, gate, "b")
    seen = [] if resent is None else [assistant(resent)]

    reply = chat.send([*chat.messages[:2], user("b"), *seen, user("c")])

    said = [text for role, text in heard(reply, agent_server) if role == "user"]
    assert (reply.match, reply.conversation_id) == ("history", first.conversation_id)
    assert said[:2] == ["a", "b"]
    assert said[2].endswith("\n\nc")
    if resent:
        assert said[2].count(f">\n{resent.strip()}") == 1
    else:
        assert said[2] == f"{NOTHING_SEEN}\n\nc"
    assert reply.turn.parent == Turn.objects.get(outcome="cancelled")


@pytest.mark.parametrize("resent", ["One. Two. Four.", "Two."])
def test_what_was_never_written_is_another_history(
    chat: ChatClient, agent_server: FakeAgentServer, gate: Gate, resent: str
) -> None:
    chat.say("a")
    say_and_stop(chat, agent_server, gate, "b")

    reply = chat.send([*chat.messages[:2], user("b"), assistant(resent), user("c")])

    assert reply.match == "replay"


def test_the_answer_to_a_stopped_message_is_written_anew(
    chat: ChatClient, agent_server: FakeAgentServer, gate: Gate
) -> None:
    """Regenerate: what was stopped is no longer part of the history, so the agent is forked before it."""
    chat.say("a")
    stopped = say_and_stop(chat, agent_server, gate, "b")
    eventually(lambda: Turn.objects.filter(outcome="cancelled").exists())

    reply = chat.send(chat.messages[:3])

    assert reply.match == "fork"
    assert reply.conversation_id != stopped
    assert [text for role, text in heard(reply, agent_server) if role == "user"] == ["a", "b"]


def test_a_stopped_first_turn_a_second_one_and_an_edit_after_them(
    chat: ChatClient, agent_server: FakeAgentServer, gate: Gate
) -> None:
    first = say_and_stop(chat, agent_server, gate, "a")
    second = say_and_stop(chat, agent_server, gate, "b")
    third = chat.say("c")

    edited = chat.send([*chat.messages[:4], user("d")])

    assert first == second == third.conversation_id
    assert edited.match == "fork"
    said = [text for role, text in heard(edited, agent_server) if role == "user"]
    assert said[0] == "a"
    assert said[1].count("One. Two.") == 1
    assert said[1].endswith("\n\nb")
    assert said[2].count("One. Two.") == 1
    assert said[2].endswith("\n\nd")


def test_tools_that_were_at_work_are_no_hindrance(chat: ChatClient, agent_server: FakeAgentServer, gate: Gate) -> None:
    chat.body = {"user": "anna"}
    agent_server.script(Step(command="sleep 100", gate=gate), Answer("Done."))
    stopped = chat.say_and_stop("a", after="")

    reply = chat.say("b")

    assert (reply.match, reply.conversation_id) == ("history", stopped)
    assert [text for role, text in heard(reply, agent_server) if role == "user"] == ["a", f"{NOTHING_SEEN}\n\nb"]


def test_whoever_does_not_wait_for_an_answer_that_others_wait_for_starts_anew(
    chat: ChatClient, agent_server: FakeAgentServer, gate: Gate
) -> None:
    """Two messages in a row while the first is being answered: that caller is still there."""
    from concurrent.futures import ThreadPoolExecutor

    agent_server.script(Answer(chunks=("One. ", "Two."), gate=gate, hold_after=1))
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(chat.send, [user("a")])
        gate.wait_until_reached()
        reply = chat.send([user("a"), user("b")])
        gate.open()
        first = waiting.result()

    assert (reply.match, first.match) == ("new", "new")
    assert reply.conversation_id != first.conversation_id
    assert heard(reply, agent_server)[0] == ("user", "a\n\nb")


def test_one_that_never_closes_is_waited_for_no_longer_than_three_seconds(
    chat: ChatClient, agent_server: FakeAgentServer, gate: Gate
) -> None:
    first = chat.say("a")
    parent = first.turn
    row = Turn.objects.get(pk=parent.pk)
    row.pk = row.id = None
    row._state.adding = True
    started = timezone.now()
    open_turn = Turn.objects.create(
        tenant=parent.tenant,
        profile=parent.profile,
        api_key=parent.api_key,
        conversation=parent.conversation,
        endpoint=parent.endpoint,
        request_id="req_left",
        request_digest=_digest_after(chat, agent_server),
        arrival=parent.arrival + 1,
        lease_expires_at=started + dt.timedelta(seconds=15),
        lease_generation=1,
    )

    reply = chat.send([*chat.messages, user("b"), user("c")])

    took = (timezone.now() - started).total_seconds()
    assert not Attempt.objects.filter(turn=open_turn).exists()
    assert reply.match == "fork"  # of the turn before: the open one may yet say something
    assert 2.9 < took < 6


def _digest_after(chat: ChatClient, agent_server: FakeAgentServer) -> str:
    """The digest that a request for one more message has."""
    probe = chat.send([*chat.messages, user("b")])
    digest = probe.turn.request_digest
    Turn.objects.filter(pk=probe.turn.pk).delete()
    return digest
