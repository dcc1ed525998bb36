"""What happened in a turn, put in reading order from its rows: the question, the steps, and where each was cut.

Pure text: nothing here is HTML, and templates show it escaped. Tools change between releases of the agent-server, so
every field of an event is read as if it might be missing.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from chatgateway import message_store
from chatgateway.admin import diffs, step_costs
from chatgateway.admin.diffs import DiffLine
from chatgateway.admin.step_costs import CallUsage
from chatgateway.agentserver.summaries import message_text, without_controls
from chatgateway.models import Event, Message
from profiles.admin_theme import usd

type Json = dict[str, Any]

# Longer texts are cut here and whole in the raw events: a browser would choke on a page of a hundred log files.
MAXIMUM_CHARS = 20_000
# An agent of 100 iterations leaves about 250 events.
MAXIMUM_EVENTS = 500
_CHANGE = "Change"


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A labelled piece of a step: what a tool was called with, what it answered. A change of a text has `lines` too."""

    label: str
    text: str
    lines: tuple[DiffLine, ...] = ()


@dataclass(slots=True, kw_only=True)
class Step:
    """One thing the agent did. `sections` grow when the tool's answer comes."""

    title: str
    kind: str  # thought, tool, message, error or note
    tool: str = ""
    at: dt.datetime | None = None
    called_at: dt.datetime | None = None  # by the agent-server's clock
    seconds: float | None = None  # from the call to the answer
    usage: CallUsage | None = None  # of the call of the LLM that led to it; None: unknown, or told with a step before
    is_error: bool = False
    sections: list[Section] = field(default_factory=list)

    @property
    def opens(self) -> bool:
        """Whether there is more to see than the title."""
        return bool(self.sections)

    @property
    def used(self) -> str:
        """Tokens and money of the call of the LLM, such as `1,200 → 80 tokens, $0.0031`."""
        return used_told(self.usage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The caller's last message. `images` are told, not shown; `earlier` counts the messages sent before it."""

    text: str
    role: str
    images: list[str]
    earlier: int


def question(message: Message | None) -> Question | None:
    """Return what was asked, or None when the request held no readable message."""
    if message is None:
        return None
    text, images = _content(message.body.get("content") if isinstance(message.body, dict) else None)
    return Question(text=_cut(text), role=message.role, images=images, earlier=message.depth)


def excerpt(message: Message | None, limit: int) -> str:
    """Return the beginning of a message, for an overview of a conversation."""
    asked = question(message)
    if asked is None:
        return ""
    return cut_short(asked.text, limit) or ", ".join(asked.images)


def cut_short(text: str, limit: int, *, lines: int = 8) -> str:
    """Return the beginning of a text: at most so many characters and lines, with an ellipsis where it is cut."""
    text = text.strip()
    short = "\n".join(text[:limit].split("\n")[:lines]).rstrip()
    return short if len(short) == len(text) else f"{short}…"


def used_told(usage: CallUsage | None) -> str:
    """Return what a call of the LLM used, in words; empty where that is unknown."""
    if usage is None:
        return ""
    tokens = f"{usage.input:,} → {usage.output:,} tokens"
    return f"{tokens}, {usd(usage.cost_usd)}" if usage.cost_usd is not None else tokens


def answer_of(rows: Iterable[Event]) -> Event | None:
    """Return the agent's last message, which is its answer."""
    messages = (row for row in rows if row.kind == "MessageEvent" and _source(row) == "agent")
    return max(messages, key=lambda row: row.seq, default=None)


def steps(events: Iterable[Event], usage: Mapping[str, CallUsage] | None = None) -> list[Step]:
    """Return the agent's steps in order, each tool's answer with its call. The question and the last message of the
    agent, which is the answer, are left out: they have places of their own. `usage`: what each call of the LLM used,
    told with the first step it led to."""
    rows = list(events)
    left = dict(usage or {})
    answer = answer_of(rows)
    answer_seq = None if answer is None else answer.seq
    found: list[Step] = []
    calls: dict[str, Step] = {}
    for row in rows:
        match row.kind:
            case "ActionEvent":
                step = _action(row)
                step.usage = left.pop(step_costs.response_id(row), None)
                found.append(step)
                for name in _ids(row.raw):
                    calls[name] = step
            case "ObservationEvent" | "AgentErrorEvent" | "UserRejectObservation":
                _answer(row, calls, found)
            case "MessageEvent" if _source(row) == "agent" and row.seq != answer_seq:
                text = message_text(row.raw.get("llm_message"))
                found.append(_step(row, "A message before the answer", "message", [Section(label="Text", text=text)]))
            case "ConversationErrorEvent":
                found.append(_step(row, row.summary or "The run failed", "error", _all_of(row)))
            case "SystemPromptEvent" | "Condensation" | "InterruptEvent" | "PauseEvent":
                found.append(_step(row, row.summary or row.kind, "note", _system_text(row)))
            case _:
                continue  # state changes and the like: in the raw events
    return found


def _action(row: Event) -> Step:
    sections = []
    if thought := _text(row.raw.get("thought")):
        sections.append(Section(label="Thought", text=_cut(thought)))
    if reasoning := _str(row.raw.get("reasoning_content")):
        sections.append(Section(label="Reasoning", text=_cut(reasoning)))
    sections += _arguments(row)
    return _step(row, row.summary or row.tool or "A tool", "tool", sections)


def _arguments(row: Event) -> list[Section]:
    """Return what the tool was called with: texts of several lines each on their own, the rest as JSON."""
    action = row.raw.get("action")
    given: Json = {}
    if isinstance(action, dict):
        given = {name: value for name, value in action.items() if name != "kind" and value not in (None, "", [], {})}
    elif isinstance(call := row.raw.get("tool_call"), dict):
        given = {"arguments": call.get("arguments")}
    change = _change(_str(given.get("old_str")), _str(given.get("new_str")) or _str(given.get("file_text")))
    if change is not None:
        given = {name: value for name, value in given.items() if name not in {"old_str", "new_str", "file_text"}}
    texts = [
        Section(label=name.replace("_", " ").capitalize(), text=_cut(value))
        for name, value in given.items()
        if isinstance(value, str)
    ]
    texts += [] if change is None else [change]
    others = {name: value for name, value in given.items() if not isinstance(value, str) and value is not False}
    return texts + ([Section(label="Arguments", text=_cut(_pretty(others)))] if others else [])


def _change(before: str, after: str) -> Section | None:
    """Return what an editing tool changes; None where it changes nothing, or too much to be compared."""
    lines = diffs.between(before, after)
    return Section(label=_CHANGE, text=_cut(after), lines=tuple(lines)) if lines else None


def _answer(row: Event, calls: dict[str, Step], found: list[Step]) -> None:
    """Add a tool's answer to its call; one without a call is a step of its own."""
    step = next((calls[name] for name in _ids(row.raw) if name in calls), None)
    shown = without_controls(_cut(_output(row)))  # terminals without tmux leave colours in
    section = Section(label="Error" if row.is_error else "Output", text=shown or "(empty)")
    if step is None:
        found.append(_step(row, row.summary or row.kind, "error" if row.is_error else "tool", [section]))
        return
    if (change := _changed(row.raw)) is not None:  # of the whole file: it says on which lines
        step.sections = [one for one in step.sections if not one.lines]
        step.sections.append(change)
    step.sections.append(section)
    step.is_error = step.is_error or row.is_error
    answered_at = _timestamp(row.raw)
    if step.called_at is not None and answered_at is not None:
        step.seconds = max(0.0, (answered_at - step.called_at).total_seconds())
    if row.summary and row.summary not in {"done", step.title}:
        # “Editing a.py → Edited a.py” would say everything twice.
        says_it_again = step.title.rpartition(" ")[2] in row.summary.split()
        step.title = row.summary if says_it_again else f"{step.title} → {row.summary}"


def _changed(raw: Json) -> Section | None:
    observation = raw.get("observation")
    if not isinstance(observation, dict) or not isinstance(observation.get("new_content"), str):
        return None
    return _change(_str(observation.get("old_content")), _str(observation.get("new_content")))


def _output(row: Event) -> str:
    raw = row.raw
    observation = raw.get("observation")
    if isinstance(observation, dict):
        text = _text(observation.get("content"))
        return text or _pretty({name: value for name, value in observation.items() if name not in {"kind", "content"}})
    return _str(raw.get("error")) or _str(raw.get("rejection_reason")) or row.summary


def _system_text(row: Event) -> list[Section]:
    prompt = row.raw.get("system_prompt")
    text = _str(prompt.get("text")) if isinstance(prompt, dict) else ""
    text = text or _str(row.raw.get("summary"))
    return [Section(label="Text", text=_cut(text))] if text else []


def _all_of(row: Event) -> list[Section]:
    said = {name: row.raw[name] for name in ("code", "detail") if row.raw.get(name)}
    return [Section(label=name.capitalize(), text=_cut(str(value))) for name, value in said.items()]


def _step(row: Event, title: str, kind: str, sections: list[Section]) -> Step:
    return Step(
        title=title,
        kind=kind,
        tool=row.tool,
        at=row.received_at,
        called_at=_timestamp(row.raw),
        is_error=row.is_error,
        sections=sections,
    )


def _ids(raw: Json) -> list[str]:
    """Return the ids by which a call and its answer know each other."""
    return [value for name in ("action_id", "tool_call_id", "id") if isinstance(value := raw.get(name), str)]


def _timestamp(raw: Json) -> dt.datetime | None:
    """Return an event's time on the agent-server: naive, in its own zone; good for differences only."""
    try:
        at = dt.datetime.fromisoformat(_str(raw.get("timestamp")))
    except ValueError:
        return None
    return at.replace(tzinfo=dt.UTC)


def _source(row: Event) -> str:
    return row.source or _str(row.raw.get("source"))


def _content(content: Any) -> tuple[str, list[str]]:
    """Return a message's text, and what its other parts are."""
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    others = [_other(part) for part in parts if not isinstance(part.get("text"), str)]
    return message_store.text_of(content), others


def _other(part: Json) -> str:
    kind = _str(part.get("type")) or "part"
    holder = part.get("image_url")
    url = holder.get("url") if isinstance(holder, dict) else holder
    if isinstance(url, str):
        return f"image at {url[:200]}"
    return "image" if kind == "image_url" else kind[:40]


def _text(content: Any) -> str:
    return _content(content)[0]


def _str(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str) if value else ""


def _cut(text: str) -> str:
    if len(text) <= MAXIMUM_CHARS:
        return text
    return f"{text[:MAXIMUM_CHARS]}\n… {len(text) - MAXIMUM_CHARS:,} more characters, in the raw events"
