"""`messages[]` of a chat completion: what is accepted, and the error that names the message otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from chatgateway.errors import InvalidRequest
from chatgateway.openai_api.images import checked_url
from chatgateway.openai_api.plain_json import kind_of
from chatgateway.openai_api.transcript import (
    EarlierMessage,
    ImagePart,
    TextPart,
    ToolCall,
    Transcript,
    UserPart,
    joined,
    transcript_of,
)

MAX_MESSAGES = 2000
MAX_TEXT_BYTES = 10 * 1024 * 1024
# OpenAI's own are below 64; the names of MCP tools can be longer.
MAX_TOOL_NAME_CHARS = 512

_SYSTEM_ROLES = ("system", "developer")
_SPOKEN_ROLES: Mapping[str, Literal["user", "assistant", "tool"]] = {
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
# Chat UIs mix the spellings of chat completions and Responses.
_TEXT_TYPES = ("text", "input_text", "output_text")
_IMAGE_TYPES = ("image_url", "input_image")
_REFUSED_TYPES = {
    "input_audio": "Audio is not supported. Send the text of what was said.",
    "file": "File parts are not supported. Put the file's text into the message.",
    "input_file": "File parts are not supported. Put the file's text into the message.",
}
_DETAILS = ("auto", "low", "high", "original")

# A message with its number in the list that holds it, and its path in the body.
Placed = tuple[int, str, dict[str, Any]]


def parse_messages(value: object, *, accepts_images: bool, accepts_remote_images: bool) -> Transcript:
    """The transcript, or InvalidRequest naming the message and the part (`messages.0.content.1`).

    Expects a body that went through `plain_json.cleaned`.
    """
    messages = _message_list(value)
    placed = [(index, f"messages.{index}", message) for index, message in enumerate(messages)]
    return transcript_at(
        placed,
        sent=messages,
        whole="messages",
        accepts_images=accepts_images,
        accepts_remote_images=accepts_remote_images,
    )


def transcript_at(
    placed: Iterable[Placed],
    *,
    sent: Sequence[dict[str, Any]],
    whole: str,
    accepts_images: bool,
    accepts_remote_images: bool,
) -> Transcript:
    """`parse_messages` for messages that stand somewhere else in a body. `whole` is the parameter that holds them,
    `sent` what the caller put there."""
    system_texts, spoken = spoken_at(
        placed, whole=whole, accepts_images=accepts_images, accepts_remote_images=accepts_remote_images
    )
    if whole == "messages":
        while spoken and spoken[-1].role == "assistant" and spoken[-1].is_blank:
            spoken.pop()  # the place where a chat UI wants the answer
    _check_end(spoken, whole=whole)
    return transcript_of(messages=sent, system_texts=system_texts, spoken=spoken)


def spoken_at(
    placed: Iterable[Placed], *, whole: str, accepts_images: bool, accepts_remote_images: bool
) -> tuple[list[str], list[EarlierMessage]]:
    """The system's texts and the other messages, whatever the last of them is."""
    system_texts: list[str] = []
    spoken: list[EarlierMessage] = []
    text_bytes = 0
    for index, path, message in placed:
        role = _role(message, path=path)
        parts = _parts(
            message, role=role, path=path, accepts_images=accepts_images, accepts_remote_images=accepts_remote_images
        )
        calls = _tool_calls(message, path=path) if role == "assistant" else ()
        text_bytes += sum(_utf8_length(part.text) for part in parts if isinstance(part, TextPart))
        text_bytes += sum(_utf8_length(call.arguments) for call in calls)
        if text_bytes > MAX_TEXT_BYTES:
            raise InvalidRequest(
                f"'{whole}' holds more than {MAX_TEXT_BYTES // 1024 // 1024} MiB of text.", param=whole
            )
        if role in _SYSTEM_ROLES:
            system_texts.extend(part.text for part in parts if isinstance(part, TextPart))
        else:
            spoken.append(_spoken(message, index=index, path=path, role=role, parts=parts, calls=calls))
    return system_texts, spoken


def _message_list(value: object) -> Sequence[dict[str, Any]]:
    if value is None:
        raise InvalidRequest(
            "'messages' is missing. Send an array with at least one user message.",
            param="messages",
            code="missing_required_parameter",
        )
    if not isinstance(value, list):
        raise _wrong_type("messages", "an array", value)
    if not value:
        raise InvalidRequest("'messages' is empty. Send at least one user message.", param="messages")
    if len(value) > MAX_MESSAGES:
        raise InvalidRequest(f"'messages' holds {len(value)} messages; the limit is {MAX_MESSAGES}.", param="messages")
    return value


