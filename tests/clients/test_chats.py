"""Clients that keep a chat and send it again, each of other people's making and in a process of its own.

None of them is told a header or an id: base URL, key and model are all that is new to it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from chatgateway.models import Turn
from tests.clients.playing import play_node, play_python
from tests.fakes.agent_conversation import FakeConversation
from tests.fakes.agent_script import Answer, Fail, Gate, Step
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway
from tests.wire.test_repeats import runs

Play = Callable[..., dict[str, Any]]

with_openai_2 = partial(play_python, environment="clients_env/openai_2")
CLIENTS: dict[str, Play] = {
    "openai": partial(play_python, "chat_openai.py"),
    "openai 2": partial(with_openai_2, "chat_openai.py"),
    "openai for Node": partial(play_node, "chat_openai.mjs"),
    "AI SDK": partial(play_node, "chat_ai_sdk.mjs"),
    "LangChain": partial(play_python, "chat_langchain.py"),
    "Pydantic AI": partial(play_python, "chat_pydantic_ai.py"),
    "LlamaIndex": partial(with_openai_2, "chat_llama_index.py"),
    "LiteLLM": partial(play_python, "chat_litellm.py"),
    "llm": partial(play_python, "chat_llm.py"),
}
EVERY = pytest.mark.parametrize("play", CLIENTS.values(), ids=CLIENTS)
# The command `llm` can only go on with its last conversation.
THAT_EDIT = [name for name in CLIENTS if name != "llm"]
THAT_STOP = ["openai", "openai 2", "openai for Node", "AI SDK", "LangChain"]


def asked(agent: FakeConversation) -> list[str]:
    return [text for role, text in agent.prompt if role == "user"]


def answers(agent: FakeConversation) -> list[str]:
    return [text for role, text in agent.prompt if role == "assistant" and text]


@EVERY
def test_three_turns_are_one_agent_that_is_told_each_message_once(
    served: LiveGateway, agent_server: FakeAgentServer, play: Play
) -> None:
    agent_server.script(Answer("One."))
    agent_server.script(Step(command="ls"), Answer("Two files."))
    agent_server.script(Answer("Three."))

    said = play(served, steps=[["say", "a"], ["stream", "b"], ["say", "c"]])["said"]

    assert said == ["One.", "Two files.", "Three."]
    assert asked(agent_server.only_conversation) == ["a", "b", "c"]
    assert answers(agent_server.only_conversation) == ["One.", "Two files.", "Three."]
    assert [turn.match for turn in Turn.objects.order_by("arrival")] == ["new", "history", "history"]


@pytest.mark.parametrize("play", [CLIENTS[name] for name in THAT_EDIT], ids=THAT_EDIT)
def test_an_edit_branches_off_and_an_edit_of_the_first_message_begins_anew(
    served: LiveGateway, agent_server: FakeAgentServer, play: Play
) -> None:
    agent_server.on_message = lambda _, text: [Answer(f"You said {text}.")]
    first_branch = [["say", "one"], ["say", "two"]]
    second_branch = [["back", 1], ["stream", "2nd"], ["say", "3rd"]]

    play(served, steps=[*first_branch, *second_branch, ["back", 0], ["say", "1st"]])

    agents = agent_server.conversations.values()  # by when they began
    assert [asked(agent) for agent in agents] == [["one", "two"], ["one", "2nd", "3rd"], ["1st"]]
    assert [turn.match for turn in Turn.objects.order_by("arrival")] == ["new", "history", "fork", "history", "new"]


@pytest.mark.parametrize("play", [CLIENTS[name] for name in THAT_STOP], ids=THAT_STOP)
def test_an_answer_that_was_stopped_is_gone_on_with(
    served: LiveGateway, agent_server: FakeAgentServer, play: Play
) -> None:
    agent_server.script(Answer("First."))
    agent_server.script(Answer(chunks=("One ", "two ", "three."), gate=Gate(), hold_after=2))
    agent_server.script(Answer("Third."))

    said = play(served, steps=[["say", "a"], ["stop", "b", "One two "], ["say", "c"]])["said"]

    assert said == ["First.", "One two ", "Third."]
    assert [turn.outcome for turn in Turn.objects.order_by("arrival")] == ["answered", "cancelled", "answered"]
    heard = "\n".join(asked(agent_server.only_conversation))
    assert [heard.count(part) for part in ("One two", "three")] == [1, 0]


@EVERY
def test_structured_output_is_parsed_and_failures_say_why_and_are_not_run_again(
    served: LiveGateway, agent_server: FakeAgentServer, play: Play
) -> None:
    agent_server.script(Answer("It is Ada."))
    agent_server.script(Answer('```json\n{"name": "Ada", "age": 36}\n```'))
    agent_server.script(Fail.wrong_key())
    agent_server.script(Fail.unknown_model())

    parsed, said, streamed = play(served, steps=[["parse", "Who?"], ["say", "Hi"], ["stream", "Hello"]])["said"]

    assert parsed == {"name": "Ada", "age": 36}
    assert "refused the gateway's credentials" in said["message"].replace("\\", "")
    assert "does not exist at its provider" in streamed["message"]
    assert runs(agent_server) == 4
    assert [turn.outcome for turn in Turn.objects.order_by("arrival")] == ["answered", "failed", "failed"]


def test_llama_index_asks_for_text_completions_unless_told_otherwise(
    served: LiveGateway, agent_server: FakeAgentServer
) -> None:
    agent_server.script(Answer("Completed."))

    said = CLIENTS["LlamaIndex"](served, steps=[["complete", "Hi"]])["said"]

    assert said == ["Completed."]
    assert Turn.objects.get().endpoint == "completions"
