"""By what a resent history is recognised: what counts and what does not, and where an answer may have been cut."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatgateway.openai_api import histories
from chatgateway.openai_api.histories import SentHistory
from chatgateway.openai_api.messages import parse_messages

WHOSE: dict[str, Any] = {"tenant_id": 1, "profile_id": 2, "system_text": "Be brief.", "end_user": "anna"}
SCOPE = histories.scope(**WHOSE)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def sent(*messages: dict[str, Any], scope: bytes = SCOPE) -> SentHistory:
    transcript = parse_messages(list(messages), accepts_images=True, accepts_remote_images=True)
    return histories.sent_history(transcript, scope=scope)


def ended(*messages: dict[str, Any], answer: str) -> str:
    return histories.end_digest(sent(*messages).request_digest, answer)


@pytest.mark.parametrize(
    "change", [{"tenant_id": 2}, {"profile_id": 1}, {"system_text": ""}, {"end_user": ""}, {"end_user": "Anna"}]
)
def test_every_part_of_whose_it_is_counts(change: dict[str, Any]) -> None:
    assert histories.scope(**WHOSE) == histories.scope(**WHOSE)
    assert histories.scope(**WHOSE | change) != SCOPE


@pytest.mark.parametrize(
    "resent",
    [
        "Yes.",
        "Yes.\n",
        "\n Yes. ",
        [{"type": "text", "text": "Yes."}],
        [{"type": "text", "text": ""}, {"type": "output_text", "text": "Yes."}],
        "<think>Hm.</think>Yes.",
        "<think>Hm.</think>\n\n<think>Hm!\n</think>\nYes.",
        '<details type="reasoning" done="true" duration="3">\n<summary>Thought</summary>\n> Hm.\n</details>\nYes.',
    ],
)
def test_what_clients_make_of_an_answer_is_the_answer(resent: Any) -> None:
    assert sent(user("Hi"), assistant(resent), user("More.")).answered == ended(user("Hi"), answer="Yes.")


@pytest.mark.parametrize(
    "resent",
    ["Yes!", "yes.", "Yes", "Y es.", "Yes. <think>Hm.</think>", "<think>Hm.Yes.", "<details>Hm.</details>Yes.", "Yes.\u200b"],
)  # fmt: skip
def test_anything_else_is_another_answer(resent: str) -> None:
    assert sent(user("Hi"), assistant(resent), user("More.")).answered != ended(user("Hi"), answer="Yes.")


@pytest.mark.parametrize("answer", ["<think>Hm.</think>", "<think>Hm.</think>\n", "<think>", "  <think>a</think>b"])
def test_an_answer_that_holds_reasoning_itself_is_found(answer: str) -> None:
    assert sent(user("Hi"), assistant(answer), user("More.")).answered == ended(user("Hi"), answer=answer)


def test_an_answer_of_reasoning_alone_is_told_from_another() -> None:
    one, other = (ended(user("Hi"), answer=f"<think>{text}</think>") for text in ("a", "b"))

    assert one != other


def test_calls_of_tools_and_their_results_count() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    result = {"role": "tool", "tool_call_id": "1", "content": "x"}
    variants = [
        sent(user("Hi"), assistant("Yes.", tool_calls=[call]), result),
        sent(user("Hi"), assistant("Yes."), result),
        sent(user("Hi"), assistant("Yes.", tool_calls=[call | {"id": "2"}]), result),
        sent(user("Hi"), assistant("Yes.", tool_calls=[call]), result | {"tool_call_id": "2"}),
        sent(user("Hi"), assistant("Yes.", tool_calls=[call]), user("x")),
    ]

    assert len({one.request_digest for one in variants}) == len(variants)


def test_texts_do_not_run_into_each_other() -> None:
    assert sent(user("ab"), user("c")).request_digest != sent(user("a"), user("bc")).request_digest


@pytest.mark.parametrize(
    ("messages", "stops"),
    [
        ([user("a")], []),
        ([user("a"), user("b")], [("", 1)]),
        ([user("a"), assistant(""), user("b")], [("", 1)]),
        ([user("a"), assistant("Ye"), user("b")], [("Ye", 2)]),
        ([user("a"), assistant("<think>Hm."), user("b")], [("", 2)]),
        ([user("a"), assistant("<think>Hm.</think>Ye"), user("b")], [("Ye", 2)]),
        ([user("a"), assistant("Yes."), user("b"), user("c")], [("", 3), ("Yes.", 2)]),
    ],
)
def test_where_an_answer_may_have_been_cut(messages: list[dict[str, Any]], stops: list[tuple[str, int]]) -> None:
    history = sent(*messages)

    assert [(stop.text, stop.upto) for stop in history.unanswered] == stops
    assert all(stop.digest in history.digests for stop in history.unanswered)


def test_a_cut_answer_is_found_by_its_question() -> None:
    (stop,) = sent(user("a"), assistant("Ye"), user("b")).unanswered

    assert stop.digest == sent(user("a")).request_digest


def test_a_history_can_be_written_on() -> None:
    transcript = parse_messages([user("b")], accepts_images=False, accepts_remote_images=False)

    digest = histories.followed_by(ended(user("a"), answer="Yes."), transcript.new)

    assert digest == sent(user("a"), assistant("Yes."), user("b")).request_digest
    assert histories.followed_by("", transcript.new) == histories.end_digest("", "Yes.") == ""


TEXT = st.text(st.sampled_from("ab <>\n"), min_size=1).filter(str.strip)


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5), TEXT)
def test_every_turn_of_a_talk_is_found_again(talk: list[tuple[str, str]], last: str) -> None:
    messages = [message for asked, said in talk for message in (user(asked), assistant(said))]
    digest = SCOPE.hex()
    for asked, said in talk:
        transcript = parse_messages([user(asked)], accepts_images=False, accepts_remote_images=False)
        digest = histories.end_digest(histories.followed_by(digest, transcript.new), said)

    assert sent(*messages, user(last)).answered == digest
