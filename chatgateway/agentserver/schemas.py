"""What the gateway says to an agent-server and what it reads of the answers; nothing it does not use.

Facts come from openhands-agent-server 1.58.0, run against a scripted LLM. Unknown fields and event kinds are tolerated
everywhere: the server releases often. The frames of the event feed are at the end of the module; `frames` reads them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Self
from uuid import UUID

from chatgateway.agentserver import summaries
from chatgateway.turn_events import TokenCounts

type Json = dict[str, Any]

_TAG_NAME = re.compile(r"[a-z0-9]+\Z")

# --- what we send -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of text of a user's message."""

    text: str

    def to_json(self) -> Json:
        return {"type": "text", "text": self.text}


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image of a user's message; `url` is a `data:` or `https:` URL.

    OpenAI's own `{"type": "image_url"}` is refused with 422. An `LlmSpec` without `supports_vision` never sees the
    image: the agent-server then answers with a sentence of its own and calls no LLM.
    """

    url: str = field(repr=False)

    def to_json(self) -> Json:
        return {"type": "image", "image_urls": [self.url]}


MessagePart = TextPart | ImagePart


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmSpec:
    """The LLM of an agent. Every field that has a surprising default on the agent-server is sent explicitly.

    `model` is a LiteLLM id (`openai/anything` with a `base_url` reaches any OpenAI-compatible endpoint).
    `num_retries` counts attempts, so 1 and 0 are the same: none is repeated. A repeated call would stream the same item
    again, which a caller who has seen the first attempt cannot be told.
    `timeout_seconds` limits one whole call including its stream; `stream_idle_timeout_seconds` limits silence in it.
    `reasoning_effort` None sends `null`, which omits it upstream; left out, the agent-server would send "high".
    `temperature` and `top_p` are dropped by the agent-server for most models unless overridden, which this does.
    Prices are per token; without them the agent-server reports a cost of 0 for models that LiteLLM does not know.
    `extra_body` is merged into the upstream request verbatim.
    """

    model: str
    api_key: str = field(repr=False)
    base_url: str | None
    usage_id: str = "agent"
    stream: bool = True
    num_retries: int = 1
    timeout_seconds: int
    stream_idle_timeout_seconds: int
    reasoning_effort: str | None
    max_output_tokens: int | None
    temperature: float | None
    top_p: float | None
    supports_vision: bool
    input_cost_per_token: float | None = None
    output_cost_per_token: float | None = None
    extra_body: Json = field(default_factory=dict, repr=False)

    def to_json(self) -> Json:
        """The `llm` object of `POST /api/conversations` and `…/switch_llm`."""
        capabilities: Json = {"supports_vision": self.supports_vision}
        if self.temperature is not None or self.top_p is not None:
            capabilities["supports_sampling_params"] = True
        optional = {
            "base_url": self.base_url,
            "max_output_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "input_cost_per_token": self.input_cost_per_token,
            "output_cost_per_token": self.output_cost_per_token,
            "litellm_extra_body": self.extra_body or None,
        }
        return {
            "model": self.model,
            "api_key": self.api_key or None,
            "usage_id": self.usage_id,
            "stream": self.stream,
            "num_retries": self.num_retries,
            # Used only with more than one attempt; the defaults wait 8 to 64 seconds between two.
            "retry_min_wait": 1,
            "retry_max_wait": 8,
            "timeout": self.timeout_seconds,
            "stream_idle_timeout": self.stream_idle_timeout_seconds,
            "reasoning_effort": self.reasoning_effort,
            "capability_overrides": capabilities,
            **{name: value for name, value in optional.items() if value is not None},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSpec:
    """A whole agent, sent inline with every new conversation, so that agent-servers store no configuration of ours.

    `tools` are names from `ServerInfo.usable_tools`; an unknown name is accepted and fails at the first message.
    `system_prompt` replaces the agent's own prompt (15 kB); None keeps it. `system_suffix` is appended to either.
    `mcp_config` maps a name to an MCP server; the usual `{"mcpServers": {…}}` around it is taken off. `secrets` become
    environment variables of the terminal and are masked in its output. `working_dir` is created if missing. `tags`
    allow only lower-case letters and digits in names.

    Raises ValueError for a relative `working_dir` (the agent-server would resolve it against its own directory without
    a word) and for a tag it would refuse.
    """

    llm: LlmSpec
    tools: tuple[str, ...]
    system_prompt: str | None
    system_suffix: str
    mcp_config: Json = field(repr=False)
    secrets: dict[str, str] = field(repr=False)
    max_iterations: int
    working_dir: str
    tags: dict[str, str]
    user_id: str | None

    def __post_init__(self) -> None:
        if not self.working_dir.startswith("/"):
            raise ValueError(f"working_dir must be an absolute path, not {self.working_dir!r}")
        for name, value in self.tags.items():
            if not _TAG_NAME.match(name):
                raise ValueError(f"tags: {name!r} may hold only lower-case letters and digits")
            if len(value) > 256:
                raise ValueError(f"tags: the value of {name!r} is longer than 256 characters")

    def to_json(self, conversation_id: UUID) -> Json:
        """The body of `POST /api/conversations`.

        It holds no first message: a feed opened after the message was posted misses the first deltas.
        `include_default_tools` is empty, because with the `finish` tool the answer is a tool argument, and those are
        not streamed. `condenser` is null: one would be a second LLM with calls, costs and failures of its own, and
        without it a conversation that outgrows the model's window fails with a code the caller can understand
        (`LLMContextWindowExceedError`). `current_datetime` null keeps the time out of the system prompt, so that
        providers can cache it. `autotitle` would make another, unstreamed LLM call with the same key.
        """
        agent: Json = {
            "kind": "Agent",
            "llm": self.llm.to_json(),
            "tools": [{"name": name} for name in self.tools],
            "include_default_tools": [],
            "condenser": None,
            "agent_context": {"system_message_suffix": self.system_suffix or None, "current_datetime": None},
        }
        if self.system_prompt is not None:
            agent["system_prompt"] = self.system_prompt
        if servers := self.mcp_config.get("mcpServers", self.mcp_config):
            agent["mcp_config"] = servers
        return {
            "conversation_id": str(conversation_id),
            "agent": agent,
            "workspace": {"working_dir": self.working_dir},
            "max_iterations": self.max_iterations,
            "stuck_detection": True,
            "autotitle": False,
            "confirmation_policy": {"kind": "NeverConfirm"},
            "tags": self.tags,
            "user_id": self.user_id,
            "secrets": {name: {"kind": "StaticSecret", "value": value} for name, value in self.secrets.items()},
        }


# --- what we read -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """What `GET /server_info` says about a server."""

    version: str
    sdk_version: str
    usable_tools: frozenset[str]
    capabilities: frozenset[str]
    uptime_seconds: float

    @classmethod
    def from_json(cls, body: Json) -> Self:
        uptime = body.get("uptime")
        return cls(
            version=str(body.get("version") or "unknown"),
            sdk_version=str(body.get("sdk_version") or "unknown"),
            usable_tools=_names(body.get("usable_tools")),
            capabilities=_names(body.get("capabilities")),
            uptime_seconds=float(uptime) if isinstance(uptime, int | float) else 0.0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationInfo:
    """A conversation as the agent-server describes it.

    `by_usage_id` is cumulative. `last_user_message_id` is None before the first message. `raw` is the whole answer;
    provider keys in it are masked by the agent-server.
    Right after a message was posted, `execution_status` may still be the one before it.
    """

    id: UUID
    execution_status: str
    leaf_event_id: str | None
    working_dir: str
    tags: dict[str, str]
    by_usage_id: dict[str, TokenCounts]
    last_user_message_id: str | None
    created_at: datetime | None
    raw: Json = field(repr=False)

    @classmethod
    def from_json(cls, body: Json) -> Self:
        """Raises KeyError or ValueError if `body` is no conversation."""
        workspace, tags = body.get("workspace"), body.get("tags")
        return cls(
            id=UUID(body["id"]),
            execution_status=str(body["execution_status"]),
            leaf_event_id=body.get("leaf_event_id"),
            working_dir=str(workspace.get("working_dir", "")) if isinstance(workspace, dict) else "",
            tags=tags if isinstance(tags, dict) else {},
            by_usage_id=token_counts(body.get("stats")),
            last_user_message_id=body.get("last_user_message_id"),
            created_at=_moment(body.get("created_at")),
            raw=body,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedConversation:
    """`is_new` is False when a conversation of that id existed; its agent is then the old one, whatever was sent."""

    is_new: bool
    info: ConversationInfo


def _moment(text: Any) -> datetime | None:
    """What the agent-server says in UTC; None for anything else."""
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def token_counts(stats: Any) -> dict[str, TokenCounts]:
    """The cumulative token counts in a `stats` object, by usage id.

    The agent-server counts cached and cache-written tokens within prompt tokens, and reasoning within completion.
    """
    metrics = stats.get("usage_to_metrics") if isinstance(stats, dict) else None
    counts: dict[str, TokenCounts] = {}
    for usage_id, bucket in (metrics if isinstance(metrics, dict) else {}).items():
        usage = bucket.get("accumulated_token_usage") if isinstance(bucket, dict) else None
        if isinstance(usage, dict):
            counts[usage_id] = TokenCounts(
                input=_count(usage.get("prompt_tokens")),
                output=_count(usage.get("completion_tokens")),
                cached=_count(usage.get("cache_read_tokens")),
                cache_write=_count(usage.get("cache_write_tokens")),
                reasoning=_count(usage.get("reasoning_tokens")),
            )
    return counts


# --- frames of the event feed ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemStarted:
    """The LLM begins a message or a thought. A higher `attempt` for the same item replaces what came before it."""

    item_id: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """A piece of an item. `order` counts from 0 without gaps within an attempt; `item_id` is the id of the event that
    the item becomes."""

    item_id: str
    attempt: int
    order: int
    kind: Literal["text", "reasoning"]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemAborted:
    """The item ends without becoming an event: `cancelled`, or the name of the LLM's error."""

    item_id: str
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DurableEvent:
    """An event of the conversation's log. `seq` is its place there, counted from 0; `event` is raw JSON.

    `occurred_at` is aware and in UTC, by the gateway's clock. The agent-server's own timestamps are naive and in its
    local time; the feed shifts them by the difference it sees when it connects, so that events which are replayed keep
    their times. None if the event was not read from a feed.
    """

    seq: int
    event: Json = field(repr=False)
    occurred_at: datetime | None = None

    @property
    def kind(self) -> str:
        return str(self.event.get("kind") or "")

    @property
    def id(self) -> str:
        return str(self.event.get("id") or "")

    @property
    def tool(self) -> str:
        """The name of the tool that the event is about; empty if it is about none."""
        return str(self.event.get("tool_name") or "")

    @property
    def summary(self) -> str:
        """One line for people, at most 200 characters, without the content of messages; may be empty."""
        return summaries.of_event(self.event)

    @property
    def is_error(self) -> bool:
        return summaries.is_error(self.event)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The conversation's whole state, sent when a feed connects and when a run ends; it is no part of the log.

    `last_call_output_tokens` belongs to the LLM call whose response is `last_response_id` (0 and "" before the first).
    `last_user_message_id` is the id of the MessageEvent that the agent last answers to. `server_time` is when the
    agent-server made this, by its own, usually naive and local, clock.
    """

    status: str
    leaf_event_id: str | None
    by_usage_id: dict[str, TokenCounts]
    last_call_output_tokens: int = 0
    last_response_id: str = ""
    last_user_message_id: str | None = None
    server_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconnected:
    """The feed broke and was re-established after `away_seconds`. No durable event was missed; deltas may have been."""

    away_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Objection:
    """The agent-server could not do what a message over the feed asked. `code` is the name of its exception.

    One comes also when the message is in the log and only its run could not be started.
    """

    code: str
    detail: str

    @property
    def means_message_saved(self) -> bool:
        """All run slots are taken, and the server says itself that only the run is to be asked for again."""
        return "message saved" in self.detail.lower()

    @property
    def means_conversation_missing(self) -> bool:
        """The conversation was deleted while the socket was open: the server ends neither the socket nor says so."""
        return self.detail == "inactive_service"


Frame = ItemStarted | Delta | ItemAborted | DurableEvent | State | Reconnected | Objection


def _names(value: Any) -> frozenset[str]:
    return frozenset(name for name in value if isinstance(name, str)) if isinstance(value, list) else frozenset()


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
