"""A chat by LangChain."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, HumanMessage
from langchain_openai import ChatOpenAI
from openai import OpenAIError
from talking import Person, Talk, play


class LangChainTalk(Talk):
    errors = (OpenAIError,)

    def __init__(self, given: dict[str, Any]) -> None:
        super().__init__(given)
        self.llm = ChatOpenAI(base_url=given["baseURL"], api_key=given["apiKey"], model=given["model"])

    def say(self, text: str) -> str:
        asked = [*self.messages, HumanMessage(text)]
        reply = self.llm.invoke(asked)
        self.messages = [*asked, reply]
        return str(reply.text)

    def stream(self, text: str) -> str:
        return self._streamed(text, until=None)

    def stop(self, text: str, after: str) -> str:
        return self._streamed(text, until=after)

    def parse(self, text: str) -> dict[str, Any]:
        return self.llm.with_structured_output(Person).invoke([*self.messages, HumanMessage(text)]).model_dump()

    def _streamed(self, text: str, *, until: str | None) -> str:
        asked, seen = [*self.messages, HumanMessage(text)], ""
        chunks = self.llm.stream(asked)
        for chunk in chunks:
            seen += str(chunk.text)
            if seen == until:
                break
        chunks.close()
        self.messages = [*asked, AIMessage(seen)]
        return seen


play(LangChainTalk)
