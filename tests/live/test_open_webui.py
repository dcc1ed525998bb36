"""Open WebUI itself in a browser, with the gateway as its only model provider.

It needs an environment of 1.3 GB, which CI does not have: there, `tests/wire/test_recorded_clients.py` plays what this
test recorded.

    uv sync --locked --project tests/open_webui_env
    GATEWAY_TEST_RECORD=1 uv run pytest tests/live/test_open_webui.py
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page

from chatgateway.models import Turn
from chatgateway.openai_api.transcript import GO_ON
from tests.browser.chromium import Visit, browse
from tests.fakes.agent_script import Answer, Gate
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway
from tests.live.open_webui import open_webui, write_recording
from tests.live.recording_proxy import RecordingProxy
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.browser, pytest.mark.timeout(900)]

SECONDS = 1000


class Chat:
    """What somebody does in a chat of Open WebUI."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.talk: Locator = page.locator("#messages-container")

    def open(self, url: str) -> None:
        self.page.set_default_timeout(120 * SECONDS)
        self.page.goto(url)
        self.page.get_by_text("Okay, Let's Go!").click()

    def say(self, text: str) -> None:
        self.page.locator("#chat-input").click()
        self.page.keyboard.type(text)
        self.page.keyboard.press("Enter")

    def sees(self, text: str) -> None:
        self.talk.get_by_text(text).last.wait_for()

    def is_at_rest(self) -> None:
        """The last answer has ended: its buttons are there."""
        self.talk.get_by_label("Regenerate").last.wait_for()
        self.page.get_by_label("Stop", exact=True).wait_for(state="detached")

    def asks(self, text: str, answer: str) -> None:
        self.say(text)
        self.sees(answer)
        self.is_at_rest()

    def stops(self, text: str, *, after: str) -> None:
        self.say(text)
        self.sees(after)
        self.page.get_by_label("Stop", exact=True).click()
        self.is_at_rest()

    def writes_anew(self) -> None:
        self.talk.get_by_label("Regenerate").last.click()
        self.page.get_by_text("Try Again").click()

    def goes_on(self) -> None:
        self.talk.get_by_label("Continue Response").last.click()

    def edits(self, number: int, text: str) -> None:
        message = self.page.locator(".user-message").nth(number)
        message.hover()
        message.get_by_label("Edit").click()
        self.page.locator(f"#{message.locator('textarea').get_attribute('id')}").fill(text)
        self.page.locator("#confirm-edit-message-button").click()


def verified(visit: Visit, base_url: str, key: str) -> Any:
    """What the button "Verify connection" of the admin settings gets."""
    token = visit.page.evaluate("localStorage.token")
    reply = visit.page.request.post(
        f"{visit.url}/openai/verify",
        headers={"Authorization": f"Bearer {token}"},
        data={"url": base_url, "key": key, "config": {}},
    )
    return reply.json()


def test_a_chat_in_open_webui_is_one_agent(served: LiveGateway, agent_server: FakeAgentServer, tmp_path: Path) -> None:
    agent_server.on_message = lambda _, text: [
        Answer(chunks=("Begun ", "and ", "never ended."), gate=Gate(), hold_after=2)
        if text.endswith("STOP")
        else Answer(f"You said {text.split()[-1]}.")
    ]

    def answered(count: int) -> None:
        """So many streams have come to their end."""
        eventually(lambda: sum(one.is_streamed and one.is_over for one in proxy.exchanges) == count)

    def steps(visit: Visit) -> Any:
        chat = Chat(visit.page)
        chat.open(visit.url)
        models = verified(visit, f"{proxy.origin}/v1", served.key)
        chat.asks("one", "You said one.")
        eventually(lambda: [one for one in proxy.exchanges if "broad tags" in str(one.body) and one.is_over])
        chat.asks("two", "You said two.")
        chat.stops("three STOP", after="Begun and")
        chat.asks("four", "You said four.")
        chat.writes_anew()
        answered(4)
        chat.is_at_rest()
        chat.edits(1, "zwei")
        chat.sees("You said zwei.")
        chat.is_at_rest()
        chat.asks("drei", "You said drei.")
        chat.goes_on()
        answered(7)
        chat.is_at_rest()
        return models

    with (
        RecordingProxy(served.url) as proxy,
        open_webui(tmp_path, base_url=f"{proxy.origin}/v1", key=served.key) as url,
    ):
        models, _ = browse(url, steps)

    if os.environ.get("GATEWAY_TEST_RECORD"):
        write_recording(proxy.exchanges)
    assert [model["id"] for model in models["data"]] == ["openhands_chat"]
    assert {exchange.status for exchange in proxy.exchanges} == {200}
    turns = Turn.objects.filter(kind="agent").order_by("arrival")
    assert [turn.match for turn in turns] == ["new", *["client-id"] * 3, "fork", "fork", *["client-id"] * 2]
    assert [turn.outcome for turn in turns] == [*["answered"] * 2, "cancelled", *["answered"] * 5]
    assert {"title", "tags", "follow_ups"} <= set(Turn.objects.values_list("housekeeping_task", flat=True))
    last = [text for role, text in list(agent_server.conversations.values())[-1].prompt if role == "user"]
    assert last == ["one", "zwei", "drei", GO_ON]
