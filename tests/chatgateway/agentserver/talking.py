"""How the tests of this package talk to a fake agent-server."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from chatgateway.agentserver.client import AgentServerClient, new_http_session
from chatgateway.agentserver.feed import Feed, open_feed
from chatgateway.agentserver.schemas import AgentSpec, Delta, DurableEvent, Frame, LlmSpec, TextPart
from chatgateway.agentserver.translate import Translator
from chatgateway.turn_events import RunEvent
from tests.fakes.agent_server import FakeAgentServer

SECONDS = 30.0
PROVIDER_KEY = "sk-provider-0123456789"
TERMINAL_SECRET = "terminal-secret-0123456789"

LLM = LlmSpec(
    model="openai/gpt",
    api_key=PROVIDER_KEY,
    base_url="http://llm.example/v1",
    timeout_seconds=600,
    stream_idle_timeout_seconds=60,
    reasoning_effort=None,
    max_output_tokens=None,
    temperature=None,
    top_p=None,
    supports_vision=False,
)
AGENT = AgentSpec(
    llm=LLM,
    tools=("terminal",),
    system_prompt=None,
    system_suffix="",
    mcp_config={},
    secrets={"TOKEN": TERMINAL_SECRET},
    max_iterations=50,
    working_dir="/srv/workspaces/one",
    tags={"tenant": "1"},
    user_id=None,
)


def an_llm(**changes: Any) -> LlmSpec:
    return replace(LLM, **changes)


def an_agent(**changes: Any) -> AgentSpec:
    return replace(AGENT, **changes)


@asynccontextmanager
async def client_of(
    server: FakeAgentServer, *, session_api_key: str = "", heartbeat_seconds: float = 20.0
) -> AsyncIterator[AgentServerClient]:
    async with new_http_session() as http:
        yield AgentServerClient(
            base_url=server.url,
            session_api_key=session_api_key or server.session_api_key,
            http=http,
            heartbeat_seconds=heartbeat_seconds,
        )


async def a_conversation(client: AgentServerClient) -> uuid.UUID:
    conversation_id = uuid.uuid4()
    await client.create_conversation(conversation_id, AGENT, timeout_seconds=SECONDS)
    return conversation_id


async def say(client: AgentServerClient, conversation_id: uuid.UUID, text: str = "hello") -> None:
    await client.send_message(conversation_id, [TextPart(text)], timeout_seconds=SECONDS)


def a_feed(
    client: AgentServerClient,
    conversation_id: uuid.UUID,
    *,
    after_seq: int | None = -1,
    connect_timeout_seconds: float = SECONDS,
    reconnect_within_seconds: float = SECONDS,
) -> Feed:
    return open_feed(
        client,
        conversation_id,
        after_seq=after_seq,
        connect_timeout_seconds=connect_timeout_seconds,
        reconnect_within_seconds=reconnect_within_seconds,
    )


async def follow(feed: Feed, translator: Translator) -> tuple[list[Frame], list[RunEvent]]:
    """Everything that the feed brings until the run has ended, and what it means."""
    frames: list[Frame] = [*feed.replayed]
    events = [event for frame in frames for event in translator.feed(frame)]
    async with asyncio.timeout(SECONDS):
        while not translator.is_ended:
            batch = await anext(feed)
            frames += batch
            events += [event for frame in batch for event in translator.feed(frame)]
    return frames, events


async def ask(
    client: AgentServerClient, conversation_id: uuid.UUID, *, after_seq: int = -1
) -> tuple[list[Frame], list[RunEvent]]:
    """A whole turn: open the feed, post a message, follow the run."""
    async with a_feed(client, conversation_id, after_seq=after_seq) as feed:
        await say(client, conversation_id)
        return await follow(feed, Translator(after_seq=after_seq))


def seqs(frames: list[Frame]) -> list[int]:
    return [frame.seq for frame in frames if isinstance(frame, DurableEvent)]


def streamed(frames: list[Frame]) -> str:
    return "".join(frame.text for frame in frames if isinstance(frame, Delta))


def of_type[T](kind: type[T], events: list[Any]) -> list[T]:
    return [event for event in events if isinstance(event, kind)]
