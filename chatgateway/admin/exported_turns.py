"""A turn as it stands in an exported file: an object with all of it, or a row with the figures and the texts.

Texts that were removed, or that the person may not read, are named as such and never just empty. Nothing here queries.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from django.utils import timezone

from chatgateway.admin import turn_files, turn_parts, turn_story, turn_told
from chatgateway.admin.turn_parts import Steps
from chatgateway.admin.turn_story import Section, Step
from chatgateway.models import Event, Turn

type Json = dict[str, Any]

NOT_PERMITTED = "left out: reading what was asked and answered takes the permission of the role auditor"
# A cell of Excel and LibreOffice holds 32,767.
MAXIMUM_CELL_CHARS = 32_000
# What a spreadsheet takes for the beginning of a formula, the wide forms of East Asian locales included.
_FORMULAS = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r")

COLUMNS = (
    "opened_at", "time_zone", "tenant", "end_user", "profile", "model", "api_key", "client", "outcome", "error_code",
    "duration_seconds", "input_tokens", "output_tokens", "cost_usd", "usage_is_estimated", "match", "tools",
    "files_changed", "texts", "question", "answer", "error", "turn", "conversation", "request_id", "agent_server",
)  # fmt: skip


def texts_of(turn: Turn, *, may_read: bool) -> str:
    """Return what became of the texts: `included`, or why they are not."""
    if turn.content_removed_at is not None:
        return f"removed on {_moment(turn.content_removed_at)}: {turn.content_removed_by}"
    return "included" if may_read else NOT_PERMITTED


def line(turn: Turn, events: Sequence[Event], *, may_read: bool) -> str:
    """Return the line of a file of JSON lines."""
    return json.dumps(_whole(turn, events, may_read=may_read), ensure_ascii=False) + "\n"


def heading() -> str:
    """Return the first row of a CSV file, with the mark by which spreadsheets know UTF-8."""
    return "\ufeff" + _row(COLUMNS)


def row(turn: Turn, *, tools: str, may_read: bool) -> str:
    """Return the row of a CSV file. Texts that would be formulas begin with an apostrophe."""
    texts = texts_of(turn, may_read=may_read)
    is_told = texts == "included"
    asked = turn_story.question(turn.last_message) if is_told else None
    values = {
        "opened_at": _moment(turn.opened_at),
        "time_zone": timezone.get_current_timezone_name(),
        "tenant": turn.tenant_name,
        "end_user": turn.end_user,
        "profile": turn.profile_snapshot.get("slug", ""),
        "model": turn.model_id,
        "api_key": turn.key_name,
        "client": turn.client,
        "outcome": turn.outcome,
        "error_code": turn.error_code,
        "duration_seconds": _seconds(turn),
        "input_tokens": turn.input_tokens,
        "output_tokens": turn.output_tokens,
        "cost_usd": turn.cost_usd,
        "usage_is_estimated": str(turn.is_usage_estimated).lower(),
        "match": turn.match,
        "tools": tools,
        "files_changed": _files(turn, has_acted=bool(tools)) if is_told else "",
        "texts": texts,
        "question": "" if asked is None else "\n".join([asked.text, *(f"[{one}]" for one in asked.images)]),
        "answer": turn.answer if is_told else "",
        "error": turn.error_message if is_told else "",
        "turn": turn.pk,
        "conversation": turn.conversation_id,
        "request_id": turn.request_id,
        "agent_server": turn.server_url,
    }
    return _row([_cell(values[name]) for name in COLUMNS])


def _files(turn: Turn, *, has_acted: bool) -> str:
    """Return a line for each file."""
    told = turn_files.of(turn, has_acted=has_acted)
    if told is None:
        return ""
    return told.why_not or "\n".join(f"{file.path} ({file.told})" for file in told.files)


def _row(cells: Iterable[str]) -> str:
    written = io.StringIO()
    csv.writer(written).writerow(cells)
    return written.getvalue()


def _cell(value: Any) -> str:
    """Return what a spreadsheet shows as text or number, and never runs."""
    match value:
        case None:
            return ""
        case Decimal():
            return f"{value:f}"
        case str():
            rest = len(value) - MAXIMUM_CELL_CHARS
            text = value if rest <= 0 else f"{value[:MAXIMUM_CELL_CHARS]}\n… {rest:,} more characters"
            # Some look behind blanks.
            is_formula = text.startswith(_FORMULAS) or text.lstrip().startswith(_FORMULAS)
            return f"'{text}" if is_formula else text
        case _:
            return str(value)


def _whole(turn: Turn, events: Sequence[Event], *, may_read: bool) -> Json:
    texts = texts_of(turn, may_read=may_read)
    return {
        "turn": str(turn.pk),
        "conversation": _text(turn.conversation_id),
        "goes_on_after": _text(turn.parent_id),
        "match": turn.match,
        "time_zone": timezone.get_current_timezone_name(),
        **{
            name: _moment(getattr(turn, name))
            for name in ("opened_at", "started_at", "accepted_at", "first_text_at", "closed_at")
        },
        "duration_seconds": _seconds(turn),
        "outcome": turn.outcome,
        "kind": turn.kind,
        "http_status": turn.http_status,
        "error_code": turn.error_code,
        "finish_reason": turn.finish_reason,
        "stopped_by": turn.cancel_reason,
        "tenant": turn.tenant_name,
        "end_user": turn.end_user,
        "api_key": {"name": turn.key_name, "prefix": turn.key_prefix},
        "profile": turn.profile_snapshot.get("slug", ""),
        "llm": turn_told.llm_told(turn),
        "agent_server": turn.server_url,
        "endpoint": turn.endpoint,
        "model": turn.model_id,
        "is_stream": turn.is_stream,
        "client": turn.client,
        "address": turn.address,
        "request_id": turn.request_id,
        "reply_id": turn.reply_id,
        "ignored_parameters": turn.ignored_parameters,
        "elided_messages": turn.elided_messages,
        "usage": {
            **{
                name: getattr(turn, name)
                for name in (
                    "input_tokens",
                    "cached_tokens",
                    "cache_write_tokens",
                    "output_tokens",
                    "reasoning_tokens",
                )
            },
            "is_estimated": turn.is_usage_estimated,
        },
        "prices_usd_per_million_tokens": turn.prices,
        "cost_usd": _amount(turn.cost_usd),
        "texts": texts,
        **(_texts(turn, events) if texts == "included" else {}),
    }


def _texts(turn: Turn, events: Sequence[Event]) -> Json:
    asked = turn_story.question(turn.last_message)
    story = turn_parts.steps_from(turn, events)
    return {
        "question": None
        if asked is None
        else {"role": asked.role, "text": asked.text, "others": asked.images, "earlier_messages": asked.earlier},
        "steps": [_step(step) for step in story.steps],
        **_more(story),
        "files_changed": turn_files.as_json(turn, has_acted=story.has_acted),
        "reasoning": turn.reasoning,
        "answer": turn.answer,
        "error": {"message": turn.error_message, "detail": turn.error_detail}
        if turn.error_message or turn.error_detail
        else None,
    }


def _more(story: Steps) -> Json:
    return {"more_steps": f"Of the first {turn_story.MAXIMUM_EVENTS} events only."} if story.has_more else {}


def _step(step: Step) -> Json:
    used = step.usage
    return {
        "at": _moment(step.at),
        "kind": step.kind,
        "tool": step.tool,
        "title": step.title,
        "seconds": step.seconds,
        "is_error": step.is_error,
        "input_tokens": used.input if used else None,
        "output_tokens": used.output if used else None,
        "cost_usd": _amount(used.cost_usd) if used else None,
        "sections": [_section(section) for section in step.sections],
    }


def _section(section: Section) -> Json:
    if section.lines:
        return {"label": section.label, "diff": "\n".join(one.text for one in section.lines)}
    return {"label": section.label, "text": section.text}


def _moment(at: dt.datetime | None) -> str | None:
    """Return a time in the viewer's zone, with its distance from UTC."""
    return None if at is None else timezone.localtime(at).isoformat(timespec="milliseconds")


def _seconds(turn: Turn) -> float | None:
    return None if turn.closed_at is None else round((turn.closed_at - turn.opened_at).total_seconds(), 3)


def _amount(value: Decimal | None) -> float | None:
    return None if value is None else float(value)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
