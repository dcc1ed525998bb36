"""The body of `POST /v1/chat/completions`, read into a `ChatRequest` or refused by the parameter's name.

The view reads it in two steps, so that errors come in the order clients expect: `parse_model`, then 404 if there is
no such model, then `parse`, which needs to know what the model's profile permits.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from chatgateway.errors import InvalidRequest
from chatgateway.openai_api.answer_form import AnswerForm, form_in
from chatgateway.openai_api.canonical import canonical_json
from chatgateway.openai_api.messages import parse_messages
from chatgateway.openai_api.parameters import MAX_USER_CHARS, PARAMETERS, Parameter
from chatgateway.openai_api.plain_json import clean_text, cleaned, kind_of
from chatgateway.openai_api.transcript import Transcript

__all__ = ["PARAMETERS", "ChatRequest", "LlmOverrides", "Parameter", "parse", "parse_model"]

MAX_MODEL_CHARS = 128
# Of parameters that are not OpenAI's, those are named to the caller that are fit for a header; so many at most.
_FIT_TO_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
MAX_UNKNOWN_NAMED = 20

ClientTools = Literal["reject", "ignore"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmOverrides:
    """What the caller wants of the profile's LLM; None where nothing was sent, or the profile keeps its own."""

    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    reasoning_effort: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A checked request.

    `model` is the id as sent. `end_user` is `safety_identifier`, else `user`, else None. `ignored` names the
    parameters that were sent and have no effect. `form` is what the answer is to look like. `client_tools_sent` says
    that tools were offered and not switched off by `tool_choice: none`; it can be true only where they are ignored.
    `store` is false only for a caller that said so.
    `raw` is the whole body without NUL characters; it can be stored as JSON anywhere.
    """

    model: str
    transcript: Transcript
    stream: bool
    include_usage: bool
    overrides: LlmOverrides
    end_user: str | None
    metadata: dict[str, str]
    store: bool
    service_tier_sent: bool
    ignored: tuple[str, ...]
    client_tools_sent: bool
    raw: dict[str, Any]
    form: AnswerForm = field(default_factory=AnswerForm)
    # Only requests to /v1/responses have these.
    instructions: str | None = None  # a system text for this turn alone; "" if none were sent, None in chats
    is_background: bool = False
    max_tool_calls: int | None = None


def parse_model(body: object) -> str:
    """The `model` of a parsed JSON body. Raises InvalidRequest if the body is no object or names no model."""
    if not isinstance(body, dict):
        raise InvalidRequest(f"The request body must be a JSON object, not {kind_of(body)}.", code="invalid_type")
    model = body.get("model")
    if model is None:
        raise InvalidRequest(
            "'model' is missing. Use one of GET /v1/models.", param="model", code="missing_required_parameter"
        )
    if not isinstance(model, str):
        raise InvalidRequest(f"'model' must be a string, not {kind_of(model)}.", param="model", code="invalid_type")
    if len(model) > MAX_MODEL_CHARS:
        raise InvalidRequest(f"'model' is longer than {MAX_MODEL_CHARS} characters.", param="model")
    return clean_text(model, param="model")


def parse(
    body: dict[str, Any],
    *,
    client_tools: ClientTools,
    accepts_images: bool,
    accepts_remote_images: bool,
    honours_overrides: bool,
    refuses_ignored: bool = False,
) -> ChatRequest:
    """The request, or InvalidRequest naming the first parameter that is wrong.

    `client_tools` says what becomes of the caller's own tools. `honours_overrides`: the profile lets callers
    override its LLM's parameters. `refuses_ignored`: the key wants an error for what would have no effect. Explicit
    nulls count as absent; a schema in `response_format` may take a second to check (`answer_form.takes_long`).
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
    stream, include_usage = _streaming(raw, ignored=ignored)
    client_tools_sent = _client_tools(raw, policy=client_tools, ignored=ignored)
    overrides = overrides_in(raw, ignored=ignored) if honours_overrides else LlmOverrides()
    ignored += unknown_in(raw, known=_KNOWN)
    refuse_first(ignored if refuses_ignored else ())
    return ChatRequest(
        model=model,
        transcript=parse_messages(
            raw.get("messages"), accepts_images=accepts_images, accepts_remote_images=accepts_remote_images
        ),
        stream=stream,
        include_usage=include_usage,
        overrides=overrides,
        end_user=end_user_of(raw),
        metadata=dict(raw.get("metadata") or {}),
        store=raw.get("store") is not False,
        service_tier_sent=raw.get("service_tier") is not None,
        ignored=tuple(ignored),
        client_tools_sent=client_tools_sent,
        raw=raw,
        form=form_in(raw),
    )


