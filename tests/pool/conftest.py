"""A gateway with three agent-servers, all of them fakes on sockets of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from django.utils import timezone

from chatgateway import servers
from chatgateway.models import AgentServer, Conversation
from tests import factories
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway
from tests.wire.conftest import question
from tests.wire.test_chat import CHAT, CONVERSATION


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """An agent-server and its row. `root` is a real directory: the fake runs commands."""

    fake: FakeAgentServer
    pk: int
    root: Path

    @property
    def row(self) -> AgentServer:
        return AgentServer.objects.get(pk=self.pk)

    def set(self, **fields: Any) -> None:
        AgentServer.objects.filter(pk=self.pk).update(**fields)
        servers.forget()

    def has_been_down_for(self, seconds: float) -> None:
        """As the probe would have found it: dead since then, and dead a moment ago."""
        now = timezone.now()
        self.set(health="down", down_since=now - timedelta(seconds=seconds), health_checked_at=now)

    def says(self) -> list[str]:
        """The texts that were posted to it, in order."""
        return [
            "".join(part.get("text", "") for part in posted)
            for conversation in self.fake.conversations.values()
            for posted in conversation.posted
        ]


@pytest.fixture
def hosts(gateway: LiveGateway, tmp_path: Path) -> Iterator[list[Host]]:
    made = []
    for name in ("one", "two", "three"):
        fake = FakeAgentServer()
        fake.start()
        root = tmp_path / name
        row = factories.agent_server(
            name=name, url=fake.url, session_api_key=fake.session_api_key, workspace_root=str(root)
        )
        made.append(Host(fake=fake, pk=row.pk, root=root))
    factories.profile(slug="chat")
    gateway.key = factories.api_key().text
    servers.forget()
    yield made
    for host in made:
        host.fake.stop()


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A reply, and the conversation it names."""

    response: httpx.Response

    @property
    def conversation(self) -> Conversation:
        return Conversation.objects.get(pk=UUID(self.response.headers[CONVERSATION]))

    @property
    def answer(self) -> str:
        return str(self.response.json()["choices"][0]["message"]["content"])


Ask = Callable[..., Asked]


@pytest.fixture
def ask(gateway: LiveGateway, hosts: list[Host]) -> Iterator[Ask]:
    """Ask one question, in a conversation if one is given; `key` is another caller's."""
    with httpx.Client(base_url=gateway.url, timeout=100) as session:

        def ask_one(text: str, *, within: Conversation | None = None, key: str = "", **body: Any) -> Asked:
            headers = {"Authorization": f"Bearer {key or gateway.key}"}
            if within is not None:
                headers[CONVERSATION] = str(within.pk)
            asked = question(messages=[{"role": "user", "content": text}], **body)
            return Asked(response=session.post(CHAT, json=asked, headers=headers))

        yield ask_one


def host_of(conversation: Conversation, hosts: list[Host]) -> Host:
    conversation.refresh_from_db()
    return next(host for host in hosts if host.pk == conversation.agent_server_id)


def others(home: Host, hosts: list[Host]) -> list[Host]:
    return [host for host in hosts if host is not home]
