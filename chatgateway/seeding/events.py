"""The agent-server's log of a seeded turn: events of the kinds and shapes that version 1.58 writes."""

from __future__ import annotations

import datetime as dt
import json
import random
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from chatgateway.agentserver.schemas import DurableEvent
from chatgateway.seeding.talks import Did, Edited, Ran
from chatgateway.turn_events import TokenCounts

type Json = dict[str, Any]

_TITLES = {"terminal": "TerminalTool", "file_editor": "FileEditorTool", "task_tracker": "TaskTrackerTool"}


@dataclass(slots=True, kw_only=True)
class Log:
    """The log of one conversation; `taken()` hands out what was written since the last call."""

    rng: random.Random
    tools: tuple[str, ...]
    working_dir: str
    next_seq: int = 0
    leaf_id: str = ""
    _new: list[DurableEvent] = field(default_factory=list)
    _counts: dict[str, int] = field(default_factory=dict)

    def taken(self) -> list[DurableEvent]:
        taken, self._new = self._new, []
        return taken

    def begins(self, at: dt.datetime) -> None:
        tools = [{"kind": _TITLES.get(name, "Tool"), "title": name} for name in self.tools]
        prompt = {"type": "text", "text": "You are a careful assistant. You work in a directory of your own."}
        self._add("SystemPromptEvent", at, source="agent", system_prompt=prompt, tools=tools)

    def asked(self, text: str, at: dt.datetime) -> int:
        """Write the caller's message, and return its sequence number."""
        seq = self.next_seq
        self._add("MessageEvent", at, source="user", llm_message={"role": "user", "content": [_text(text)]})
        self._state("execution_status", "running", at)
        return seq

    def did(self, did: Did, began_at: dt.datetime, ended_at: dt.datetime) -> None:
        """Write a tool's call and its answer."""
        tool = "terminal" if isinstance(did, Ran) else "file_editor"
        arguments, observation = self._ran(did) if isinstance(did, Ran) else self._edited(did)
        call_id = f"call_{self.rng.getrandbits(32):08x}"
        kind = "TerminalAction" if isinstance(did, Ran) else "FileEditorAction"
        of_call = {"tool_name": tool, "tool_call_id": call_id}
        action_id = self._add(
            "ActionEvent",
            began_at,
            source="agent",
            thought=[_text(did.thought)],
            action={**arguments, "kind": kind},
            tool_call={"id": call_id, "name": tool, "arguments": json.dumps(arguments), "origin": "completion"},
            llm_response_id=f"chatcmpl-{self.rng.getrandbits(48):012x}",
            security_risk="UNKNOWN",
            **of_call,
        )
        self._add("ObservationEvent", ended_at, action_id=action_id, observation=observation, **of_call)

    def counted(self, used: TokenCounts, at: dt.datetime) -> None:
        """Write what all calls of the LLM used until now, after another one."""
        for name, count in (
            ("prompt_tokens", used.input),
            ("completion_tokens", used.output),
            ("cache_read_tokens", used.cached),
            ("cache_write_tokens", used.cache_write),
            ("reasoning_tokens", used.reasoning),
        ):
            self._counts[name] = self._counts.get(name, 0) + count
        metrics = {"accumulated_cost": 0.0, "accumulated_token_usage": dict(self._counts)}
        self._state("stats", {"usage_to_metrics": {"agent": metrics}}, at)

    def answered(self, text: str, at: dt.datetime) -> None:
        message = {"role": "assistant", "content": [_text(text)]}
        response_id = f"chatcmpl-{self.rng.getrandbits(48):012x}"
        self._add("MessageEvent", at, source="agent", llm_message=message, llm_response_id=response_id)
        self._state("execution_status", "finished", at)

    def interrupted(self, at: dt.datetime) -> None:
        self._state("execution_status", "paused", at)
        self._add("InterruptEvent", at, source="user")

    def failed(self, at: dt.datetime, *, code: str, kind: str, detail: str) -> None:
        self._state("execution_status", "error", at)
        classification = {"kind": kind, "retryable": kind in {"rate_limit", "transient"}}
        self._add("ConversationErrorEvent", at, code=code, detail=detail, classification=classification)

    def _ran(self, did: Ran) -> tuple[Json, Json]:
        arguments = {"command": did.command, "is_input": False, "reset": False}
        metadata = {"exit_code": did.exit_code, "working_dir": self.working_dir, "username": "agent"}
        observation = {
            "content": [_text(did.output)],
            "is_error": False,
            "command": did.command,
            "exit_code": did.exit_code,
            "timeout": False,
            "metadata": metadata,
            "kind": "TerminalObservation",
        }
        return arguments, observation

    @staticmethod
    def _edited(did: Edited) -> tuple[Json, Json]:
        if did.before:
            arguments = {"command": "str_replace", "path": did.path, "old_str": did.before, "new_str": did.after}
            said = f"The file {did.path} has been edited."
        else:
            arguments = {"command": "create", "path": did.path, "file_text": did.after}
            said = f"File created successfully at: {did.path}"
        observation = {
            "content": [_text(said)],
            "is_error": False,
            "command": arguments["command"],
            "path": did.path,
            "prev_exist": bool(did.before),
            "old_content": did.before or None,
            "new_content": did.after,
            "kind": "FileEditorObservation",
        }
        return arguments, observation

    def _state(self, key: str, value: Any, at: dt.datetime) -> None:
        leaf = self.leaf_id
        self._add("ConversationStateUpdateEvent", at, key=key, value=value)
        self.leaf_id = leaf  # the leaf is the last event that is part of the talk

    def _add(self, kind: str, at: dt.datetime, **fields: Any) -> str:
        event_id = str(UUID(int=self.rng.getrandbits(128), version=4))
        event = {
            "id": event_id,
            "timestamp": at.replace(tzinfo=None).isoformat(),
            "source": "environment",
            "parent_id": self.leaf_id or None,
            **fields,
            "kind": kind,
        }
        self._new.append(DurableEvent(seq=self.next_seq, event=event, occurred_at=at))
        self.next_seq += 1
        self.leaf_id = event_id
        return event_id


def _text(text: str) -> Json:
    return {"cache_prompt": False, "type": "text", "text": text}
