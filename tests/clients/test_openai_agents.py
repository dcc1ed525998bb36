"""OpenAI's Agents SDK with its default model, which speaks the Responses API, in an environment of its own."""

from __future__ import annotations

from typing import Any

import pytest

from chatgateway.models import Conversation, Turn
from tests.clients.playing import play_python
from tests.fakes.agent_script import Answer, Fail, Step
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway
from tests.wire.test_repeats import runs
from tests.wire.test_responses import with_tools

SCRIPT = "agents_sdk.py"
THREE = ["one", "two", "three"]


def talk(served: LiveGateway, *prompts: str, keeping: str = "previous", **more: Any) -> dict[str, Any]:
    return play_python(SCRIPT, served, prompts=list(prompts), keeping=keeping, **({"stream": False} | more))


def repeating(agent_server: FakeAgentServer) -> None:
    agent_server.on_message = lambda _, text: [Answer(f"Heard: {text[-20:]}")]


@pytest.mark.parametrize("stream", [False, True], ids=["run", "run_streamed"])
@pytest.mark.parametrize("keeping", ["previous", "conversation", "history", "session"])
def test_r19_three_turns_go_to_one_agent_that_is_sent_only_what_is_new(
    served: LiveGateway, agent_server: FakeAgentServer, keeping: str, stream: bool
) -> None:
    repeating(agent_server)

    said = talk(served, *THREE, keeping=keeping, stream=stream)

    assert [turn["text"] for turn in said["turns"]] == ["Heard: one", "Heard: two", "Heard: three"]
    assert [turn["deltas"] for turn in said["turns"]] == [turn["text"] if stream else "" for turn in said["turns"]]
    assert [turn["tokens"] for turn in said["turns"]] == [110] * 3
    assert [text for role, text in agent_server.only_conversation.prompt if role == "user"] == THREE


@pytest.mark.parametrize("stream", [False, True], ids=["run", "run_streamed"])
def test_what_the_agent_does_is_reasoning_and_never_a_tool_call(
    served: LiveGateway, agent_server: FakeAgentServer, stream: bool
) -> None:
    with_tools()
    agent_server.script(
        Step(command="ls", thought="I shall look at all of the files now."), Step(command="pwd"), Answer("Two files.")
    )

    [turn] = talk(served, "Look.", stream=stream)["turns"]

    assert turn["text"] == "Two files."
    assert turn["items"] == ["message_output_item", "reasoning_item", "message_output_item"]
    assert turn["reasoning"] == ["Running: ls", "Running: pwd"]


@pytest.mark.parametrize("stream", [False, True], ids=["run", "run_streamed"])
def test_an_output_type_is_filled(served: LiveGateway, agent_server: FakeAgentServer, stream: bool) -> None:
    agent_server.script(Answer('```json\n{"name": "Ada", "age": 36}\n```'))

    [turn] = talk(served, "Who?", parse=True, stream=stream)["turns"]

    assert turn["text"] == {"name": "Ada", "age": 36}


@pytest.mark.parametrize("stream", [False, True], ids=["run", "run_streamed"])
def test_a_run_that_fails_raises_and_is_not_run_again(
    served: LiveGateway, agent_server: FakeAgentServer, stream: bool
) -> None:
    agent_server.on_message = lambda *_: [Fail.unavailable(streamed="One two")]

    said = talk(served, "Hi", stream=stream)

    assert said["error"]["message"]
    assert runs(agent_server) == 1
    assert Turn.objects.get().outcome == "failed"


def test_the_instructions_it_sends_with_every_turn_keep_the_agent(
    served: LiveGateway, agent_server: FakeAgentServer
) -> None:
    repeating(agent_server)

    talk(served, *THREE, instructions="Speak like a pirate.")

    agent = agent_server.only_conversation.agent
    assert agent["agent_context"]["system_message_suffix"] == "Speak like a pirate."
    assert Conversation.objects.get().incarnation == 0
