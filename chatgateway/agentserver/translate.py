"""From an agent-server's frames to run events: which of them belong to our run, what they mean, when it is over.

The rules, each seen on agent-server 1.58:
- A run begins with our message: the first MessageEvent of the user after the cursor. What comes before it, deltas of
  earlier items included, is not ours.
- A run ends with a `full_state` whose status is not `running`, once `running` was seen. The durable status event comes
  too early: errors, and with a finish tool the token counts, follow it.
- Text streams as an *item* that turns into the event of the same id: an ActionEvent (it was a thought) or a
  MessageEvent (it was an answer). Until then nothing tells the two apart.
- Messages of `environment` are the agent-server's own nudges to the LLM.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chatgateway.agentserver import summaries
from chatgateway.agentserver.schemas import (
    Delta,
    DurableEvent,
    Frame,
    ItemAborted,
    ItemStarted,
    Json,
    Objection,
    Reconnected,
    State,
    token_counts,
)
from chatgateway.turn_events import (
    AnswerEnded,
    ItemDropped,
    MessageAccepted,
    NeedsConfirmation,
    ReasoningDelta,
    RunEnded,
    RunEvent,
    RunFailed,
    StepFinished,
    StepStarted,
    TextDelta,
    ThoughtEnded,
    UsageReported,
)

# Kinds that are known and say nothing to a caller; any other is counted in `unknown_kinds`.
_SILENT_KINDS = frozenset(
    {
        "SystemPromptEvent",
        "Condensation",
        "CondensationRequest",
        "CondensationSummaryEvent",
        "HookExecutionEvent",
        "LLMCompletionLogEvent",
        "TokenEvent",
        "ResumeTranscriptEvent",
    }
)


@dataclass(slots=True)
class _Item:
    """What was seen of a streamed item. `was_shown`: something of this attempt was handed on."""

    attempt: int
    next_order: int = 0
    has_gap: bool = False
    was_shown: bool = False


class Translator:
    """One run's frames, in the feed's order, to run events. Not for use by two tasks.

    `after_seq` is the cursor before the message was posted. `message_is_mine` is for a run that `run()` started
    for a message already in the log: then everything after the cursor is ours, and no MessageAccepted comes.

    What holds of the events: every item of which a delta was handed on ends in exactly one ThoughtEnded, AnswerEnded or
    ItemDropped that is not retried; RunFailed and NeedsConfirmation come directly before RunEnded; after RunEnded
    nothing comes.
    """

    def __init__(self, *, after_seq: int, message_is_mine: bool = False) -> None:
        self._seq = after_seq
        self._is_ours = message_is_mine
        self._has_started = False
        self._message_id: str | None = None
        self._earlier_message_id: str | None = None
        self._items: dict[str, _Item] = {}
        self._closed_items: set[str] = set()
        self._steps: dict[str, str] = {}  # tool call id -> step id
        self._finish_steps: set[str] = set()
        self._response_ids: set[str] = set()
        self._failure: RunFailed | None = None
        self._was_paused = False
        self.unknown_kinds: Counter[str] = Counter()
        self.is_ended = False

    @property
    def has_message(self) -> bool:
        """Whether our message stands in the log."""
        return self._is_ours

    @property
    def has_started(self) -> bool:
        """Whether the run for it began. After a restart of the agent-server, a message may stand there without one."""
        return self._has_started

    def feed(self, frame: Frame) -> list[RunEvent]:
        if self.is_ended:
            return []
        match frame:
            case Delta():
                return self._delta(frame)
            case DurableEvent():
                return self._durable(frame)
            case ItemStarted():
                return self._item_started(frame)
            case ItemAborted():
                return self._item_aborted(frame)
            case State():
                return self._state(frame)
            case Reconnected() | Objection():
                return []  # deltas that were missed show as a gap in their order

    # --- items ------------------------------------------------------------------------------------------------------

    def _item_started(self, frame: ItemStarted) -> list[RunEvent]:
        if not self._is_ours:
            self._closed_items.add(frame.item_id)
            return []
        if frame.item_id in self._closed_items:
            return []
        self._has_started = True
        return self._begin_attempt(frame.item_id, frame.attempt)

    def _delta(self, frame: Delta) -> list[RunEvent]:
        if not self._is_ours:
            self._closed_items.add(frame.item_id)
            return []
        if frame.item_id in self._closed_items:
            return []
        events = self._begin_attempt(frame.item_id, frame.attempt)
        item = self._items[frame.item_id]
        if frame.attempt < item.attempt or frame.order < item.next_order:
            return events  # of an attempt that was given up, or a repetition
        # A reader who came late, or was away, never gets the deltas it missed. A text with a hole is no use to anybody:
        # the event that the item becomes has all of it.
        item.has_gap = item.has_gap or frame.order > item.next_order
        item.next_order = frame.order + 1
        if item.has_gap or not frame.text:
            return events
        item.was_shown = True
        delta = TextDelta if frame.kind == "text" else ReasoningDelta
        return [*events, delta(item_id=frame.item_id, text=frame.text)]

    def _begin_attempt(self, item_id: str, attempt: int) -> list[RunEvent]:
        item = self._items.get(item_id)
        if item is not None and attempt <= item.attempt:
            return []
        self._items[item_id] = _Item(attempt=attempt)
        return [ItemDropped(item_id=item_id, is_retried=True)] if item is not None and item.was_shown else []

    def _item_aborted(self, frame: ItemAborted) -> list[RunEvent]:
        item = self._items.get(frame.item_id)
        if item is None or frame.attempt < item.attempt:
            return []
        return self._drop(frame.item_id)

    def _drop(self, item_id: str) -> list[RunEvent]:
        item = self._close(item_id)
        return [ItemDropped(item_id=item_id, is_retried=False)] if item is not None and item.was_shown else []

    def _close(self, item_id: str) -> _Item | None:
        self._closed_items.add(item_id)
        return self._items.pop(item_id, None)

    # --- events of the log --------------------------------------------------------------------------------------------

    def _durable(self, frame: DurableEvent) -> list[RunEvent]:
        if frame.seq <= self._seq:
            return []
        self._seq = frame.seq
        event = frame.event
        if not self._is_ours:
            return self._look_for_message(frame)
        handle = _HANDLERS.get(frame.kind)
        if handle is not None:
            return handle(self, event)
        if frame.kind not in _SILENT_KINDS:
            self.unknown_kinds[frame.kind] += 1
        return []

    def _look_for_message(self, frame: DurableEvent) -> list[RunEvent]:
        event = frame.event
        if frame.kind != "MessageEvent" or event.get("source") != "user":
            return []
        self._is_ours = True
        self._message_id = frame.id or None
        return [MessageAccepted(seq=frame.seq)]

    def _message(self, event: Json) -> list[RunEvent]:
        if event.get("source") != "agent":
            return []
        self._note_response(event)
        item_id = str(event.get("id"))
        self._close(item_id)
        message = event.get("llm_message")
        return [AnswerEnded(item_id=item_id, text=summaries.message_text(message), reasoning=_reasoning(message))]

    def _action(self, event: Json) -> list[RunEvent]:
        self._note_response(event)
        step_id, tool = str(event.get("id")), str(event.get("tool_name") or "tool")
        self._steps[str(event.get("tool_call_id"))] = step_id
        thought, reasoning = summaries.message_text({"content": event.get("thought")}), _reasoning(event)
        item = self._close(step_id)
        events: list[RunEvent] = []
        if thought or reasoning or (item is not None and item.was_shown):
            events.append(ThoughtEnded(item_id=step_id, text=thought, reasoning=reasoning))
        action = event.get("action")
        if isinstance(action, dict) and action.get("kind") == "FinishAction":
            # An answer, given as a tool's argument. It was not streamed; the item, if any, was the thought before it.
            self._finish_steps.add(step_id)
            return [*events, AnswerEnded(item_id=f"{step_id}/finish", text=str(action.get("message") or ""))]
        return [*events, StepStarted(step_id=step_id, tool=tool, summary=summaries.of_action(event))]

    def _observation(self, event: Json) -> list[RunEvent]:
        call_id = str(event.get("tool_call_id"))
        step_id = str(event.get("action_id") or self._steps.get(call_id, call_id))
        if step_id in self._finish_steps:
            return []
        return [
            StepFinished(
                step_id=step_id,
                tool=str(event.get("tool_name") or "tool"),
                summary=summaries.of_observation(event),
                is_error=summaries.is_error(event),
            )
        ]

    def _state_update(self, event: Json) -> list[RunEvent]:
        match event.get("key"):
            case "execution_status" if event.get("value") == "running":
                # Perhaps a second try of a run that failed, read back from the log: the failure is not the end then.
                self._has_started, self._failure, self._was_paused = True, None, False
            case "stats":
                return [UsageReported(by_usage_id=token_counts(event.get("value")))]
        return []

    def _error(self, event: Json) -> list[RunEvent]:
        classification = event.get("classification")
        known: Json = classification if isinstance(classification, dict) else {}
        self._failure = RunFailed(
            code=str(event.get("code") or "unknown"),
            kind=str(known.get("kind") or "unknown"),
            is_retryable=known.get("retryable") is True,
            detail=str(event.get("detail") or ""),
        )
        return []

    def _pause(self, _event: Json) -> list[RunEvent]:
        self._was_paused = True
        return []

    def _interrupt(self, _event: Json) -> list[RunEvent]:
        # An interrupt that was asked for pauses nothing first. An agent-server that is told to stop does both.
        if self._was_paused:
            self._failure = _RESTARTED
        return []

    def _note_response(self, event: Json) -> None:
        self._has_started = True
        self._response_ids.add(str(event.get("llm_response_id")))

    # --- the end ------------------------------------------------------------------------------------------------------

    def _state(self, state: State) -> list[RunEvent]:
        if not self._is_ours:
            self._earlier_message_id = state.last_user_message_id
            return []
        if state.status == "running":
            self._has_started = True
            return []
        if not self._has_started or self._is_of_earlier_run(state):
            return []
        self.is_ended = True
        # An item that is open now will never end: its abort was missed, or the agent-server died while it streamed.
        events = [dropped for item_id in list(self._items) for dropped in self._drop(item_id)]
        if state.status == "error":
            events.append(self._failure or _RESTARTED)
        elif state.status == "paused" and self._failure is not None:
            events.append(self._failure)
        elif state.status == "waiting_for_confirmation":
            events.append(NeedsConfirmation())
        is_ours = state.last_response_id in self._response_ids
        events.append(
            RunEnded(
                status=state.status,
                leaf_event_id=state.leaf_event_id,
                by_usage_id=state.by_usage_id,
                last_call_output_tokens=state.last_call_output_tokens if is_ours else 0,
            )
        )
        return events

    def _is_of_earlier_run(self, state: State) -> bool:
        """An interrupt makes the agent-server send the state twice; the second may come when our run has begun."""
        told = state.last_user_message_id
        return told is not None and told == self._earlier_message_id and self._message_id not in (None, told)


# An agent-server that was killed finds its unfinished runs when it is back and calls them `error`, without an event
# that says why; one that was told to stop has paused and interrupted them. `run` goes on with either.
_RESTARTED = RunFailed(
    code="ServerRestarted",
    kind="transient",
    is_retryable=True,
    detail="The agent-server was restarted during the run.",
)

_HANDLERS: dict[str, Callable[[Translator, Json], list[RunEvent]]] = {
    "MessageEvent": Translator._message,
    "ActionEvent": Translator._action,
    "ObservationEvent": Translator._observation,
    "AgentErrorEvent": Translator._observation,
    "UserRejectObservation": Translator._observation,
    "ConversationStateUpdateEvent": Translator._state_update,
    "ConversationErrorEvent": Translator._error,
    "PauseEvent": Translator._pause,
    "InterruptEvent": Translator._interrupt,
}


def _reasoning(holder: Any) -> str:
    reasoning = holder.get("reasoning_content") if isinstance(holder, dict) else None
    return reasoning if isinstance(reasoning, str) else ""
