"""A new conversation's agent is made while its turn is being committed; nothing is said to it before, and none stays
behind whose turn does not come about."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from django.db import DatabaseError, IntegrityError

from chatgateway import audit, tasks
from chatgateway.models import Conversation, Turn
from tests.fakes.agent_conversation import FakeConversation
from tests.fakes.agent_server import FakeAgentServer
from tests.pool.conftest import Ask, Host, host_of
from tests.waiting import eventually

LONG_AGO = datetime.now(UTC) - timedelta(hours=1)


def made(hosts: list[Host]) -> list[FakeConversation]:
    return [one for host in hosts for one in host.fake.conversations.values()]


def deleted(hosts: list[Host]) -> list[FakeConversation]:
    return [one for host in hosts for one in host.fake.deleted]


def creations(hosts: list[Host]) -> int:
    return sum(len(host.fake.calls("POST", "/api/conversations")) for host in hosts)


def when_opening(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]) -> None:
    """Have something happen in the transaction that opens a turn, after it has its place."""
    opens = audit.open_turn

    def open_turn(**fields: Any) -> Turn:
        happens()
        return opens(**fields)

    monkeypatch.setattr(audit, "open_turn", open_turn)


def test_it_is_made_before_the_turn_is_committed_and_told_nothing_until_then(
    ask: Ask, hosts: list[Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[int] = []

    def wait_until_made() -> None:
        assert eventually(lambda: made(hosts))
        said.append(sum(len(one.posted) for one in made(hosts)))

    when_opening(monkeypatch, wait_until_made)

    asked = ask("Hello")

    assert asked.response.status_code == 200
    assert said == [0]
    assert [len(one.posted) for one in made(hosts)] == [1]
    assert creations(hosts) == 1
    assert host_of(asked.conversation, hosts).fake.only_conversation.id == asked.conversation.pk


def test_a_turn_that_cannot_be_opened_takes_its_agent_with_it(
    ask: Ask, hosts: list[Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        assert eventually(lambda: made(hosts))
        raise DatabaseError("the disk is full")

    when_opening(monkeypatch, fail)

    refused = ask("Hello").response

    assert refused.status_code == 503
    assert eventually(lambda: len(deleted(hosts)) == 1 and not made(hosts))
    assert not Conversation.objects.exists()


def test_a_turn_that_is_opened_at_the_second_attempt_leaves_one_agent(
    ask: Ask, hosts: list[Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [IntegrityError("somebody was first")]

    def fail_once() -> None:
        if failures:
            assert eventually(lambda: made(hosts))
            raise failures.pop()

    when_opening(monkeypatch, fail_once)

    asked = ask("Hello")

    assert asked.response.status_code == 200
    assert eventually(lambda: len(deleted(hosts)) == 1)
    assert [one.id for one in made(hosts)] == [asked.conversation.pk]
    assert creations(hosts) == 2
    assert not deleted(hosts)[0].posted


def test_a_refused_call_makes_no_agent(ask: Ask, hosts: list[Host], settings: Any) -> None:
    settings.GATEWAY_QUEUE_LIMIT = 0
    for host in hosts:
        host.set(capacity=0)

    assert ask("Hello").response.status_code == 429
    assert creations(hosts) == 0


def test_an_agent_that_could_not_be_made_ahead_is_made_on_another_server(ask: Ask, hosts: list[Host]) -> None:
    for host in hosts[1:]:
        host.set(capacity=1)  # the first one has the most room
    hosts[0].fake.crash()

    asked = ask("Hello")

    assert asked.response.status_code == 200
    assert host_of(asked.conversation, hosts) is not hosts[0]
    assert creations(hosts[1:]) == 1


# --- what a process left that died in between -----------------------------------------------------------------------


def leave(
    fake: FakeAgentServer, *, made_at: datetime = LONG_AGO, tags: dict[str, str] | None = None, says: str = ""
) -> uuid.UUID:
    """Make a conversation that no row speaks of."""
    conversation_id = uuid.uuid4()
    headers = {"X-Session-API-Key": fake.session_api_key}
    body = {
        "conversation_id": str(conversation_id),
        "agent": {"kind": "Agent", "llm": {"model": "openai/m", "usage_id": "agent"}, "tools": []},
        "workspace": {"working_dir": "/srv/work"},
        "tags": {"gateway": "turns", "incarnation": "0"} if tags is None else tags,
    }
    with httpx.Client(base_url=fake.url, headers=headers) as session:
        session.post("/api/conversations", json=body).raise_for_status()
        if says:
            message = {"role": "user", "content": [{"type": "text", "text": says}], "run": False}
            session.post(f"/api/conversations/{conversation_id}/events", json=message).raise_for_status()
    fake.conversations[conversation_id].created_at = made_at
    return conversation_id


def test_an_agent_without_a_turn_is_removed_when_it_is_old_and_was_told_nothing(hosts: list[Host]) -> None:
    strays = [leave(host.fake) for host in hosts]

    told = tasks.remove_strays()

    assert told == "3 conversations without a turn removed"
    assert made(hosts) == []
    assert {one.id for one in deleted(hosts)} == set(strays)


def test_all_others_stay(ask: Ask, hosts: list[Host]) -> None:
    fake = hosts[0].fake
    ours = ask("Hello").conversation
    home = host_of(ours, hosts).fake.conversations[ours.pk]
    home.created_at, home.status, home._last_user_message = LONG_AGO, "idle", None  # as if nobody had got to speak
    kept = {
        leave(fake, made_at=datetime.now(UTC)),
        leave(fake, tags={}),
        leave(fake, says="Work"),
        ours.pk,
    }

    told = tasks.remove_strays()

    assert told == "0 conversations without a turn removed"
    assert {one.id for one in made(hosts)} == kept


def test_a_server_that_does_not_answer_keeps_no_other_from_being_looked_through(hosts: list[Host]) -> None:
    stray = leave(hosts[1].fake)
    hosts[0].fake.crash()

    told = tasks.remove_strays()

    assert told == "1 conversations without a turn removed"
    assert [one.id for one in deleted(hosts)] == [stray]
