"""A chat by LiteLLM as a client."""

from __future__ import annotations

from typing import Any

import litellm
from openai import OpenAIError
from talking import Person, Talk, play


class LiteLLMTalk(Talk):
    errors = (OpenAIError,)  # LiteLLM's exceptions are kinds of these

    def say(self, text: str) -> str:
        asked = self._asked(text)
        return self._kept(asked, self._called(messages=asked).choices[0].message.content)

    def stream(self, text: str) -> str:
        asked = self._asked(text)
        chunks = self._called(messages=asked, stream=True)
        return self._kept(asked, "".join(chunk.choices[0].delta.content or "" for chunk in chunks))

    def parse(self, text: str) -> dict[str, Any]:
        reply = self._called(messages=self._asked(text), response_format=Person)
        return Person.model_validate_json(reply.choices[0].message.content).model_dump()

    def _called(self, **asked: Any) -> Any:
        return litellm.completion(
            model=f"openai/{self.given['model']}",
            api_base=self.given["baseURL"],
            api_key=self.given["apiKey"],
            **asked,
        )

    def _asked(self, text: str) -> list[Any]:
        return [*self.messages, {"role": "user", "content": text}]

    def _kept(self, asked: list[Any], answer: str) -> str:
        self.messages = [*asked, {"role": "assistant", "content": answer}]
        return answer


play(LiteLLMTalk)
