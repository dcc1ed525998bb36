"""What a scripted LLM can be told to say, and the scripts that every live test may name."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts as OpenAI reports them: cached tokens are part of the prompt, reasoning of the completion."""

    prompt: int = 100
    completion: int = 10
    cached: int = 0
    reasoning: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt=self.prompt + other.prompt,
            completion=self.completion + other.completion,
            cached=self.cached + other.cached,
            reasoning=self.reasoning + other.reasoning,
        )

    def as_openai(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """`arguments` as an object, or verbatim as a text, so that a test can send what is not JSON."""

    name: str
    arguments: Mapping[str, Any] | str

    @property
    def arguments_text(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)


def terminal(command: str, **more: Any) -> ToolCall:
    return ToolCall(name="terminal", arguments={"command": command, **more})


def file_editor(command: str, path: str, **more: Any) -> ToolCall:
    return ToolCall(name="file_editor", arguments={"command": command, "path": path, **more})


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A completion. All empty is an empty reply.

    A streamed reply sends `reasoning`, then `chunks` (or `text` word by word), then `tool_calls`, with
    `delay_seconds` before each piece. After `hold_after` pieces it waits for `Received.release`. Instead of ending,
    a reply with `drops` closes the connection after its last piece.
    """

    text: str = ""
    chunks: tuple[str, ...] = ()
    reasoning: tuple[str, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = field(default_factory=Usage)
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"] | None = None
    delay_seconds: float = 0.0
    hold_after: int | None = None
    drops: bool = False

    def __post_init__(self) -> None:
        if self.text and self.chunks:
            raise ValueError("text and chunks: give one.")

    @property
    def pieces(self) -> tuple[str, ...]:
        return self.chunks or tuple(re.findall(r"\s*\S+\s*$|\s*\S+", self.text))

    @property
    def full_text(self) -> str:
        return self.text or "".join(self.chunks)

    @property
    def ending(self) -> str:
        return self.finish_reason or ("tool_calls" if self.tool_calls else "stop")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error with OpenAI's body."""

    status: int
    message: str
    type: str = "invalid_request_error"
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hang:
    """No reply at all, not even headers, until the client leaves."""


Reply = Answer | Failure | Hang

STANDARD_SCRIPTS: Mapping[str, tuple[Reply, ...]] = {
    "plain": (Answer(chunks=("This is a plain answer.",)),),
    "streamed": (Answer(text="One two three four five six seven eight nine ten.", delay_seconds=0.02),),
    "slow": (Answer(text=" ".join(f"word{number}" for number in range(1, 31)), delay_seconds=0.1),),
    "reasoning": (
        Answer(
            reasoning=("First I think,", " then I speak."),
            text="Spoken after thinking.",
            usage=Usage(prompt=200, completion=40, reasoning=25),
        ),
    ),
    "usage": (Answer(text="Counted.", usage=Usage(prompt=1234, completion=56, cached=1000, reasoning=7)),),
    "terminal": (
        Answer(tool_calls=(terminal("echo scripted-output"),), usage=Usage(prompt=300, completion=20)),
        Answer(text="The command printed scripted-output.", usage=Usage(prompt=350, completion=12, cached=300)),
    ),
    "thought": (
        Answer(text="Let me look.", tool_calls=(terminal("pwd"),)),
        Answer(text="I looked."),
    ),
    "parallel": (
        Answer(tool_calls=(terminal("echo first"), terminal("echo second"))),
        Answer(text="Both were run."),
    ),
    "no-such-tool": (
        Answer(tool_calls=(ToolCall(name="teleport", arguments={}),)),
        Answer(text="That tool does not exist."),
    ),
    "bad-arguments": (
        Answer(tool_calls=(ToolCall(name="terminal", arguments='{"command": '),)),
        Answer(text="Those arguments were not JSON."),
    ),
    "cut": (Answer(text="This answer ends in the", finish_reason="length"),),
    "empty": (Answer(), Answer(text="Said at the second call.")),
    "401": (Failure(status=401, message="Incorrect API key provided.", code="invalid_api_key"),),
    "404": (Failure(status=404, message="The model does not exist.", code="model_not_found"),),
    "429": (Failure(status=429, message="Rate limit reached.", type="requests", code="rate_limit_exceeded"),),
    "500": (Failure(status=500, message="The server had an error.", type="server_error"),),
    "500-then-plain": (
        Failure(status=500, message="The server had an error.", type="server_error"),
        Answer(chunks=("This is a plain answer.",)),
    ),
    "400-context": (
        Failure(
            status=400,
            message="This model's maximum context length is 4096 tokens. However, your messages resulted in 9999 tokens.",
            code="context_length_exceeded",
        ),
    ),
    "400-other": (Failure(status=400, message="Invalid value for 'temperature'.", code="invalid_value"),),
    "hang": (Hang(),),
    "stall": (Answer(chunks=("Two ", "pieces, ", "then more."), hold_after=2),),
    "drop": (Answer(chunks=("Two ", "pieces "), drops=True),),
}
