"""The snippets of the how-to for the Responses API, played as they stand: Python and JavaScript."""

from __future__ import annotations

import re

import pytest

from tests import factories
from tests.clients.playing import node, output_of, python_of
from tests.fakes.agent_script import Answer
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway
from tests.laws import pages

PAGE = "docs/how-to/use-the-responses-api.md"
OF_PAGE = [snippet for snippet in pages.snippets("python", "js") if snippet.page == PAGE]


@pytest.fixture
def demo(served: LiveGateway, agent_server: FakeAgentServer) -> LiveGateway:
    """A gateway whose profile has the name that the documentation gives it."""
    factories.profile(slug="demo")
    agent_server.on_message = lambda *_: [Answer("Done so.")]
    return served


@pytest.mark.parametrize("snippet", OF_PAGE, ids=str)
def test_a_snippet_prints_what_the_agent_answers(demo: LiveGateway, snippet: pages.Snippet) -> None:
    code = snippet.text.replace("http://127.0.0.1:8000", demo.url).replace("gw-…", demo.key)
    command = {
        "python": lambda: [python_of("clients_env"), "-W", "ignore", "-c", code],
        "js": lambda: [node(), "--input-type=module", "-e", code],
    }[snippet.language]

    assert "Done so." in output_of(command())


def test_the_page_has_a_snippet_for_each_client() -> None:
    imported = re.findall(r'(?:from|import) "?([\w@/-]+)', "\n".join(snippet.text for snippet in OF_PAGE))

    assert {"openai", "agents", "pydantic_ai", "@ai-sdk/openai"} <= set(imported)
