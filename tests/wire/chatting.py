"""A chat client that knows no header: it keeps its messages and sends them all with every request."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import httpx

from chatgateway.models import Conversation, Turn
from tests.fakes.agent_conversation import FakeConversation
from tests.fakes.agent_server import FakeAgentServer

CHAT = "/v1/chat/completions"
CONVERSATION = "X-OpenHands-ServerConversation-ID"
MATCH = "X-Gateway-Conversation-Match"

Messages = list[dict[str, Any]]


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    match: str
    conversation_id: str
    text: str

    @property
    def conversation(self) -> Conversation:
        return Conversation.objects.get(pk=self.conversation_id)

    @property
    def turn(self) -> Turn:
        return self.conversation.turns.latest("arrival")


@dataclass(slots=True, kw_only=True)
class ChatClient:
    """`messages` is what the next request sends before the new message. `headers` and `body` go with every request."""

    http: httpx.Client
    messages: Messages = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)

    def say(self, text: str, **headers: str) -> Reply:
        self.messages.append(user(text))
        reply = self.send(self.messages, **headers)
        self.messages.append(assistant(reply.text))
        return reply

    def send(self, messages: Messages, **headers: str) -> Reply:
        """Send just these messages, and remember nothing."""
        asked = {"model": "openhands_chat", "messages": messages} | self.body
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        response = self.http.post(CHAT, json=asked, headers=self.headers | named)
        assert response.status_code == 200, response.text
        return Reply(
            match=response.headers[MATCH],
            conversation_id=response.headers[CONVERSATION],
            text=response.json()["choices"][0]["message"]["content"],
        )

    def say_and_stop(self, text: str, *, after: str) -> str:
        """Stream the answer, and go away when `after` has arrived; return the conversation's id."""
        self.messages.append(user(text))
        seen, asked = "", {"model": "openhands_chat", "messages": self.messages, "stream": True} | self.body
        with self.http.stream("POST", CHAT, json=asked, headers=self.headers) as response:
            for line in response.iter_lines() if after else ():
                seen += _text_of(line)
                if seen == after:
                    break
            named = response.headers[CONVERSATION]
        self.messages.append(assistant(seen))
        return named


def _text_of(line: str) -> str:
    if not line.startswith("data: {"):
        return ""
    chunk = json.loads(line.removeprefix("data: "))
    return "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])


def agent_of(reply: Reply | str, server: FakeAgentServer) -> FakeConversation:
    wanted = reply if isinstance(reply, str) else reply.conversation_id
    return next(one for one in server.conversations.values() if str(one.id) == wanted)


def heard(reply: Reply | str, server: FakeAgentServer) -> list[tuple[str, str]]:
    """What the agent of a conversation has before it now: (role, text)."""
    return agent_of(reply, server).prompt
