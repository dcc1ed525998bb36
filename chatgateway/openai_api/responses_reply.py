"""A response as the resource that clients know, from what was asked and what came of it.

Every key is always there: the strictest readers require what OpenAI's own replies hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from chatgateway.turn_events import TokenCounts, TurnFailed

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]

# What `TurnFailed` calls a turn that somebody stopped.
CANCELLED = "cancelled"
# OpenAI's names of what may be wrong with a response; anything else is the server's.
_ERROR_CODES = {429: "rate_limit_exceeded", 400: "invalid_prompt"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseHead:
    """What a response is from its beginning. `created` is in Unix seconds, `model` the id as requested.

    `parameters` is the request's body, with or without its input. `conversation_id` is given if the request named a
    conversation.
    """

    reply_id: str
    created: int
    model: str
    parameters: dict[str, Any]
    conversation_id: str | None = None

    @property
    def is_background(self) -> bool:
        return bool(self.parameters.get("background"))

    @property
    def key(self) -> str:
        """What the ids of the items begin with, after their prefix."""
        return self.reply_id.partition("_")[2]

    def resource(
        self,
        status: Status,
        *,
        output: Sequence[dict[str, Any]] = (),
        usage: TokenCounts | None = None,
        error: dict[str, Any] | None = None,
        incomplete_reason: str | None = None,
        completed_at: int | None = None,
    ) -> dict[str, Any]:
        sent = self.parameters
        reasoning = sent.get("reasoning") or {}
        verbosity = (sent.get("text") or {}).get("verbosity")
        return {
            "id": self.reply_id,
            "object": "response",
            "created_at": self.created,
            "completed_at": completed_at,
            "status": status,
            "background": self.is_background,
            "error": error,
            "incomplete_details": None if incomplete_reason is None else {"reason": incomplete_reason},
            "instructions": sent.get("instructions"),
            "max_output_tokens": sent.get("max_output_tokens"),
            "max_tool_calls": sent.get("max_tool_calls"),
            "model": self.model,
            "output": list(output),
            "parallel_tool_calls": _or(sent.get("parallel_tool_calls"), default=True),
            "previous_response_id": sent.get("previous_response_id"),
            "prompt_cache_key": sent.get("prompt_cache_key"),
            "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
            "safety_identifier": sent.get("safety_identifier"),
            "service_tier": "default",
            "store": sent.get("store") is not False,
            "temperature": _or(sent.get("temperature"), default=1.0),
            "text": {
                "format": (sent.get("text") or {}).get("format") or {"type": "text"},
                **({"verbosity": verbosity} if verbosity else {}),
            },
            "tool_choice": "none" if sent.get("tool_choice") == "none" else "auto",
            "tools": [],  # the agent's own; the caller's, where they are ignored, are none of its tools
            "top_logprobs": 0,
            "top_p": _or(sent.get("top_p"), default=1.0),
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "truncation": _or(sent.get("truncation"), default="disabled"),
            "usage": None if usage is None else usage_object(usage),
            "metadata": sent.get("metadata") or {},
            "user": sent.get("user") if isinstance(sent.get("user"), str) else None,
            "conversation": None if self.conversation_id is None else {"id": self.conversation_id},
        }


def failed_status(failed: TurnFailed) -> Status:
    return "cancelled" if failed.code == CANCELLED else "failed"


def error_object(failed: TurnFailed) -> dict[str, Any] | None:
    """The `error` of a response that failed; a cancelled one has none."""
    if failed.code == CANCELLED:
        return None
    return {"code": _ERROR_CODES.get(failed.status, "server_error"), "message": failed.message}


def usage_object(counts: TokenCounts) -> dict[str, Any]:
    """The `usage` of a response; what is part of what is as in chat completions."""
    return {
        "input_tokens": counts.input,
        "input_tokens_details": {"cached_tokens": counts.cached, "cache_write_tokens": counts.cache_write},
        "output_tokens": counts.output,
        "output_tokens_details": {"reasoning_tokens": counts.reasoning},
        "total_tokens": counts.input + counts.output,
    }


def message_item(item_id: str, text: str, *, status: str = "completed", phase: str | None = None) -> dict[str, Any]:
    item: dict[str, Any] = {
        "id": item_id,
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [text_part(text)],
    }
    return item | ({"phase": phase} if phase else {})


def text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _or(value: Any, *, default: Any) -> Any:
    return default if value is None else value


# --- names on the wire ----------------------------------------------------------------------------------------------

_CONVERSATION = "conv_"


def conversation_name(conversation_id: UUID) -> str:
    """The id by which `/v1/conversations` and `conversation` know a conversation."""
    return f"{_CONVERSATION}{conversation_id.hex}"


def uuid_in(name: str, *, prefix: str = _CONVERSATION) -> UUID | None:
    """The UUID in a name with a prefix or without one; None if there is none."""
    try:
        return UUID(name.strip().removeprefix(prefix))
    except ValueError:
        return None


# --- items that were sent ---------------------------------------------------------------------------------------------


def sent_item(message_id: UUID, item: dict[str, Any]) -> dict[str, Any]:
    """An item of a request's input as it is given back: with an id, and texts as parts."""
    kind = item.get("type") or "message"
    if kind != "message":
        return {"status": "completed", **item, "id": f"item_{message_id.hex}"}
    role, content = item.get("role"), item.get("content")
    parts = [_sent_part(part, role=role) for part in ([content] if isinstance(content, str) else content or [])]
    phase = {"phase": item["phase"]} if item.get("phase") else {}
    return {
        "id": f"msg_{message_id.hex}",
        "type": "message",
        "role": role,
        "status": "completed",
        "content": parts,
    } | phase


def _sent_part(part: Any, *, role: Any) -> Any:
    if isinstance(part, str):
        return text_part(part) if role == "assistant" else {"type": "input_text", "text": part}
    if not isinstance(part, dict):
        return part
    match part.get("type"):
        case "input_image" | "image_url":
            holder = part.get("image_url")
            url = holder.get("url") if isinstance(holder, dict) else holder
            detail = holder.get("detail") if isinstance(holder, dict) else part.get("detail")
            return {"type": "input_image", "image_url": url, "detail": detail or "auto"}
        case "text" | "input_text" | "output_text":
            text = str(part.get("text", ""))
            return text_part(text) if role == "assistant" else {"type": "input_text", "text": text}
        case _:
            return part
