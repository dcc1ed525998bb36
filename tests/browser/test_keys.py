"""An API key's life in a real browser: made, copied, used, replaced while it is in use."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from openai import AuthenticationError, OpenAI, Stream
from openai.types.chat import ChatCompletionChunk
from playwright.sync_api import Page

from tests import factories
from tests.browser.chromium import Visit, browse
from tests.fakes.agent_script import Answer, Gate
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]


@pytest.fixture(autouse=True)
def _root(gateway: LiveGateway) -> None:
    User.objects.create_superuser("root", password="a long password")


def copied(page: Page, button: str) -> str:
    """Press a copy button and return what is in the clipboard then."""
    page.locator(f"[data-copy={button}]").click()
    page.locator(f"[data-copy={button}]", has_text="Copied").wait_for()
    return str(page.evaluate("navigator.clipboard.readText()"))


def test_the_copy_buttons_copy_the_secret_and_the_programs(served: LiveGateway) -> None:
    key = factories.api_key().row

    def steps(visit: Visit) -> tuple[str, str, str, str]:
        page = visit.page
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        visit.sign_in()
        visit.open(f"profiles/apikey/{key.pk}/rotate/")
        page.click("text=Make a new secret")
        secret = page.locator("[data-secret]").inner_text()
        return secret, copied(page, "new-secret"), copied(page, "snippet-python"), copied(page, "snippet-javascript")

    (secret, key_text, python, javascript), complaints = browse(served.url, steps)

    assert complaints == []
    assert key_text == secret
    assert f'api_key="{secret}"' in python
    assert f'apiKey: "{secret}"' in javascript
    assert python.startswith("from openai import OpenAI\n")


def test_without_a_clipboard_the_text_is_selected_instead(served: LiveGateway) -> None:
    key = factories.api_key().row

    def steps(visit: Visit) -> tuple[str, str]:
        page = visit.page
        visit.sign_in()
        visit.open(f"profiles/apikey/{key.pk}/use/")
        # What a page has that did not come over https.
        page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
        page.locator("[data-copy=base-url]").click()
        page.locator("[data-copy=base-url]", has_text="Selected").wait_for()
        return page.inner_text("#base-url"), str(page.evaluate("getSelection().toString()"))

    (address, selected), complaints = browse(served.url, steps)

    assert complaints == []
    assert selected == address


def test_a_key_is_rotated_while_a_chat_goes_on(served: LiveGateway, agent_server: FakeAgentServer) -> None:
    gate = Gate()
    agent_server.script(Answer("One two three.", gate=gate, hold_after=1))
    agent_server.default_answer = Answer("Again.")
    key = factories.api_key(name="laptop")

    def client(text: str) -> OpenAI:
        return OpenAI(base_url=f"{served.url}/v1", api_key=text, max_retries=0, timeout=60)

    def begin(text: str) -> Stream[ChatCompletionChunk]:
        return client(text).chat.completions.create(
            model="openhands_chat", messages=[{"role": "user", "content": "Count."}], stream=True
        )

    def read(stream: Stream[ChatCompletionChunk]) -> str:
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)

    def works(text: str) -> bool:
        try:
            return read(begin(text)) == "Again."
        except AuthenticationError:
            return False

    def rotate(visit: Visit, overlap: str) -> str:
        page = visit.page
        visit.open(f"profiles/apikey/{key.row.pk}/rotate/")
        page.select_option("select[name=hours]", label=overlap)
        page.evaluate("document.querySelectorAll('input[name=end_oldest]').forEach((box) => box.click())")
        page.click("text=Make a new secret")
        return page.locator("[data-secret]").inner_text()

    def steps(visit: Visit) -> tuple[str, list[bool], list[bool]]:
        visit.sign_in()
        chat = begin(key.text)
        gate.wait_until_reached(30)
        second = rotate(visit, "for 1 hour")
        in_overlap = [works(key.text), works(second)]
        third = rotate(visit, "not at all: it ends now")
        after_it = [works(key.text), works(second), works(third)]
        gate.open()
        return read(chat), in_overlap, after_it

    (answer, in_overlap, after_it), complaints = browse(served.url, steps)

    assert complaints == []
    assert in_overlap == [True, True]
    assert after_it == [False, False, True]
    assert answer == "One two three."
