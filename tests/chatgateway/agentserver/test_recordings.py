"""What a real agent-server sent, translated: one golden file of run events per recording.

After a wanted change, `python -m tests.chatgateway.agentserver.test_recordings` writes the golden files anew; read the
difference before you commit it.
"""

from __future__ import annotations

from collections import Counter

import orjson
import pytest

from chatgateway.agentserver import frames
from chatgateway.agentserver.schemas import Delta, Frame, Reconnected
from chatgateway.agentserver.translate import Translator
from chatgateway.turn_events import (
    AnswerEnded,
    ItemDropped,
    ReasoningDelta,
    RunEnded,
    RunEvent,
    TextDelta,
    ThoughtEnded,
)
from tests.fakes import recordings

every_recording = pytest.mark.parametrize("name", recordings.NAMES)


def frames_of(name: str) -> list[Frame]:
    read = [frames.read(orjson.dumps(frame)) for frame in recordings.frames_of(name)]
    return [frame for frame in read if frame is not None and not isinstance(frame, frames.Sync)]


def translated(sent: list[Frame]) -> list[RunEvent]:
    translator = Translator(after_seq=-1)
    events = [event for frame in sent for event in translator.feed(frame)]
    assert not translator.unknown_kinds
    return events


def golden(events: list[RunEvent]) -> str:
    return "".join(f"{event!r}\n" for event in events)


@every_recording
def test_a_recorded_turn_becomes_these_run_events(name):
    expected = (recordings.DIRECTORY / f"{name}.run-events.txt").read_text()

    assert golden(translated(frames_of(name))) == expected


@every_recording
def test_every_item_that_was_shown_ends_exactly_once(name):
    events = translated(frames_of(name))

    shown = {event.item_id for event in events if isinstance(event, TextDelta | ReasoningDelta)}
    ends = Counter(
        event.item_id
        for event in events
        if isinstance(event, ThoughtEnded | AnswerEnded) or (isinstance(event, ItemDropped) and not event.is_retried)
    )
    assert [ends[item_id] for item_id in shown] == [1] * len(shown)


@every_recording
def test_the_end_comes_last_and_once(name):
    events = translated(frames_of(name))

    assert [isinstance(event, RunEnded) for event in events] == [False] * (len(events) - 1) + [True]


@every_recording
def test_somebody_who_comes_late_reads_the_same_answers_without_any_fragment(name):
    sent = frames_of(name)
    late = [frame for frame in sent if not (isinstance(frame, Delta) and frame.order == 0)]

    events = translated(late)

    assert not [event for event in events if isinstance(event, TextDelta | ReasoningDelta)]
    assert answers(events) == answers(translated(sent))


@every_recording
def test_frames_that_arrive_twice_change_nothing(name):
    sent = frames_of(name)

    assert translated([frame for frame in sent for _ in range(2)]) == translated(sent)


@every_recording
def test_reconnecting_before_every_frame_changes_nothing(name):
    sent = frames_of(name)
    interrupted = [one for frame in sent for one in (Reconnected(away_seconds=1.0), frame)]

    assert translated(interrupted) == translated(sent)


def answers(events: list[RunEvent]) -> list[AnswerEnded]:
    return [event for event in events if isinstance(event, AnswerEnded)]


if __name__ == "__main__":
    for recording in recordings.NAMES:
        path = recordings.DIRECTORY / f"{recording}.run-events.txt"
        path.write_text(golden(translated(frames_of(recording))))
