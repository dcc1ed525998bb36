"""`POST /v1/completions`: its body as that of a chat completion with one message, and its replies.

The record keeps the body as a chat completion's, too: a turn is the same whichever endpoint it came by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chatgateway.errors import InvalidRequest
from chatgateway.openai_api import chat_request
from chatgateway.openai_api.chat_request import ChatRequest
from chatgateway.openai_api.error_body import error_body
from chatgateway.openai_api.plain_json import clean_text, kind_of
from chatgateway.openai_api.sse import DATA, DONE, PING, data, json_bytes, json_text
from chatgateway.openai_api.usage import usage_object
from chatgateway.turn_events import AnswerShown, ShownEvent, TurnAnswered, TurnFailed

# Parameters of this endpoint alone, and the values of theirs that change nothing.
_WITHOUT_EFFECT: dict[str, tuple[object, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (False,),
}
_WHY_REFUSED = {
    "best_of": "each try would be a run of the agent with effects of its own",
    "echo": "the prompt is not part of an agent's answer",
    "suffix": "agents do not fill gaps",
    "logprobs": "an agent's answer has no log probabilities",
}


def parse(body: dict[str, Any], **rules: Any) -> ChatRequest:
    """The request, as `chat_request.parse` reads one with the prompt as its only message. `rules` are those of that.

    Raises InvalidRequest naming the parameter.
    """
    chat = _as_chat(body)
    try:
        return chat_request.parse(chat, **rules)
    except InvalidRequest as error:
        if error.param is None or not error.param.startswith("messages"):
            raise
        raise InvalidRequest(f"The prompt cannot be used: {error.message}", param="prompt", code=error.code) from None


def _as_chat(body: dict[str, Any]) -> dict[str, Any]:
    for name, harmless in _WITHOUT_EFFECT.items():
        value = body.get(name)
        if value is not None and not any(type(value) is type(one) and value == one for one in harmless):
            raise InvalidRequest(
                f"'{name}' is not supported: {_WHY_REFUSED[name]}. Leave it out.",
                param=name,
                code="unsupported_parameter",
            )
    if body.get("messages") is not None:
        raise InvalidRequest(
            "'messages' belongs to POST /v1/chat/completions. Send a prompt here.",
            param="messages",
            code="unsupported_parameter",
        )
    rest = {name: value for name, value in body.items() if name not in ("prompt", "messages", *_WITHOUT_EFFECT)}
    return rest | {"messages": [{"role": "user", "content": _prompt(body.get("prompt"))}]}


def _prompt(value: object) -> str:
    if value is None:
        raise InvalidRequest("'prompt' is missing.", param="prompt", code="missing_required_parameter")
    if isinstance(value, list):
        if len(value) == 1 and isinstance(value[0], str):
            return _prompt(value[0])
        if any(not isinstance(one, str) for one in value):
            reason, code = "Prompts of token ids are not supported. Send the text.", "unsupported_value"
        else:
            reason, code = f"'prompt' must hold one text, not {len(value)}: each would be a run.", "unsupported_value"
        raise InvalidRequest(reason, param="prompt", code=code)
    if not isinstance(value, str):
        raise InvalidRequest(f"'prompt' must be a string, not {kind_of(value)}.", param="prompt", code="invalid_type")
    text = clean_text(value, param="prompt")
    if not text.strip():
        raise InvalidRequest("'prompt' is empty. Write what the agent should do.", param="prompt")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class TextReply:
    """A reply that is not streamed. `created` is in Unix seconds, `model` the id as requested. What an agent shows
    beside its answer has no place in this format."""

    reply_id: str
    created: int
    model: str

    def answered(self, answered: TurnAnswered) -> dict[str, Any]:
        """A `text_completion`."""
        choice = {"text": answered.text, "index": 0, "logprobs": None, "finish_reason": answered.finish_reason}
        return self._object(choices=[choice], usage=usage_object(answered.usage))

    def failed(self, failed: TurnFailed) -> dict[str, Any]:
        """For a failure when the status is spent: no choices, and the error object beside them."""
        return self._object(choices=[], usage=None) | error_body(failed)

    def _object(self, *, choices: list[dict[str, Any]], usage: dict[str, Any] | None) -> dict[str, Any]:
        head = {"id": self.reply_id, "object": "text_completion", "created": self.created, "model": self.model}
        return head | {"choices": choices, "usage": usage}


class TextStream:
    """One streamed reply, used like a `ChatStream`: `opening` first, then `events`."""

    def __init__(self, *, reply_id: str, created: int, model: str, include_usage: bool) -> None:
        head = {"id": reply_id, "object": "text_completion", "created": created, "model": model}
        self._head = DATA + json_bytes(head)[:-1]
        self._usage = b',"usage":null' if include_usage else b""
        self._include_usage = include_usage
        self._has_answer = False
        self.has_ended = False

    def opening(self) -> bytes:
        return PING

    def ping(self) -> bytes:
        return b"" if self.has_ended else PING

    def events(self, batch: Sequence[ShownEvent]) -> bytes:
        """The chunks for `batch`; b"" if there are none. What follows the turn's end is dropped."""
        if self.has_ended:
            return b""
        text = "".join(event.text for event in batch if isinstance(event, AnswerShown))
        chunks = self._chunk(text) if text else b""
        self._has_answer = self._has_answer or bool(text)
        end = next((event for event in batch if isinstance(event, TurnAnswered | TurnFailed)), None)
        return chunks if end is None else chunks + self._end(end)

    def _chunk(self, text: str, *, finish_reason: bytes = b"null") -> bytes:
        choice = b',"choices":[{"text":' + json_text(text) + b',"index":0,"logprobs":null,"finish_reason":'
        return self._head + choice + finish_reason + b"}]" + self._usage + b"}\n\n"

    def _end(self, event: TurnAnswered | TurnFailed) -> bytes:
        self.has_ended = True
        if isinstance(event, TurnFailed):
            return data(json_bytes(error_body(event))) + DONE
        # A provider that does not stream, or a subscriber that came late: the answer arrives whole.
        whole = self._chunk(event.text) if event.text and not self._has_answer else b""
        finish = self._chunk("", finish_reason=b'"' + event.finish_reason.encode("ascii") + b'"')
        usage = b""
        if self._include_usage:
            usage = self._head + b',"choices":[],"usage":' + json_bytes(usage_object(event.usage)) + b"}\n\n"
        return whole + finish + usage + DONE
