"""What of an agent's work a caller gets to see, and as what.

An agent with tools writes text before it calls one. While that text is being written nothing tells it from the
answer, so it is held back: if a tool call follows it was a thought; once it is longer than the holdback it is
shown as the answer all the same. An agent without tools has no thoughts, and everything is shown at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from chatgateway.turn_events import (
    AnswerEnded,
    AnswerShown,
    ItemDropped,
    ReasoningDelta,
    ReasoningShown,
    RunEvent,
    ShownEvent,
    StepFinished,
    StepShown,
    StepStarted,
    TextDelta,
    ThoughtEnded,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowingRules:
    """The profile's choices. `holdback_chars` is 0 for an agent without tools."""

    thoughts: Literal["reasoning", "content", "hidden"]
    activity: Literal["reasoning", "hidden"]
    holdback_chars: int


@dataclass(slots=True)
class _Item:
    held: str = ""
    sent: str = ""  # what of it was shown as answer
    reasoning_sent: bool = False


class Showing:
    """Turns run events into shown events. One per turn; not for use by two tasks at once.

    `answer` is the text of the last message the agent ended, which is the turn's answer. `shown` is what was
    shown as the answer so far; `reasoning` what was shown beside it. `has_acted` is true once a tool was called.
    """

    def __init__(self, rules: ShowingRules) -> None:
        self._rules = rules
        self._items: dict[str, _Item] = {}
        self.answer = ""
        self.shown = ""
        self.reasoning = ""
        self.has_acted = False
        self._thoughts_in_content = ""

    def show(self, event: RunEvent) -> list[ShownEvent]:
        match event:
            case TextDelta():
                return self._text(event.item_id, event.text)
            case ReasoningDelta():
                self._items.setdefault(event.item_id, _Item()).reasoning_sent = True
                return self._reason(event.text) if self._rules.thoughts != "hidden" else []
            case ItemDropped():
                return self._drop(event)
            case ThoughtEnded():
                return self._end_thought(event)
            case AnswerEnded():
                return self._end_answer(event)
            case StepStarted():
                self.has_acted = True
                return self._step(event.summary)
            case StepFinished() if event.is_error:
                return self._step(event.summary)
            case _:
                return []

    @property
    def collected(self) -> str:
        """The answer as a collected reply gives it: thoughts only where the profile shows them as content."""
        if self._thoughts_in_content and self.answer:
            return f"{self._thoughts_in_content}\n\n{self.answer}"
        return self.answer or self._thoughts_in_content

    @property
    def unfinished(self) -> str:
        """Text of an item that never ended (an interrupted call): shown, or still held back."""
        return "".join(item.sent + item.held for item in self._items.values())

    def partial(self) -> str:
        """What a caller who stops now has, or would have had a moment later: kept when a turn is cut short."""
        held = "".join(item.held for item in self._items.values())
        return self.shown + held if held else self.shown or self.answer

    def _text(self, item_id: str, text: str) -> list[ShownEvent]:
        item = self._items.setdefault(item_id, _Item())
        if item.sent:
            item.sent += text
            return self._answer(text)
        item.held += text
        if len(item.held) > self._rules.holdback_chars:
            return self._release(item)
        return []

    def _release(self, item: _Item) -> list[ShownEvent]:
        text, item.held = item.held, ""
        item.sent += text
        # Something else was shown as answer before: set the two apart as paragraphs.
        gap = "\n\n" if self.shown and not self.shown.endswith("\n\n") else ""
        return self._begin_message(gap, text)

    def _drop(self, event: ItemDropped) -> list[ShownEvent]:
        item = self._items.get(event.item_id)
        if item is None:
            return []
        if event.is_retried:
            item.held = ""
            if not item.sent:
                del self._items[event.item_id]
        # Text already sent cannot be withdrawn, and what an interrupted item held back is kept for the record.
        return []

    def _end_thought(self, event: ThoughtEnded) -> list[ShownEvent]:
        item = self._items.pop(event.item_id, _Item())
        self.has_acted = True
        out: list[ShownEvent] = []
        if event.reasoning and not item.reasoning_sent and self._rules.thoughts != "hidden":
            out += self._reason(event.reasoning + "\n")
        if not event.text.strip():
            return out
        if self._rules.thoughts == "content":
            self._thoughts_in_content += ("\n\n" if self._thoughts_in_content else "") + event.text
        if item.sent:
            return out  # it overflowed the holdback: it has been read as part of the answer
        if self._rules.thoughts == "content":
            gap = "\n\n" if self.shown else ""
            out += self._begin_message(gap, event.text)
        elif self._rules.thoughts == "reasoning":
            out += self._reason(event.text.rstrip() + "\n")
        return out

    def _end_answer(self, event: AnswerEnded) -> list[ShownEvent]:
        item = self._items.pop(event.item_id, _Item())
        out: list[ShownEvent] = []
        if event.reasoning and not item.reasoning_sent and self._rules.thoughts != "hidden":
            out += self._reason(event.reasoning)
        self.answer = event.text
        if item.sent:
            # Deltas joined equal the message (measured); a reconnect may have missed its tail.
            rest = event.text.removeprefix(item.sent) if event.text.startswith(item.sent) else ""
            return out + (self._answer(rest) if rest else [])
        item.held = event.text
        return out + (self._release(item) if event.text else [])

    def _step(self, line: str) -> list[ShownEvent]:
        if self._rules.activity == "hidden" or not line:
            return []
        self.reasoning += line + "\n"
        return [StepShown(line=line)]

    def _reason(self, text: str) -> list[ShownEvent]:
        self.reasoning += text
        return [ReasoningShown(text=text)]

    def _begin_message(self, gap: str, text: str) -> list[ShownEvent]:
        self.shown += gap + text
        return [AnswerShown(text=gap + text, begins_at=len(gap))]

    def _answer(self, text: str) -> list[ShownEvent]:
        self.shown += text
        return [AnswerShown(text=text)]
