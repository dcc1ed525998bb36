"""A talk by OpenAI's Agents SDK. Reads one JSON argument, prints one JSON line: what each turn came to.

`keeping` says who keeps the talk: `previous` and `conversation` leave it to the gateway, `history` sends it again each
time, `session` keeps it as the items of a conversation.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from agents import (
    Agent,
    ModelSettings,
    OpenAIConversationsSession,
    Runner,
    set_default_openai_client,
    set_tracing_disabled,
)
from agents.exceptions import AgentsException
from openai import APIError, AsyncOpenAI
from openai.types.shared import Reasoning
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


async def turn(agent: Agent, given: Any, *, is_streamed: bool, **keeping: Any) -> tuple[Any, dict[str, Any]]:
    if not is_streamed:
        result: Any = await Runner.run(agent, given, **keeping)
        return result, {"deltas": ""}
    result = Runner.run_streamed(agent, given, **keeping)
    deltas = ""
    async for event in result.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            deltas += event.data.delta
    return result, {"deltas": deltas}


def told(result: Any) -> dict[str, Any]:
    final = result.final_output
    return {
        "text": final.model_dump() if isinstance(final, BaseModel) else final,
        "items": [item.type for item in result.new_items],
        "reasoning": [
            part.text for item in result.new_items if item.type == "reasoning_item" for part in item.raw_item.summary
        ],
        "tokens": result.context_wrapper.usage.total_tokens,
    }


async def main(asked: dict[str, Any]) -> dict[str, Any]:
    set_tracing_disabled(disabled=True)
    client = AsyncOpenAI(base_url=asked["baseURL"], api_key=asked["apiKey"])
    set_default_openai_client(client, use_for_tracing=False)
    agent = Agent(
        name="Assistant",
        instructions=asked.get("instructions", "Be brief."),
        model=asked["model"],
        output_type=Person if asked.get("parse") else None,
        model_settings=ModelSettings(reasoning=Reasoning(effort="low", summary="auto")),
    )
    kept: dict[str, Any] = {}
    if asked["keeping"] == "conversation":
        kept["conversation_id"] = (await client.conversations.create()).id
    elif asked["keeping"] == "session":
        kept["session"] = OpenAIConversationsSession(openai_client=client)
    turns: list[dict[str, Any]] = []
    earlier: list[Any] = []
    try:
        for prompt in asked["prompts"]:
            given = [*earlier, {"role": "user", "content": prompt}] if earlier else prompt
            result, seen = await turn(agent, given, is_streamed=asked["stream"], **kept)
            turns.append(told(result) | seen)
            if asked["keeping"] == "previous":
                kept["previous_response_id"] = result.last_response_id
            elif asked["keeping"] == "history":
                earlier = result.to_input_list()
    except (AgentsException, APIError) as error:
        return {"turns": turns, "error": {"kind": type(error).__name__, "message": str(error)}}
    return {"turns": turns}


print(json.dumps(asyncio.run(main(json.loads(sys.argv[1])))))
