"""Frames of the session socket, read from bytes that may be anything."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatgateway.agentserver import frames
from chatgateway.agentserver.schemas import Delta, DurableEvent, ItemAborted, ItemStarted, Objection, State
from chatgateway.turn_events import TokenCounts

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def read(frame: dict[str, Any]) -> Any:
    return frames.read(orjson.dumps(frame))


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ({"type": "sync"}, frames.Sync(through_seq=-1)),
        ({"type": "sync", "from_seq": 3, "through_seq": 6}, frames.Sync(through_seq=6)),
        ({"type": "item_started", "item_id": "i", "attempt": 2}, ItemStarted(item_id="i", attempt=2)),
        (
            {"type": "item_aborted", "item_id": "i", "attempt": 1, "reason": "cancelled"},
            ItemAborted(item_id="i", attempt=1, reason="cancelled"),
        ),
        (
            {"type": "delta", "item_id": "i", "attempt": 1, "order": 0, "kind": "reasoning", "content": "x", "new": 1},
            Delta(item_id="i", attempt=1, order=0, kind="reasoning", text="x"),
        ),
        (
            {"type": "delta", "item_id": "i", "order": 4, "content": "x"},
            Delta(item_id="i", attempt=1, order=4, kind="text", text="x"),
        ),
        ({"type": "durable", "seq": 4, "event": {"kind": "X"}}, DurableEvent(seq=4, event={"kind": "X"})),
        ({"type": "transient", "event": {"key": "goal", "value": {}}}, None),
        ({"type": "error", "code": "ValueError", "detail": "…"}, Objection(code="ValueError", detail="…")),
        ({"type": "weather"}, None),
    ],
)
def test_a_frame_becomes_what_it_says(frame, expected):
    assert read(frame) == expected


def test_a_state_tells_status_place_and_tokens():
    call = {"prompt_tokens": 1, "completion_tokens": 9, "response_id": "r2"}
    usage = {"accumulated_token_usage": {"prompt_tokens": 5}, "token_usages": [{"completion_tokens": 3}, call]}
    value = {
        "execution_status": "finished",
        "leaf_event_id": "leaf",
        "last_user_message_id": "mine",
        "stats": {"usage_to_metrics": {"condenser": {"token_usages": []}, "agent": usage}},
    }
    event = {"key": "full_state", "value": value, "timestamp": "2026-11-23T12:00:00"}

    assert read({"type": "transient", "event": event}) == State(
        status="finished",
        leaf_event_id="leaf",
        by_usage_id={"agent": TokenCounts(input=5)},
        last_call_output_tokens=9,
        last_response_id="r2",
        last_user_message_id="mine",
        server_time=datetime(2026, 11, 23, 12, 0),  # noqa: DTZ001 - the server's are naive
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{half",
        b"[1]",
        b"3",
        b'{"type": ["delta"]}',
        b'{"no": "type"}',
        b'{"type":"delta","item_id":7,"order":0,"content":"x"}',
        b'{"type":"delta","item_id":"i","order":"0","content":"x"}',
        b'{"type":"delta","item_id":"i","order":true,"content":"x"}',
        b'{"type":"delta","item_id":"i","order":0,"content":null}',
        b'{"type":"delta","item_id":"i","order":0,"content":"x","kind":"smell"}',
        b'{"type":"durable","seq":1,"event":[]}',
        b'{"type":"durable","event":{}}',
        b'{"type":"transient","event":{"key":"full_state","value":{}}}',
        b'{"type":"transient","event":{"key":"full_state","value":{"execution_status":4}}}',
        b"\xff\xfe",
    ],
)
def test_what_cannot_be_read_says_so(data):
    with pytest.raises(frames.UnreadableFrame):
        frames.read(data)


# A busy machine is no finding.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
fields = st.sampled_from(["item_id", "attempt", "order", "kind", "content", "seq", "event", "reason", "through_seq"])
types = st.sampled_from([*frames._READERS, "other"])


def is_readable(frame: dict[str, Any]) -> bool:
    try:
        frames.read(orjson.dumps(frame))
    except frames.UnreadableFrame:
        return False
    return True


@unhurried
@given(types, st.dictionaries(fields, anything, max_size=7))
def test_no_frame_can_do_worse_than_be_unreadable(kind, frame):
    assert is_readable({**frame, "type": kind}) in (True, False)


@unhurried
@given(anything, anything)
def test_no_state_can_do_worse_than_be_unreadable(stats, bucket):
    value = {"execution_status": "idle", "stats": stats}
    with_bucket = {"execution_status": "idle", "stats": {"usage_to_metrics": {"agent": bucket}}}
    states = [{"type": "transient", "event": {"key": "full_state", "value": one}} for one in (value, with_bucket)]

    assert {is_readable(state) for state in states} <= {True, False}


@pytest.mark.parametrize(
    ("stamp", "ahead", "occurred"),
    [
        pytest.param("2026-11-23T13:59:00", timedelta(hours=2), NOON - timedelta(minutes=1), id="naive, other zone"),
        pytest.param("2026-11-23T14:30:00", timedelta(hours=2), NOON, id="never later than it was received"),
        pytest.param("2026-11-23T13:59:00", None, NOON, id="naive, zone unknown"),
        pytest.param("2026-11-23T10:00:00+01:00", timedelta(hours=9), NOON - timedelta(hours=3), id="aware"),
        pytest.param("noon", timedelta(), NOON, id="no time"),
        pytest.param(None, timedelta(), NOON, id="missing"),
    ],
)
def test_an_events_time_is_told_by_our_clock(stamp, ahead, occurred):
    told = frames.occurred_at({"timestamp": stamp}, ahead=ahead, received_at=NOON)

    assert told == occurred
    assert told.tzinfo is UTC
