"""Reading the frames of the session socket: bytes in, the dataclasses of `schemas` out.

A frame that cannot be read is an `UnreadableFrame`, never a crash; a kind of frame that is not known is None.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from chatgateway.agentserver.schemas import (
    Delta,
    DurableEvent,
    Frame,
    ItemAborted,
    ItemStarted,
    Json,
    Objection,
    State,
    token_counts,
)


class UnreadableFrame(Exception):
    """Not JSON, or not the shape its type promises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sync:
    """The first frame of a connection. `through_seq` is the last event in the log then, -1 for an empty log."""

    through_seq: int


def read(data: bytes) -> Frame | Sync | None:
    """The frame in `data`; None for types of frames that the gateway has no use for.

    Raises UnreadableFrame.
    """
    try:
        frame = orjson.loads(data)
        reader = _READERS.get(frame["type"])
        return reader(frame) if reader else None
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise UnreadableFrame(f"{type(error).__name__} in a frame of {len(data)} bytes") from error


def occurred_at(event: Json, *, ahead: timedelta | None, received_at: datetime) -> datetime:
    """The event's time in UTC by our clock, given how far the agent-server's naive clock is `ahead` of ours.

    Falls back to `received_at` where the event or the connection gave no time.
    """
    stamp = _timestamp(event)
    if stamp is None:
        return received_at
    if stamp.tzinfo is not None:
        return stamp.astimezone(UTC)
    if ahead is None:
        return received_at
    return min(stamp.replace(tzinfo=UTC) - ahead, received_at)


def _timestamp(event: Json) -> datetime | None:
    try:
        return datetime.fromisoformat(event["timestamp"])
    except (KeyError, TypeError, ValueError):
        return None


def _delta(frame: Json) -> Delta:
    kind = frame.get("kind", "text")
    if kind not in ("text", "reasoning"):
        raise ValueError(kind)
    return Delta(
        item_id=_text(frame["item_id"]),
        attempt=_number(frame.get("attempt", 1)),
        order=_number(frame["order"]),
        kind=kind,
        text=_text(frame["content"]),
    )


def _durable(frame: Json) -> DurableEvent:
    event = frame["event"]
    if not isinstance(event, dict):
        raise TypeError
    return DurableEvent(seq=_number(frame["seq"]), event=event)


def _transient(frame: Json) -> State | None:
    event = frame["event"]
    if event.get("key") != "full_state":
        return None
    value = event["value"]
    last_call = _last_call(value.get("stats"))
    return State(
        status=_text(value["execution_status"]),
        leaf_event_id=value.get("leaf_event_id"),
        by_usage_id=token_counts(value.get("stats")),
        last_call_output_tokens=_number(last_call.get("completion_tokens") or 0),
        last_response_id=str(last_call.get("response_id") or ""),
        last_user_message_id=value.get("last_user_message_id"),
        server_time=_timestamp(event),
    )


def _last_call(stats: Any) -> Json:
    """The agent's own last LLM call. Buckets of other usage ids (a condenser's) never write the answer."""
    metrics = stats.get("usage_to_metrics") if isinstance(stats, dict) else None
    if not isinstance(metrics, dict) or not metrics:
        return {}
    bucket = metrics.get("agent") or next(iter(metrics.values()))
    calls = bucket.get("token_usages")
    return calls[-1] if isinstance(calls, list) and calls and isinstance(calls[-1], dict) else {}


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


_READERS: dict[str, Callable[[Json], Frame | Sync | None]] = {
    "delta": _delta,
    "durable": _durable,
    "transient": _transient,
    "item_started": lambda frame: ItemStarted(
        item_id=_text(frame["item_id"]), attempt=_number(frame.get("attempt", 1))
    ),
    "item_aborted": lambda frame: ItemAborted(
        item_id=_text(frame["item_id"]), attempt=_number(frame.get("attempt", 1)), reason=str(frame.get("reason", ""))
    ),
    "error": lambda frame: Objection(code=str(frame.get("code", "")), detail=str(frame.get("detail", ""))),
    "sync": lambda frame: Sync(through_seq=_number(frame.get("through_seq", -1))),
}
