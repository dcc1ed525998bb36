from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatgateway.openai_api import eliding
from chatgateway.openai_api.eliding import fitted, shortened, tokens_of
from chatgateway.openai_api.messages import parse_messages
from chatgateway.openai_api.transcript import ImagePart, TextPart, Transcript, replay, user_text
from tests.chatgateway.openai_api.strategies import clean_text, examples

FENCE = "0123456789abcdef"
PNG = "data:image/png;base64,iVBORw0KGgo="


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(text: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text} | more


def transcript_of(*messages: dict[str, Any]) -> Transcript:
    return parse_messages(list(messages), accepts_images=True, accepts_remote_images=False)


def talk(pairs: int, chars: int = 300, *, asked: str = "now") -> Transcript:
    said = [
        message
        for number in range(pairs)
        for message in (user(f"question {number} ".ljust(chars, ".")), assistant(f"answer {number} ".ljust(chars, ".")))
    ]
    return transcript_of(*said, user(asked))


def texts(transcript: Transcript) -> list[str]:
    return [user_text(message.parts).split(" .")[0] for message in transcript.earlier]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 0), ("a", 1), ("hello world", 4), ("你好世界", 4), ("Привет", 4), ("🎈🎈", 3), ("\ud800", 1)],
)
def test_tokens_are_estimated_rather_too_high(text: str, tokens: int) -> None:
    assert tokens_of(text) == tokens


def test_what_fits_is_told_whole_and_so_is_everything_where_the_window_is_not_known() -> None:
    small, large = talk(5), talk(900)

    assert fitted(small, window_tokens=10_000) == eliding.Fitted(transcript=small)
    assert fitted(large, window_tokens=None) == eliding.Fitted(transcript=large)
    assert fitted(transcript_of(user("x" * 100_000)), window_tokens=1000).elided == 0


def test_the_middle_is_left_out_and_both_ends_are_kept() -> None:
    before = talk(50)

    found = fitted(before, window_tokens=10_000)

    kept = texts(found.transcript)
    assert kept[:2] == ["question 0", "answer 0"]
    assert kept[-2:] == ["question 49", "answer 49"]
    assert found.gap is not None
    # 300 characters are 100 tokens, 40 more for the tags: 35 messages in 5,000 tokens, a quarter of them the first.
    assert (found.gap.before, len(kept), found.gap.messages) == (8, 35, 65)
    assert found.elided == 65
    assert kept[8] == f"{'question' if 73 % 2 == 0 else 'answer'} {73 // 2}"
    assert found.transcript.user_parts == before.user_parts


def test_system_texts_and_the_new_message_take_their_room() -> None:
    plain = fitted(talk(50), window_tokens=10_000)
    system = fitted(talk(50), window_tokens=10_000, system_texts=["s" * 3000])
    asked = fitted(talk(50, asked="q" * 3000), window_tokens=10_000)

    assert plain.elided < system.elided
    assert abs(system.elided - asked.elided) <= 1


def test_a_new_message_longer_than_the_window_leaves_the_ends() -> None:
    found = fitted(talk(50, asked="q" * 100_000), window_tokens=8000)

    assert texts(found.transcript)[0] == "question 0"
    assert texts(found.transcript)[-1] == "answer 49"
    assert user_text(found.transcript.user_parts) == "q" * 100_000


def test_an_end_that_is_too_long_itself_is_shortened_in_its_middle() -> None:
    document = "Begin. " + "é" * 1_000_000 + " End."
    before = transcript_of(user(document), assistant("I read it."), user("So?"))

    found = fitted(before, window_tokens=10_000)

    text = user_text(found.transcript.earlier[0].parts)
    assert text.startswith("Begin. é")
    assert text.endswith("é End.")
    assert re.search(r"\n\[… 998,\d{3} characters left out …\]\n", text)
    assert tokens_of(text) < 10_000 // 8 + 50
    assert (found.elided, found.gap) == (1, None)
    assert texts(found.transcript)[1] == "I read it."


def test_a_history_of_one_long_answer_is_shortened() -> None:
    found = fitted(transcript_of(assistant("a" * 100_000), user("So?")), window_tokens=4000)

    assert (found.elided, len(found.transcript.earlier)) == (1, 1)
    assert len(user_text(found.transcript.earlier[0].parts)) < 2000


