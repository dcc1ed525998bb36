"""What chat UIs send, word for word, played to the gateway: `tests/recordings/clients`.

Open WebUI's requests were recorded by `tests/live/test_open_webui.py`; those of the others are written after what is
documented of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from chatgateway.models import Turn
from chatgateway.openai_api.transcript import GO_ON
from tests.fakes.agent_script import Answer, Gate
from tests.fakes.agent_server import FakeAgentServer
from tests.wire.chatting import MATCH
from tests.wire.test_chat import set_profile

RECORDINGS = Path(__file__).parents[1] / "recordings" / "clients"
OPEN_WEBUI = "open_webui_0_12_4"


@pytest.fixture
def repeating(agent_server: FakeAgentServer) -> FakeAgentServer:
    """Agents as those of the recordings: they say the last word of what they hear, and of one thing never the end."""
    agent_server.on_message = lambda _, text: [
        Answer(chunks=("Begun ", "and ", "never ended."), gate=Gate(), hold_after=2)
        if text.endswith("STOP")
        else Answer(f"You said {text.split()[-1]}.")
    ]
    return agent_server


def play(http: httpx.Client, name: str, *, without: tuple[str, ...] = ()) -> list[str]:
    """What became of each of a client's requests: how its conversation was found, or which housekeeping it was.

    `without`: headers that are left out.
    """
    recording = json.loads((RECORDINGS / f"{name}.json").read_text())
    return [_played(http, request, recording["tools"], without) for request in recording["requests"]]


def _played(http: httpx.Client, request: dict[str, Any], tools: list[Any], without: tuple[str, ...]) -> str:
    headers = {name: value for name, value in request["headers"].items() if name not in without}
    body = request["body"] and request["body"] | ({"tools": tools} if "tools" in request["body"] else {})
    with http.stream(request["method"], request["path"], json=body, headers=headers) as reply:
        seen = ""
        for piece in reply.iter_text():
            seen += piece
            if request["was_left"] and 'and "' in seen:
                break
        assert reply.status_code == 200, reply.text
    if body is None:
        return "models"
    return str(reply.headers.get(MATCH) or reply.headers["X-Gateway-Housekeeping"])


def asked(server: FakeAgentServer, number: int) -> list[str]:
    """What the agent that began as the so many'th was told."""
    return [text for role, text in list(server.conversations.values())[number].prompt if role == "user"]


@pytest.mark.parametrize(
    ("tools", "without", "goes_on"),
    [
        pytest.param([], (), "client-id", id="as it is"),
        pytest.param(["terminal"], (), "client-id", id="as it is, with tools"),
        pytest.param([], ("X-OpenWebUI-Chat-Id",), "history", id="without the name of its chat"),
        pytest.param([], ("X-OpenWebUI-Chat-Id", "X-OpenWebUI-User-Id"), "history", id="without its headers"),
    ],
)
def test_open_webui_keeps_its_agent_through_stop_regenerate_edit_and_continue(
    http: httpx.Client,
    repeating: FakeAgentServer,
    tools: list[str],
    without: tuple[str, ...],
    goes_on: str,
) -> None:
    set_profile(tools=tools, answer_holdback_chars=0)

    became = play(http, OPEN_WEBUI, without=without)

    assert became[:6] == ["models", "models", "title", "new", "follow_ups", "tags"]
    assert [one for one in became[6:] if one != "follow_ups"] == [
        goes_on,
        goes_on,
        goes_on,
        "fork",
        "fork",
        *[goes_on] * 2,
    ]
    first, regenerated, edited = (asked(repeating, number) for number in range(3))
    assert [first[:3], regenerated[:3]] == [["one", "two", "three STOP"]] * 2
    assert [told[3].count("Begun and") for told in (first, regenerated)] == [1, 1]
    assert {told[3].rsplit("\n\n", 1)[1] for told in (first, regenerated)} == {"four"}
    assert edited == ["one", "zwei", "drei", GO_ON]
    assert Turn.objects.filter(kind="housekeeping").count() == became.count("follow_ups") + 2


def test_open_webuis_own_tools_are_named_as_ignored(http: httpx.Client, repeating: FakeAgentServer) -> None:
    play(http, OPEN_WEBUI)

    assert Turn.objects.filter(kind="agent").order_by("arrival")[0].ignored_parameters == ["tools"]


@pytest.mark.parametrize(
    ("name", "became", "told"),
    [
        pytest.param(
            "librechat_0_8",
            ["models", "new", "title", "client-id", "fork", "client-id"],
            [["one", "two", "three"], ["one", "zwei"]],
            id="LibreChat",
        ),
        pytest.param(
            "nextchat_2_16",
            ["new", "history", "title", "history", "replay"],  # a part of its history is nobody's
            [["one", "two", "three"]],
            id="NextChat",
        ),
        pytest.param(
            "anything_llm",
            ["new", "history", "replay"],  # another system text is another agent
            [["one", "two"]],
            id="AnythingLLM",
        ),
    ],
)
def test_other_chat_uis_keep_theirs_as_far_as_they_say_whose_it_is(
    http: httpx.Client, repeating: FakeAgentServer, name: str, became: list[str], told: list[list[str]]
) -> None:
    assert play(http, name) == became
    assert [asked(repeating, number) for number in range(len(told))] == told