def _streaming(raw: dict[str, Any], *, ignored: list[str]) -> tuple[bool, bool]:
    """(stream, include_usage)"""
    stream = bool(raw.get("stream"))
    options = raw.get("stream_options")
    if options is None:
        return stream, False
    if not stream:
        raise InvalidRequest("'stream_options' is only allowed together with 'stream': true.", param="stream_options")
    if options.get("include_obfuscation"):
        ignored.append("stream_options.include_obfuscation")
    return stream, bool(options.get("include_usage"))


def _client_tools(raw: dict[str, Any], *, policy: ClientTools, ignored: list[str]) -> bool:
    """Whether tools of the caller go unused. Raises InvalidRequest for them if the policy is `reject`."""
    are_sent = False
    for tools, choice in (("tools", "tool_choice"), ("functions", "function_call")):
        chosen = raw.get(choice)
        if chosen == "none":
            continue
        if not raw.get(tools) and chosen in (None, "auto"):
            continue
        name = tools if raw.get(tools) else choice
        if policy == "reject" and not (chosen in (None, "auto") and _are_a_chat_uis(raw.get(tools))):
            raise InvalidRequest(
                "This model is an agent with tools of its own and does not call the client's. "
                f"Leave '{name}' out, or ask the administrator to let the profile ignore tools of clients.",
                param=name,
                code="unsupported_parameter",
            )
        are_sent = are_sent or name == tools
        ignored.extend(sent for sent in (tools, choice) if raw.get(sent))
    return are_sent


def _are_a_chat_uis(tools: Any) -> bool:
    """Whether a chat UI sends them by itself, with every message: its user asked for none and could leave none out.

    Open WebUI 0.12 sends some forty (tools/builtin.py), which it wants called if the model likes.
    """
    functions = [tool["function"] for tool in tools or () if isinstance(tool.get("function"), dict)]
    return {str(function.get("name")) for function in functions} >= _OPEN_WEBUI_TOOLS


# Those two of Open WebUI's own that nobody else is likely to have together.
_OPEN_WEBUI_TOOLS = frozenset({"get_current_timestamp", "calculate_timestamp"})
_KNOWN = frozenset(parameter.name for parameter in PARAMETERS)


def overrides_in(raw: dict[str, Any], *, ignored: list[str]) -> LlmOverrides:
    """What a checked body wants of the LLM. A parameter that another one wins over is added to `ignored`."""
    limit = raw.get("max_completion_tokens")
    if limit is None:
        limit = raw.get("max_tokens")
    elif raw.get("max_tokens") is not None:
        ignored.append("max_tokens")
    return LlmOverrides(
        max_output_tokens=limit,
        temperature=raw.get("temperature"),
        top_p=raw.get("top_p"),
        reasoning_effort=raw.get("reasoning_effort"),
    )


def unknown_in(raw: dict[str, Any], *, known: Collection[str]) -> list[str]:
    """What was sent beside OpenAI's parameters: by chat UIs and proxies, or by mistake."""
    sent = (name for name, value in raw.items() if value is not None and name not in known)
    return [name for name in sent if _FIT_TO_NAME.fullmatch(name)][:MAX_UNKNOWN_NAMED]


def refuse_first(ignored: Sequence[str]) -> None:
    """Raise InvalidRequest for the first of the parameters that would have no effect."""
    for name in ignored:
        raise InvalidRequest(
            f"'{name}' has no effect with this model, and this API key refuses what has none. Leave it out.",
            param=name,
            code="unsupported_parameter",
        )


def end_user_of(raw: dict[str, Any]) -> str | None:
    """Pipelines of chat UIs put a whole object into `user`; it names the user by its JSON text, whatever the order
    of its keys, or by that text's digest where it is too long to be a name."""
    user = raw.get("safety_identifier") or raw.get("user") or None
    if not isinstance(user, dict):
        return user
    text = canonical_json(user).decode("ascii")
    return text if len(text) <= MAX_USER_CHARS else "sha256:" + hashlib.sha256(text.encode("ascii")).hexdigest()
