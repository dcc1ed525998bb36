"""What a caller sees of an agent's work."""

from __future__ import annotations

import pytest

from chatgateway.answer import Showing, ShowingRules
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

STEP = StepStarted(step_id="s", tool="terminal", summary="Running: ls")


def showing(*, thoughts="reasoning", activity="reasoning", holdback=10) -> Showing:
    return Showing(ShowingRules(thoughts=thoughts, activity=activity, holdback_chars=holdback))


def shown(by: Showing, *events: RunEvent) -> list[ShownEvent]:
    return [out for event in events for out in by.show(event)]


def content(events: list[ShownEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, AnswerShown))


def test_an_agent_without_tools_is_shown_as_it_writes() -> None:
    by = showing(holdback=0)

    assert shown(by, TextDelta(item_id="a", text="He")) == [AnswerShown(text="He")]
    assert shown(by, TextDelta(item_id="a", text="y"), AnswerEnded(item_id="a", text="Hey")) == [AnswerShown(text="y")]
    assert by.collected == "Hey"


def test_a_short_thought_goes_beside_the_answer_and_never_into_it() -> None:
    by = showing()

    events = shown(
        by,
        TextDelta(item_id="t", text="Looking."),
        ThoughtEnded(item_id="t", text="Looking."),
        STEP,
        StepFinished(step_id="s", tool="terminal", summary="exit code 0"),
        TextDelta(item_id="a", text="Empty."),
        AnswerEnded(item_id="a", text="Empty."),
    )

    assert events == [
        ReasoningShown(text="Looking.\n"),
        StepShown(line="Running: ls"),
        AnswerShown(text="Empty."),
    ]
    assert by.collected == "Empty."
    assert by.has_acted


def test_a_thought_longer_than_the_holdback_is_streamed_and_set_apart_from_the_answer() -> None:
    by = showing(holdback=5)

    events = shown(
        by,
        TextDelta(item_id="t", text="Let me look"),
        ThoughtEnded(item_id="t", text="Let me look"),
        STEP,
        AnswerEnded(item_id="a", text="Empty."),
    )

    assert content(events) == "Let me look\n\nEmpty."
    assert by.collected == "Empty."


def test_thoughts_as_content_are_part_of_both_replies() -> None:
    by = showing(thoughts="content")

    events = shown(by, ThoughtEnded(item_id="t", text="Look."), STEP, AnswerEnded(item_id="a", text="Empty."))

    assert content(events) == "Look.\n\nEmpty."
    assert by.collected == content(events)


@pytest.mark.parametrize("setting", [{"thoughts": "hidden"}, {"activity": "hidden"}])
def test_what_is_hidden_is_not_shown(setting: dict[str, str]) -> None:
    by = showing(**setting)

    events = shown(by, ThoughtEnded(item_id="t", text="Look."), STEP, AnswerEnded(item_id="a", text="Empty."))

    hidden = ReasoningShown if "thoughts" in setting else StepShown
    assert not any(isinstance(event, hidden) for event in events)
    assert content(events) == "Empty."


def test_only_steps_that_went_wrong_report_their_end() -> None:
    by = showing()
    good = StepFinished(step_id="s", tool="terminal", summary="exit code 0")
    bad = StepFinished(step_id="s", tool="terminal", summary="exit code 1", is_error=True)

    assert shown(by, good, bad) == [StepShown(line="exit code 1")]


def test_an_attempt_that_is_repeated_is_forgotten_while_nothing_of_it_was_sent() -> None:
    by = showing(holdback=100)

    events = shown(
        by,
        TextDelta(item_id="a", text="Half a"),
        ItemDropped(item_id="a", is_retried=True),
        TextDelta(item_id="a", text="Whole."),
        AnswerEnded(item_id="a", text="Whole."),
    )

    assert content(events) == "Whole."


def test_what_an_interrupted_call_had_written_is_kept() -> None:
    by = showing(holdback=8)

    shown(by, TextDelta(item_id="a", text="One, two, "), TextDelta(item_id="a", text="three"))
    shown(by, ItemDropped(item_id="a", is_retried=False))

    assert by.partial() == "One, two, three"
    assert by.unfinished == "One, two, three"


def test_held_back_text_of_an_interrupted_call_is_kept_too() -> None:
    by = showing(holdback=100)

    shown(by, TextDelta(item_id="a", text="One"), ItemDropped(item_id="a", is_retried=False))

    assert by.partial() == "One"


def test_the_tail_that_a_reconnect_missed_is_sent_from_the_durable_text() -> None:
    by = showing(holdback=0)

    events = shown(by, TextDelta(item_id="a", text="One, "), AnswerEnded(item_id="a", text="One, two."))

    assert content(events) == "One, two."


def test_reasoning_of_the_model_is_shown_once_streamed_or_not() -> None:
    streamed, durable = showing(), showing()

    streamed_events = shown(
        streamed, ReasoningDelta(item_id="a", text="hm"), AnswerEnded(item_id="a", text="Yes.", reasoning="hm")
    )
    durable_events = shown(durable, AnswerEnded(item_id="a", text="Yes.", reasoning="hm"))

    assert streamed_events == durable_events == [ReasoningShown(text="hm"), AnswerShown(text="Yes.")]


def test_the_last_message_is_the_answer() -> None:
    by = showing(holdback=0)

    events = shown(by, AnswerEnded(item_id="a", text="First."), AnswerEnded(item_id="b", text="Second."))

    assert by.collected == "Second."
    assert content(events) == "First.\n\nSecond."


def test_a_long_thought_as_content_is_part_of_both_replies_too() -> None:
    by = showing(thoughts="content", holdback=5)

    events = shown(
        by,
        TextDelta(item_id="t", text="Let me look"),
        ThoughtEnded(item_id="t", text="Let me look"),
        STEP,
        AnswerEnded(item_id="a", text="Empty."),
    )

    assert content(events) == by.collected == "Let me look\n\nEmpty."
