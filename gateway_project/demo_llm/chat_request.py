"""What the demo accepts at `/v1/chat/completions`. Parameters that it has no use for are ignored."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MODEL = "demo"

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


class BadRequest(Exception):
    """The caller sent something wrong. `param` names it as OpenAI does, such as `messages[0].role`."""

    def __init__(self, message: str, *, param: str | None = None, status: int = 400, code: str | None = None) -> None:
        super().__init__(message)
        self.message, self.param, self.status, self.code = message, param, status, code


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A checked request. `tools` is empty if `tool_choice` is "none". `most_tokens` limits the reply, None does not."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]]
    is_streamed: bool
    includes_usage: bool
    most_tokens: int | None


def parse(raw: bytes) -> ChatRequest:
    """Raises BadRequest."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise BadRequest("The body is not valid JSON.") from None
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object.")
    if not isinstance(body.get("model"), str):
        raise BadRequest("'model' must be a string.", param="model")
    if body["model"] != MODEL:
        raise BadRequest(
            f"The model {body['model'][:100]!r} does not exist; there is only {MODEL!r}.",
            param="model",
            status=404,
            code="model_not_found",
        )
    options = body.get("stream_options")
    return ChatRequest(
        messages=_messages(body.get("messages")),
        tools=() if body.get("tool_choice") == "none" else _tools(body.get("tools")),
        is_streamed=_flag(body, "stream"),
        includes_usage=_flag(options, "include_usage") if isinstance(options, dict) else False,
        most_tokens=_limit(body),
    )


def _messages(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise BadRequest("'messages' must be a list with at least one message.", param="messages")
    for number, message in enumerate(value):
        here = f"messages[{number}]"
        if not isinstance(message, dict):
            raise BadRequest(f"'{here}' must be an object.", param=here)
        role = message.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            raise BadRequest(f"'{here}.role' must be one of {', '.join(sorted(_ROLES))}.", param=f"{here}.role")
        _check_content(message.get("content"), f"{here}.content")
    return value


def _check_content(content: Any, here: str) -> None:
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list):
        raise BadRequest(f"'{here}' must be a string or a list of parts.", param=here)
    for number, part in enumerate(content):
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise BadRequest(f"'{here}[{number}]' must be an object with a 'type'.", param=f"{here}[{number}]")
        if part["type"] == "text" and not isinstance(part.get("text"), str):
            raise BadRequest(f"'{here}[{number}].text' must be a string.", param=f"{here}[{number}].text")


def _tools(value: Any) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadRequest("'tools' must be a list.", param="tools")
    for number, tool in enumerate(value):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            here = f"tools[{number}]"
            raise BadRequest(f"'{here}' must be an object with a 'function' that has a 'name'.", param=here)
    return value


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadRequest(f"'{name}' must be true or false.", param=name)
    return bool(value)


def _limit(body: Mapping[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        value = body.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise BadRequest(f"'{name}' must be a whole number of at least 1.", param=name)
        return value
    return None
