"""Pages of turns and conversations in a real browser: hostile Markdown, a turn that is watched and stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import httpx
import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import connections

from chatgateway.models import Conversation, Turn
from tests.admin.test_pages import history
from tests.browser.chromium import Visit, browse
from tests.fakes.agent_script import Answer, Gate, Step
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway
from tests.waiting import eventually

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

HOSTILE = """# A *title* <script>alert('text')</script>

[press me](javascript:alert('link')) and <a href="javascript:alert('raw')" onclick="alert('click')">me</a>

![picture](https://evil.example/pixel.png) <img src=x onerror=alert('image')> <svg onload=alert('svg')>

| a | <style>body{display:none}</style> |
|---|---|
| {{ 7*7 }} | `x-init="alert('alpine')"` |

```html
</code></pre><script>alert('fence')</script><iframe srcdoc="<script>parent.alert('frame')</script>"></iframe>
```

<form action="https://evil.example/"><button autofocus onfocus=alert('focus')>x</button></form>
"""


@pytest.fixture
def gate() -> Iterator[Gate]:
    held = Gate()
    yield held
    held.open()


@pytest.fixture
def root(transactional_db: None) -> User:
    return User.objects.create_superuser("root", password="a long password")


@pytest.mark.parametrize(("width", "scheme"), [(420, "dark"), (1400, "light")])
def test_hostile_markdown_is_read_and_does_nothing(
    gateway: LiveGateway, root: User, width: int, scheme: Literal["light", "dark"]
) -> None:
    history(1)
    Turn.objects.update(answer=HOSTILE)
    turn, conversation = Turn.objects.get(), Conversation.objects.get()

    def look(visit: Visit, path: str) -> tuple[str, int, int, bool]:
        visit.open(path)
        page = visit.page
        frame = page.frame_locator('iframe[title="Answer"]')
        for place in ("press me", "me", "picture"):
            frame.get_by_text(place).first.click()
        height = page.locator('iframe[title="Answer"]').evaluate("frame => frame.offsetHeight")
        fits = frame.locator("html").evaluate("html => html.offsetHeight <= window.frameElement.offsetHeight")
        links = frame.locator("a, script, img, form, iframe, style, [onclick], [onerror]").count()
        return frame.locator("body").inner_text(), links, height, fits

    def steps(visit: Visit) -> list[tuple[str, int, int, bool]]:
        visit.sign_in()
        pages = (f"chatgateway/turn/{turn.pk}/change/", f"chatgateway/conversation/{conversation.pk}/change/")
        return [look(visit, path) for path in pages]

    seen, complaints = browse(gateway.url, steps, width=width, scheme=scheme)

    assert complaints == []
    assert [links for _, links, _, _ in seen] == [0, 0]
    assert [fits for _, _, _, fits in seen] == [True, True]
    assert all(height > 200 for _, _, height, _ in seen)
    for text, _, _, _ in seen:
        assert "<script>alert('text')</script>" in text
        assert "javascript:alert('link')" in text
        assert "https://evil.example/pixel.png" in text


def ask(served: LiveGateway) -> httpx.Response:
    body = {"model": "openhands_chat", "messages": [{"role": "user", "content": "Work."}]}
    return httpx.post(
        f"{served.url}/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {served.key}"}, timeout=60
    )


@pytest.mark.parametrize("page", ["turn", "conversation"])
def test_a_turn_is_watched_step_by_step_and_stopped(
    served: LiveGateway, root: User, agent_server: FakeAgentServer, gate: Gate, page: str
) -> None:
    agent_server.script(
        Step(command="echo <script>alert(1)</script>", output="first"),
        Step(command="sleep 9", gate=gate),
        Answer("Done."),
    )

    def steps(visit: Visit) -> tuple[list[str], list[str], float, str]:
        visit.sign_in()
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(ask, served)
            gate.wait_until_reached()
            row = pool_row()
            target = {"turn": row.pk, "conversation": row.conversation_id}[page]
            visit.page.goto(f"{served.url}/admin/chatgateway/{page}/{target}/change/")
            visit.page.get_by_text("Running: sleep 9").wait_for()
            seen = visit.page.locator("[data-steps] summary .gw-step-title").all_inner_texts()
            began_at = time.monotonic()
            visit.page.get_by_role("button", name="Stop the agent").click()
            visit.page.locator(".gw-pill", has_text="cancelled").first.wait_for()
            took = time.monotonic() - began_at
            asked.result(30)
        return seen, visit.page.locator("h2, .gw-pill").all_inner_texts(), took, visit.page.inner_text("#content")

    (seen, _, took, text), complaints = browse(served.url, steps)

    assert complaints == []
    assert seen[-2:] == ["Running: echo <script>alert(1)</script> → exit code 0", "Running: sleep 9"]
    assert took < 20  # within two seconds, on a machine that does nothing else
    assert "cancelled" in text
    assert Turn.objects.get().cancel_reason == "admin"


def in_this_thread[T](work: Callable[[], T]) -> Callable[[], T]:
    """Work with the database in a thread that ends, and leave no connection behind."""

    def run() -> T:
        try:
            return work()
        finally:
            connections.close_all()

    return run


def pool_row() -> Turn:
    """The turn's row, read in another thread: Playwright's loop would make Django take this one for an async one."""
    with ThreadPoolExecutor(1) as other:
        return other.submit(in_this_thread(Turn.objects.get)).result()


def test_a_new_step_appears_while_one_looks_and_the_answer_at_the_end(
    served: LiveGateway, root: User, agent_server: FakeAgentServer, gate: Gate
) -> None:
    agent_server.script(Step(command="one", gate=gate), Step(command="two"), Answer("**All** done."))

    def steps(visit: Visit) -> tuple[str, int]:
        visit.sign_in()
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(ask, served)
            gate.wait_until_reached()
            visit.page.goto(f"{served.url}/admin/chatgateway/turn/{pool_row().pk}/change/")
            visit.page.get_by_text("Running: one").first.wait_for()
            gate.open()
            asked.result(30)
            visit.page.frame_locator('iframe[title="Answer"]').get_by_text("All").wait_for()
            return visit.page.inner_text("#content"), visit.page.locator("[data-steps] .gw-step-tool").count()

    (text, count), complaints = browse(served.url, steps)

    assert complaints == []
    assert "Running: two → exit code 0" in text
    assert count == 2


def test_whoever_is_signed_out_sees_no_further_step(
    served: LiveGateway, root: User, agent_server: FakeAgentServer, gate: Gate
) -> None:
    agent_server.script(Step(command="one", gate=gate), Step(command="the-secret"), Answer("Done."))

    def sign_everybody_out() -> None:
        with ThreadPoolExecutor(1) as other:
            other.submit(in_this_thread(lambda: Session.objects.all().delete())).result()

    def steps(visit: Visit) -> str:
        visit.sign_in()
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(ask, served)
            gate.wait_until_reached()
            visit.page.goto(f"{served.url}/admin/chatgateway/turn/{pool_row().pk}/change/")
            visit.page.get_by_text("Running: one").first.wait_for()
            sign_everybody_out()
            gate.open()
            asked.result(30)
            visit.page.get_by_text("You are signed in no longer.").wait_for()
            return visit.page.inner_text("#content")

    text, complaints = browse(served.url, steps)

    eventually(lambda: Turn.objects.get().events.filter(summary__contains="the-secret").exists())
    assert complaints == []
    assert "the-secret" not in text
