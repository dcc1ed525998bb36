"""A chat by Pydantic AI's model for chat completions."""

from __future__ import annotations

from typing import Any

from pydantic_ai import Agent, NativeOutput
from pydantic_ai.exceptions import ModelAPIError, UnexpectedModelBehavior
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from talking import Person, Talk, play


class PydanticAITalk(Talk):
    errors = (ModelAPIError, UnexpectedModelBehavior)

    def __init__(self, given: dict[str, Any]) -> None:
        super().__init__(given)
        provider = OpenAIProvider(base_url=given["baseURL"], api_key=given["apiKey"])
        self.agent = Agent(OpenAIChatModel(given["model"], provider=provider))

    def say(self, text: str) -> str:
        result = self.agent.run_sync(text, message_history=self.messages)
        self.messages = result.all_messages()
        return result.output

    def stream(self, text: str) -> str:
        result = self.agent.run_stream_sync(text, message_history=self.messages)
        seen = "".join(result.stream_text(delta=True))
        self.messages = result.all_messages()
        return seen

    def parse(self, text: str) -> dict[str, Any]:
        result = self.agent.run_sync(text, message_history=self.messages, output_type=NativeOutput(Person))
        return result.output.model_dump()


play(PydanticAITalk)
