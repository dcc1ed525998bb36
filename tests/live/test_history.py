"""Clients that send their history and nothing else, and a real agent: what it remembers, and what it finds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from openai import APIStatusError, OpenAI

from chatgateway.models import Conversation, Turn
from tests.live.scripted_llm import Answer, ScriptedLlm, Usage, terminal, text_of
from tests.waiting import eventually

pytestmark = pytest.mark.live

HEADER = "X-OpenHands-ServerConversation-ID"
MATCH = "X-Gateway-Conversation-Match"


class Chat:
    """A client that keeps its messages and sends them all. It names its user: the profile has tools."""

    def __init__(self, sdk: OpenAI) -> None:
        self.sdk = sdk
        self.messages: list[dict[str, Any]] = []
        self.match = ""
        self.conversation_id = UUID(int=0)
        self.usage: Any = None

    def say(self, text: str) -> str:
        self.messages.append({"role": "user", "content": text})
        raw = self.sdk.chat.completions.with_raw_response.create(
            model="openhands_agent",
            messages=self.messages,
            user="anna",
        )
        self.match, self.conversation_id = raw.headers[MATCH], UUID(raw.headers[HEADER])
        reply = raw.parse()
        self.usage = reply.usage
        answer = str(reply.choices[0].message.content)
        self.messages.append({"role": "assistant", "content": answer})
        return answer

    def at(self, length: int) -> Chat:
        """The same chat, cut after so many messages: what an edit sends its new message after."""
        copy = Chat(self.sdk)
        copy.messages = self.messages[:length]
        return copy

    def say_and_stop(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})
        seen = ""
        with self.sdk.chat.completions.create(
            model="openhands_agent",
            messages=self.messages,
            user="anna",
            stream=True,
        ) as stream:
            for chunk in stream:
                seen += (chunk.choices[0].delta.content or "") if chunk.choices else ""
                if seen.count(" ") > 60:
                    break
        self.messages.append({"role": "assistant", "content": seen})


@pytest.fixture
def chat(sdk: OpenAI) -> Chat:
    return Chat(sdk)


def spoken(llm: ScriptedLlm) -> list[tuple[str, str]]:
    """Role and text of what the LLM was last sent, without the system's prompt and tools."""
    return [
        (message["role"], text_of(message))
        for message in llm.requests[-1].messages
        if message["role"] in ("user", "assistant") and text_of(message)
    ]


def test_three_turns_are_one_agent_and_its_llm_sees_the_true_history_once(chat: Chat, llm: ScriptedLlm) -> None:
    matches = []
    for text in ("first #script:plain", "second #script:plain", "third #script:plain"):
        chat.say(text)
        matches.append(chat.match)

    assert matches == ["new", "history", "history"]
    assert Conversation.objects.count() == 1
    answer = ("assistant", "This is a plain answer.")
    assert spoken(llm) == [
        ("user", "first #script:plain"),
        answer,
        ("user", "second #script:plain"),
        answer,
        ("user", "third #script:plain"),
    ]


def test_a_file_of_the_first_turn_is_there_in_the_third(chat: Chat, llm: ScriptedLlm) -> None:
    llm.script("write", Answer(tool_calls=(terminal("echo from-turn-one > note.txt"),)), Answer(text="Written."))
    llm.script("read", Answer(tool_calls=(terminal("cat note.txt"),)), Answer(text="Read."))

    chat.say("write it #script:write")
    chat.say("and now? #script:plain")
    chat.say("read it #script:read")

    third = Turn.objects.latest("arrival")
    assert chat.match == "history"
    observation = eventually(lambda: third.events.filter(kind="ObservationEvent").first())
    assert "from-turn-one" in str(observation.raw)


