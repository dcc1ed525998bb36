"""How soon somebody who watches a turn sees what happens. The fastest of three steps counts: a busy machine is no
defect."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Page

from chatgateway.models import Turn
from tests.browser.chromium import Visit, browse
from tests.browser.test_transcripts import ask
from tests.fakes.agent_script import Answer, Gate, Step
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

PROMISED_SECONDS = 2.0


@pytest.fixture(autouse=True)
def _root(served: LiveGateway) -> None:
    User.objects.create_superuser("root", password="a long password")


def open_the_running_turn(visit: Visit) -> Page:
    visit.page.goto(f"{visit.url}/admin/")
    visit.page.locator("[data-live] tbody a[id^=turn-]").first.click()
    visit.page.wait_for_url("**/change/**")
    return visit.page


def seconds_until(page: Page, text: str, began_at: float) -> float:
    page.get_by_text(text).first.wait_for()
    return time.monotonic() - began_at


def test_a_new_step_shows_within_two_seconds(served: LiveGateway, agent_server: FakeAgentServer) -> None:
    gates = [Gate() for _ in range(4)]
    commands = ["one", "two", "three", "four"]
    agent_server.script(
        *(Step(command=command, gate=gate) for command, gate in zip(commands, gates, strict=True)), Answer("Done.")
    )

    def steps(visit: Visit) -> tuple[list[float], int]:
        visit.sign_in()
        streams: list[Any] = []
        visit.page.on("request", lambda sent: streams.append(sent) if sent.url.endswith("/live/") else None)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(ask, served)
            gates[0].wait_until_reached()
            page = open_the_running_turn(visit)
            page.get_by_text("Running: one").first.wait_for()
            took = []
            for place, command in enumerate(commands[1:]):
                gates[place].open()
                took.append(seconds_until(page, f"Running: {command}", time.monotonic()))
            gates[3].open()
            asked.result(30)
        return took, len(streams)

    (took, streams), complaints = browse(served.url, steps)

    assert complaints == []
    assert min(took) < PROMISED_SECONDS
    assert streams == 1  # one connection for all of them


def test_a_turn_has_stopped_within_two_seconds_of_the_click(served: LiveGateway, agent_server: FakeAgentServer) -> None:
    gate = Gate()
    agent_server.script(Step(command="sleep 9", gate=gate), Answer("Done."))

    def steps(visit: Visit) -> str:
        visit.sign_in()
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(ask, served)
            gate.wait_until_reached()
            page = open_the_running_turn(visit)
            page.get_by_text("Running: sleep 9").first.wait_for()
            page.get_by_role("button", name="Stop the agent").click()
            page.locator(".gw-pill", has_text="cancelled").first.wait_for()
            asked.result(30)
            return page.inner_text("#content")

    text, complaints = browse(served.url, steps)
    gate.open()
    turn = Turn.objects.get()

    assert complaints == []
    assert "cancelled" in text
    assert turn.cancel_reason == "admin"
    assert turn.run_ended_at is not None
    assert (turn.run_ended_at - turn.cancel_requested_at).total_seconds() < PROMISED_SECONDS
