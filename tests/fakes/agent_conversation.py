"""One conversation of a `FakeAgentServer`: its log, its state, its run, and who listens to it.

Everything here lives on the fake's own event loop. The order of events and the shape of every frame are those of the
recordings in `tests/recordings`.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.fakes import recordings
from tests.fakes.agent_script import (
    Answer,
    Call,
    Confirm,
    Fail,
    Finish,
    Hang,
    Move,
    Recording,
    Retried,
    Step,
    Stuck,
    Usage,
)

Json = dict[str, Any]

NUDGE = "Your last response did not include a function call or a message. Please use a tool to proceed with the task."
RESTARTED = (
    "A restart occurred while this tool was in progress. This may indicate a fatal memory error or system crash. "
    "The tool execution was interrupted and did not complete."
)

# What becomes of a fork whose LLM was not switched.
_KEYLESS = Fail(
    code="LLMServiceUnavailableError",
    kind="transient",
    is_retryable=True,
    detail="OpenAIException - Missing credentials",
)


@dataclass(slots=True)
class _OpenItem:
    item_id: str
    attempt: int
    orders: Iterator[int]


@dataclass(slots=True, eq=False)
class FakeConversation:
    """`posted` are the contents of the messages that were sent to it, in order; `requested` is the body it was created
    with; `llm` the LLM it has now. `events` is the log: an event's `seq` is its index.
    """

    id: uuid.UUID
    requested: Json
    status: str = "idle"
    events: list[Json] = field(default_factory=list)
    posted: list[list[Json]] = field(default_factory=list)
    interrupts: int = 0
    forked_from: uuid.UUID | None = None
    counts_tokens: bool = True
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    on_change: Callable[[], None] = field(default=lambda: None, repr=False)
    listeners: set[asyncio.Queue[Json]] = field(default_factory=set, repr=False)
    task: asyncio.Task[None] | None = field(default=None, repr=False)
    moves: list[Move] = field(default_factory=list, repr=False)
    _leaf: str | None = None
    _last_user_message: str | None = None
    _usage: Usage = field(default_factory=Usage.none)
    _calls: list[tuple[str, Usage]] = field(default_factory=list)
    _item: _OpenItem | None = None
    _step: tuple[str, str] | None = None

    @property
    def agent(self) -> Json:
        agent: Json = self.requested["agent"]
        return agent

    @property
    def llm(self) -> Json:
        llm: Json = self.agent["llm"]
        return llm

    @property
    def tags(self) -> Json:
        return self.requested.get("tags") or {}

    @property
    def working_dir(self) -> str:
        return str(self.requested["workspace"]["working_dir"])

    @property
    def is_answered(self) -> bool:
        """Whether a run would find nothing to do."""
        return self.status == "finished" or not self.posted

    @property
    def is_running(self) -> bool:
        return self.task is not None and not self.task.done()

    @property
    def prompt(self) -> list[tuple[str, str]]:
        """Role and text of the messages that the agent sees now: those on the branch that `navigate` chose."""
        by_id = {event["id"]: event for event in self.events}
        branch: list[Json] = []
        event = by_id.get(self._leaf or "")
        while event is not None:
            branch.append(event)
            event = by_id.get(event.get("parent_id") or "")
        return [
            (event["llm_message"]["role"], "".join(part.get("text", "") for part in event["llm_message"]["content"]))
            for event in reversed(branch)
            if event["kind"] == "MessageEvent"
        ]

    # --- what the REST routes show ----------------------------------------------------------------------------------

    def info(self) -> Json:
        return {
            "id": str(self.id),
            "workspace": {"working_dir": self.working_dir, "kind": "LocalWorkspace"},
            "execution_status": self.status,
            "last_user_message_id": self._last_user_message,
            "leaf_event_id": self._leaf,
            "stats": self._stats(with_calls=True),
            "title": None,
            "created_at": self.created_at.isoformat(),
            "tags": self.tags,
            "forked_from_conversation_id": str(self.forked_from) if self.forked_from else None,
            "agent": {**self.agent, "llm": {**self.llm, "api_key": None}},
        }

    def full_state(self) -> Json:
        value = {
            "id": str(self.id),
            "agent": {"llm": {**self.llm, "api_key": "**********"}, "kind": "Agent"},
            "workspace": {"working_dir": self.working_dir, "kind": "LocalWorkspace"},
            "execution_status": self.status,
            "last_user_message_id": self._last_user_message,
            "leaf_event_id": self._leaf,
            "stats": self._stats(with_calls=True),
            "tags": self.tags,
        }
        value = {name: one for name, one in value.items() if one is not None}
        event = _event("ConversationStateUpdateEvent", source="environment", key="full_state", value=value)
        return {"type": "transient", "event": event}

    def _stats(self, *, with_calls: bool) -> Json:
        if not self._calls and self._usage == Usage.none():
            return {"usage_to_metrics": {}}
        metrics: Json = {"model_name": self.llm.get("model"), "accumulated_token_usage": self._usage.to_json()}
        if with_calls:
            metrics["token_usages"] = [usage.to_json() | {"response_id": response} for response, usage in self._calls]
        return {"usage_to_metrics": {str(self.llm.get("usage_id", "default")): metrics}}

    # --- the log ----------------------------------------------------------------------------------------------------

    def publish(self, frame: Json) -> None:
        for listener in self.listeners:
            listener.put_nowait(frame)
        self.on_change()

    def append(self, event: Json) -> Json:
        event.setdefault("parent_id", self._leaf)
        self.events.append(event)
        if event["kind"] != "ConversationStateUpdateEvent":
            self._leaf = event["id"]
        self.publish({"type": "durable", "seq": len(self.events) - 1, "event": event})
        return event

    def append_event(self, kind: str, **fields: Any) -> Json:
        return self.append(_event(kind, **fields))

    def _update(self, key: str, value: Any) -> None:
        self.append_event("ConversationStateUpdateEvent", source="environment", key=key, value=value)

    def set_status(self, status: str) -> None:
        self.status = status
        self._update("execution_status", status)

    def navigate(self, event_id: str) -> bool:
        """False for an event that is not in the log."""
        if all(event["id"] != event_id for event in self.events):
            return False
        self._leaf = event_id
        return True

    def fork(self, new_id: uuid.UUID, *, from_event_id: str | None, tags: Json) -> FakeConversation | None:
        """None for an event that is not in the log. The copy has no provider key, like the real server's."""
        ids = [event["id"] for event in self.events]
        if from_event_id is not None and from_event_id not in ids:
            return None
        end = len(ids) if from_event_id is None else ids.index(from_event_id) + 1
        agent = {**self.agent, "llm": {**self.llm, "api_key": None}}
        requested = {**self.requested, "agent": agent, "tags": tags}
        copy = FakeConversation(new_id, requested, forked_from=self.id, on_change=self.on_change)
        copy.events = list(self.events[:end])
        copy._leaf = from_event_id or self._leaf
        copy._last_user_message = self._last_user_message
        return copy

    def add_message(self, content: list[Json]) -> None:
        self.posted.append(content)
        if not self.events:
            prompt = {"cache_prompt": False, "type": "text", "text": "You are an agent."}
            self.append_event("SystemPromptEvent", source="agent", system_prompt=prompt, tools=[])
        if self.status == "finished":
            self.set_status("idle")
        message = self.append_event("MessageEvent", source="user", llm_message={"role": "user", "content": content})
        self._last_user_message = message["id"]
        self._update("last_user_message_id", message["id"])

    # --- a run ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Play the moves. Cancelled by `interrupt` and by a crash of the server, which clean up after it."""
        self.set_status("running")
        while self.status == "running":
            # Moves give the loop back between frames, so that readers see them one by one as with a real LLM.
            await asyncio.sleep(0)
            move = self.moves.pop(0) if self.moves else Answer("Done.")
            await self._play(move if self.llm.get("api_key") else _KEYLESS)
        self.publish(self.full_state())

    async def _play(self, move: Move) -> None:
        match move:
            case Answer():
                await self._answer(move)
            case Step():
                await self._take_step(move)
            case Finish():
                await self._finish(move)
            case Fail():
                await self._fail(move)
            case Retried():
                await self._stream(Call(move.streamed))
            case Stuck():
                self.set_status("stuck")
            case Confirm():
                action, _ = self._act(move.step)
                self.set_status("waiting_for_confirmation")
                self._count(move.step.usage, response=action["llm_response_id"])
            case Hang():
                await move.gate.pass_through()
            case Recording():
                await self._replay(move.name)

    async def _answer(self, move: Answer) -> None:
        if move.is_streamed:
            await self._stream(move)
        else:
            await self._wait(move, 0)
        response = self._count(move.usage)
        message: Json = {"role": "assistant", "content": [_text(move.full_text)]}
        if move.reasoning:
            message["reasoning_content"] = move.reasoning
        self.append_event(
            "MessageEvent", id=self._close_item(), source="agent", llm_message=message, llm_response_id=response
        )
        if move.full_text:
            self.set_status("finished")
        else:
            nudge = {"role": "user", "content": [_text(NUDGE)]}
            self.append_event("MessageEvent", source="environment", llm_message=nudge)

    async def _take_step(self, step: Step) -> None:
        if step.thought or step.reasoning:
            await self._stream(Call(step.thought, reasoning=step.reasoning))
        action, call_id = self._act(step)
        if step.gate is not None:
            await step.gate.pass_through()
        step.work_in(Path(self.working_dir))
        answer = {"tool_name": step.tool, "tool_call_id": call_id}
        if step.error:
            classification = {"kind": "agent_action", "retryable": True, "user_action": "retry"}
            self.append_event(
                "AgentErrorEvent", source="agent", error=step.error, classification=classification, **answer
            )
        else:
            observation = step.observation_json
            self.append_event(
                "ObservationEvent", source="environment", observation=observation, action_id=action["id"], **answer
            )
        self._step = None
        self._count(step.usage, response=action["llm_response_id"])

    def _act(self, step: Step) -> tuple[Json, str]:
        call_id = f"call_{uuid.uuid4().hex[:8]}"
        arguments = {name: value for name, value in step.action_json.items() if name != "kind"}
        action = self.append_event(
            "ActionEvent",
            id=self._close_item(),
            source="agent",
            thought=[_text(step.thought)],
            **({"reasoning_content": step.reasoning} if step.reasoning else {}),
            action=step.action_json,
            tool_name=step.tool,
            tool_call_id=call_id,
            tool_call={"id": call_id, "name": step.tool, "arguments": json.dumps(arguments), "origin": "completion"},
            llm_response_id=self._response_id(),
            security_risk="UNKNOWN",
        )
        self._step = (step.tool, call_id)
        return action, call_id

    async def _finish(self, move: Finish) -> None:
        if move.thought:
            await self._stream(Call(move.thought))
        action = {"message": move.message, "kind": "FinishAction"}
        event, call_id = self._act(Step(tool="finish", action=action, thought=move.thought))
        observation = {"content": [_text(move.message)], "is_error": False, "kind": "FinishObservation"}
        self.append_event(
            "ObservationEvent",
            source="environment",
            tool_name="finish",
            tool_call_id=call_id,
            observation=observation,
            action_id=event["id"],
        )
        self._step = None
        self.set_status("finished")
        self._count(move.usage, response=event["llm_response_id"])

    async def _fail(self, move: Fail) -> None:
        if move.streamed:
            await self._stream(Call(move.streamed))
            self.abort_item(move.reason)
        self.set_status("error")
        self.append_event(
            "ConversationErrorEvent",
            source="environment",
            code=move.code,
            detail=move.detail,
            classification={"kind": move.kind, "retryable": move.is_retryable, "user_action": "none"},
        )

    async def _stream(self, call: Call) -> None:
        attempt = self._item.attempt + 1 if self._item else 1
        item_id = self._item.item_id if self._item else str(uuid.uuid4())
        for number, (kind, piece) in enumerate(call.pieces):
            await self._wait(call, number)
            if number == 0:
                # A call that fails at once never starts an item.
                self._item = _OpenItem(item_id, attempt, iter(range(10**9)))
                started = {"item_id": item_id, "attempt": attempt, "anchor_seq": len(self.events) - 1}
                self.publish({"type": "item_started", **started})
            assert self._item is not None
            delta = {"item_id": item_id, "attempt": attempt, "order": next(self._item.orders)}
            self.publish({"type": "delta", **delta, "kind": kind, "content": piece, "choice_index": 0})
            await asyncio.sleep(0)
        await self._wait(call, len(call.pieces))

    @staticmethod
    async def _wait(call: Call, pieces_sent: int) -> None:
        if call.gate is not None and pieces_sent == call.hold_after:
            await call.gate.pass_through()
        if call.delay_seconds:
            await asyncio.sleep(call.delay_seconds)

    def abort_item(self, reason: str) -> None:
        if self._item is not None:
            aborted = {"item_id": self._item.item_id, "attempt": self._item.attempt, "reason": reason}
            self.publish({"type": "item_aborted", **aborted})
            self._item = None

    def abort_step(self, error: str) -> None:
        if self._step is not None:
            tool, call_id = self._step
            self.append_event("AgentErrorEvent", source="agent", tool_name=tool, tool_call_id=call_id, error=error)
            self._step = None

    def reject_step(self, reason: str) -> None:
        """Nobody allows the tool call that was waited with."""
        assert self._step is not None
        tool, call_id = self._step
        rejected = {"rejection_reason": reason, "rejection_source": "user", "action_id": self._leaf}
        self.append_event(
            "UserRejectObservation", source="environment", tool_name=tool, tool_call_id=call_id, **rejected
        )
        self._step = None
        self.set_status("idle")
        self.publish(self.full_state())

    def forget_item(self) -> None:
        """The process that streamed it is gone, so nobody says that it was aborted."""
        self._item = None

    def _close_item(self) -> str:
        item, self._item = self._item, None
        return item.item_id if item else str(uuid.uuid4())

    def _response_id(self) -> str:
        return f"chatcmpl-{uuid.uuid4().hex[:12]}"

    def _count(self, usage: Usage, response: str | None = None) -> str:
        """Add a call to the books, which are cumulative, and report them."""
        response = response or self._response_id()
        if not self.counts_tokens:
            return response
        self._calls.append((response, usage))
        self._usage = self._usage + usage
        self._update("stats", self._stats(with_calls=False))
        return response

    # --- replaying a recording --------------------------------------------------------------------------------------

    async def _replay(self, name: str) -> None:
        """What a recorded run sent after it had started, with new ids, under this conversation's numbers."""
        before = self._usage
        for frame in recordings.run_of(name):
            await asyncio.sleep(0)
            self._replay_frame(frame, before)

    def _replay_frame(self, frame: Json, before: Usage) -> None:
        if frame["type"] == "transient":
            value = frame["event"]["value"]
            for bucket in value["stats"]["usage_to_metrics"].values():
                self._calls += [(call["response_id"], Usage.from_json(call)) for call in bucket.get("token_usages", [])]
            return
        if frame["type"] != "durable":
            self.publish(frame)
            return
        event = frame["event"]
        event.pop("parent_id", None)
        if event.get("key") == "stats":
            for bucket in event["value"]["usage_to_metrics"].values():
                self._usage = before + Usage.from_json(bucket["accumulated_token_usage"])
            event["value"] = self._stats(with_calls=False)
        if event.get("key") == "execution_status":
            self.status = event["value"]
        self.append(event)


def _event(kind: str, **fields: Any) -> Json:
    # The real server's timestamps are naive and in its local time.
    return {"id": str(uuid.uuid4()), "timestamp": datetime.now().isoformat(), **fields, "kind": kind}  # noqa: DTZ005


def _text(text: str) -> Json:
    return {"cache_prompt": False, "type": "text", "text": text}
