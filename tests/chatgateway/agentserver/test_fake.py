"""The fake agent-server sends what the real one sent: its scripted moves are held against the recordings."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import orjson
import pytest

from chatgateway.agentserver import frames
from chatgateway.agentserver.schemas import Delta, DurableEvent, Frame, State
from tests.chatgateway.agentserver.talking import a_conversation, ask, client_of, say
from tests.fakes import recordings
from tests.fakes.agent_script import Answer, Confirm, Fail, Finish, Recording, Retried, Step, Stuck
from tests.fakes.agent_server import FakeAgentServer

LOOK = Step(tool="task_tracker", action={"kind": "TaskTrackerAction", "command": "view"}, observation={"content": []})
FINISHED = "execution_status: finished"


def shape(sent: list[Frame]) -> list[str]:
    """What kinds of frames a run consists of, from its start on; deltas of one kind count as one."""
    told = [name for frame in sent if (name := name_of(frame))]
    run = told[told.index("execution_status: running") :]
    return [name for name, _ in groupby(run)]


def name_of(frame: Frame) -> str:
    match frame:
        case Delta():
            return f"{frame.kind} deltas" if frame.text else ""
        case DurableEvent(event={"key": "execution_status"}):
            return frame.summary
        case DurableEvent(event={"key": key}):
            return str(key)
        case DurableEvent():
            return f"{frame.kind} of {frame.event['source']}"
        case State():
            return f"state {frame.status}"
        case _:
            return type(frame).__name__


def recorded(name: str) -> list[Frame]:
    read = [frames.read(orjson.dumps(frame)) for frame in recordings.frames_of(name)]
    return [frame for frame in read if frame is not None and not isinstance(frame, frames.Sync)]


async def played(agent_server: FakeAgentServer, *moves: Any) -> list[Frame]:
    agent_server.script(*moves)
    async with client_of(agent_server) as client:
        sent, _ = await ask(client, await a_conversation(client))
    return sent


@pytest.mark.parametrize(
    ("name", "moves"),
    [
        ("plain-message", [Answer("Hello there.", reasoning="hard")]),
        ("finish-tool-only", [Finish(message="Done.")]),
        ("text-and-finish", [Finish(message="Done.", thought="Wrapping up.")]),
        ("terminal-then-message", [Step(thought="Running."), Answer("Empty.")]),
        ("error-401", [Fail.wrong_key()]),
        ("error-429", [Fail.rate_limit()]),
        ("error-500", [Fail.unavailable()]),
        ("error-404model", [Fail.unknown_model()]),
        ("error-400ctx", [Fail.context_window()]),
        ("error-hang_timeout3", [Fail.timeout()]),
        ("error-midstream_drop", [Fail.unavailable(streamed="ab cd")]),
        ("error-midstream_stall", [Fail.timeout(streamed="ab")]),
        ("error-drop_retry", [Retried(streamed="ab"), Fail.unavailable(streamed="ab")]),
        ("error-confirm", [Confirm()]),
    ],
)
async def test_a_scripted_run_has_the_shape_of_a_recorded_one(agent_server, name, moves):
    assert shape(await played(agent_server, *moves)) == shape(recorded(name))


@pytest.mark.parametrize(
    ("name", "failure"),
    [
        ("error-401", Fail.wrong_key()),
        ("error-429", Fail.rate_limit()),
        ("error-500", Fail.unavailable()),
        ("error-404model", Fail.unknown_model()),
        ("error-400ctx", Fail.context_window()),
        ("error-hang_timeout3", Fail.timeout()),
        ("error-maxiter", Fail.max_iterations()),
    ],
)
def test_a_scripted_failure_has_the_words_of_a_recorded_one(name, failure):
    (error,) = [one.event for one in recorded(name) if isinstance(one, DurableEvent) and one.event.get("code")]

    told = (error["code"], error["classification"]["kind"], error["classification"]["retryable"])
    assert (failure.code, failure.kind, failure.is_retryable) == told


@pytest.mark.parametrize("name", recordings.NAMES)
async def test_a_recording_is_replayed_as_it_was_recorded(agent_server, name):
    assert shape(await played(agent_server, Recording(name))) == shape_of_first_run(name)


def shape_of_first_run(name: str) -> list[str]:
    told = shape(recorded(name))
    ends = [place for place, one in enumerate(told) if one.startswith("state") and one != "state running"]
    return [one for one in told[: ends[0] + 1] if one != "state running"]


async def test_an_agent_that_is_stuck_gives_up_without_an_error(agent_server):
    sent = await played(agent_server, *[LOOK] * 4, Stuck())

    assert shape(sent)[-2:] == shape(recorded("error-stuck"))[-2:]


async def test_an_empty_answer_is_nudged_on(agent_server):
    told = shape(await played(agent_server, Answer(""), Answer("At last.")))

    nudged = ["MessageEvent of agent", "MessageEvent of environment", "ItemStarted", "text deltas"]
    assert [name for name in told if name in nudged][:4] == nudged
    assert FINISHED in told


async def test_an_answer_that_is_not_streamed_has_no_deltas(agent_server):
    sent = await played(agent_server, Answer("All at once.", is_streamed=False))

    assert not [frame for frame in sent if isinstance(frame, Delta)]
    assert shape(sent)[-1] == "state finished"


async def test_a_script_that_makes_no_sense_is_told_when_the_server_stops():
    server = FakeAgentServer().start()
    server.on_message = lambda conversation, text: [Recording("no-such-recording")]
    async with client_of(server) as client:
        one = await a_conversation(client)
        await say(client, one)
        server.wait_until(lambda: not server.only_conversation.is_running)

    with pytest.raises(RuntimeError, match="could not be played"):
        server.stop()
