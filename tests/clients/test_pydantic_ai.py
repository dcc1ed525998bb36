"""Pydantic AI's `openai:` models, which speak the Responses API, in an environment of their own."""

from __future__ import annotations

from typing import Any

import pytest

from chatgateway.models import Turn
from tests.clients.playing import play_python
from tests.fakes.agent_script import Answer, Fail, Step
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway
from tests.wire.test_repeats import runs
from tests.wire.test_responses import with_tools

SCRIPT = "pydantic_ai_client.py"
THREE = ["one", "two", "three"]
STREAMED_OR_NOT = pytest.mark.parametrize("stream", [False, True], ids=["run", "run_stream"])


def talk(served: LiveGateway, *prompts: str, **more: Any) -> dict[str, Any]:
    return play_python(SCRIPT, served, prompts=list(prompts), **({"stream": False} | more))


@STREAMED_OR_NOT
@pytest.mark.parametrize("chained", [True, False], ids=["previous_response_id", "history"])
def test_r19_three_turns_go_to_one_agent_that_is_sent_only_what_is_new(
    served: LiveGateway, agent_server: FakeAgentServer, chained: bool, stream: bool
) -> None:
    agent_server.on_message = lambda _, text: [Answer(f"Heard: {text[-20:]}")]

    said = talk(served, *THREE, chained=chained, stream=stream)

    assert [turn["text"] for turn in said["turns"]] == ["Heard: one", "Heard: two", "Heard: three"]
    assert [turn["deltas"] for turn in said["turns"]] == [turn["text"] if stream else "" for turn in said["turns"]]
    assert [turn["tokens"] for turn in said["turns"]] == [110] * 3
    assert [text for role, text in agent_server.only_conversation.prompt if role == "user"] == THREE


@STREAMED_OR_NOT
def test_what_the_agent_does_is_thinking(served: LiveGateway, agent_server: FakeAgentServer, stream: bool) -> None:
    with_tools()
    agent_server.script(Step(command="ls"), Step(command="pwd"), Answer("Two files."))

    [turn] = talk(served, "Look.", stream=stream)["turns"]

    assert (turn["text"], turn["reasoning"]) == ("Two files.", ["Running: ls", "Running: pwd"])


def test_a_native_output_type_is_filled(served: LiveGateway, agent_server: FakeAgentServer) -> None:
    agent_server.script(Answer('```json\n{"name": "Ada", "age": 36}\n```'))

    [turn] = talk(served, "Who?", parse=True)["turns"]

    assert turn["text"] == {"name": "Ada", "age": 36}


@STREAMED_OR_NOT
def test_a_run_that_fails_raises_and_is_not_run_again(
    served: LiveGateway, agent_server: FakeAgentServer, stream: bool
) -> None:
    agent_server.on_message = lambda *_: [Fail.unavailable(streamed="One two")]

    said = talk(served, "Hi", stream=stream)

    assert said["error"]["message"]
    assert runs(agent_server) == 1
    assert Turn.objects.get().outcome == "failed"
