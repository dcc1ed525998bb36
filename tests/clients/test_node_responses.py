"""The Responses API by the stock SDKs for Node: OpenAI's, and the AI SDK's own OpenAI provider."""

from __future__ import annotations

from typing import Any

import pytest

from chatgateway.models import Turn
from tests.clients.playing import play_node
from tests.fakes.agent_script import Answer, Fail, Hang, Move, Step
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway
from tests.wire.test_repeats import runs
from tests.wire.test_responses import with_tools

SCRIPT = "ai_sdk_responses.mjs"
THREE = ["one", "two", "three"]
STREAMED_OR_NOT = pytest.mark.parametrize("stream", [False, True], ids=["generateText", "streamText"])


def moves(_: object, text: str) -> list[Move]:
    """What the agent does in a script that tries everything."""
    match text.split("\n", maxsplit=1)[0]:
        case "look":
            return [
                Step(command="ls", thought="I shall look at all of the files now."),
                Step(command="pwd"),
                Answer("Two."),
            ]
        case "parse":
            return [Answer('```json\n{"name": "Ada", "age": 36}\n```')]
        case "hang":
            return [Hang()]
    return [Answer(f"Heard: {text[-20:]}")]


def test_the_openai_sdk_does_with_responses_all_that_it_can(served: LiveGateway, agent_server: FakeAgentServer) -> None:
    with_tools()
    agent_server.on_message = moves

    said = play_node("responses.mjs", served)

    assert said["chained"] == ["Heard: one", "Heard: two"]
    assert said["usage"] == 110
    assert said["stored"] == "Heard: two"
    assert said["numbers"] == list(range(len(said["numbers"])))
    assert said["resumed"] == said["numbers"][4:]
    assert said["deltas"] == "Heard: three"
    assert said["helped"]["items"] == ["message", "reasoning", "message"]
    assert said["helped"]["types"][-1] == "response.completed"
    assert said["helpedAgain"].endswith("Two.")
    assert said["parsed"] == {"name": "Ada", "age": 36}
    assert (said["began"], said["background"]) == ("queued", ["completed", "Heard: four"])
    assert said["cancelled"] == "cancelled"
    assert said["items"] == ["two"]
    assert said["deleted"] == "response_not_found"
    assert said["topic"] == "letters"
    assert said["conversation"] == ["a", "Heard: a", "b", "Heard: b"]
    assert said["item"] == "Heard: a"
    assert said["conversationDeleted"] is True
    assert said["refused"] == {
        "kind": "BadRequestError",
        "code": "previous_response_not_found",
        "param": "previous_response_id",
    }


def talk(served: LiveGateway, *prompts: str, keeping: str = "previous", **more: Any) -> dict[str, Any]:
    return play_node(SCRIPT, served, prompts=list(prompts), keeping=keeping, **({"stream": False} | more))


@STREAMED_OR_NOT
@pytest.mark.parametrize("keeping", ["previous", "conversation", "history"])
def test_r19_three_turns_of_the_ai_sdk_go_to_one_agent_that_is_sent_only_what_is_new(
    served: LiveGateway, client: Any, agent_server: FakeAgentServer, keeping: str, stream: bool
) -> None:
    agent_server.on_message = lambda _, text: [Answer(f"Heard: {text[-20:]}")]

    said = talk(served, *THREE, keeping=keeping, stream=stream, conversation=client.conversations.create().id)

    assert [turn["text"] for turn in said["turns"]] == ["Heard: one", "Heard: two", "Heard: three"]
    assert [turn["deltas"] for turn in said["turns"]] == [turn["text"] if stream else "" for turn in said["turns"]]
    assert [(turn["tokens"], turn["finish"]) for turn in said["turns"]] == [(110, "stop")] * 3
    assert [text for role, text in agent_server.only_conversation.prompt if role == "user"] == THREE
    assert said["warnings"] == []


@STREAMED_OR_NOT
def test_the_ai_sdk_names_what_an_agent_did_before_when_it_goes_on(
    served: LiveGateway, agent_server: FakeAgentServer, stream: bool
) -> None:
    """It keeps the talk itself and refers to items, those of reasoning too, by their ids."""
    with_tools()
    agent_server.script(Step(command="ls"), Step(command="pwd"), Answer("Two files."))
    agent_server.script(Answer("Their names are a and b."))

    said = talk(served, "Look.", "Which?", keeping="history", stream=stream)

    assert [turn["text"] for turn in said["turns"]] == ["Two files.", "Their names are a and b."]
    heard = [text for one in agent_server.conversations.values() for role, text in one.prompt if role == "user"]
    assert ["Two files." in heard[-1], "Which?" in heard[-1]] == [True, True]


@STREAMED_OR_NOT
def test_the_ai_sdk_reads_steps_as_reasoning_and_sees_no_tool_calls(
    served: LiveGateway, agent_server: FakeAgentServer, stream: bool
) -> None:
    with_tools()
    agent_server.script(Step(command="ls"), Step(command="pwd"), Answer("Two files."))

    [turn] = talk(served, "Look.", stream=stream)["turns"]

    assert (turn["text"], turn["tools"]) == ("Two files.", 0)
    assert turn["reasoning"] == ["Running: ls", "Running: pwd"]


@STREAMED_OR_NOT
def test_the_ai_sdk_gets_its_object(served: LiveGateway, agent_server: FakeAgentServer, stream: bool) -> None:
    agent_server.script(Answer('```json\n{"name": "Ada", "age": 36}\n```'))

    [turn] = talk(served, "Who?", parse=True, stream=stream)["turns"]

    assert turn["text"] == {"name": "Ada", "age": 36}


@STREAMED_OR_NOT
def test_a_run_that_fails_is_an_error_for_the_ai_sdk_and_is_not_run_again(
    served: LiveGateway, agent_server: FakeAgentServer, stream: bool
) -> None:
    agent_server.on_message = lambda *_: [Fail.unavailable(streamed="One two")]

    said = talk(served, "Hi", stream=stream)

    assert said["errors"]
    assert runs(agent_server) == 1
    assert Turn.objects.get().outcome == "failed"
