"""What happens during a turn, in words that belong to neither the agent-server nor OpenAI.

This is the narrow middle of the gateway. `agentserver.translate` turns a backend's frames into *run events*;
`answer.py` decides what a caller gets to see of them and turns them into *shown events*; `openai_api` writes
those in a wire format. A new backend or a new wire format is one new file on its side of this module.

All classes are frozen: an event, once made, can be handed to any number of subscribers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

# --- run events: what the agent does --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageAccepted:
    """The caller's message stands in the conversation's log; nothing before `seq` belongs to this turn."""

    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta:
    """A piece of text the model is writing. Whether it is the answer or a thought shows only when the item ends."""

    item_id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningDelta:
    """A piece of the model's own reasoning (providers that expose it)."""

    item_id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemDropped:
    """What was streamed of this item is void: the LLM call was retried, cut or cancelled.

    `is_retried` is true when another attempt at the same item follows.
    """

    item_id: str
    is_retried: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ThoughtEnded:
    """The item was a thought that led to a tool call; `text` is all of it."""

    item_id: str
    text: str
    reasoning: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerEnded:
    """The item was a message to the caller; `text` is all of it, as the agent-server keeps it.

    A run may hold several; the last one is its answer.
    """

    item_id: str
    text: str
    reasoning: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStarted:
    """The agent called a tool. `summary` is one line for people, such as `Running: pytest -q`."""

    step_id: str
    tool: str
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFinished:
    """A tool answered. `summary` is one line, such as `exit code 0`."""

    step_id: str
    tool: str
    summary: str
    is_error: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCounts:
    """Tokens of some LLM calls. `cached` and `cache_write` are part of `input`, `reasoning` is part of `output`."""

    input: int = 0
    output: int = 0
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0

    def __add__(self, other: TokenCounts) -> TokenCounts:
        return TokenCounts(
            input=self.input + other.input,
            output=self.output + other.output,
            cached=self.cached + other.cached,
            cache_write=self.cache_write + other.cache_write,
            reasoning=self.reasoning + other.reasoning,
        )

    def since(self, earlier: TokenCounts) -> TokenCounts:
        """What was added after `earlier`; never negative, because a backend may start its count anew."""
        return TokenCounts(
            input=max(0, self.input - earlier.input),
            output=max(0, self.output - earlier.output),
            cached=max(0, self.cached - earlier.cached),
            cache_write=max(0, self.cache_write - earlier.cache_write),
            reasoning=max(0, self.reasoning - earlier.reasoning),
        )


NOTHING = TokenCounts()


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReported:
    """Tokens the *conversation* has used so far, by usage id (the agent-server's books are cumulative)."""

    by_usage_id: dict[str, TokenCounts]


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedsConfirmation:
    """The agent waits for somebody to allow an action. The gateway has nobody to ask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFailed:
    """The run ended in an error.

    `code` and `kind` are the agent-server's words (`LLMRateLimitError`, `rate_limit`). `detail` may hold a
    provider's text, URLs or ids: it is for the audit only and never for a caller.
    """

    code: str
    kind: str
    is_retryable: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded:
    """Nothing more comes. `status` is the execution status: finished, error, stuck, paused, …

    `leaf_event_id` is where the conversation stands now: a later turn that must not see this one goes back
    to the leaf before it. `by_usage_id` is cumulative over the conversation. `last_call_output_tokens` is what
    the model wrote in its last call (0 if unknown): equal to the output limit, it means a cut answer.
    """

    status: str
    leaf_event_id: str | None
    by_usage_id: dict[str, TokenCounts]
    last_call_output_tokens: int = 0


RunEvent = (
    MessageAccepted
    | TextDelta
    | ReasoningDelta
    | ItemDropped
    | ThoughtEnded
    | AnswerEnded
    | StepStarted
    | StepFinished
    | UsageReported
    | NeedsConfirmation
    | RunFailed
    | RunEnded
)

# --- shown events: what the caller gets to see ------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerShown:
    """A piece of the answer. The pieces of a turn, joined, are what a streaming caller reads as the reply.

    `begins_at`: from there on it belongs to another message of the agent than the pieces before; what stands before
    sets the two apart. None: it goes on with the same. `is_retold`: the message before is this one, cut off when
    its process died. Only readers that tell messages apart look at these two.
    """

    text: str
    begins_at: int | None = field(default=None, compare=False)
    is_retold: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningShown:
    """A piece of thought, shown beside the answer."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepShown:
    """One line about a tool the agent used, shown beside the answer. Never ends in a newline."""

    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnAnswered:
    """The turn's good end; its row is closed when a subscriber sees this.

    `text` is the whole answer as a collected reply gives it, never empty.
    """

    text: str
    reasoning: str
    finish_reason: Literal["stop", "length"]
    usage: TokenCounts
    is_usage_estimated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnFailed:
    """The turn's bad end; its row is closed when a subscriber sees this. The fields are `GatewayError`'s, but for
    `usage`: what the agent had used by then."""

    status: int
    type: str
    code: str
    message: str
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    usage: TokenCounts = NOTHING
    # The turn itself goes on: this process ends, and another one takes it over.
    is_handover: bool = False


ShownEvent = AnswerShown | ReasoningShown | StepShown | TurnAnswered | TurnFailed
