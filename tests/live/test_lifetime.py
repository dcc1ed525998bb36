"""A conversation's time on a real agent-server: it goes, its directory goes, and it comes back by its id."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from django.utils import timezone
from openai import OpenAI

from chatgateway import tasks
from chatgateway.models import Conversation, Leftover
from tests.live.agent_process import AgentServerProcess
from tests.live.scripted_llm import ScriptedLlm
from tests.waiting import eventually

pytestmark = pytest.mark.live

HEADER = "X-OpenHands-ServerConversation-ID"


def test_an_idle_conversation_goes_with_its_directory_and_comes_back_told(
    sdk: OpenAI, llm: ScriptedLlm, real_agent_server: AgentServerProcess
) -> None:
    first = sdk.chat.completions.with_raw_response.create(
        model="openhands_agent", messages=[{"role": "user", "content": "My name is Bob. #script:thought"}]
    )
    row = Conversation.objects.get(pk=UUID(first.headers[HEADER]))
    directory = Path(row.working_dir)
    (directory / "cache").mkdir()
    (directory / "cache" / "read-only.txt").write_text("as a package cache leaves it")
    (directory / "cache").chmod(0o500)
    began_in = directory.exists()

    def is_there() -> int:
        url = f"{real_agent_server.url}/api/conversations/{row.pk}"
        return httpx.get(url, headers={"X-Session-API-Key": real_agent_server.session_api_key}).status_code

    before = is_there()
    Conversation.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    expired, removed = tasks.expire_conversations(), tasks.remove_leftovers()
    after = is_there()
    Leftover.objects.update(due_at=timezone.now() - timedelta(seconds=1))
    swept = tasks.remove_leftovers()

    assert (expired, removed) == (
        "1 idle for too long, 0 beyond a server's limit",
        "1 removed, 0 in use again, 0 failed",
    )
    assert (before, after) == (200, 404)
    assert began_in
    assert swept == "1 removed, 0 in use again, 0 failed"
    assert not directory.exists()
    assert directory.parent.exists()

    second = sdk.chat.completions.with_raw_response.create(
        model="openhands_agent",
        messages=[{"role": "user", "content": "What is my name? #script:plain"}],
        extra_headers={HEADER: str(row.pk)},
    )

    told = llm.requests[-1].last_user_text
    row.refresh_from_db()
    assert second.parse().choices[0].message.content == "This is a plain answer."
    assert second.headers[HEADER] == str(row.pk)
    assert [told.count(text) for text in ("My name is Bob.", "I looked.", "What is my name?")] == [1, 1, 1]
    assert (row.state, row.incarnation, is_there()) == ("live", 1, 200)
    assert eventually(directory.exists)
    assert list(directory.glob("cache")) == []


def test_a_copy_that_came_back_is_told_from_the_one_that_was_left(
    sdk: OpenAI, real_agent_server: AgentServerProcess
) -> None:
    """The next turn comes before the clean-up: the agent-server still has the earlier copy under the same id."""
    ask: dict[str, Any] = {"model": "openhands_chat", "messages": [{"role": "user", "content": "hello #script:plain"}]}
    first = sdk.chat.completions.with_raw_response.create(**ask)
    header = {HEADER: first.headers[HEADER]}
    Conversation.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    tasks.expire_conversations()

    sdk.chat.completions.create(**ask, extra_headers=header)
    swept = tasks.remove_leftovers()
    third = sdk.chat.completions.with_raw_response.create(**ask, extra_headers=header)

    assert swept == "0 removed, 1 in use again, 0 failed"
    assert third.parse().choices[0].message.content == "This is a plain answer."
    assert Conversation.objects.get().incarnation == 1
