"""Shown events as chat completion chunks, or as one chat completion.

Pure functions of events: nothing here waits, and ids and times are handed in, so that every subscriber of a turn
emits the same bytes. `ChatStream.events` runs once per token of every open stream; whatever can be prepared, is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from chatgateway.openai_api.error_body import error_body
from chatgateway.openai_api.sse import DATA, DONE, END, PING, data, json_bytes, json_text
from chatgateway.openai_api.usage import usage_object
from chatgateway.turn_events import AnswerShown, ReasoningShown, ShownEvent, StepShown, TurnAnswered, TurnFailed

_Channel = Literal["content", "reasoning_content"]
_FIELDS: dict[_Channel, bytes] = {"content": b'{"content":', "reasoning_content": b'{"reasoning_content":'}
_CHOICE, _FINISH = b',"choices":[{"index":0,"delta":', b',"finish_reason":'
_USAGE, _NO_USAGE = b'}],"usage":null}' + END, b"}]}" + END


class ChatStream:
    """One streamed reply, as bytes of server-sent events.

    Call `opening` first, then `events` with whatever has arrived; nothing comes after a batch with the turn's end.
    `reply_id`, `created` (Unix seconds) and `model` (the id as requested) are the same in every chunk. A chunk has
    a `usage` key only if the caller asked for usage: null, but for the last chunk.
    """

    def __init__(
        self, *, reply_id: str, created: int, model: str, include_usage: bool, service_tier_sent: bool
    ) -> None:
        head: dict[str, Any] = {"id": reply_id, "object": "chat.completion.chunk", "created": created, "model": model}
        if service_tier_sent:
            head["service_tier"] = "default"
        self._head = DATA + json_bytes(head)[:-1]
        self._include_usage = include_usage
        self._has_answer = False
        self._is_mid_line = False  # reasoning was sent, and did not end with a line break
        self.has_ended = False

    def opening(self) -> bytes:
        """What is sent at once, before the agent starts: clients see headers and a role, proxies see traffic."""
        return PING + self._chunk(b'{"role":"assistant","content":""}')

    def ping(self) -> bytes:
        """A keep-alive; nothing after the end, for the body must end right after `[DONE]`."""
        return b"" if self.has_ended else PING

    def events(self, batch: Sequence[ShownEvent]) -> bytes:
        """The chunks for `batch`; b"" if there are none. Adjacent pieces of answer or of reasoning become one chunk.

        What follows the turn's end is dropped.
        """
        chunks: list[bytes] = []
        channel: _Channel = "content"
        pieces: list[str] = []
        for event in () if self.has_ended else batch:
            if isinstance(event, AnswerShown):
                if channel != "content":
                    self._flush(chunks, channel, pieces)
                    channel = "content"
                pieces.append(event.text)
                continue
            if isinstance(event, ReasoningShown | StepShown):
                if channel != "reasoning_content":
                    self._flush(chunks, channel, pieces)
                    channel = "reasoning_content"
                self._add_reasoning(pieces, event)
                continue
            self._flush(chunks, channel, pieces)
            chunks.append(self._end(event))
            self.has_ended = True
            return b"".join(chunks)
        self._flush(chunks, channel, pieces)
        return b"".join(chunks)

    def _flush(self, chunks: list[bytes], channel: _Channel, pieces: list[str]) -> None:
        text = "".join(pieces)
        pieces.clear()
        if text:
            chunks.append(self._text(channel, text))
            self._has_answer = self._has_answer or channel == "content"

    def _text(self, channel: _Channel, text: str) -> bytes:
        return self._chunk(_FIELDS[channel] + json_text(text) + b"}")

    def _chunk(self, delta: bytes, finish_reason: bytes = b"null") -> bytes:
        # Put together for each, not kept ready: a thousand open streams would keep a thousand sets of them.
        ending = _USAGE if self._include_usage else _NO_USAGE
        return b"".join((self._head, _CHOICE, delta, _FINISH, finish_reason, ending))

    def _add_reasoning(self, pieces: list[str], event: ReasoningShown | StepShown) -> None:
        """A step stands on a line of its own, whatever was being thought when it began."""
        if isinstance(event, StepShown):
            pieces.append(f"\n{event.line}\n" if self._is_mid_line else f"{event.line}\n")
            self._is_mid_line = False
        elif event.text:
            pieces.append(event.text)
            self._is_mid_line = not event.text.endswith("\n")

    def _end(self, event: TurnAnswered | TurnFailed) -> bytes:
        if isinstance(event, TurnFailed):
            # The object without `choices`: with them, Open WebUI and the AI SDK miss the error.
            return data(json_bytes(error_body(event))) + DONE
        # A provider that does not stream, or a subscriber that came late: the answer arrives whole.
        unstreamed = b""
        if event.text and not self._has_answer:
            unstreamed = self._text("content", event.text)
        usage = b""
        if self._include_usage:
            usage = self._head + b',"choices":[],"usage":' + json_bytes(usage_object(event.usage)) + b"}\n\n"
        finish = self._chunk(b"{}", b'"' + event.finish_reason.encode("ascii") + b'"')
        return unstreamed + finish + usage + DONE


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectedReply:
    """A reply that is not streamed. `created` is in Unix seconds, `model` the id as requested."""

    reply_id: str
    created: int
    model: str
    service_tier_sent: bool

    def answered(self, answered: TurnAnswered) -> dict[str, Any]:
        """A `chat.completion`."""
        message: dict[str, Any] = {
            "role": "assistant",
            "content": answered.text,
            "refusal": None,
            "annotations": [],
        }
        if answered.reasoning:
            message["reasoning_content"] = answered.reasoning
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answered.finish_reason}
        return self._object(choices=[choice], usage=usage_object(answered.usage))

    def failed(self, failed: TurnFailed) -> dict[str, Any]:
        """For a failure when the status is spent: no choices, and the error object beside them. Frameworks raise its
        message; plain SDKs hand on an object whose `choices` are empty."""
        return self._object(choices=[], usage=None) | error_body(failed)

    def _object(self, *, choices: list[dict[str, Any]], usage: dict[str, Any] | None) -> dict[str, Any]:
        tier = {"service_tier": "default"} if self.service_tier_sent else {}
        return {
            "id": self.reply_id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "usage": usage,
            "system_fingerprint": None,
        } | tier
