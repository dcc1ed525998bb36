"""Random trees of talk over random clients: whatever a client does with its messages, its agent has heard what the client
sent: each text once, in order, from whom it was, and nothing that the client took back."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.agent_script import Answer, Fail, Gate
from tests.fakes.agent_server import FakeAgentServer
from tests.wire.chatting import CHAT, CONVERSATION, ChatClient, Messages, assistant, heard, user

# What a person does in a chat UI; the number chooses the place it is done at.
DEEDS = ("say", "say", "stop", "stop unseen", "fail", "edit", "regenerate", "other chat")
STEPS = st.lists(st.tuples(st.sampled_from(DEEDS), st.integers(0, 7)), min_size=1, max_size=7)

# How earlier messages and stopped answers are told, and who is said to have written them.
TOLD = re.compile(
    r'<message-(?P<fence>\w{16}) role="(?P<role>\w+)">\n(?P<text>.*?)\n</message-(?P=fence)>'
    r"|<stopped-(?P<stop>\w{16})>\n(?P<seen>.*?)\n</stopped-(?P=stop)>",
    re.DOTALL,
)
QUESTION = re.compile(r"u\d+\.(?: (?:STOP|HANG|FAIL))?")
THOUGHTS = "<think>\nHm.\n</think>\n"  # as clients fold them into the text, which tells an agent nothing it said
_words = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """How one sends: what it makes of a message on the way, whether it streams, names its chat, has a system text."""

    name: str
    message: Callable[[dict[str, Any]], dict[str, Any]] = lambda message: message
    system: str = ""
    is_streaming: bool = False
    names_its_chat: bool = False
    says_that_it_sends_history: bool = False

    def __str__(self) -> str:
        return self.name

    def sends(self, messages: Messages) -> Messages:
        before = [{"role": "system", "content": self.system}] if self.system else []
        return [*before, *map(self.message, messages)]


def _in_parts(message: dict[str, Any]) -> dict[str, Any]:
    return message | {"content": [{"type": "text", "text": message["content"]}]}


def _with_thoughts(message: dict[str, Any]) -> dict[str, Any]:
    is_said = message["role"] == "assistant" and message["content"]
    return message | {"content": f"{THOUGHTS}{message['content']}"} if is_said else message


def _trimmed(message: dict[str, Any]) -> dict[str, Any]:
    return message | {"content": message["content"].strip(), "name": message["role"]}


CLIENTS = (
    Client(name="plain"),
    Client(name="streams", is_streaming=True),
    Client(name="sends parts", message=_in_parts, is_streaming=True),
    Client(name="keeps thoughts in the text", message=_with_thoughts),
    Client(name="trims and names", message=_trimmed, system="Be brief.\n"),
    Client(name="names its chat", names_its_chat=True, is_streaming=True, system="Be brief."),
    Client(name="names its chat and says how", names_its_chat=True, says_that_it_sends_history=True),
)


class Talk:
    """One person's chats in one client, each a list of messages, and what they do."""

    def __init__(self, http: httpx.Client, server: FakeAgentServer, client: Client) -> None:
        self.server = server
        self.client = client
        self.chats = [ChatClient(http=http, headers=self._named()) for _ in range(2)]
        self.chat = self.chats[0]
        self.have_sent_history: list[ChatClient] = []
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
                self._stop(f"u{next(_words)}. STOP", after="a b ")
            case "stop unseen":
                self._stop(f"u{next(_words)}. HANG", after="")
                if number % 2:  # a client that keeps no empty message
                    del self.chat.messages[-1]
            case "fail":
                self._fail()
            case "edit":
                self._cut(number)
                self._say()
            case "regenerate":
                self._cut(number, keeps_question=True)
                self._ask(self.chat.messages)
            case "other chat":
                self.chat = self.chats[number % 2]

    def _say(self) -> None:
        self._ask([*self.chat.messages, user(f"u{next(_words)}.")])

    def _ask(self, messages: Messages) -> None:
        """Send them, and see what the agent has before it now."""
        with self._asked(messages) as reply:
            reply.read()
        assert reply.status_code == 200, reply.text
        answer = "".join(_pieces(reply.text)) if self.client.is_streaming else _collected(reply)
        self.chat.messages = [*messages, assistant(answer)]
        sent = [(message["role"], text) for message in self.chat.messages if (text := message["content"].strip())]
        prompt = heard(reply.headers[CONVERSATION], self.server)
        assert list(_said(prompt)) == sent, prompt

    def _stop(self, text: str, *, after: str) -> None:
        self.chat.messages.append(user(text))
        seen = ""
        with self._asked(self.chat.messages, stream=True) as reply:
            for line in reply.iter_lines() if after else ():
                seen += "".join(_pieces(line))
                if seen == after:
                    break
        self.chat.messages.append(assistant(seen))

    def _fail(self) -> None:
        self.chat.messages = [*self.chat.messages, user(f"u{next(_words)}. FAIL")]
        # Counted, so that no failure is taken for the repeat of one.
        with self._asked(self.chat.messages, stream=False, **{"X-Stainless-Retry-Count": "0"}) as reply:
            assert reply.status_code == 502

    def _asked(self, messages: Messages, *, stream: bool | None = None, **headers: str) -> Any:
        if len(messages) > 1:
            self.have_sent_history.append(self.chat)
        body = {
            "model": "openhands_chat",
            "messages": self.client.sends(messages),
            "stream": self.client.is_streaming if stream is None else stream,
        }
        return self.chat.http.stream("POST", CHAT, json=body, headers=self.chat.headers | headers)

    def _cut(self, number: int, *, keeps_question: bool = False) -> None:
        # A client that names its chat has to have shown, or to say, that it leaves nothing out: what it sends alone
        # goes on in the chat until then.
        is_known = not self.client.names_its_chat or self.client.says_that_it_sends_history
        while not self._questions() or not (is_known or self.chat in self.have_sent_history):
            self._say()
        index = self._questions()[number % len(self._questions())]
        self.chat.messages = self.chat.messages[: index + keeps_question]
        if keeps_question:  # what made it fail or hang is over
            self.chat.messages[-1] = user(self.chat.messages[-1]["content"].split()[0])

    def _questions(self) -> list[int]:
        return [index for index, message in enumerate(self.chat.messages) if message["role"] == "user"]

    def _named(self) -> dict[str, str]:
        says = {"X-Gateway-Sends-History": "true"} if self.client.says_that_it_sends_history else {}
        return {"X-Conversation-Id": f"chat-{next(_words)}", **says} if self.client.names_its_chat else {}

    def _moves(self, text: str) -> list[Any]:
        last = text.rsplit("\n", 1)[-1]
        gate = Gate()
        self.gates.append(gate)
        if last.endswith("STOP"):
            return [Answer(chunks=("a ", "b ", "c"), gate=gate, hold_after=2)]
        if last.endswith("HANG"):
            return [Answer(chunks=("a ", "b ", "c"), gate=gate, hold_after=0)]
        return [Fail.unknown_model()] if last.endswith("FAIL") else [Answer(f"Answer {next(_words)}!")]


def _said(prompt: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """What an agent has before it, as (who said it, text): each message, and before it what it tells of others."""
    for role, text in prompt:
        for told in TOLD.finditer(text):
            who, what = (told["role"], told["text"]) if told["fence"] else ("assistant", told["seen"])
            yield who, what.removeprefix(THOUGHTS).strip()
        rest = TOLD.sub("", text)
        if role != "user":
            yield role, rest.removeprefix(THOUGHTS).strip()
            continue
        # A question that came to nothing stands before the next one.
        yield from (("user", asked) for part in rest.split("\n\n") if QUESTION.fullmatch(asked := part.strip()))


def _pieces(stream: str) -> Iterator[str]:
    for line in stream.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                yield choice["delta"].get("content") or ""


def _collected(reply: httpx.Response) -> str:
    return str(reply.json()["choices"][0]["message"]["content"])


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(client=st.sampled_from(CLIENTS), steps=STEPS)
def test_the_agent_has_heard_what_the_client_sent(
    http: httpx.Client, agent_server: FakeAgentServer, client: Client, steps: list[tuple[str, int]]
) -> None:
    with Talk(http, agent_server, client) as talk:
        for deed, number in steps:
            talk.do(deed, number)
        talk.do("say", 0)
