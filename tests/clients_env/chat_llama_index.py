"""A chat by LlamaIndex's class for servers like OpenAI's."""

from __future__ import annotations

from typing import Any

from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.openai_like import OpenAILike
from openai import OpenAIError
from talking import Person, Talk, play


class LlamaIndexTalk(Talk):
    errors = (OpenAIError,)

    def __init__(self, given: dict[str, Any]) -> None:
        super().__init__(given)
        self.llm = OpenAILike(
            api_base=given["baseURL"],
            api_key=given["apiKey"],
            model=given["model"],
            is_chat_model=True,
            should_use_structured_outputs=True,
            max_retries=0,  # it would send a failed call again as a new one
        )

    def say(self, text: str) -> str:
        asked = [*self.messages, ChatMessage(role="user", content=text)]
        reply = self.llm.chat(asked).message
        self.messages = [*asked, reply]
        return str(reply.content)

    def stream(self, text: str) -> str:
        asked, seen = [*self.messages, ChatMessage(role="user", content=text)], ""
        for chunk in self.llm.stream_chat(asked):
            seen += chunk.delta or ""
        self.messages = [*asked, ChatMessage(role="assistant", content=seen)]
        return seen

    def complete(self, text: str) -> str:
        """With the class as it comes, which asks for text completions."""
        plain = OpenAILike(
            api_base=self.given["baseURL"], api_key=self.given["apiKey"], model=self.given["model"], max_tokens=100
        )
        return plain.complete(text).text

    def parse(self, text: str) -> dict[str, Any]:
        return self.llm.structured_predict(Person, PromptTemplate("{text}"), text=text).model_dump()


play(LlamaIndexTalk)