def test_an_edit_of_the_second_turn_branches_off_in_the_same_directory(chat: Chat, llm: ScriptedLlm) -> None:
    llm.script("write", Answer(tool_calls=(terminal("echo one > note.txt"),)), Answer(text="Written."))
    llm.script("change", Answer(tool_calls=(terminal("echo two > note.txt"),)), Answer(text="Changed."))
    llm.script(
        "look",
        Answer(tool_calls=(terminal("cat note.txt"),), usage=Usage(prompt=300, completion=20)),
        Answer(text="Looked.", usage=Usage(prompt=350, completion=12)),
    )
    chat.say("write it #script:write")
    source = chat.conversation_id
    chat.say("change it #script:change")

    branch = chat.at(2)
    answer = branch.say("rather look at it #script:look")
    heard = spoken(llm)
    further = branch.say("thanks #script:plain")
    old = chat.say("still there? #script:plain")

    row = Conversation.objects.get(pk=branch.conversation_id)
    assert (answer, further, old) == ("Looked.", "This is a plain answer.", "This is a plain answer.")
    assert row.pk != source
    assert chat.conversation_id == source
    assert row.branched_at == Turn.objects.order_by("arrival")[0]
    assert [text for role, text in heard if role == "user"] == [
        "write it #script:write",
        "rather look at it #script:look",
    ]
    turns = list(row.turns.order_by("arrival"))
    assert [turn.match for turn in turns] == ["fork", "history"]
    assert (turns[0].input_tokens, turns[0].output_tokens) == (650, 32)
    assert (turns[1].input_tokens, turns[1].output_tokens) == (100, 10)
    observation = eventually(lambda: turns[0].events.filter(kind="ObservationEvent").first())
    assert "two" in str(observation.raw)  # the files are as the other branch left them
    assert row.working_dir == Conversation.objects.get(pk=source).working_dir
    assert Path(row.working_dir, "note.txt").read_text() == "two\n"


def test_an_answer_written_anew_is_a_fork(chat: Chat, llm: ScriptedLlm) -> None:
    chat.say("first #script:plain")
    chat.say("second #script:plain")

    again = chat.at(2)
    again.say("second #script:plain")

    assert again.match == "fork"
    assert [text for role, text in spoken(llm) if role == "user"] == ["first #script:plain", "second #script:plain"]


def test_an_agent_at_work_is_forked_all_the_same(chat: Chat, llm: ScriptedLlm) -> None:
    llm.script("held", Answer(chunks=("One. ", "Two."), hold_after=1))
    chat.say("first #script:plain")
    branch = chat.at(2)
    with ThreadPoolExecutor() as pool:
        at_work = pool.submit(chat.say, "second #script:held")
        held = llm.wait_for(lambda one: one.script == "held" and one.pieces_sent == 1)
        answer = branch.say("rather this #script:plain")
        heard = [text for role, text in spoken(llm) if role == "user"]
        held.release()

    assert (chat.match, branch.match) == ("history", "fork")
    assert (at_work.result(), answer) == ("One. Two.", "This is a plain answer.")
    assert heard == ["first #script:plain", "rather this #script:plain"]


def test_a_stopped_answer_is_gone_on_with_and_can_be_forked_after(chat: Chat, llm: ScriptedLlm) -> None:
    long = " ".join(f"word{number}" for number in range(1, 400))
    llm.script("long", Answer(text=long, delay_seconds=0.02))
    chat.say("first #script:plain")
    chat.say_and_stop("second #script:long")
    seen = chat.messages[-1]["content"]

    chat.say("third #script:plain")
    heard = [text for role, text in spoken(llm) if role == "user"]
    gone_on = chat.match
    branch = chat.at(4)
    branch.say("rather this #script:plain")
    heard_by_branch = [text for role, text in spoken(llm) if role == "user"]

    assert (gone_on, branch.match) == ("history", "fork")
    told = "\n".join(heard)
    assert [told.count(part) for part in ("first #", "second #", seen.strip(), "third #")] == [1, 1, 1, 1]
    told = "\n".join(heard_by_branch)
    assert [told.count(part) for part in ("first #", "second #", seen.strip(), "rather #")] == [1, 1, 1, 0]
    assert [told.count(part) for part in ("rather this #", "third #")] == [1, 0]


def test_a_failed_turn_is_told_to_an_agent_that_went_back(chat: Chat, llm: ScriptedLlm) -> None:
    chat.say("first #script:plain")
    with pytest.raises(APIStatusError):
        chat.say("second #script:401")
    chat.say("third #script:plain")

    told = "\n".join(text for role, text in spoken(llm) if role == "user")
    assert chat.match == "history"
    assert [told.count(part) for part in ("first #", "second #", "third #")] == [1, 1, 1]
    assert Conversation.objects.count() == 1