def _role(message: object, *, path: str) -> str:
    if not isinstance(message, dict):
        raise _wrong_type(path, "an object", message)
    role = message.get("role")
    if role is None:
        raise _missing(f"{path}.role")
    if not isinstance(role, str):
        raise _wrong_type(f"{path}.role", "a string", role)
    if role not in _SPOKEN_ROLES and role not in _SYSTEM_ROLES:
        known = ", ".join((*_SYSTEM_ROLES, *_SPOKEN_ROLES))
        raise InvalidRequest(f"'{path}.role' must be one of {known}.", param=f"{path}.role")
    if not isinstance(message.get("name"), str | None):
        raise _wrong_type(f"{path}.name", "a string", message["name"])
    return role


def _parts(
    message: dict[str, Any], *, role: str, path: str, accepts_images: bool, accepts_remote_images: bool
) -> tuple[UserPart, ...]:
    """The content; adjacent texts joined with a line break, empty ones left out."""
    content = message.get("content")
    if isinstance(content, str) and content and role != "assistant":
        return (TextPart(text=content),)
    parts: list[UserPart] = []
    if isinstance(content, str):
        parts.append(TextPart(text=content))
    elif isinstance(content, list):
        for number, part in enumerate(content):
            parts.append(
                _part(
                    part,
                    role=role,
                    path=f"{path}.content.{number}",
                    accepts_images=accepts_images,
                    accepts_remote_images=accepts_remote_images,
                )
            )
    elif content is not None:
        raise _wrong_type(f"{path}.content", "a string or an array of parts", content)
    elif role not in ("assistant", "function"):
        raise _missing(f"{path}.content")
    if role == "assistant":
        parts.append(TextPart(text=_optional_string(message, "refusal", path=path)))
        if message.get("audio") is not None:
            raise InvalidRequest(
                "Audio replies of other models cannot be carried on. Send the reply's text as content.",
                param=f"{path}.audio",
                code="unsupported_content",
            )
    return joined(parts, divider="\n")


def _part(part: object, *, role: str, path: str, accepts_images: bool, accepts_remote_images: bool) -> UserPart:
    if not isinstance(part, dict):
        raise _wrong_type(path, "an object with a type", part)
    kind = part.get("type")
    if kind is None:
        raise _missing(f"{path}.type")
    if not isinstance(kind, str):
        raise _wrong_type(f"{path}.type", "a string", kind)
    if kind in _TEXT_TYPES:
        return TextPart(text=_required_string(part, "text", path=path))
    if kind == "refusal" and role == "assistant":
        return TextPart(text=_required_string(part, "refusal", path=path))
    if kind in _REFUSED_TYPES:
        raise InvalidRequest(_REFUSED_TYPES[kind], param=path, code="unsupported_content")
    if kind not in _IMAGE_TYPES:
        raise InvalidRequest(
            f"'{path}.type' must be text{' or image_url' if role == 'user' else ''}.", param=f"{path}.type"
        )
    if role != "user":
        raise InvalidRequest(
            f"Only user messages may hold images, not messages of role {role}.", param=path, code="unsupported_content"
        )
    if not accepts_images:
        raise InvalidRequest(
            "This model does not take images. Leave the image out, or use a model that does.",
            param=path,
            code="unsupported_content",
        )
    return _image(part, path=path, accepts_remote=accepts_remote_images)


def _image(part: dict[str, Any], *, path: str, accepts_remote: bool) -> ImagePart:
    """`{"image_url": {"url", "detail"}}`, or Responses' `{"image_url": "…", "detail"}`."""
    image = part.get("image_url")
    if image is None:
        raise _missing(f"{path}.image_url")
    if isinstance(image, dict):
        url, detail = _required_string(image, "url", path=f"{path}.image_url"), image.get("detail")
    elif isinstance(image, str):
        url, detail = image, part.get("detail")
    else:
        raise _wrong_type(f"{path}.image_url", "an object with a url", image)
    if detail is not None and (not isinstance(detail, str) or detail not in _DETAILS):
        raise InvalidRequest(
            f"An image's detail must be one of {', '.join(_DETAILS)}.", param=f"{path}.image_url.detail"
        )
    return ImagePart(url=checked_url(url, part=path, accepts_remote=accepts_remote), detail=detail)


