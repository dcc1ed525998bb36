"""What the agent behind a `FakeAgentServer` is told to do with a user's message: a list of moves.

    server.script(Step(command="pytest -q", thought="Let me see."), Answer("All green."))

plays a tool call and then an answer for the next message that is posted to the server. The last move ends the run
unless it is a `Step`, after which the agent answers by itself.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


class Gate:
    """A place where a run waits until the test lets it go on.

    `await asyncio.to_thread(gate.wait_until_reached)` in a test that is a coroutine.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_open = False
        self._reached = threading.Semaphore(0)
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def wait_until_reached(self, timeout_seconds: float = 60.0, *, by: int = 1) -> None:
        """Wait until another run, or as many, have come to the gate."""
        for _ in range(by):
            if not self._reached.acquire(timeout=timeout_seconds):
                raise TimeoutError("No run reached the gate.")

    def open(self) -> None:
        """Let everybody through, now and later."""
        with self._lock:
            self._is_open = True
            for loop, event in self._waiting:
                loop.call_soon_threadsafe(event.set)
            self._waiting.clear()

    async def pass_through(self) -> None:
        event = asyncio.Event()
        with self._lock:
            if self._is_open:
                event.set()
            else:
                self._waiting.append((asyncio.get_running_loop(), event))
        self._reached.release()
        await event.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The tokens of one LLM call, or of several."""

    input: int = 100
    output: int = 10
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input=self.input + other.input,
            output=self.output + other.output,
            cached=self.cached + other.cached,
            cache_write=self.cache_write + other.cache_write,
            reasoning=self.reasoning + other.reasoning,
        )

    @classmethod
    def none(cls) -> Usage:
        return cls(input=0, output=0)

    @classmethod
    def from_json(cls, tokens: dict[str, Any]) -> Usage:
        return cls(
            input=tokens["prompt_tokens"],
            output=tokens["completion_tokens"],
            cached=tokens["cache_read_tokens"],
            cache_write=tokens["cache_write_tokens"],
            reasoning=tokens["reasoning_tokens"],
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.input,
            "completion_tokens": self.output,
            "cache_read_tokens": self.cached,
            "cache_write_tokens": self.cache_write,
            "reasoning_tokens": self.reasoning,
        }


@dataclass(frozen=True, slots=True)
class Call:
    """An LLM call that streams `text`, word by word unless `chunks` are given; base of the moves that make one.

    `delay_seconds` before each piece; after `hold_after` pieces the run waits at `gate`.
    """

    text: str = ""
    reasoning: str = field(default="", kw_only=True)
    chunks: tuple[str, ...] = field(default=(), kw_only=True)
    usage: Usage = field(default_factory=Usage, kw_only=True)
    delay_seconds: float = field(default=0.0, kw_only=True)
    gate: Gate | None = field(default=None, kw_only=True)
    hold_after: int = field(default=0, kw_only=True)

    @property
    def full_text(self) -> str:
        return self.text or "".join(self.chunks)

    @property
    def pieces(self) -> list[tuple[Literal["text", "reasoning"], str]]:
        words = self.chunks or tuple(re.findall(r"\s*\S+\s*$|\s*\S+", self.text))
        thoughts = re.findall(r"\s*\S+\s*$|\s*\S+", self.reasoning)
        return [("reasoning", piece) for piece in thoughts] + [("text", piece) for piece in words]


@dataclass(frozen=True, slots=True)
class Answer(Call):
    """A message to the user: ends the run as `finished`.

    `is_streamed` False sends no deltas, as an LLM that does not stream. An empty answer makes the agent-server nudge
    the LLM, and the next move follows.
    """

    is_streamed: bool = field(default=True, kw_only=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A tool call. `thought` is text before it. By default a command in the terminal; `action` and `observation` are
    the objects of the event feed for any other tool. `error` makes the call fail (AgentErrorEvent).

    The tool waits at `gate` before it answers. `does` is called with the working directory, which it may change.
    """

    command: str = "ls"
    exit_code: int = 0
    output: str = ""
    thought: str = ""
    reasoning: str = ""
    tool: str = "terminal"
    action: dict[str, Any] | None = None
    observation: dict[str, Any] | None = None
    error: str = ""
    usage: Usage = field(default_factory=Usage)
    gate: Gate | None = None
    does: Callable[[Path], object] | None = None

    def work_in(self, directory: Path) -> None:
        if self.does is not None:
            directory.mkdir(parents=True, exist_ok=True)
            self.does(directory)

    @property
    def action_json(self) -> dict[str, Any]:
        return self.action or {"command": self.command, "is_input": False, "reset": False, "kind": "TerminalAction"}

    @property
    def observation_json(self) -> dict[str, Any]:
        return self.observation or {
            "content": [{"cache_prompt": False, "type": "text", "text": self.output}],
            "is_error": False,
            "command": self.command,
            "exit_code": self.exit_code,
            "timeout": False,
            "kind": "TerminalObservation",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """An answer given by the `finish` tool: not streamed, and the token counts come after the status."""

    message: str
    thought: str = ""
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    """The run fails with a ConversationErrorEvent, after `streamed` words of the LLM if any are given.

    The named constructors are the failures that were provoked on a real server, with its words.
    """

    code: str
    kind: str
    is_retryable: bool
    detail: str = "litellm: it did not work (https://provider.example/v1, key ending in abcd)"
    streamed: str = ""
    reason: str = "LLMServiceUnavailableError"

    @classmethod
    def wrong_key(cls) -> Fail:
        return cls(code="LLMAuthenticationError", kind="auth", is_retryable=False)

    @classmethod
    def rate_limit(cls) -> Fail:
        return cls(code="LLMRateLimitError", kind="rate_limit", is_retryable=True)

    @classmethod
    def unavailable(cls, streamed: str = "") -> Fail:
        """A 500, a refused connection or, with `streamed`, a connection that broke in mid-stream."""
        return cls(code="LLMServiceUnavailableError", kind="transient", is_retryable=True, streamed=streamed)

    @classmethod
    def timeout(cls, streamed: str = "") -> Fail:
        return cls(
            code="LLMTimeoutError", kind="transient", is_retryable=True, streamed=streamed, reason="LLMTimeoutError"
        )

    @classmethod
    def unknown_model(cls) -> Fail:
        return cls(code="NotFoundError", kind="config", is_retryable=False)

    @classmethod
    def context_window(cls) -> Fail:
        # The real server calls even this one retryable.
        return cls(code="LLMContextWindowExceedError", kind="agent_action", is_retryable=True)

    @classmethod
    def bad_request(cls) -> Fail:
        return cls(code="LLMBadRequestError", kind="config", is_retryable=False)

    @classmethod
    def max_iterations(cls) -> Fail:
        return cls(code="MaxIterationsReached", kind="agent_action", is_retryable=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retried:
    """An LLM call breaks off after `streamed` and is repeated for the same item, with a higher attempt.

    What follows is the second attempt: an Answer.
    """

    streamed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stuck:
    """The agent-server gives up on an agent that repeats itself: status `stuck`, no error event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirm:
    """The agent waits for somebody to allow a tool call: status `waiting_for_confirmation`."""

    step: Step = field(default_factory=Step)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hang:
    """The LLM does not answer until the gate opens or the run is interrupted."""

    gate: Gate = field(default_factory=Gate)


@dataclass(frozen=True, slots=True)
class Recording:
    """A whole turn as a real agent-server sent it: a name from `tests/recordings`, such as `terminal-then-message`."""

    name: str


Move = Answer | Step | Finish | Fail | Retried | Stuck | Confirm | Hang | Recording
