"""The body of `POST /v1/responses`, read into a `ResponseRequest` or refused by the parameter's name.

Read in the same steps as a chat completion: `chat_request.parse_model`, then `parse`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chatgateway.errors import InvalidRequest
from chatgateway.openai_api import chat_request
from chatgateway.openai_api.answer_form import form_in
from chatgateway.openai_api.chat_request import ChatRequest, ClientTools, LlmOverrides, parse_model
from chatgateway.openai_api.plain_json import cleaned
from chatgateway.openai_api.responses_input import Item, parse_input
from chatgateway.openai_api.responses_parameters import PARAMETERS

_KNOWN = frozenset(parameter.name for parameter in PARAMETERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseRequest(ChatRequest):
    """A checked request. `previous_response_id` and `conversation` are ids as sent, empty without one."""

    previous_response_id: str
    conversation: str


def parse(
    body: dict[str, Any],
    *,
    stored: Mapping[str, Item],
    client_tools: ClientTools,
    accepts_images: bool,
    accepts_remote_images: bool,
    honours_overrides: bool,
    refuses_ignored: bool = False,
) -> ResponseRequest:
    """The request, or InvalidRequest naming the first parameter that is wrong.

    `stored` are the items that the input refers to, by id; the rest is as for chat completions.
    """
    model = parse_model(body)
    raw = cleaned(body)
    ignored: list[str] = []
    for parameter in PARAMETERS:
        value = raw.get(parameter.name)
        if value is None:
            continue
        parameter.check(parameter.name, value)
        if parameter.treatment == "ignore" or (parameter.is_override and not honours_overrides):
            ignored.append(parameter.name)
    client_tools_sent = _client_tools(raw, policy=client_tools, ignored=ignored)
    if (raw.get("text") or {}).get("verbosity") is not None:
        ignored.append("text.verbosity")
    ignored += chat_request.unknown_in(raw, known=_KNOWN)
    chat_request.refuse_first(ignored if refuses_ignored else ())
    _check_together(raw)
    return ResponseRequest(
        model=model,
        transcript=parse_input(
            raw.get("input"),
            stored=stored,
            accepts_images=accepts_images,
            accepts_remote_images=accepts_remote_images,
        ),
        stream=bool(raw.get("stream")),
        include_usage=True,
        overrides=overrides_in(raw) if honours_overrides else LlmOverrides(),
        end_user=chat_request.end_user_of(raw),
        metadata=dict(raw.get("metadata") or {}),
        store=raw.get("store") is not False,
        service_tier_sent=True,
        ignored=tuple(ignored),
        client_tools_sent=client_tools_sent,
        raw=raw,
        form=form_in(raw),
        instructions=raw.get("instructions") or "",
        is_background=bool(raw.get("background")),
        max_tool_calls=raw.get("max_tool_calls"),
        previous_response_id=raw.get("previous_response_id") or "",
        conversation=_conversation(raw),
    )


def _check_together(raw: dict[str, Any]) -> None:
    """What is right alone and wrong with something else."""
    if raw.get("background") and raw.get("store") is False:
        raise InvalidRequest(
            "A response in the background must be stored, or nobody could fetch it. Leave out 'store': false.",
            param="background",
            code="unsupported_value",
        )
    if raw.get("previous_response_id") and raw.get("conversation"):
        raise InvalidRequest(
            "'previous_response_id' and 'conversation' both say where to go on. Send one of them.",
            param="previous_response_id",
            code="unsupported_value",
        )


def _client_tools(raw: dict[str, Any], *, policy: ClientTools, ignored: list[str]) -> bool:
    """Whether tools of the caller go unused. Raises InvalidRequest for them if the policy is `reject`."""
    chosen = raw.get("tool_choice")
    if chosen == "none" or (not raw.get("tools") and chosen in (None, "auto")):
        return False
    name = "tools" if raw.get("tools") else "tool_choice"
    if policy == "reject":
        raise InvalidRequest(
            "This model is an agent with tools of its own and calls neither the client's nor hosted ones. "
            f"Leave '{name}' out, or ask the administrator to let the profile ignore tools of clients.",
            param="tools.0" if name == "tools" else name,
            code="unsupported_parameter",
        )
    ignored.extend(sent for sent in ("tools", "tool_choice") if raw.get(sent))
    return name == "tools"


def overrides_in(raw: dict[str, Any]) -> LlmOverrides:
    """What a checked body says of the agent's LLM."""
    return LlmOverrides(
        max_output_tokens=raw.get("max_output_tokens"),
        temperature=raw.get("temperature"),
        top_p=raw.get("top_p"),
        reasoning_effort=(raw.get("reasoning") or {}).get("effort"),
    )


def _conversation(raw: dict[str, Any]) -> str:
    named = raw.get("conversation") or ""
    return str(named["id"]) if isinstance(named, dict) else str(named)
