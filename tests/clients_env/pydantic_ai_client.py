"""A talk by Pydantic AI's `openai:` models. Reads one JSON argument, prints one JSON line: what each turn came to.

With `chained` the gateway keeps the talk (`previous_response_id`); otherwise it is sent again each time.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.exceptions import ModelAPIError, UnexpectedModelBehavior
from pydantic_ai.messages import ThinkingPart
from pydantic_ai.models.openai import OpenAIResponsesModelSettings


class Person(BaseModel):
    name: str
    age: int


async def turn(agent: Agent[None, Any], prompt: str, *, is_streamed: bool, **more: Any) -> tuple[Any, str]:
    if not is_streamed:
        return await agent.run(prompt, **more), ""
    deltas = ""
    async with agent.run_stream(prompt, **more) as result:
        async for delta in result.stream_text(delta=True):
            deltas += delta
    return result, deltas


async def main(asked: dict[str, Any]) -> dict[str, Any]:
    os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"] = asked["baseURL"], asked["apiKey"]
    settings = OpenAIResponsesModelSettings(openai_reasoning_effort="low", openai_reasoning_summary="auto")
    if asked.get("chained"):
        settings["openai_previous_response_id"] = "auto"
    agent: Agent[None, Any] = Agent(
        f"openai:{asked['model']}",
        instructions=asked.get("instructions", "Be brief."),
        output_type=NativeOutput(Person) if asked.get("parse") else str,
        model_settings=settings,
    )
    turns: list[dict[str, Any]] = []
    messages: list[Any] = []
    try:
        for prompt in asked["prompts"]:
            result, deltas = await turn(agent, prompt, is_streamed=asked["stream"], message_history=messages)
            messages = result.all_messages()
            output = await result.get_output() if asked["stream"] else result.output
            parts = [part for message in result.new_messages() for part in message.parts]
            turns.append(
                {
                    "text": output.model_dump() if isinstance(output, BaseModel) else output,
                    "deltas": deltas,
                    "reasoning": [part.content for part in parts if isinstance(part, ThinkingPart)],
                    "tokens": (result.usage() if callable(result.usage) else result.usage).total_tokens,
                }
            )
    except (ModelAPIError, UnexpectedModelBehavior) as error:
        return {"turns": turns, "error": {"kind": type(error).__name__, "message": str(error)}}
    return {"turns": turns}


print(json.dumps(asyncio.run(main(json.loads(sys.argv[1])))))