def test_calls_and_results_of_tools_count_and_are_shortened_like_texts() -> None:
    call = {
        "id": "1",
        "type": "function",
        "function": {"name": "write", "arguments": '{"text": "' + "x" * 50_000 + '"}'},
    }
    result = {"role": "tool", "tool_call_id": "1", "content": "r" * 50_000}
    before = transcript_of(
        assistant(None, tool_calls=[call]), user("m"), assistant("a"), result, assistant("b"), user("c")
    )

    found = fitted(before, window_tokens=8000)

    told = user_text(replay(found.transcript, fence=FENCE, gap=found.gap))
    assert found.transcript.earlier[0].tool_calls[0].arguments.startswith('{"text": "xxx')
    assert "characters left out" in found.transcript.earlier[0].tool_calls[0].arguments
    assert tokens_of(told) < 4000


def test_images_of_what_is_kept_are_kept_and_numbered_as_they_stand() -> None:
    shown = user([{"type": "text", "text": "Look"}, {"type": "image_url", "image_url": {"url": PNG}}])
    middle = [message for _ in range(20) for message in (shown, assistant("I see."))]
    before = transcript_of(shown, assistant("I see."), *middle, shown, assistant("Again."), user("Well?"))

    found = fitted(before, window_tokens=20_000)

    parts = replay(found.transcript, fence=FENCE, gap=found.gap)
    images = [part for part in parts if isinstance(part, ImagePart)]
    told = user_text(parts)
    assert found.elided > 20
    assert 2 <= len(images) == len(re.findall(r"^\[image \d+\]$", told, re.MULTILINE)) <= 6
    assert [int(number) for number in re.findall(r"^\[image (\d+)\]$", told, re.MULTILINE)] == [
        *range(1, len(images) + 1)
    ]


def test_the_note_stands_where_the_messages_are_missing() -> None:
    found = fitted(talk(50), window_tokens=4000)
    assert found.gap is not None

    told = user_text(replay(found.transcript, fence=FENCE, gap=found.gap))

    before, note, after = re.split(rf"<left_out-{FENCE}>\n(.*)\n</left_out-{FENCE}>\n", told)
    assert note.startswith(f"{found.gap.messages} messages are left out here")
    assert before.count(f"<message-{FENCE}") == found.gap.before
    assert after.count(f"<message-{FENCE}") == len(found.transcript.earlier) - found.gap.before
    assert "question 0" in before
    assert "answer 49" in after


def test_one_message_left_out_is_said_so() -> None:
    before = transcript_of(user("a"), assistant("b" * 20_000), user("c"), assistant("d"), user("e"))
    found = fitted(before, window_tokens=4000)
    assert "1 message is left out here" in user_text(replay(found.transcript, fence=FENCE, gap=found.gap))


@pytest.mark.parametrize(("text", "most", "short"), [("abcd", 4, "abcd"), ("abcdef", 4, "ab\n[… 2 characters left out …]\nef"),
    ("éééé", 5, "é\n[… 2 characters left out …]\né"), ("abc", 0, "\n[… 3 characters left out …]\n")])  # fmt: skip
def test_a_text_is_cut_between_characters(text: str, most: int, short: str) -> None:
    assert shortened(text, most) == short


histories = st.lists(
    st.tuples(st.sampled_from(["user", "assistant"]), clean_text.filter(str.strip), st.integers(1, 400)),
    min_size=1,
    max_size=30,
)


@examples
@given(history=histories, asked=clean_text.filter(str.strip), window=st.integers(1000, 40_000))
def test_whatever_is_said_fits_keeps_its_ends_and_counts_what_is_missing(
    history: list[tuple[str, str, int]], asked: str, window: int
) -> None:
    said = [{"role": role, "content": text * times} for role, text, times in history]
    before = transcript_of(*said, assistant("last"), user(asked))

    found = fitted(before, window_tokens=window)

    kept, told = found.transcript.earlier, user_text(replay(found.transcript, fence=FENCE, gap=found.gap))
    missing = found.gap.messages if found.gap else 0
    whole = [message for message in kept if message in before.earlier]
    assert len(kept) + missing == len(before.earlier)
    assert found.elided == len(before.earlier) - len(whole)
    assert [message.index for message in kept] == sorted({message.index for message in kept})
    assert (kept[0].index, kept[-1]) == (before.earlier[0].index, before.earlier[-1])
    assert found.transcript.user_parts == before.user_parts
    room = max(eliding.LEAST_TOKENS, window // 2) + sum(
        tokens_of(p.text) for p in before.user_parts if isinstance(p, TextPart)
    )
    assert tokens_of(told) <= room + 200  # the preface and the note