def _tool_calls(message: dict[str, Any], *, path: str) -> tuple[ToolCall, ...]:
    calls = message.get("tool_calls")
    legacy = message.get("function_call")
    parsed: list[ToolCall] = []
    if not isinstance(calls, list | None):
        raise _wrong_type(f"{path}.tool_calls", "an array", calls)
    for number, call in enumerate(calls or ()):
        here = f"{path}.tool_calls.{number}"
        if not isinstance(call, dict):
            raise _wrong_type(here, "an object", call)
        # {"type": "custom", "custom": {"name", "input"}} or {"type": "function", "function": {"name", "arguments"}}
        kind, text_key = ("custom", "input") if call.get("custom") is not None else ("function", "arguments")
        parsed.append(
            _tool_call(
                call.get(kind), text_key=text_key, call_id=_identifier(call, "id", path=here), path=f"{here}.{kind}"
            )
        )
    if legacy is not None:
        parsed.append(_tool_call(legacy, text_key="arguments", call_id="", path=f"{path}.function_call"))
    return tuple(parsed)


def _tool_call(call: object, *, text_key: str, call_id: str, path: str) -> ToolCall:
    if call is None:
        raise _missing(path)
    if not isinstance(call, dict):
        raise _wrong_type(path, "an object", call)
    name = _identifier(call, "name", path=path)
    if not name:
        raise _missing(f"{path}.name")
    return ToolCall(call_id=call_id, name=name, arguments=_optional_string(call, text_key, path=path))


def _spoken(
    message: dict[str, Any],
    *,
    index: int,
    path: str,
    role: str,
    parts: tuple[UserPart, ...],
    calls: tuple[ToolCall, ...],
) -> EarlierMessage:
    if role not in ("tool", "function"):
        return EarlierMessage(index=index, role=_SPOKEN_ROLES[role], parts=parts, tool_calls=calls)
    return EarlierMessage(
        index=index,
        role="tool",
        parts=parts,
        tool_call_id=_identifier(message, "tool_call_id", path=path),
        tool_name=_identifier(message, "name", path=path),
    )


def _check_end(spoken: Sequence[EarlierMessage], *, whole: str) -> None:
    """The last message must be something an agent can answer, or in chats an answer it can go on with."""
    if all(message.role == "assistant" for message in spoken):
        raise InvalidRequest(f"'{whole}' holds no user message, so there is nothing to answer.", param=whole)
    last = spoken[-1]
    if last.tool_calls:
        raise InvalidRequest(
            "The last message is a tool call without its result. Send the tool's message after it.",
            param=whole,
            code="unsupported_value",
        )
    if last.role == "assistant" and whole != "messages":
        raise InvalidRequest(
            "The last message is the assistant's. Name the response in 'previous_response_id' to go on after it, and "
            'end with a user message, for example "continue".',
            param=whole,
            code="unsupported_value",
        )
    if last.is_blank:
        raise InvalidRequest(
            "The last user message is empty. Write what the agent should do.", param=f"{whole}.{last.index}.content"
        )


def _identifier(source: dict[str, Any], key: str, *, path: str) -> str:
    text = _optional_string(source, key, path=path)
    if len(text) > MAX_TOOL_NAME_CHARS:
        raise InvalidRequest(f"'{path}.{key}' is longer than {MAX_TOOL_NAME_CHARS} characters.", param=f"{path}.{key}")
    return text


def _optional_string(source: dict[str, Any], key: str, *, path: str) -> str:
    value = source.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _wrong_type(f"{path}.{key}", "a string", value)
    return value


def _required_string(source: dict[str, Any], key: str, *, path: str) -> str:
    if source.get(key) is None:
        raise _missing(f"{path}.{key}")
    return _optional_string(source, key, path=path)


def _utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _missing(param: str) -> InvalidRequest:
    return InvalidRequest(f"'{param}' is missing.", param=param, code="missing_required_parameter")


def _wrong_type(param: str, expected: str, value: object) -> InvalidRequest:
    return InvalidRequest(f"'{param}' must be {expected}, not {kind_of(value)}.", param=param, code="invalid_type")
