"""Rules of the translation that no recording shows: late readers, stale states, restarts, retries."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from chatgateway.agentserver.schemas import Delta, DurableEvent, Frame, ItemAborted, ItemStarted, Reconnected, State
from chatgateway.agentserver.translate import Translator
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
    TokenCounts,
    UsageReported,
)

RESTARTED = RunFailed(
    code="ServerRestarted",
    kind="transient",
    is_retryable=True,
    detail="The agent-server was restarted during the run.",
)


def durable(seq: int, kind: str, **fields: Any) -> DurableEvent:
    return DurableEvent(seq=seq, event={"id": f"event-{seq}", "kind": kind, **fields})


def message(seq: int, *, source: str = "user", text: str = "hello", **fields: Any) -> DurableEvent:
    content = [{"type": "text", "text": text}]
    return durable(seq, "MessageEvent", source=source, llm_message={"content": content}, **fields)


def status(seq: int, value: str) -> DurableEvent:
    return durable(seq, "ConversationStateUpdateEvent", key="execution_status", value=value)


def error(seq: int) -> DurableEvent:
    classification = {"kind": "transient", "retryable": True}
    return durable(seq, "ConversationErrorEvent", code="LLMTimeoutError", detail="slow", classification=classification)


def action(seq: int, call_id: str, **fields: Any) -> DurableEvent:
    given = {"command": "ls", "kind": "TerminalAction"}
    return durable(seq, "ActionEvent", tool_name="terminal", tool_call_id=call_id, action=given, **fields)


def state(value: str, **fields: Any) -> State:
    return State(status=value, leaf_event_id="leaf", by_usage_id={}, **fields)


def delta(order: int, text: str, *, item: str = "item", attempt: int = 1, kind: Any = "text") -> Delta:
    return Delta(item_id=item, attempt=attempt, order=order, kind=kind, text=text)


def started(item: str = "item", attempt: int = 1) -> ItemStarted:
    return ItemStarted(item_id=item, attempt=attempt)


def ended(value: str, **fields: Any) -> RunEnded:
    return RunEnded(status=value, leaf_event_id="leaf", by_usage_id={}, **fields)


def translate(*frames: Frame, after_seq: int = 0, **arguments: Any) -> list[RunEvent]:
    translator = Translator(after_seq=after_seq, **arguments)
    return [event for frame in frames for event in translator.feed(frame)]


# Our message and the start of the run for it; every run below begins with them.
BEGUN = (message(1), status(2, "running"))
ACCEPTED = MessageAccepted(seq=1)


def test_a_run_is_over_at_the_state_that_follows_and_not_at_the_status_event():
    translator = Translator(after_seq=0)
    begun = [event for frame in (*BEGUN, status(3, "finished")) for event in translator.feed(frame)]

    assert begun == [ACCEPTED]
    assert translator.feed(state("finished")) == [ended("finished")]
    assert translator.is_ended


def test_nothing_comes_after_the_end():
    late = (delta(0, "x"), message(5, source="agent"), state("paused"), error(6))

    assert translate(*BEGUN, state("finished"), *late) == [ACCEPTED, ended("finished")]


def test_what_was_before_our_message_is_not_ours():
    before = (message(0), delta(0, "old", item="old"), message(-1, source="agent"), started("older"), error(-2))
    after = (
        delta(1, "old", item="old"),
        delta(0, "older", item="older"),
        ItemAborted(item_id="old", attempt=1, reason=""),
    )

    assert translate(*before, *BEGUN, *after) == [ACCEPTED]


def test_the_state_of_an_earlier_run_does_not_end_ours():
    assert translate(state("finished"), message(1), state("finished"), status(2, "running")) == [ACCEPTED]


def test_the_second_state_of_an_earlier_interrupt_does_not_end_ours():
    earlier = state("paused", last_user_message_id="event-earlier")

    assert translate(earlier, *BEGUN, earlier) == [ACCEPTED]


def test_a_state_that_tells_no_message_ends_the_run():
    assert translate(state("finished"), *BEGUN, state("finished")) == [ACCEPTED, ended("finished")]


def test_a_run_goes_on_while_the_state_says_so():
    assert translate(*BEGUN, state("running")) == [ACCEPTED]


@pytest.mark.parametrize(
    "evidence",
    [
        pytest.param(state("running"), id="a state"),
        pytest.param(started(), id="an item"),
        pytest.param(message(3, source="agent", text="hi"), id="an answer"),
    ],
)
def test_a_run_is_known_to_have_started_by_more_than_its_status_event(evidence):
    assert translate(message(1), evidence, state("finished"))[-1] == ended("finished")


def test_a_run_for_a_message_in_the_log_needs_no_message():
    assert translate(status(1, "running"), state("finished"), message_is_mine=True) == [ended("finished")]


def test_a_run_for_a_message_in_the_log_does_not_end_before_it_starts():
    assert translate(state("error"), message_is_mine=True) == []


def test_a_translator_tells_whether_the_message_arrived_and_the_run_began():
    translator = Translator(after_seq=0)
    seen = [(translator.has_message, translator.has_started)]
    for frame in BEGUN:
        translator.feed(frame)
        seen.append((translator.has_message, translator.has_started))

    assert seen == [(False, False), (True, False), (True, True)]


def test_text_and_reasoning_are_handed_on_and_empty_deltas_are_not():
    frames = (started(), delta(0, ""), delta(1, "why", kind="reasoning"), delta(2, "so"))

    assert translate(*BEGUN, *frames) == [
        ACCEPTED,
        ReasoningDelta(item_id="item", text="why"),
        TextDelta(item_id="item", text="so"),
    ]


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param((delta(3, "late"), delta(4, "r")), id="joined late"),
        pytest.param((started(), delta(1, "e"), delta(2, "nd")), id="the first was lost"),
    ],
)
def test_fragments_are_kept_back_and_the_event_brings_the_whole_text(frames):
    whole = message(3, source="agent", text="all of it")
    as_item = DurableEvent(seq=3, event={**whole.event, "id": "item"})

    assert translate(*BEGUN, *frames, as_item) == [ACCEPTED, AnswerEnded(item_id="item", text="all of it")]


def test_after_a_gap_nothing_more_of_the_item_is_handed_on():
    frames = (delta(0, "a"), delta(2, "c"), delta(3, "d"), Reconnected(away_seconds=1.0), delta(4, "e"))

    assert translate(*BEGUN, *frames) == [ACCEPTED, TextDelta(item_id="item", text="a")]


def test_a_delta_that_comes_twice_or_late_is_left_out():
    frames = (delta(0, "a"), delta(0, "a"), delta(1, "b"), delta(0, "a"))

    assert translate(*BEGUN, *frames) == [
        ACCEPTED,
        TextDelta(item_id="item", text="a"),
        TextDelta(item_id="item", text="b"),
    ]


@pytest.mark.parametrize("announced", [(started(attempt=2),), ()], ids=["announced", "announcement missed"])
def test_a_second_attempt_voids_the_first(announced):
    frames = (started(), delta(0, "a"), *announced, delta(0, "b", attempt=2), delta(1, "late", attempt=1))

    assert translate(*BEGUN, *frames) == [
        ACCEPTED,
        TextDelta(item_id="item", text="a"),
        ItemDropped(item_id="item", is_retried=True),
        TextDelta(item_id="item", text="b"),
    ]


def test_an_item_of_which_nothing_was_shown_is_dropped_in_silence():
    aborted = ItemAborted(item_id="item", attempt=1, reason="cancelled")

    assert translate(*BEGUN, started(), aborted) == [ACCEPTED]


def test_the_abort_of_an_attempt_that_was_given_up_says_nothing_of_the_next():
    aborted = ItemAborted(item_id="item", attempt=1, reason="LLMTimeoutError")

    assert translate(*BEGUN, started(attempt=2), delta(0, "b", attempt=2), aborted)[-1] == TextDelta(
        item_id="item", text="b"
    )


def test_a_server_that_died_while_text_streamed_drops_the_item_and_says_so():
    frames = (started(), delta(0, "a"), Reconnected(away_seconds=9.0), status(3, "error"), state("error"))

    assert translate(*BEGUN, *frames) == [
        ACCEPTED,
        TextDelta(item_id="item", text="a"),
        ItemDropped(item_id="item", is_retried=False),
        RESTARTED,
        ended("error"),
    ]


def test_a_server_that_was_told_to_stop_paused_the_run_and_interrupted_it():
    frames = (status(3, "paused"), durable(4, "PauseEvent"), durable(5, "InterruptEvent"), state("paused"))

    assert translate(*BEGUN, *frames) == [ACCEPTED, RESTARTED, ended("paused")]


def test_an_interrupt_that_was_asked_for_is_no_failure():
    frames = (status(3, "paused"), durable(4, "InterruptEvent"), state("paused"))

    assert translate(*BEGUN, *frames) == [ACCEPTED, ended("paused")]


def test_a_failure_is_told_directly_before_the_end():
    failure = RunFailed(code="LLMTimeoutError", kind="transient", is_retryable=True, detail="slow")

    assert translate(*BEGUN, status(3, "error"), error(4), state("error")) == [ACCEPTED, failure, ended("error")]


def test_an_error_without_classification_is_not_called_retryable():
    bare = durable(3, "ConversationErrorEvent", code="Odd", detail="?")

    assert translate(*BEGUN, bare, state("error"))[1] == RunFailed(
        code="Odd", kind="unknown", is_retryable=False, detail="?"
    )


def test_a_failure_that_was_tried_again_is_not_the_end():
    retried = (status(3, "error"), error(4), status(5, "running"), message(6, source="agent", text="ok"))

    assert translate(*BEGUN, *retried, state("finished"))[1:] == [
        AnswerEnded(item_id="event-6", text="ok"),
        ended("finished"),
    ]


def test_a_run_that_waits_for_somebody_says_so_before_it_ends():
    waiting = state("waiting_for_confirmation")

    assert translate(*BEGUN, waiting) == [ACCEPTED, NeedsConfirmation(), ended("waiting_for_confirmation")]


def test_the_servers_own_messages_to_the_llm_and_other_users_messages_are_not_answers():
    assert translate(*BEGUN, message(3, source="environment"), message(4, source="user")) == [ACCEPTED]


def test_tool_calls_made_at_once_are_told_apart():
    failed = durable(5, "AgentErrorEvent", tool_name="terminal", tool_call_id="call-b", error="no")
    observed = durable(6, "ObservationEvent", tool_name="terminal", tool_call_id="call-a", observation={"exit_code": 1})

    assert translate(*BEGUN, action(3, "call-a"), action(4, "call-b"), failed, observed)[1:] == [
        StepStarted(step_id="event-3", tool="terminal", summary="Running: ls"),
        StepStarted(step_id="event-4", tool="terminal", summary="Running: ls"),
        StepFinished(step_id="event-4", tool="terminal", summary="Error: no", is_error=True),
        StepFinished(step_id="event-3", tool="terminal", summary="exit code 1"),
    ]


def test_a_thought_that_was_only_reasoned_is_told():
    with_reasoning = action(3, "call-a", reasoning_content="why not")

    assert translate(*BEGUN, with_reasoning)[1] == ThoughtEnded(item_id="event-3", text="", reasoning="why not")


def test_tokens_are_reported_as_they_come_in_all_usage_ids():
    usage = {"accumulated_token_usage": {"prompt_tokens": 5, "completion_tokens": 2, "cache_read_tokens": 1}}
    stats = durable(
        3, "ConversationStateUpdateEvent", key="stats", value={"usage_to_metrics": {"agent": usage, "condenser": usage}}
    )

    counts = TokenCounts(input=5, output=2, cached=1)
    assert translate(*BEGUN, stats)[1:] == [UsageReported(by_usage_id={"agent": counts, "condenser": counts})]


@pytest.mark.parametrize(("response_id", "tokens"), [("ours", 7), ("of an earlier run", 0)])
def test_only_a_call_of_this_run_tells_how_much_the_last_call_wrote(response_id, tokens):
    answer = message(3, source="agent", llm_response_id="ours")
    end = state("finished", last_call_output_tokens=7, last_response_id=response_id)

    assert translate(*BEGUN, answer, end)[-1] == ended("finished", last_call_output_tokens=tokens)


def test_kinds_of_events_that_are_not_known_are_counted_and_left_out():
    translator = Translator(after_seq=0)
    frames = (*BEGUN, durable(3, "WeatherEvent"), durable(4, "WeatherEvent"), durable(5, "Condensation"))

    assert [event for frame in frames for event in translator.feed(frame)] == [ACCEPTED]
    assert translator.unknown_kinds == Counter({"WeatherEvent": 2})
