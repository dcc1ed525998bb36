"""A chat by OpenAI's own SDK."""

from __future__ import annotations

from typing import Any

from openai import OpenAI, OpenAIError
from talking import Person, Talk, play


class OpenAITalk(Talk):
    errors = (OpenAIError,)

    def __init__(self, given: dict[str, Any]) -> None:
        super().__init__(given)
        self.client = OpenAI(base_url=given["baseURL"], api_key=given["apiKey"])

    def say(self, text: str) -> str:
        asked = self._asked(text)
        reply = self.client.chat.completions.create(model=self.given["model"], messages=asked)
        return self._kept(asked, reply.choices[0].message.content)

    def stream(self, text: str) -> str:
        return self._streamed(text, until=None)

    def stop(self, text: str, after: str) -> str:
        return self._streamed(text, until=after)

    def parse(self, text: str) -> dict[str, Any]:
        asked = self._asked(text)
        reply = self.client.chat.completions.parse(model=self.given["model"], messages=asked, response_format=Person)
        message = reply.choices[0].message
        self._kept(asked, message.content)
        return message.parsed.model_dump()

    def _streamed(self, text: str, *, until: str | None) -> str:
        asked, seen = self._asked(text), ""
        with self.client.chat.completions.create(model=self.given["model"], messages=asked, stream=True) as chunks:
            for chunk in chunks:
                seen += chunk.choices[0].delta.content or ""
                if seen == until:
                    break
        return self._kept(asked, seen)

    def _asked(self, text: str) -> list[Any]:
        return [*self.messages, {"role": "user", "content": text}]

    def _kept(self, asked: list[Any], answer: str) -> str:
        self.messages = [*asked, {"role": "assistant", "content": answer}]
        return answer


play(OpenAITalk)
