"""Random trees of talk: whatever a client does with its messages, its agent has heard what the client sent, in order,
each text once, and nothing that the client took back."""

from __future__ import annotations

import itertools
import re
from typing import Any, Self

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.agent_script import Answer, Fail, Gate
from tests.fakes.agent_server import FakeAgentServer
from tests.wire.chatting import CHAT, ChatClient, Messages, Reply, assistant, heard, user

# What a person does in a chat UI; the number chooses the place it is done at.
DEEDS = ("say", "say", "stop", "stop unseen", "fail", "edit", "regenerate", "other chat")
STEPS = st.lists(st.tuples(st.sampled_from(DEEDS), st.integers(0, 7)), min_size=1, max_size=7)

QUESTION = re.compile(r"\bu\d+\.")
_words = itertools.count(1)


class Talk:
    """One person's chats, each a list of messages, and what they do."""

    def __init__(self, http: httpx.Client, server: FakeAgentServer) -> None:
        self.server = server
        self.chats = [ChatClient(http=http), ChatClient(http=http)]
        self.chat = self.chats[0]
        self.gates: list[Gate] = []
        server.on_message = lambda _, text: self._moves(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for gate in self.gates:
            gate.open()

    def do(self, deed: str, number: int) -> None:
        match deed:
            case "say":
                self._say()
            case "stop":
                self.chat.say_and_stop(f"u{next(_words)}. STOP", after="a b ")
            case "stop unseen":
                self.chat.say_and_stop(f"u{next(_words)}. HANG", after="")
                if number % 2:  # a client that keeps no empty message
                    del self.chat.messages[-1]
            case "fail":
                self._fail()
            case "edit":
                self._cut(number)
                self._say()
            case "regenerate":
                self._cut(number, keeps_question=True)
                self._check(self.chat.send(self.chat.messages), self.chat.messages)
            case "other chat":
                self.chat = self.chats[number % 2]

    def _say(self) -> None:
        sent = [*self.chat.messages, user(f"u{next(_words)}.")]
        self._check(self.chat.send(sent), sent)

    def _check(self, reply: Reply, sent: Messages) -> None:
        """Texts of the client stand in what the agent has before it, in order; questions once, and no others."""
        self.chat.messages = [*sent, assistant(reply.text)]
        prompt = "\n".join(text for _, text in heard(reply, self.server))
        texts = [text for message in self.chat.messages if (text := message["content"].strip())]
        start = 0
        for text in texts:
            assert text in prompt[start:], (texts, prompt)
            start = prompt.index(text, start) + len(text)
        assert QUESTION.findall(prompt) == [name for text in texts for name in QUESTION.findall(text)], (texts, prompt)

    def _fail(self) -> None:
        self.chat.messages = [*self.chat.messages, user(f"u{next(_words)}. FAIL")]
        asked = {"model": "openhands_chat", "messages": self.chat.messages}
        # Counted, so that no failure is taken for the repeat of one.
        reply = self.chat.http.post(CHAT, json=asked, headers={"X-Stainless-Retry-Count": "0"})
        assert reply.status_code == 502

    def _cut(self, number: int, *, keeps_question: bool = False) -> None:
        asked = [index for index, message in enumerate(self.chat.messages) if message["role"] == "user"]
        if not asked:
            self._say()
            asked = [0]
        index = asked[number % len(asked)]
        self.chat.messages = self.chat.messages[: index + keeps_question]
        if keeps_question:  # what made it fail or hang is over
            self.chat.messages[-1] = user(self.chat.messages[-1]["content"].split()[0])

    def _moves(self, text: str) -> list[Any]:
        last = text.rsplit("\n", 1)[-1]
        gate = Gate()
        self.gates.append(gate)
        if last.endswith("STOP"):
            return [Answer(chunks=("a ", "b ", "c"), gate=gate, hold_after=2)]
        if last.endswith("HANG"):
            return [Answer(chunks=("a ", "b ", "c"), gate=gate, hold_after=0)]
        return [Fail.unknown_model()] if last.endswith("FAIL") else [Answer(f"Answer {next(_words)}!")]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=STEPS)
def test_the_agent_has_heard_what_the_client_sent(
    http: httpx.Client, agent_server: FakeAgentServer, steps: list[tuple[str, int]]
) -> None:
    with Talk(http, agent_server) as talk:
        for deed, number in steps:
            talk.do(deed, number)
        talk.do("say", 0)
