"""Whatever an agent does, a client is sent items that it may show and none that it would run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from openai.types.responses import Response

from tests.fakes.agent_script import Answer, Confirm, Fail, Finish, Move, Recording, Retried, Step, Stuck
from tests.fakes.agent_server import FakeAgentServer
from tests.wire.test_responses import RESPONSES, TERMINAL, ask, events, of_type, with_tools

RECORDED = sorted(path.stem for path in (Path(__file__).parents[1] / "recordings/agent_server_1_58_0").glob("*.jsonl"))
CALLED: dict[str, Any] = {"kind": "MCPToolAction", "data": {"query": "x"}}
ANSWERED: dict[str, Any] = {"kind": "MCPToolObservation", "content": [{"type": "text", "text": "found"}]}
WORK: dict[str, list[Move]] = {
    "a command": [Step(command="ls", thought="Let me look.", reasoning="Hm."), Answer("Two files.")],
    "a command that fails": [Step(command="false", exit_code=1), Answer("It failed.")],
    "a tool that breaks": [Step(command="ls", error="it broke"), Answer("It broke.")],
    "a tool of an MCP server": [Step(tool="look_up", action=CALLED, observation=ANSWERED), Answer("Found.")],
    "a tool that nobody knows": [Step(tool="shell", action={"kind": "ShellAction"}), Answer("Done.")],
    "an answer by the finish tool": [Step(command="ls"), Finish(message="Done.", thought="I am done.")],
    "a call that is made again": [Retried(streamed="I sh"), Answer("I shall.")],
    "an agent that repeats itself": [Stuck()],
    "a question to nobody": [Confirm()],
    "a failure after a step": [Step(command="ls"), Fail.bad_request()],
}
REPLAYED: dict[str, list[Move]] = {f"recorded: {name}": [Recording(name)] for name in RECORDED}


@pytest.mark.parametrize("moves", [*WORK.values(), *REPLAYED.values()], ids=[*WORK, *REPLAYED])
def test_r17_no_item_is_for_the_client_to_run(
    http: httpx.Client, agent_server: FakeAgentServer, moves: list[Move]
) -> None:
    with_tools()
    agent_server.script(*moves)

    found = events(http.post(RESPONSES, json=ask(stream=True)).text)

    last = found[-1]["response"]
    items = [event["item"] for event in of_type(found, "output_item.added", "output_item.done")] + last["output"]
    assert {item["type"] for item in items} <= {"reasoning", "message"}
    assert [event["type"] for event in found if event["type"] in TERMINAL] == [found[-1]["type"]]
    Response.model_validate(last, strict=True)
    assert http.get(f"{RESPONSES}/{last['id']}").json() == last
