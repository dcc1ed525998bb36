"""Shown events as the numbered events of a streamed response, and as its output.

A pure function of what was shown: whoever folds the same events, in whatever process and however late, gets the same
numbers, ids and bytes. That is what lets a client go on with a stream at the number where it was cut.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from chatgateway.openai_api.error_body import error_body
from chatgateway.openai_api.responses_reply import (
    ResponseHead,
    Status,
    error_object,
    failed_status,
    message_item,
    text_part,
)
from chatgateway.openai_api.sse import json_bytes
from chatgateway.turn_events import (
    NOTHING,
    AnswerShown,
    ReasoningShown,
    ShownEvent,
    StepShown,
    TokenCounts,
    TurnAnswered,
    TurnFailed,
)

Numbered = tuple[int, bytes]


@dataclass(slots=True)
class _Message:
    id: str
    index: int
    text: str = ""


@dataclass(slots=True)
class _Reasoning:
    """`part` is the summary part that is being written. Line breaks at its end wait until something follows them."""

    id: str
    index: int
    parts: list[str] = field(default_factory=list)
    part: str | None = None
    breaks: str = ""

    @property
    def item(self) -> dict[str, Any]:
        return {"id": self.id, "type": "reasoning", "summary": [_summary(text) for text in self.parts]}


class ResponseStream:
    """Call `opening` first, then `events` with whatever has arrived; nothing comes after the turn's end.

    `resource` is the response as it stands. An item is open until the next one begins: only then it is known whether a
    message was the answer or a comment on the way to it.
    """

    def __init__(self, head: ResponseHead) -> None:
        self._head = head
        self._number = 0
        self._output: list[dict[str, Any]] = []
        self._open: _Message | _Reasoning | None = None
        self._has_begun = not head.is_background
        self._has_commented = False
        self._out: list[Numbered] = []
        self.resource = head.resource("queued" if head.is_background else "in_progress")
        self.has_ended = False

    def opening(self) -> list[Numbered]:
        """What a subscriber is told at once."""
        self._emit("response.created", response=self.resource)
        self._emit("response.queued" if self._head.is_background else "response.in_progress", response=self.resource)
        return self._taken()

    def begun(self) -> list[Numbered]:
        """A response in the background has left the queue; harmless if that was said before."""
        self._begin()
        return self._taken()

    def events(self, batch: Iterable[ShownEvent], *, closed_at: int | None = None) -> list[Numbered]:
        """The events for `batch`. `closed_at`, in Unix seconds, is needed with the turn's end."""
        for event in batch:
            if self.has_ended:
                break
            if isinstance(event, TurnFailed) and event.is_handover:
                self._hand_over(event)
                break
            self._begin()
            match event:
                case AnswerShown():
                    self._answer(event)
                case ReasoningShown():
                    self._reason(event.text)
                case StepShown():
                    self._step(event.line)
                case TurnAnswered():
                    self._end_well(event, closed_at)
                case TurnFailed():
                    self._close(status="incomplete")
                    used = event.usage if event.usage != NOTHING else None
                    self._end(failed_status(event), "response.failed", usage=used, error=error_object(event))
        return self._taken()

    # --- items ------------------------------------------------------------------------------------------------------

    def _answer(self, event: AnswerShown) -> None:
        text = event.text
        if event.begins_at is not None or not isinstance(self._open, _Message):
            self._close(status="incomplete" if event.is_retold else "completed")
            text = text[event.begins_at or 0 :]
        if text:
            self._write(text)

    def _write(self, text: str) -> None:
        message = self._open
        if not isinstance(message, _Message):
            message = self._open = _Message(id=self._new_id("msg"), index=len(self._output))
            added = {"id": message.id, "type": "message", "role": "assistant", "status": "in_progress", "content": []}
            self._emit("response.output_item.added", output_index=message.index, item=added)
            self._emit("response.content_part.added", **self._in_message(message), part=text_part(""))
        message.text += text
        self._emit("response.output_text.delta", **self._in_message(message), delta=text, logprobs=[])

    def _reason(self, text: str) -> None:
        reasoning = self._open
        if reasoning is None or isinstance(reasoning, _Message):
            text = text.lstrip("\n")
            if not text:
                return
        reasoning = self._reasoning()
        text = reasoning.breaks + text
        shown = text.rstrip("\n")
        reasoning.breaks = text[len(shown) :]
        if reasoning.part is None:
            shown, reasoning.breaks = shown.lstrip("\n"), reasoning.breaks if shown else ""
        if shown:
            self._write_part(reasoning, shown)

    def _step(self, line: str) -> None:
        reasoning = self._reasoning()
        self._close_part(reasoning)
        self._write_part(reasoning, line)
        self._close_part(reasoning)

    def _reasoning(self) -> _Reasoning:
        if not isinstance(self._open, _Reasoning):
            self._close()
            reasoning = self._open = _Reasoning(id=self._new_id("rs"), index=len(self._output))
            self._emit("response.output_item.added", output_index=reasoning.index, item=reasoning.item)
        return self._open

    def _write_part(self, reasoning: _Reasoning, text: str) -> None:
        if reasoning.part is None:
            reasoning.part = ""
            self._emit("response.reasoning_summary_part.added", **self._in_part(reasoning), part=_summary(""))
        reasoning.part += text
        self._emit("response.reasoning_summary_text.delta", **self._in_part(reasoning), delta=text)

    def _close_part(self, reasoning: _Reasoning) -> None:
        reasoning.breaks = ""
        if reasoning.part is None:
            return
        where, text = self._in_part(reasoning), reasoning.part
        self._emit("response.reasoning_summary_text.done", **where, text=text)
        self._emit("response.reasoning_summary_part.done", **where, part=_summary(text))
        reasoning.parts.append(text)
        reasoning.part = None

    def _close(self, *, status: str = "completed", phase: str | None = "commentary") -> None:
        """End the open item. A message that something follows was a comment."""
        if self._open is None:
            return
        if isinstance(self._open, _Reasoning):
            self._close_part(self._open)
            item = self._open.item
        else:
            message, where = self._open, self._in_message(self._open)
            self._emit("response.output_text.done", **where, text=message.text, logprobs=[])
            self._emit("response.content_part.done", **where, part=text_part(message.text))
            item = message_item(message.id, message.text, status=status, phase=phase)
            self._has_commented = self._has_commented or phase == "commentary"
        self._output.append(item)
        self._open = None
        self._emit("response.output_item.done", output_index=len(self._output) - 1, item=item)

    # --- the end ----------------------------------------------------------------------------------------------------

    def _end_well(self, answered: TurnAnswered, closed_at: int | None) -> None:
        written = self._open.text if isinstance(self._open, _Message) else None
        if written is None:
            self._close()
            self._write(answered.text)  # a provider that does not stream, or an agent without a word
        elif answered.text.startswith(written):
            if rest := answered.text[len(written) :]:
                self._write(rest)
        elif not answered.text.endswith(written):  # else comments are part of it, which were items of their own
            self._close(status="incomplete")
            self._write(answered.text)
        is_cut = answered.finish_reason == "length"
        self._close(
            status="incomplete" if is_cut else "completed", phase="final_answer" if self._has_commented else None
        )
        if is_cut:
            self._end("incomplete", "response.incomplete", usage=answered.usage, incomplete_reason="max_output_tokens")
        else:
            self._end("completed", "response.completed", usage=answered.usage, completed_at=closed_at)

    def _end(
        self,
        status: Status,
        type: str,
        *,
        usage: TokenCounts | None = None,
        error: dict[str, Any] | None = None,
        incomplete_reason: str | None = None,
        completed_at: int | None = None,
    ) -> None:
        self.resource = self._head.resource(
            status,
            output=self._output,
            usage=usage,
            error=error,
            incomplete_reason=incomplete_reason,
            completed_at=completed_at,
        )
        self._emit(type, response=self.resource)
        self.has_ended = True

    def _hand_over(self, failed: TurnFailed) -> None:
        """The connection ends and the response does not. The number is that of the event before: a client that goes on
        after it misses nothing. In the flat form of OpenAI and the nested one of Open Responses: each is read by
        clients that the other alone breaks."""
        body = error_body(failed)["error"]
        flat = {name: body[name] for name in ("code", "message", "param")}
        self._number -= 1
        self._emit("error", **flat, error=body)
        self.has_ended = True

    # --- writing ----------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            self.resource = self._head.resource("in_progress")
            self._emit("response.in_progress", response=self.resource)

    def _emit(self, type: str, **fields: Any) -> None:
        event = {"type": type, "sequence_number": self._number, **fields}
        self._out.append((self._number, b"event: " + type.encode("ascii") + b"\ndata: " + _json(event) + b"\n\n"))
        self._number += 1

    def _taken(self) -> list[Numbered]:
        out, self._out = self._out, []
        return out

    def _new_id(self, prefix: str) -> str:
        return f"{prefix}_{self._head.key}{len(self._output):04x}"

    @staticmethod
    def _in_message(message: _Message) -> dict[str, Any]:
        return {"item_id": message.id, "output_index": message.index, "content_index": 0}

    @staticmethod
    def _in_part(reasoning: _Reasoning) -> dict[str, Any]:
        return {"item_id": reasoning.id, "output_index": reasoning.index, "summary_index": len(reasoning.parts)}


def folded(
    head: ResponseHead, shown: Iterable[ShownEvent], *, has_begun: bool = False, closed_at: int | None = None
) -> dict[str, Any]:
    """The response that all that was shown so far amounts to. `has_begun`: it has left the queue."""
    stream = ResponseStream(head)
    stream.opening()
    if has_begun:
        stream.begun()
    stream.events(shown, closed_at=closed_at)
    return stream.resource


def _summary(text: str) -> dict[str, Any]:
    return {"type": "summary_text", "text": text}


def _json(value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # lone surrogates
        return json_bytes(value)
