"""What of an agent's work a caller gets to see, and as what.

An agent with tools writes text before it calls one. While that text is being written nothing tells it from the
answer, so it is held back: if a tool call follows it was a thought; once it is longer than the holdback it is
shown as the answer all the same. An agent without tools has no thoughts, and everything is shown at once.

An answer that is to be JSON is not shown at all while it is written: what was sent cannot be taken back. It comes whole
with the end of the turn.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from chatgateway.openai_api.answer_form import AnswerForm
from chatgateway.openai_api.stop_sequences import StopCut, cut
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
    """The profile's choices, and the form of the answer. `holdback_chars` is 0 for an agent without tools."""

    thoughts: Literal["reasoning", "content", "hidden"]
    activity: Literal["reasoning", "hidden"]
    holdback_chars: int
    form: AnswerForm = field(default_factory=AnswerForm)


@dataclass(slots=True)
class _Item:
    stop: StopCut
    held: str = ""
    sent: str = ""  # what of it was let through, to be shown as answer
    reasoning_sent: bool = False


class Showing:
    """Turns run events into shown events. One per turn; not for use by two tasks at once.

    `answer` is the text of the last message the agent ended, which is the turn's answer. `shown` is what was
    shown as the answer so far; `reasoning` what was shown beside it. `has_acted` is true once a tool was called.
    `was_cut`: the answer ends at a stop sequence; it may be empty then.
    """

    def __init__(self, rules: ShowingRules) -> None:
        self._rules = rules
        self._stop = rules.form.stop
        # Among the JSON of an answer there is no place for a thought.
        self._thoughts = "reasoning" if rules.form.output and rules.thoughts == "content" else rules.thoughts
        self._items: dict[str, _Item] = {}
        self.answer = ""
        self.shown = ""
        self.reasoning = ""
        self.has_acted = False
        self.was_cut = False
        self._thoughts_in_content = ""

    def show(self, event: RunEvent) -> list[ShownEvent]:
        match event:
            case TextDelta():
                return self._text(event.item_id, event.text)
            case ReasoningDelta():
                self._item(event.item_id).reasoning_sent = True
                return self._reason(event.text) if self._thoughts != "hidden" else []
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
        held = "".join(item.stop.held + cut(item.held, self._stop) for item in self._items.values())
        return self.shown + held if held else self.shown or self.answer

    def begin_again(self) -> None:
        """The agent is asked for its answer once more: what it answered before does not count."""
        self.answer, self.was_cut = "", False

    def _item(self, item_id: str) -> _Item:
        return self._items.get(item_id) or self._items.setdefault(item_id, _Item(StopCut(self._stop)))

    def _text(self, item_id: str, text: str) -> list[ShownEvent]:
        item = self._item(item_id)
        if item.sent:
            item.sent += text
            return self._answer(item.stop.feed(text) if self._stop else text)
        item.held += text
        if len(item.held) > self._rules.holdback_chars and self._rules.form.output is None:
            return self._release(item)
        return []

    def _release(self, item: _Item) -> list[ShownEvent]:
        text, item.held = item.held, ""
        item.sent += text
        return self._paragraph(item.stop.feed(text))

    def _paragraph(self, text: str) -> list[ShownEvent]:
        """Show text as answer, set apart from what else was shown as answer before."""
        gap = "\n\n" if self.shown and not self.shown.endswith("\n\n") else ""
        return self._begin_message(gap, text) if text else []

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
        item = self._item(event.item_id)
        del self._items[event.item_id]
        self.has_acted = True
        out: list[ShownEvent] = []
        if event.reasoning and not item.reasoning_sent and self._thoughts != "hidden":
            out += self._reason(event.reasoning + "\n")
        if not event.text.strip():
            return out
        thought = cut(event.text, self._stop) if self._thoughts == "content" else ""
        if thought:
            self._thoughts_in_content += ("\n\n" if self._thoughts_in_content else "") + thought
        if item.sent:
            return out + self._answer(item.stop.rest())  # it overflowed: it has been read as part of the answer
        if thought:
            gap = "\n\n" if self.shown else ""
            out += self._begin_message(gap, thought)
        elif self._thoughts == "reasoning":
            out += self._reason(event.text.rstrip() + "\n")
        return out

    def _end_answer(self, event: AnswerEnded) -> list[ShownEvent]:
        item = self._item(event.item_id)
        del self._items[event.item_id]
        out: list[ShownEvent] = []
        if event.reasoning and not item.reasoning_sent and self._thoughts != "hidden":
            out += self._reason(event.reasoning)
        self.answer = cut(event.text, self._stop)
        self.was_cut = self.answer != event.text
        if self._rules.form.output is not None:
            return out
        if item.sent:
            # Deltas joined equal the message (measured); a reconnect may have missed its tail.
            rest = event.text.removeprefix(item.sent) if event.text.startswith(item.sent) else ""
            return out + self._answer(item.stop.feed(rest) + item.stop.rest())
        return out + self._paragraph(self.answer)

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
        return [AnswerShown(text=text)] if text else []
